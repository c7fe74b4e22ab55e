"""The slices for half an hour of a GPU, their archive and the profile of a step."""

import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from torch.autograd import DeviceType

import asr.study
from asr import cli, config
from asr.corpora.prepare import prepare
from asr.files import read_json_lines
from asr.recipe import Recipe
from asr.study.plan import Plan
from benchmarks import (
    gpu_archive,
    gpu_setup,
    gpu_slice,
    gpu_step,
    profile_step,
)
from tests.corpus import Tones

ROOT = Path(__file__).parents[1]
SLICES = gpu_slice.read_slices(ROOT / gpu_slice.SLICES)
STEPS = [
    pytest.param(step, toy, id=f"{number} {step.name} {'toy' if toy else 'full'}")
    for number, each in SLICES.items()
    for step in each.steps
    for toy in (False, True)
]
PLANS = {}  # by study: to resolve every arm's recipe takes seconds


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tones"
    prepare(Tones(sizes={"train": 45, "validation": 8, "test": 9}), folder, normaliser="none")
    return folder


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder in which the project's recipes and scripts are found."""
    for name in ("recipes", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- the slices' file ---


class ReachedError(Exception):
    """The options were read and are right; the work itself is not to be done."""


def reached(*arguments, **options):
    raise ReachedError


def check_profile(words, monkeypatch):
    measured = []
    row = {
        "update_seconds": [1.0],
        "parameters": {"encoder": 1},
        "dearest_ms": {},
        "device_name": "none",
        "precision": "float32",
        **dict.fromkeys(("audio_hours_per_device_hour", "encoded_hours_per_device_hour"), 1.0),
        **dict.fromkeys(("peak_memory_bytes", "data_wait_share", "kernels"), 0),
        **dict.fromkeys(("model_flops_utilisation", "joules_per_audio_hour"), None),
        **dict.fromkeys(("idle_share", "launch_share", "recurrent_kernel"), None),
    }

    def measure(recipe, *options):
        measured.append(recipe)
        return dict(row)

    monkeypatch.setattr(profile_step, "measure", measure)
    assert profile_step.main(words) == 0
    assert measured
    assert {recipe.data.corpus for recipe in measured} == {"sample"}
    number = len(measured)
    assert profile_step.main(words) == 0
    assert len(measured) == number  # what is there is not measured again


def check_claims(words, monkeypatch):
    inner = {
        "scaling": ["compare", "measure_encoders"],
        "horizon": ["attempts"],
        "streaming": ["run"],
        "roofline": ["run"],
    }
    probe = words[1]
    for name in inner[probe]:
        monkeypatch.setattr(importlib.import_module(f"asr.claims.{probe}"), name, reached)
    with pytest.raises(ReachedError):
        cli.main(words)


def check_study(words, monkeypatch):
    asked = []

    def run_study(study, folder, *, selection, **options):
        if study.name not in PLANS:
            PLANS[study.name] = Plan(study)
        selection.check(PLANS[study.name])
        asked.append(folder)
        raise ReachedError

    monkeypatch.setattr(asr.study, "run_study", run_study)
    with pytest.raises(ReachedError):
        cli.main(words)
    names = [n for n, path in gpu_slice.STUDIES.items() if words[1] in (path, gpu_slice.TOY_STUDY)]
    assert asked in [[Path("slice") / name] for name in names]


@pytest.mark.parametrize(("step", "toy"), STEPS)
def test_a_steps_command_names_verbs_options_and_files_that_exist(step, toy, tree, monkeypatch):
    studies = dict.fromkeys(gpu_slice.STUDIES, gpu_slice.TOY_STUDY) if toy else gpu_slice.STUDIES
    values = {"device": "cpu", "folder": "slice", "sample": "sample", **studies}
    python, m, module, *words = step.words(values, toy)
    assert (python, m) == (sys.executable, "-m")
    if module == "pytest":
        files = {word for word in words if word.endswith(".py")}
        marked = {
            f"tests/{path.name}"
            for path in (ROOT / "tests").glob("test_*.py")
            if re.search(r"^(@|    )pytest\.mark\.gpu", path.read_text(), re.M)
        }
        assert files == (marked if step.name == "tests" else {"tests/test_gpu.py"})
    elif module == "benchmarks.profile_step":
        check_profile(words, monkeypatch)
    else:
        assert module == "asr"
        {"claims": check_claims, "study": check_study}[words[0]](words, monkeypatch)


def test_a_key_that_no_step_has_is_refused(tmp_path):
    path = tmp_path / "slices.yaml"
    steps = [{"name": "one", "seconds": 1, "command": "true", "share": 2}]
    path.write_text(yaml.safe_dump({1: {"title": "", "steps": steps}}))
    with pytest.raises(ValueError, match=r"slices.yaml, slice 1: .*'share'"):
        gpu_slice.read_slices(path)


# --- a slice ---

PATIENT = """
    import os, signal, subprocess, sys, time
    from pathlib import Path
    saved = Path("saved")
    if saved.exists():
        sys.exit(0)
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    Path("child").write_text(str(child.pid))
    def save(*_):
        saved.touch()
        sys.exit(143)
    signal.signal(signal.SIGTERM, save)
    Path("started").touch()
    {then}
    time.sleep(1000)
"""


def write_slice(tree, then="", steps=("patient", "quick")):
    """A slice with a command that saves when told to end and is done when called again."""
    (tree / "patient.py").write_text(textwrap.dedent(PATIENT).format(then=then))
    (tree / "quick.py").write_text("print('quick')")
    (tree / "wrong.py").write_text("raise ValueError('it went wrong')")
    listed = [{"name": name, "seconds": 600, "command": f"python -S {name}.py"} for name in steps]
    path = tree / "slices.yaml"
    path.write_text(yaml.safe_dump({1: {"title": "A test?", "steps": listed}}))
    return ["1", "--toy", "--slices", str(path), "--output", str(tree / "small")]


@pytest.fixture
def no_machine(monkeypatch):
    """Nothing of a slice but its commands: no sample is drawn and no torch imported."""
    monkeypatch.setattr(gpu_setup, "describe_machine", lambda environment: {"gpu": None})
    monkeypatch.setattr(gpu_setup, "find_corpus", lambda bundle, corpus: corpus)
    monkeypatch.setattr(gpu_setup, "sample", lambda *arguments: Path("sample"))
    monkeypatch.setattr(gpu_slice, "LEAST_SECONDS", 0.1)


@pytest.fixture
def limit_once_started(monkeypatch):
    """A command's time is over when it has begun to wait: no test hangs on the machine's speed."""
    ended = gpu_step._ended

    def patched(process, seconds, family):
        if seconds == gpu_step.GRACE_SECONDS:
            return ended(process, seconds, family)
        while process.poll() is None and not Path("started").exists():
            ended(process, 0.05, family)
        Path("started").unlink(missing_ok=True)
        return ended(process, 0.0 if "patient" in str(process.args) else 600.0, family)

    monkeypatch.setattr(gpu_step, "_ended", patched)


def attempts(tree):
    path = tree / "runs" / "gpu-toy" / "slice-1" / "steps.jsonl"
    return [(line["step"], line["status"]) for line in read_json_lines(path)[0]]


def is_alive(number):
    return gpu_step._parent_and_birth(number) is not None


def test_the_limit_ends_a_command_and_the_next_call_goes_on_even_elsewhere(
    tree, no_machine, limit_once_started
):
    arguments = write_slice(tree)
    assert gpu_slice.main(arguments) == gpu_slice.UNFINISHED
    assert attempts(tree) == [("patient", "cut"), ("quick", "done")]
    assert (tree / "saved").exists()
    assert not is_alive(int((tree / "child").read_text()))
    page = (tree / "small" / "toy-slice-1.md").read_text()
    assert "no figure of it says anything of a GPU" in page
    assert re.search(r"\| patient \| cut \| \d+ \| 1 \|", page)
    assert re.search(r"\| quick \| done \| \d+ \| 1 \| quick \|", page)
    shutil.rmtree(tree / "runs")  # a new machine, to which the small folder was brought
    assert gpu_slice.main(arguments) == 0
    assert attempts(tree)[2:] == [("patient", "done")]
    assert gpu_slice.main(arguments) == 0
    assert len(attempts(tree)) == 3


def test_a_step_that_fails_does_not_stop_the_others_and_is_tried_again(tree, no_machine, capfd):
    arguments = write_slice(tree, steps=("wrong", "quick"))
    assert gpu_slice.main(arguments) == 1
    assert gpu_slice.main(arguments) == 1
    assert attempts(tree) == [("wrong", "failed"), ("quick", "done"), ("wrong", "failed")]
    assert "ValueError: it went wrong" in capfd.readouterr().out


def test_told_to_end_a_slice_saves_the_step_and_the_archive(tree, no_machine):
    before = signal.getsignal(signal.SIGTERM)
    assert gpu_slice.main(write_slice(tree, "os.kill(os.getppid(), signal.SIGTERM)")) == 130
    assert (tree / "saved").exists()
    assert attempts(tree) == [("patient", "cut")]
    assert (tree / "small" / "toy-slice-1.tar.gz").is_file()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_command_that_will_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_step, "GRACE_SECONDS", 0.5)
    command = ["sh", "-c", "trap '' TERM; touch started; exec sleep 1000"]
    ended = gpu_step._ended

    def patched(process, seconds, family):
        while process.poll() is None and not Path("started").exists():
            ended(process, 0.05, family)
        return ended(process, seconds, family)

    monkeypatch.setattr(gpu_step, "_ended", patched)
    outcome = gpu_step.run(command, tmp_path / "log", os.environ, 0.1)
    assert (outcome.status, outcome.code) == ("cut", -signal.SIGKILL)


def test_a_command_is_told_to_end_when_its_seconds_are_over(tmp_path):
    outcome = gpu_step.run(["sleep", "1000"], tmp_path / "log", os.environ, 0.3)
    assert (outcome.status, outcome.code) == ("cut", -signal.SIGTERM)
    assert gpu_step.run(["true"], tmp_path / "log", os.environ, 600).status == "done"


def test_a_step_that_was_cut_gets_more_seconds_the_next_time(monkeypatch):
    steps = [gpu_slice.Step("long", 10, "c", resumes=True)]
    steps += [gpu_slice.Step("short", 20, "c"), gpu_slice.Step("lost", 10, "c")]
    clock, given = [0.0], []

    class Work:
        open_steps = staticmethod(lambda: steps)
        save = staticmethod(lambda: None)

        @staticmethod
        def run(step, values, environment, limit):
            given.append((step.name, limit))
            clock[0] += limit
            return "done" if step.name == "short" else "cut"

    monkeypatch.setattr(gpu_slice.time, "monotonic", lambda: clock[0])
    gpu_slice.work_through(Work(), {}, {}, end=90.0)
    assert given == [("long", 10), ("short", 20), ("lost", 10), ("long", 20), ("long", 30)]


def test_without_time_nothing_is_begun(tree, no_machine, capfd):
    assert gpu_slice.main([*write_slice(tree), "--minutes", "0.4"]) == gpu_slice.UNFINISHED
    assert "patient: no time left in this call" in capfd.readouterr().out
    assert not (tree / "started").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["7", "--toy"], "slice 7: scripts/gpu_slices.yaml has 1, 2, 3, 4"),
        (
            ["1", "--toy", "--corpus", "nowhere"],
            "nowhere: no prepared corpus, and none of that name in --bundle; give the bundle of",
        ),
        (["1", "--toy", "--bundle", "nowhere"], "nowhere: no such bundle"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tree, capsys):
    assert gpu_slice.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gpu_slice: {message}")


def test_without_a_gpu_only_a_rehearsal_runs(tree, no_machine, capsys):
    arguments = [word for word in write_slice(tree) if word != "--toy"]
    assert gpu_slice.main(arguments) == 2
    assert capsys.readouterr().err == "gpu_slice: no CUDA device; rehearse with --toy\n"


@pytest.fixture
def copied(tmp_path, corpus):
    """The project beside a corpus, where it may write."""
    for name in ("asr", "benchmarks", "scripts", "recipes", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=lambda *_: {"__pycache__"})
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(corpus, tmp_path / "data" / "tones")
    return tmp_path


def rehearse(place, number):
    command = [sys.executable, "-m", "benchmarks.gpu_slice", str(number), "--toy"]
    command += ["--corpus", "data/tones", "--output", "small", "--minutes", "30"]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)


def test_the_first_slice_runs_at_toy_size(copied):
    done = rehearse(copied, 1)
    assert done.returncode == 0, done.stdout + done.stderr
    written = copied / "runs" / "gpu-toy" / "slice-1" / "base" / "steps.jsonl"
    ((row,), _) = read_json_lines(written)
    assert row["encoder"] == "lstm-tiny"
    assert row["kernels"] > 100
    # What a CPU cannot tell is not there, and not a number that looks like a GPU's.
    assert row["idle_share"] is row["launch_share"] is row["model_flops_utilisation"] is None
    assert row["joules_per_audio_hour"] is None
    assert (copied / "small" / "toy-slice-1.tar.gz").stat().st_size < 1e6


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3, 4])
def test_the_other_slices_run_at_toy_size_and_are_done_elsewhere(copied, number):
    done = rehearse(copied, number)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(copied / "runs" / "gpu-toy" / f"slice-{number}")
    again = rehearse(copied, number)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "goes on from small/toy-slice" in again.stdout
    assert "at most" not in again.stdout
    if number == 3:
        words = ["study", gpu_slice.TOY_STUDY, "--folder", "runs/gpu-toy/slice-3/study"]
        told = subprocess.run(
            [sys.executable, "-m", "asr", *words, "--status"],
            cwd=copied, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        for arm in ("lstm", "transformer"):
            assert f"{arm}: 1 trials, 1 done; 1 final runs, 1 done" in told


# --- the archive ---


def test_an_archive_holds_results_and_no_weights_and_nothing_half_done(tmp_path):
    work, finals = tmp_path / "slice-3", tmp_path / "slice-3" / "study" / "finals" / "lstm"
    for unit in ("done", "running"):
        run = finals / unit / "run"
        (run / "best").mkdir(parents=True)
        (run / "heartbeat.json").write_text(json.dumps({"wall_seconds": 31.4}))
        for name in ("ledger.jsonl", "last.ckpt", "best/model.safetensors", ".ledger.tmp"):
            (run / name).write_text(name)
    (finals / "done" / "result.json").write_text("[]")
    left = gpu_archive.pack(work, tmp_path / "small" / "slice.tar.gz")
    assert left == [
        "study/finals/lstm/running: unfinished after 31 s, begins anew elsewhere",
        "weights and checkpoints, 0.0 MB",
    ]
    shutil.rmtree(work)
    assert gpu_archive.unpack(tmp_path / "small" / "slice.tar.gz", work)
    found = {str(path.relative_to(finals)) for path in finals.rglob("*") if path.is_file()}
    assert found == {"done/result.json", "done/run/heartbeat.json", "done/run/ledger.jsonl"}
    assert not gpu_archive.unpack(tmp_path / "small" / "slice.tar.gz", work)  # what is there wins


def test_a_damaged_archive_is_one_line(tmp_path):
    (tmp_path / "slice.tar.gz").write_bytes(b"no tar")
    with pytest.raises(ValueError, match="slice.tar.gz is damaged .*; remove it to begin anew"):
        gpu_archive.unpack(tmp_path / "slice.tar.gz", tmp_path / "slice")
    assert not (tmp_path / "slice").exists()


# --- the profile ---


def event(name, start, end, cuda, annotation=False):
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start),
        device_type=DeviceType.CUDA if cuda else DeviceType.CPU,
        is_user_annotation=annotation,
    )


def test_idle_is_the_time_without_any_kernel_and_launch_that_of_the_drivers_calls():
    events = [
        event("gemm", 100, 300, True),
        event("gemm", 250, 400, True),  # beside the first, on another stream
        event("copy", 600, 700, True),
        event("Optimizer.step", 0, 900, True, annotation=True),
        event("cudaLaunchKernel", 10, 60, False),
        event("cudaMemcpyAsync", 70, 80, False),
        event("aten::mm", 0, 90, False),
    ]
    row = profile_step.read_profile(events, 1e-3, cuda=True)
    assert row["kernels"] == 3
    assert row["launches"] == 2
    assert row["idle_share"] == pytest.approx(0.6)
    assert row["launch_share"] == pytest.approx(0.06)
    assert row["dearest_ms"] == {"gemm": 0.35, "copy": 0.1}


def test_what_is_timed_and_profiled_was_taken_before_in_the_same_shapes(corpus, monkeypatch):
    taken = []

    def step(bench, batch):
        loss = bench.module.loss(batch)
        taken.append((tuple(batch.ids), bench.module.computed, loss.total().item()))
        bench.data.position += 1

    monkeypatch.setattr(profile_step.Bench, "step", step)
    facts = json.loads((corpus / "corpus.json").read_text())
    tree = {
        "data": {"corpus": str(corpus), "max_batch_seconds": 4.0},
        "features": {"sample_rate": facts["sample_rate"], "num_mels": 20},
        "augmentation": {"speed": [0.8, 1.0, 1.2], "noise_probability": 0.5},
        "encoder": {"class_path": "LSTM", "init_args": {"dim": 8, "layers": 1, "channels": 2}},
        "decoder": "CTC",
        "trainer": {"accelerator": "cpu"},
        "budget": {"updates": 100},
    }
    profile_step.measure(config.read(Recipe, tree), warm=2, updates=3, repeats=1)
    first = taken[:3]
    assert len(set(first)) == 3
    assert taken == [*first, *first, *first, first[-1]]


def test_the_union_of_intervals_is_that_of_their_points():
    draw = random.Random(1)
    for _ in range(100):
        starts = [draw.randint(0, 40) for _ in range(draw.randint(0, 8))]
        intervals = [(start, start + draw.randint(0, 9)) for start in starts]
        points = {point for start, end in intervals for point in range(start, end)}
        assert profile_step.covered(intervals) == len(points)
