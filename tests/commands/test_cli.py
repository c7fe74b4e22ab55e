"""The command line: the main job from recordings to a comparison, and what mistakes look like."""

import contextlib
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file

from asr.cli import COMMANDS, VERBS, main
from asr.commands.options import device_of
from asr.corpora import CORPORA
from asr.probes import PROBES
from asr.recognition.writers import FORMATS
from tests.corpus import RATE, Tones

ROOT = Path(__file__).parents[2]
SIZES = {"train": 60, "validation": 9, "test": 9}
STEREO, BROKEN = 2, 1  # recordings of the split train
RECIPE = {
    "data": {"max_batch_seconds": 12.0},
    "features": {"sample_rate": RATE, "num_mels": 20},
    "encoder": {"class_path": "LSTM", "init_args": {"dim": 32, "layers": 1, "channels": 4}},
    "decoder": {"class_path": "Transformer", "init_args": {"width": 32, "layers": 1, "heads": 2}},
    "search": {"class_path": "Beam", "init_args": {"beam": 2}},
    "optimizer": {"lr": 5e-3, "warmup_updates": 10, "ema_decay": 0.9},
    "validation": {"every_updates": 20},
    "trainer": {"accelerator": "cpu", "devices": 2},
    "budget": {"updates": 40},
}


DISTURBED = "the run waited for a core"  # a line that depends on what else the machine does


@dataclass(frozen=True)
class Done:
    """What a command printed."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Job:
    """Where the pieces of the main job are, and what its commands printed."""

    folder: Path
    printed: dict[str, Done]

    def __getattr__(self, name: str) -> str:
        """``job.run`` is the path of the run folder, and so on."""
        names = {"recordings": "recordings", "corpus": "tones", "recipe": "tones.yaml"}
        names |= {"run": "runs/a", "other": "runs/b", "report": "report", "texts": "texts"}
        names |= {"file": "runs/a/recipe.yaml", "empty": "empty", "table": "table"}
        names |= {"audio": "recordings/test/test-0/test-000.wav", "here": ""}
        return str(self.folder / names[name])


def command(*arguments: str) -> Done:
    """``python -m asr`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "asr", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def record(folder: Path) -> None:
    """Tones as recordings: audio beside texts, some in stereo at another rate, one broken."""
    for split, rows in Tones(sizes=SIZES).splits().items():
        for number, row in enumerate(rows.read()):
            path = folder / split / row.speaker_id / f"{row.id}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".txt").write_text(row.text)
            if split == "train" and number < STEREO:
                both = np.repeat(np.stack([row.audio, row.audio], axis=1), 2, axis=0)
                soundfile.write(path, both, 2 * RATE)
            elif split == "train" and number < STEREO + BROKEN:
                path.write_bytes(b"nonsense")
            else:
                soundfile.write(path, row.audio, RATE)


@pytest.fixture(scope="session")
def job(tmp_path_factory) -> Job:
    """The whole job, each verb in a process of its own as a user's shell starts it."""
    job = Job(tmp_path_factory.mktemp("job"), {})
    record(Path(job.recordings))
    Path(job.empty).mkdir()
    Path(job.table).mkdir()
    audio = [{"bytes": b"", "path": "a.wav"}]
    pq.write_table(pa.table({"audio": audio, "words": ["b"]}), Path(job.table) / "train.parquet")
    data = {**RECIPE["data"], "corpus": job.corpus}
    Path(job.recipe).write_text(yaml.safe_dump({**RECIPE, "data": data}))
    steps = {
        "prepare": ["folder", "--path", job.recordings, "--output", job.corpus]
        + ["--sample_rate", str(RATE), "--normaliser=none"],
        "train": [job.recipe, "--run", job.run],
        "evaluate": [job.run, "--split", "test"],
        "transcribe": [job.run, job.audio, "--formats", *FORMATS, "--output-dir", job.texts],
        "compare": [job.run, "--output", job.report],
    }
    for verb, arguments in steps.items():
        job.printed[verb] = done = command(verb, *arguments)
        # The broken recording makes asr prepare exit with 1, and all others are there.
        assert done.status == int(verb == "prepare"), done.err
    return job


# --- the main job ---


def test_preparing_counts_what_was_kept_converted_and_dropped(job):
    out = job.printed["prepare"].out
    assert re.search(rf"train +{SIZES['train'] - BROKEN} utterances +0\.\d\d h +3 speakers", out)
    assert f"converted   {STEREO} (mixed to mono)" in out
    assert f"converted   {STEREO} (resampled)" in out
    assert f"dropped     {BROKEN} (unreadable audio): " in out
    assert (Path(job.corpus) / "preflight.json").exists()


def test_training_ends_with_a_summary_in_units_and_the_next_command(job):
    out = job.printed["train"].out.splitlines()
    assert out[0] == f"{job.run}: budget.updates 40 reached"
    said = dict(re.match(r"  (\w*) +(.*)", line).groups() for line in out[1:])
    ledger = json.loads((Path(job.run) / "ledger.json").read_text())
    with (Path(job.run) / "logs" / "validation.csv").open() as file:
        wers = [float(row["validation_wer"]) for row in csv.DictReader(file)]
    best, last = f"{100 * min(wers):.2f} %", f"{100 * wers[-1]:.2f} %"
    assert re.match(
        rf"best {best} after \d+ updates, last {last} after 40 \(split val", said["WER"]
    )
    assert said["trained"].startswith("40 updates, ")
    assert said["cost"].startswith(f"{ledger['device_hours']:.3g} core-hours on ")
    assert f"{sum(ledger['cpu_seconds'].values()) / 3600:.3g} CPU-hours" in said["cost"]
    hours = [float(h) for h in re.findall(r"(\d\.\d{4}) h", "\n".join(out))]
    assert sum(hours) == pytest.approx(ledger["device_hours"], abs=1e-3)
    assert "seconds of audio per second of training" in said["speed"]
    assert said["next"] == f"asr evaluate {job.run} --split test"


def test_an_ordinary_run_prints_only_its_own_lines_on_stderr(job):
    written = job.printed["train"].err.splitlines()
    lines = [line for line in written if not line.startswith("  ") and DISTURBED not in line]
    for _ in range(2):
        assert lines.pop(0).startswith(f"decoding audio: {job.corpus}/cache/"), written
    assert lines.pop(0) == "training in 2 processes, threads of each: 1"
    assert len(lines) == 3  # two validations and the end
    examples = [line.split()[0] for line in written if line.startswith("  ")]
    assert examples == ["reference", "hypothesis"] * 6  # three for each validation
    assert all(re.match(r"(validation|end) \d+: .*WER .* %.*audio-s/s.*core-h$", x) for x in lines)
    for verb in ("evaluate", "transcribe", "compare"):
        assert job.printed[verb].err == "", verb
    [line] = job.printed["prepare"].err.splitlines()
    assert re.match(r"asr prepare: 1 row \(.*\) could not be read", line)


def test_evaluating_prints_the_rates_with_intervals_and_the_output_folder(job):
    metrics = json.loads((Path(job.run) / "evaluations" / "test" / "metrics.json").read_text())
    out = job.printed["evaluate"].out
    assert re.search(r"WER \d+\.\d\d ?% \[\d+\.\d\d ?%, \d+\.\d\d ?%\]", out)
    assert f"{metrics['utterances']} utterances" in out
    assert "real-time factor" in out
    assert f"written: {job.run}/evaluations/test/metrics.json" in out


def test_transcribing_writes_every_format_and_prints_the_folder(job):
    assert sorted(p.name for p in Path(job.texts).iterdir()) == sorted(
        f"test-000.{kind}" for kind in FORMATS
    )
    out = job.printed["transcribe"].out
    assert f"{job.audio} -> {job.texts}/test-000.txt, " in out
    assert re.search(rf"1 file, \d\.\d s of audio, transcribed into {job.texts}", out)


def test_comparing_prints_the_answer_and_where_the_page_is(job):
    out = job.printed["compare"].out
    assert "There is only one arm, LSTM" in out
    assert f"written: {job.report}/report.html" in out
    assert (Path(job.report) / "report.html").exists()


def test_transcripts_are_shown_alone_or_with_the_names_of_their_files(job, capsys):
    text = (Path(job.texts) / "test-000.txt").read_text()
    assert main(["transcribe", job.run, job.audio]) == 0
    assert capsys.readouterr().out == text
    other = job.audio.replace("test-000", "test-003")
    assert main(["transcribe", job.run, other, "--search=Greedy", job.audio]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [other, job.audio]


def test_one_bad_file_gives_exit_status_1_and_the_others_are_transcribed(job, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"nonsense")
    out = tmp_path / "out"
    into = ("--output-dir", str(out), "--formats", "txt", "json")
    done = command("transcribe", job.run, str(bad), job.audio, *into)
    assert done.status == 1
    assert sorted(p.name for p in out.iterdir()) == ["test-000.json", "test-000.txt"]
    assert re.fullmatch(
        rf"{bad} is not a readable audio file \(.*\); convert it to wav or flac first\n"
        r"asr transcribe: 1 of 2 files failed, see above\n",
        done.err,
    )
    again = command("transcribe", job.run, job.audio, *into)
    assert again.status == 1
    assert "exists; --overwrite replaces it, --skip-existing leaves it" in again.err
    on = command("transcribe", job.run, job.audio, *into, "--skip-existing")
    assert (on.status, on.err) == (0, "")
    assert "1 file skipped: all transcripts are there\n" in on.out


def test_unprintable_names_and_missing_inputs_do_not_stop_the_others(job, tmp_path, monkeypatch):
    place = tmp_path / "長\n.wav"
    shutil.copy(job.audio, place)
    arguments = [sys.executable, "-m", "asr", "transcribe", job.run, "absent.wav", str(place)]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, env=environment, capture_output=True, check=False)
    assert done.returncode == 1
    out, err = done.stdout.decode("latin-1"), done.stderr.decode("latin-1").splitlines()
    assert out.startswith(rf"{tmp_path}/\u9577\n.wav: ")
    assert err == [
        "absent.wav: no such file; check the path",
        "asr transcribe: 1 of 2 files failed, see above",
    ]


def test_the_resolved_recipe_is_printed_without_training(job, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", job.recipe, "--print-config", "--encoder.dim", "48", "--seed=7"]) == 0
    tree = yaml.safe_load(capsys.readouterr().out)
    assert tree["encoder"]["init_args"]["dim"] == 48
    assert (tree["seed"], tree["trainer"]["log_every_n_steps"]) == (7, 50)
    assert list(tmp_path.iterdir()) == []


def test_the_recipe_of_a_run_reproduces_its_weights(job, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(["train", f"{job.run}/recipe.yaml"]) == 0
    finally:
        torch.set_num_threads(threads)
    again = Path("runs/a-repeated-seed1")
    assert capsys.readouterr().out.startswith(f"{again}: budget.updates 40 reached")
    first, second = (load_file(p / "last" / "model.safetensors") for p in (Path(job.run), again))
    assert all(torch.equal(first[name], second[name]) for name in first)


# --- mistakes ---


def tree(folder: Path) -> dict[Path, bytes | None]:
    """Every folder and every file with its content; but not the account of time spent."""
    paths = [path for path in folder.rglob("*") if path.name != "heartbeat.json"]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def refused(job, capsys, caplog, tmp_path, monkeypatch) -> Callable[..., str]:
    """Runs a command that is a mistake: status 2, one line and nothing changed; the line."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        capsys.readouterr()
        before = tree(job.folder), tree(tmp_path)
        assert main(arguments) == 2
        after = tree(job.folder), tree(tmp_path)
        assert [a.keys() ^ b.keys() for a, b in zip(before, after, strict=True)] == [set(), set()]
        assert after == before
        captured = capsys.readouterr()
        assert captured.out == ""
        assert [record.getMessage() for record in caplog.records] == []  # these go to stderr too
        (line,) = captured.err.splitlines()
        assert len(line) < 400
        return line

    return run


MISTAKES = {  # arguments, {job's path} filled in, and what the line says
    "no verb": ("", "asr: give a verb: prepare, recipes, train"),
    "unknown verb": ("trian x", "asr trian: no such command; choose one of prepare, recipes"),
    "train: no recipe": ("train", "the recipe comes first: asr train RECIPE"),
    "train: missing file": ("train nowhere.yaml", "nowhere.yaml: no such recipe file; check"),
    "train: audio as recipe": ("train {audio}", r"test-000.wav is not a text file; give a recipe"),
    "train: wrong key": (
        "train {recipe} --optimizer.rate 1",
        r"optimizer.rate: no such key; OptimizerOptions has algorithm, lr, warmup_updates",
    ),
    "train: wrong type": ("train {recipe} --seed one", "seed: expected an integer, got one"),
    "train: wrong type of an optional key": (
        "train {recipe} --budget.updates many",
        "budget.updates: expected an integer or null, got many",
    ),
    "train: misspelt option": ("train {recipe} --rnu x", "rnu: no such key; Recipe has data, bud"),
    "train: no value": ("train {recipe} --seed", "--seed expects a value"),
    "train: no folder": ("train {recipe} --run", "argument --run: expected one argument"),
    "train: unknown encoder": (
        "train {recipe} --encoder Conformist",
        "--encoder Conformist: no recipe and no class .*; nearest: Conformer, .*; your own: ",
    ),
    "train: impossible encoder": (
        "train {recipe} --encoder.dim 33",
        "train: LSTM: dim 33 is odd; two",
    ),
    "train: corpus of a recipe not prepared": (
        "train fsdd",
        "there is no data/fsdd; prepare it first: asr prepare fsdd .*--output data/fsdd$",
    ),
    "train: an option of other programs": (
        "train {recipe} --epochs 3",
        "--epochs: no such option; use --budget.updates, ",
    ),
    "transcribe: an option of other programs": (
        "transcribe {run} {audio} --language de",
        "--language de; a model transcribes the language that it was trained on",
    ),
    "transcribe: another option of other programs": (
        "transcribe {run} {audio} --output_format srt",
        "unrecognized arguments: --output-format srt; use --formats",
    ),
    "tune-decoding: no trials": (
        "tune-decoding {run} --trials 0",
        "argument --trials: '0' is not a whole number above 0",
    ),
    "train: no corpus": (
        "train {recipe} --data.corpus nowhere",
        "nowhere is not a prepared corpus .no corpus.json.; run: asr prepare",
    ),
    "train: no such split": (
        "train {recipe} --data.validation dev",
        "split 'dev' is not in .*; it has test, train, validation",
    ),
    "train: run of another recipe": (
        "train {recipe} --run {run} --seed 2",
        r"runs/a holds a run of another recipe \(seed: was 1, is now 2\); choose another --run",
    ),
    "train: folder of something else": (
        "train {recipe} --run {recordings}",
        "recordings holds .* and no recipe.yaml, so it is not a run folder; choose another --run",
    ),
    "train: unwritable output": (
        "train {recipe} --run {file}/below",
        "cannot write .*recipe.yaml/below .Not a directory.; a part of the path is a file",
    ),
    "prepare: unknown corpus": ("prepare timit --output x", "invalid choice: 'timit'.*spoken"),
    "prepare: misspelt option": (
        "prepare folder --pth x --output x",
        "folder.pth: no such key; Folder has path, layout",
    ),
    "prepare: misspelt option of every corpus": (
        "prepare folder --path {recordings} --output x --normalizer=none",
        r"unrecognized arguments: --normalizer=none; did you mean --normaliser\? .see: asr prepare",
    ),
    "prepare: a value that looks like an option": (
        "prepare folder --path output --output x",
        "prepare: output: no such file or folder; check the path",
    ),
    "prepare: no output": ("prepare folder --path x", "arguments are required: --output"),
    "prepare: missing folder": (
        "prepare folder --path nowhere --output x",
        "nowhere: no such file or folder; check the path",
    ),
    "prepare: empty folder": (
        "prepare folder --path {empty} --output x",
        "empty holds no utterances; looked for wav.scp and text .*; audio beside .txt",
    ),
    "prepare: text column absent": (
        "prepare hub --path {table} --train [train.parquet] --output x",
        "table.* has no column text .*; give --text_column, one of audio, words",
    ),
    "prepare: one value for a list": (
        "prepare hub --path {table} --train train.parquet --output x",
        "hub.train: expected list of texts, got train.parquet; write .train.parquet.",
    ),
    "prepare: no such file": (
        "prepare hub --path {table} --train [tran.parquet] --output x",
        "tran.parquet",
    ),
    "prepare: unknown normaliser": (
        "prepare folder --path {recordings} --output x --normaliser german",
        "normaliser 'german': choose one of none, lower, english",
    ),
    "prepare: rate of zero": (
        "prepare folder --path {recordings} --output x --sample-rate 0",
        "sample_rate 0: it must be positive",
    ),
    "prepare: output holds something else": (
        "prepare folder --path {recordings} --output {run}",
        "runs/a exists and is not a prepared corpus; choose another --output",
    ),
    "prepare: output holds another corpus": (
        "prepare folder --path {recordings} --output {corpus}",
        "tones holds recordings prepared differently .*; remove it or choose another --output",
    ),
    "prepare: unwritable output": (
        "prepare folder --path {recordings} --output {file}/below",
        "cannot write .*recipe.yaml .File exists.; a part of the path is a file; choose another",
    ),
    "evaluate: missing model": ("evaluate nowhere", "nowhere: no such model or run folder"),
    "evaluate: no model": ("evaluate {empty}", "empty holds no model"),
    "evaluate: no such split": (
        "evaluate {run} --split dev",
        "split 'dev' is not in .*; it has test, train, validation",
    ),
    "evaluate: no corpus": ("evaluate {run} --corpus {empty}", "is not a prepared corpus"),
    "evaluate: unknown device": (
        "evaluate {run} --device gpu",
        "--device gpu: no such device; thi",
    ),
    "evaluate: unknown search": (
        "evaluate {run} --search Bean",
        "search.class_path 'Bean' is no Search; shipped: Beam, Greedy",
    ),
    "evaluate: misspelt option": (
        "evaluate {run} --spilt test",
        r"unrecognized arguments: --spilt test; did you mean --split\? .see: asr evaluate --help",
    ),
    "evaluate: unknown option": (
        "evaluate {run} --colour",
        r"unrecognized arguments: --colour \(see: asr evaluate --help",
    ),
    "evaluate: nothing": ("evaluate", "arguments are required: MODEL"),
    "evaluate: half of the files": (
        "evaluate --hypotheses x.trn",
        "give both --hypotheses and --references",
    ),
    "evaluate: files and a model": (
        "evaluate {run} --hypotheses x.trn --references y.trn --split test --device cpu",
        "--hypotheses does not read --device and MODEL; leave them out",
    ),
    "evaluate: a normaliser for a model": (
        "evaluate {run} --normaliser lower",
        "MODEL does not read --normaliser; leave them out",
    ),
    "evaluate: missing references": (
        "evaluate --hypotheses x.trn --references nowhere.trn",
        "nowhere.trn: No such file or directory; check the path",
    ),
    "tune-decoding: a search": (
        "tune-decoding {run} --search Greedy",
        "--search Greedy; tune-decoding chooses the search itself; leave it out",
    ),
    "evaluate: wrong number": (
        "evaluate {run} --batch-seconds -3",
        "argument --batch-seconds: '-3' is not a number of seconds above 0",
    ),
    "evaluate: unwritable output": (
        "evaluate {run} --output {file}/below",
        "cannot write .*recipe.yaml/below .Not a directory.; a part of the path is a file",
    ),
    "transcribe: missing file": (
        "transcribe {run} nowhere.wav",
        "nowhere.wav: no such file; check the path",
    ),
    "transcribe: empty folder": ("transcribe {run} {empty}", "empty holds no audio file"),
    "transcribe: no file": ("transcribe {run}", "arguments are required: FILE"),
    "transcribe: unknown format": (
        "transcribe {run} {audio} --formats doc --output-dir x",
        "argument --formats: 'doc' is none of txt, json, srt, vtt, tsv, ctm; files go before",
    ),
    "transcribe: several formats nowhere": (
        "transcribe {run} {audio} --formats srt vtt",
        "srt and vtt need a folder: give --output-dir",
    ),
    "transcribe: one page of several files": (
        "transcribe {run} {recordings}/test --recursive --formats srt",
        "srt of 9 files needs --output-dir",
    ),
    "transcribe: replaced and skipped": (
        "transcribe {run} {audio} --overwrite --skip-existing",
        "argument --skip-existing: not allowed with argument --overwrite",
    ),
    "transcribe: skipped nowhere": (
        "transcribe {run} {audio} --skip-existing --formats json",
        "--skip-existing needs --output-dir, where the transcripts are",
    ),
    "transcribe: skipped without a record": (
        "transcribe {run} {audio} --skip-existing --output-dir x --formats srt txt",
        r"--skip-existing needs json among --formats \(now srt txt\), .*; add it, or transcribe",
    ),
    "transcribe: no subtitles to read": (
        "transcribe {run} {audio} --max-chars-per-second 17",
        "max_chars_per_second needs one of the formats json, srt, vtt, .* not txt alone",
    ),
    "transcribe: impossible reading speed": (
        "transcribe {run} {audio} --formats srt --max-chars-per-second 0",
        "max_chars_per_second is 0.0; it must be above 0",
    ),
    "transcribe: unwritable output": (
        "transcribe {run} {audio} --output-dir {file}/below",
        "cannot write .*recipe.yaml/below .Not a directory.; a part of the path is a file",
    ),
    "compare: missing folder": ("compare nowhere", "nowhere: no such run folder; check the path"),
    "compare: empty folder": (
        "compare {run} {empty}",
        "empty is not a run folder .no recipe.yaml.; give folders that asr train wrote",
    ),
    "compare: impossible target": (
        "compare {run} --targets 120 --output x",
        "target WER 120 % is not between 0 and 100 %",
    ),
    "compare: not a number": ("compare {run} --targets ten", "invalid float value: 'ten'"),
    "compare: output is a file": ("compare {run} --output {file}", "recipe.yaml is a file; give a"),
    "compare: unwritable output": ("compare {run} --output {file}/below", "recipe.yaml"),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_is_one_line_with_the_remedy_and_changes_nothing(job, refused, mistake):
    text, message = MISTAKES[mistake]
    words = [re.sub(r"{(\w+)}", lambda m: getattr(job, m[1]), word) for word in text.split()]
    line = refused(*words)
    assert re.match(rf"asr( {words[0]})?: " if words else "asr: ", line)
    assert re.search(message, line), line


@pytest.mark.skipif(torch.cuda.is_available(), reason="a mistake without a GPU")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train {recipe} --trainer.accelerator gpu", "use --trainer.accelerator cpu"),
        ("train {recipe} --trainer.precision 16-mixed", "trainer.precision: "),
        ("evaluate {run} --device cuda", "--device cuda: no such device; this machine has cpu"),
        ("transcribe {run} {audio} --device cuda:1", "no such device; this machine has cpu"),
    ],
)
def test_a_missing_device_is_one_line(job, refused, text, message):
    words = [re.sub(r"{(\w+)}", lambda m: getattr(job, m[1]), word) for word in text.split()]
    assert message in refused(*words)


def halved(path: Path) -> None:
    """Cuts a file short; in a recipe, within a word."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if path.suffix != ".yaml" else b"data: {corpus")


DAMAGES = {
    "best/model.safetensors": "model.safetensors is damaged or belongs to another .*; restore",
    "best/model.json": "model.json is damaged .*; restore it or train again",
    "last.ckpt": "last.ckpt is damaged .*; remove it to begin again from update 0",
    "recipe.yaml": "recipe.yaml",
}


@pytest.mark.parametrize("name", list(DAMAGES))
def test_a_damaged_file_is_named_and_left_unchanged(job, refused, tmp_path, name):
    run = tmp_path / "run"
    shutil.copytree(job.run, run)
    halved(run / name)
    commands = {
        "best/model.safetensors": [["evaluate", str(run)], ["transcribe", str(run), job.audio]],
        "best/model.json": [["evaluate", str(run)], ["transcribe", str(run), job.audio]],
        "last.ckpt": [["train", job.recipe, "--run", str(run), "--budget", "{updates: 50}"]],
        "recipe.yaml": [["train", job.recipe, "--run", str(run)], ["compare", str(run)]],
    }[name]
    for arguments in commands:
        line = refused(*arguments)
        assert re.search(f"{run}/.*{DAMAGES[name]}", line), line


def test_a_damaged_corpus_is_named(job, refused, tmp_path):
    corpus = tmp_path / "tones"
    shutil.copytree(job.corpus, corpus)
    halved(corpus / "train-00000-of-00001.parquet")
    line = refused("train", job.recipe, "--data.corpus", str(corpus))
    assert re.search(r"train-00000-of-00001.parquet is damaged .*; prepare the corpus again", line)


def test_a_model_that_lost_its_corpus_asks_for_another(job, refused, tmp_path, monkeypatch):
    moved = Path(job.corpus).rename(tmp_path / "moved")
    try:
        line = refused("evaluate", job.run)
    finally:
        moved.rename(job.corpus)
    assert line.endswith(f"was trained on {job.corpus}, which is not here; give --corpus")


# --- a full disk ---


@pytest.fixture(params=["quota", "tmpfs"])
def full_disk(request, tmp_path, quota) -> Callable[[int], contextlib.AbstractContextManager[Path]]:
    """A folder where so many bytes can be written: by a limit on files, or a disk of that size."""
    place = tmp_path / "disk"
    place.mkdir()

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[Path]:
        with quota(size):
            yield place

    @contextlib.contextmanager
    def small(size: int) -> Iterator[Path]:
        kib = max(4, size // 1024)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "asr-test", str(place)]
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a small disk")
        if size < 4096:
            (place / "filler").write_bytes(b"x" * 4096)
        try:
            yield place
        finally:
            shutil.copytree(place, tmp_path / "found")
            subprocess.run(["umount", "--lazy", str(place)], check=True)
            shutil.copytree(tmp_path / "found", place, dirs_exist_ok=True)

    return limited if request.param == "quota" else small


FULL = r"\((File too large|No space left on device)\); make room or choose another"


def on_full_disk(capsys, arguments: list[str]) -> str:
    """The one line that the command prints."""
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("verb", ["prepare", "evaluate", "transcribe", "compare"])
def test_a_full_disk_is_one_line_and_leaves_nothing(job, capsys, full_disk, tmp_path, verb):
    with full_disk({"prepare": 20_000, "compare": 5_000}.get(verb, 10)) as place:
        out = str(place / "out")
        arguments = {
            "prepare": ["folder", "--path", job.recordings, "--output", out],
            "evaluate": [job.run, "--output", out],
            "transcribe": [job.run, job.audio, "--formats", "txt", "srt", "--output-dir", out],
            "compare": [job.run, "--output", out],
        }[verb]
        line = on_full_disk(capsys, [verb, *arguments])
    assert re.search(FULL, line), line
    assert [p.name for p in place.rglob("*") if p.name != "filler"] == []


def test_training_on_a_full_disk_ends_with_one_line_and_resumes_when_there_is_room(
    job, capsys, full_disk, tmp_path
):
    with full_disk(100_000) as place:
        run = place / "run"
        arguments = ["train", job.recipe, "--run", str(run)]
        line = on_full_disk(capsys, arguments)
    assert re.search(f"cannot write {run}/.*{FULL}", line), line
    assert not [p for p in run.rglob("*") if p.suffix == ".tmp"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith(f"{run}: budget.updates 40 reached")


# --- help ---


def test_help_lists_every_verb_with_an_example(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert set(COMMANDS) == set(VERBS)
    for _, example in VERBS.values():
        assert example in out
    assert main(["--version"]) == 0


@pytest.mark.parametrize("verb", list(VERBS))
def test_the_help_of_every_verb_has_usage_and_example(verb, capsys):
    with contextlib.suppress(SystemExit):
        assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: asr {verb}")
    assert " ".join(VERBS[verb][1].split()) in " ".join(out.split())
    assert "None" not in out
    assert "==SUPPRESS==" not in out


def test_the_help_of_claims_has_one_line_per_probe(capsys):
    with contextlib.suppress(SystemExit):
        main(["claims", "--help"])
    out = capsys.readouterr().out.splitlines()
    for probe in PROBES.values():
        assert [line.split(None, 1) for line in out].count([probe.name, probe.meaning]) == 1


@pytest.mark.parametrize("arguments", [["--help"], ["claims", "--help"]])
def test_a_closed_output_ends_the_command_without_a_traceback(arguments):
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "asr", *arguments],
            cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, check=False,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"")


def test_only_verbs_that_do_not_tune_the_search_have_a_search_option(capsys):
    for verb, offered in (("evaluate", True), ("transcribe", True), ("tune-decoding", False)):
        with contextlib.suppress(SystemExit):
            main([verb, "--help"])
        assert ("--search" in capsys.readouterr().out) == offered, verb


def test_the_help_of_training_lists_every_key_with_type_default_and_meaning(job, capsys):
    main(["train", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    main(["train", job.recipe, "--print-config"])
    recipe = yaml.safe_load(capsys.readouterr().out)

    def keys(branch, path=""):
        for name, value in branch.items():
            if isinstance(value, dict) and name != "init_args":
                yield from keys(value, f"{path}{name}.")
            elif name == "init_args":
                yield from (f"{path}{key}" for key in value)
            elif name != "class_path":
                yield f"{path}{name}"

    for key in keys(recipe):
        if not key.startswith("validation.search."):
            assert re.search(rf"--{re.escape(key)} \([^()]+, [^()]+\) \S", out), key


def test_the_help_of_preparing_lists_the_options_of_every_corpus(capsys):
    main(["prepare", "--help"])
    out = capsys.readouterr().out
    for name, kind in CORPORA.items():
        assert f"\n  {name}\n" in out
        for key in fields(kind):
            assert f"--{key.name} (" in out


def test_a_closed_pipe_is_no_error():
    shown = subprocess.run(
        f"{sys.executable} -m asr train --help | head -n 1",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith("usage: asr train")
    assert shown.stderr == ""


def test_an_interrupted_run_says_how_to_resume(job, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("asr.training.speech.SpeechModule.training_step", interrupted)
    assert main(["train", job.recipe, "--run", f"{job.here}/c"]) == 130
    assert "the same command continues from the last checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "expected"), [(None, 1), ("3", 5)])
def test_recognition_uses_one_thread_of_a_cpu_unless_told_otherwise(monkeypatch, given, expected):
    threads = torch.get_num_threads()
    torch.set_num_threads(5)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    try:
        assert device_of("cpu") == "cpu"
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(threads)
