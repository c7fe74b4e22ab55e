"""kill -9 of the real command at random moments.

``ASR_KILLS=20`` kills more often than twice, ``ASR_PROCESSES=2`` trains in two processes.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asr.config import strict_yaml
from asr.metering.ledger_format import read_ledger
from tests.corpus import make_corpus
from tests.training.test_train import assert_equal_weights, recipe

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("ASR_KILLS", "2"))
PROCESSES = int(os.environ.get("ASR_PROCESSES", "1"))
UPDATES = 60 + 15 * KILLS


def start(folder: Path) -> subprocess.Popen:
    """``asr train`` in a process of its own, one thread, its log in the folder."""
    command = [sys.executable, "-m", "asr", "train", str(folder.parent / "recipe.yaml")]
    with (folder.parent / "log.txt").open("a") as log:
        return subprocess.Popen(
            [*command, "--run", str(folder)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )


def cpu_seconds() -> float:
    """CPU time of all processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def sessions(folder: Path) -> int:
    return sum(e["event"] == "start" for e in read_ledger(folder))


def test_a_run_killed_repeatedly_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    make_corpus(tmp_path / "corpus", train=120, validation=12)
    tree = strict_yaml.tree_of(
        recipe(
            tmp_path / "corpus",
            budget={"updates": UPDATES},
            validation={"every_updates": 10},
            trainer={
                "accelerator": "cpu",
                "devices": PROCESSES,
                "checkpoint_every_seconds": 0.2,
                "log_every_n_steps": 3,
            },
        )
    )
    strict_yaml.dump(tree, tmp_path / "recipe.yaml")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole).wait(600) == 0, (tmp_path / "log.txt").read_text()

    before = cpu_seconds()
    draw = random.Random(time.time_ns())
    held = 0.0
    moments = []
    for kill in range(KILLS):
        process = start(broken)
        began = time.time()
        while sessions(broken) <= kill:
            assert process.poll() is None, (tmp_path / "log.txt").read_text()
            time.sleep(0.02)
        time.sleep(draw.uniform(0.0, 1.0))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break  # it had finished before
        held += time.time() - began
        moments.append(read_ledger(broken)[-1])
    began = time.time()
    assert start(broken).wait(600) == 0, (tmp_path / "log.txt").read_text()
    held += time.time() - began

    assert_equal_weights(whole, broken)
    last = json.loads((broken / "ledger.json").read_text())
    assert last["updates"] == UPDATES
    assert last["sessions"] == len(moments) + 1
    accounted = sum(last["seconds"].values()) + last["wasted_seconds"]
    assert accounted == pytest.approx(last["wall_seconds"], abs=0.5)
    if PROCESSES == 1:  # the system's account of all sessions
        assert 0.7 * (cpu_seconds() - before) < sum(last["cpu_seconds"].values())
        assert sum(last["cpu_seconds"].values()) < cpu_seconds() - before + 0.5
    # What is not in the account: the last quarter of a second of a killed session and the exit of
    # the interpreter, which a busy machine draws out.
    assert 0.7 * held < last["wall_seconds"] <= held + 0.5
    print(f"killed {len(moments)} times, wasted {last['wasted_seconds']:.1f} s of {held:.1f} s")
