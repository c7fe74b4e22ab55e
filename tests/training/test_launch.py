"""Several processes on a CPU learn what one learns, and end together."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import psutil
import pytest
import torch

from asr.config import strict_yaml
from asr.data.utterances import SpeechData
from asr.metering import control_groups
from asr.metering.ledger_format import read_ledger
from asr.model import save_model
from asr.recipe.schema import LanguageModelRecipe
from asr.training import launch
from asr.training.run import train
from asr.training.speech import SpeechModule
from tests.corpus import make_corpus
from tests.test_model import tiny_model
from tests.training.test_train import recipe

DECODERS = {
    "CTC": {"dropout": 0.0},
    "Transformer": {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0, "ctc_weight": 0.3},
    "AttentionLSTM": {"width": 12, "attention": 8, "location_kernel": 5, "dropout": 0.0},
    "Transducer": {"width": 12, "joint": 10, "dropout": 0.0},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "tones"
    make_corpus(folder, train=60, validation=6)
    return folder


def given(corpus, processes, updates=20, decoder="CTC", **keys):
    keys = {
        "decoder": {"class_path": decoder, "init_args": DECODERS[decoder]},
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 1, "devices": processes},
        "validation": {"every_updates": 100},
        "budget": {"updates": updates},
        **keys,
    }
    return recipe(corpus, **keys)


def losses(folder):
    return [e["train_loss"] for e in read_ledger(folder) if e["event"] == "step"]


@pytest.mark.parametrize(
    ("decoder", "algorithm"), [*((name, "adamw") for name in DECODERS), ("CTC", "muon")]
)
def test_two_processes_learn_what_one_learns(corpus, tmp_path, decoder, algorithm):
    optimizer = {"lr": 3e-3, "warmup_updates": 5, "algorithm": algorithm}
    for processes in (1, 2):
        options = given(corpus, processes, decoder=decoder, optimizer=optimizer)
        train(options, tmp_path / str(processes))
    one, two = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert len(one) == 20
    assert two == pytest.approx(one, rel=1e-5)


def test_the_first_process_decodes_the_audio_even_if_another_is_ready_earlier(
    tmp_path, monkeypatch, caplog
):
    make_corpus(tmp_path / "tones", train=12, validation=2)

    def late(*arguments):
        time.sleep(1.0 if torch.distributed.get_rank() == 0 else 0.0)
        return SpeechData(*arguments)

    monkeypatch.setattr("asr.training.data.SpeechData", late)
    caplog.set_level("INFO")
    train(given(tmp_path / "tones", 2, updates=1), tmp_path / "run")
    assert caplog.text.count("decoding audio: ") == 2
    assert "waiting for another process" not in caplog.text


def test_processes_without_a_row_change_nothing_and_the_log_says_that_they_wait(
    corpus, tmp_path, caplog
):
    data = {"corpus": str(corpus), "max_batch_seconds": 1.0}  # one or two utterances
    caplog.set_level("INFO")
    lines = [
        train(given(corpus, processes, data=data), tmp_path / str(processes))
        for processes in (1, 3)
    ]
    assert losses(tmp_path / "3") == pytest.approx(losses(tmp_path / "1"), rel=1e-5)
    for name in ("audio_seconds", "train_flops"):
        assert lines[1][name] == pytest.approx(lines[0][name])
    assert "% of the batches have fewer rows than the 3 processes" in caplog.text


def test_a_run_continues_exactly_with_another_number_of_processes(corpus, tmp_path):
    train(given(corpus, 1), tmp_path / "whole")
    for processes, updates in ((2, 7), (1, 12), (3, 20)):
        train(given(corpus, processes, updates), tmp_path / "parts")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)


def test_two_processes_train_a_language_model_as_one_does(tmp_path):
    save_model(tiny_model(), tmp_path / "speech", {})
    words = ["ab", "ba", "ca", "abc", "cab", "bc"]
    (tmp_path / "text.txt").write_text("\n".join(f"ab {a} {b}" for a in words for b in words))
    (tmp_path / "held.txt").write_text("ab ca\n")
    tree = {
        "text": {
            "train": [str(tmp_path / "text.txt")],
            "validation": str(tmp_path / "held.txt"),
            "max_batch_tokens": 60,
        },
        "tokenizer_of": str(tmp_path / "speech"),
        "language_model": {"class_path": "LSTM", "init_args": {"width": 16, "dropout": 0.0}},
        "optimizer": {"lr": 3e-3, "warmup_updates": 4},
        "budget": {"updates": 12},
    }
    lines = []
    for processes in (1, 2):
        trainer = {"accelerator": "cpu", "log_every_n_steps": 1, "devices": processes}
        read = strict_yaml.read(LanguageModelRecipe, {**tree, "trainer": trainer})
        lines.append(train(read, tmp_path / str(processes)))
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-5)
    assert lines[0]["tokens"] == lines[1]["tokens"]
    perplexities = [
        entry["validation"]["perplexity"]
        for name in ("1", "2")
        for entry in read_ledger(tmp_path / name)
        if entry["event"] == "validation"
    ]
    assert perplexities[0] == pytest.approx(perplexities[1], rel=1e-5)


# --- the end of a process ---


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            r"killed by SIGKILL, perhaps for lack of memory \(smaller .*; the same command",
        ),
        (
            lambda: os.kill(os.getpid(), signal.SIGUSR1),
            "killed by SIGUSR1; the same command continues from the last checkpoint$",
        ),
        (lambda: (_ for _ in ()).throw(ValueError("no such tone")), "no such tone$"),
    ],
    ids=["killed", "aborted", "error"],
)
def test_a_process_that_fails_ends_the_run_with_one_line(
    corpus, tmp_path, monkeypatch, capfd, fault, reason
):
    original = SpeechModule.training_step

    def failing(self, batch, batch_idx):
        if self.global_rank == 1 and self.progress.updates == 3:
            fault()
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SpeechModule, "training_step", failing)
    threads = torch.get_num_threads()
    with pytest.raises(ValueError, match=rf"^process 2 of 3 ended: {reason}"):
        train(given(corpus, 3), tmp_path / "run")
    assert "Traceback" not in capfd.readouterr().err
    assert psutil.Process().children() == []
    assert not torch.distributed.is_initialized()
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(SpeechModule, "training_step", original)
    assert train(given(corpus, 2, updates=4), tmp_path / "run")["updates"] == 4


SCRIPT = """
import sys
from pathlib import Path
import torch
from asr.config import strict_yaml
from asr.data.utterances import SpeechData
from asr.recipe.schema import Recipe
from asr.training.run import train

if __name__ == "__main__":
    torch.ones(1 << 20).add(1)  # starts OpenMP's threads
    recipe = strict_yaml.read(Recipe, strict_yaml.load_file(Path(sys.argv[1])))
    train(recipe, Path(sys.argv[2]))
"""


def test_processes_with_two_threads_train_after_the_first_one_has_used_its_threads(
    corpus, tmp_path
):
    asked = given(corpus, 2, updates=1, data={"corpus": str(corpus), "max_batch_seconds": 60.0})
    strict_yaml.dump(strict_yaml.tree_of(asked), tmp_path / "tones.yaml")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", "tones.yaml", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=200)
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert (ledger["num_processes"], ledger["num_threads"], ledger["updates"]) == (2, 2, 1)


def test_a_process_that_does_not_start_ends_the_run(monkeypatch):
    monkeypatch.setattr(launch, "START", timedelta(seconds=1))
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(launch, "_follow", lambda *_: time.sleep(60))
    with pytest.raises(ValueError, match=r"^not all 2 processes started within 1 s .*devices 1$"):
        launch.run(2, 1, lambda place: None)
    assert psutil.Process().children() == []


def test_no_process_survives_the_first_one(corpus, tmp_path):
    strict_yaml.dump(strict_yaml.tree_of(given(corpus, 3, updates=10**6)), tmp_path / "tones.yaml")
    run = tmp_path / "run"
    command = [sys.executable, "-m", "asr", "train", str(tmp_path / "tones.yaml")]
    process = subprocess.Popen([*command, "--run", str(run)], stderr=subprocess.DEVNULL)
    while not (run / "ledger.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    others = psutil.Process(process.pid).children(recursive=True)
    assert len(others) == 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(others, timeout=10)
    assert alive == []


# --- how many processes ---


@pytest.mark.parametrize(
    ("cores", "threads", "devices", "seconds", "expected"),
    [
        (4, None, "auto", 30.0, 4),
        (4, "1", "auto", 30.0, 4),
        (4, "2", "auto", 30.0, 2),
        (4, "8", "auto", 30.0, 1),
        (1, None, "auto", 30.0, 1),
        (64, None, "auto", 3.0, 5),  # an utterance lasts 0.5 s on average
        (4, None, 3, 30.0, 3),
    ],
)
def test_there_is_a_process_for_each_core_that_a_batch_can_keep_busy(
    corpus, monkeypatch, cores, threads, devices, seconds, expected
):
    monkeypatch.setattr(control_groups, "usable_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    data = {"corpus": str(corpus), "max_batch_seconds": seconds}
    found = launch.processes_and_threads(given(corpus, devices, data=data))
    assert found == (expected, int(threads or 1))


def test_one_process_holds_one_core_unless_more_threads_are_asked_for(
    corpus, tmp_path, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    data = {"corpus": str(corpus), "max_batch_seconds": 0.5}
    given_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(given(corpus, "auto", updates=1, data=data), tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(given_threads)
    assert json.loads((tmp_path / "ledger.json").read_text())["num_devices"] == 1


def test_only_a_cpu_of_one_machine_has_processes_of_its_own(corpus, monkeypatch):
    asked = given(corpus, 3)
    for change in ({"accelerator": "gpu"}, {"num_nodes": 2}):
        trainer = dataclasses.replace(asked.trainer, **change)
        changed = dataclasses.replace(asked, trainer=trainer)
        assert launch.processes_and_threads(changed)[0] == 1
    for size, expected in (("3", 1), ("", 3)):
        monkeypatch.setenv("WORLD_SIZE", size)
        assert launch.processes_and_threads(asked)[0] == expected


def test_the_cores_within_the_quota_of_a_container_are_usable(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(control_groups, "cores", lambda: 8)
    for quota, expected in ((None, 8), (2.5, 2), (0.5, 1), (16.0, 8)):
        monkeypatch.setattr(control_groups, "cpu_quota", lambda quota=quota: quota)
        assert control_groups.usable_cores() == expected


def test_the_ledger_counts_the_cores_of_all_processes(corpus, tmp_path):
    line = train(given(corpus, 2, updates=2), tmp_path)
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert line["device_hours"] == pytest.approx(2 * line["wall_seconds"] / 3600)
    assert ledger["num_devices"] == 2
