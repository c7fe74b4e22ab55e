"""A tiny study, and a runner that leaves what training and evaluation would, in milliseconds."""

import json
import math
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from asr.config import strict_yaml
from asr.study import Study, devices, matrix, run_study
from tests import run_folders

TASK = {
    "data": {"corpus": "corpus", "max_batch_seconds": 12.0},
    "encoder": {"class_path": "LSTM", "init_args": {"dim": 16, "layers": 1}},
    "decoder": {"class_path": "Transformer", "init_args": {"width": 16, "layers": 1, "heads": 2}},
    "trainer": {"accelerator": "cpu"},
    "budget": {"updates": 1},
}
STUDY = {
    "name": "tiny",
    "recipe": "task.yaml",
    "arms": {
        "lstm": {
            "encoder": "LSTM",
            "overrides": ["--encoder.dim=16", "--encoder.layers=1"],
            "ranges": {"encoder.forget_bias": {"low": 0.0, "high": 3.0}},
        },
        "minlstm": {
            "encoder": "MinLSTM",
            "overrides": ["--encoder.dim=16", "--encoder.layers=1"],
        },
    },
    "budgets": {"half": {"updates": 100}, "full": {"updates": 200}},
    "seeds": [1, 2],
    "tuning": {
        "trials": 3,
        "budget": {"updates": 100},
        "ranges": {
            "optimizer.lr": {"low": 1e-4, "high": 1e-2, "scale": "log"},
            "optimizer.warmup_updates": {"low": 10, "high": 100, "scale": "log"},
        },
    },
    "threads": 1,
}


def write_inputs(folder: Path) -> None:
    """The task's recipe and the description of a corpus, where the study looks for them."""
    (folder / "corpus").mkdir()
    evaluated = f"{100:064d}"  # of 100 utterances, see ``run_folders.write_evaluation``
    splits = {"train": {"rows_sha256": "a" * 64}, "test": {"rows_sha256": evaluated}}
    facts = {"splits": splits, "normaliser": "none"}
    (folder / "corpus" / "corpus.json").write_text(json.dumps(facts))
    (folder / "task.yaml").write_text(yaml.safe_dump(TASK))


def study(**changes: Any) -> Study:
    """The tiny study with some keys changed."""
    read: Study = strict_yaml.read(Study, json.loads(json.dumps(STUDY | changes)))
    return read


def wer_of(recipe: dict[str, Any]) -> float:
    """Lowest at a learning rate of 1e-3; worse for MinLSTM, and a little of the seed's luck."""
    rate = recipe["optimizer"]["lr"]
    arm = 0.05 * (recipe["encoder"]["class_path"] == "MinLSTM")
    return round(0.1 + 0.1 * abs(math.log10(rate / 1e-3)) + arm + recipe["seed"] / 1000, 6)


class Fake:
    """Trains in two steps, as if killed in between: what is there of a run is not done again.

    Args:
        journal: file that a line is added to for each step done, by whatever process.
        status: what a verb ends with, by verb and the resolved recipe; 0 when not given.
        seconds: that a step takes at most.
        metric: what chose the best model of a run; the CER moves against the WER.
    """

    def __init__(
        self,
        journal: Path,
        status: Callable[[str, dict[str, Any]], int] = lambda verb, recipe: 0,
        seconds: float = 0.0,
        metric: str = "wer",
    ):
        self.journal, self.status, self.seconds = journal, status, seconds
        self.metric = metric
        self.stopped = self.killed = False
        self.environments: list[dict[str, str]] = []
        self.cores: set[int] = set()  # processes times threads of the runs
        self.at_once = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, arguments, *, log, environment, held):
        with self.lock:
            self.environments.append(environment)
            if "--trainer.devices" in arguments:
                number = int(arguments[arguments.index("--trainer.devices") + 1])
                self.cores.add(number * int(environment["OMP_NUM_THREADS"]))
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        try:
            return self.carry_out(arguments, log)
        finally:
            with self.lock:
                self.at_once -= 1

    def carry_out(self, arguments, log) -> int:
        verb = arguments[0]
        run = Path(arguments[3] if verb == "train" else arguments[1])
        recipe = strict_yaml.load_file(run.parent / "recipe.yaml")
        if self.stopped:
            return 143
        if status := self.status(verb, recipe):
            log.write_text(f"some lines\nasr {verb}: it went wrong; do this\n")
            return status
        (self.train if verb == "train" else self.evaluate)(run, recipe)
        return 0

    def step(self, run: Path, name: str) -> None:
        time.sleep(random.uniform(0, self.seconds))
        (run / name).touch()
        with self.journal.open("a") as file:
            file.write(f"{run} {name}\n")

    def train(self, run: Path, recipe: dict[str, Any]) -> None:
        run.mkdir(parents=True, exist_ok=True)
        for name in (".first", ".second"):
            if not (run / name).exists():
                self.step(run, name)
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        wer = wer_of(recipe)
        updates = recipe["budget"]["updates"] or 200
        curve = [(wall, wer + (updates - wall) / 1000) for wall in range(50, updates + 1, 50)]
        start = {"event": "start", "session": 1, "from_update": 0, **run_folders.CPU}
        lines = [start, *(run_folders.line(wall, rate) for wall, rate in curve)]
        for line in lines[1:]:
            line["validation"] |= {"loss": 1.0, "cer": 1 - line["validation"]["wer"]}
        lines.append(run_folders.line(updates + 10))
        run_folders.write_lines(run / "ledger.jsonl", lines)
        last = {**lines[-1], **run_folders.CPU, "finished": True, "num_threads": 1}
        last["validation_metric"] = self.metric
        (run / "ledger.json").write_text(json.dumps({**last, "seed": recipe["seed"]}))

    def evaluate(self, run: Path, recipe: dict[str, Any]) -> None:
        self.step(run, ".evaluated")
        rate = round(1000 * (wer_of(recipe) + 0.01))
        run_folders.write_evaluation(run, [5] * (rate // 5) + [0] * (100 - rate // 5), 5, 0.05)

    def stop(self) -> None:
        self.stopped = True

    def kill(self) -> None:
        self.killed = True


def work(folder: Path, seconds: float = 0.02) -> None:
    """The whole tiny study without its page, in a process of its own."""
    matrix.compare = lambda runs, output, **options: {"files": [output / "report.html"]}
    devices.lock_folder = lambda: folder / "devices"
    run_study(study(), folder / "study", runner=Fake(folder / "journal", seconds=seconds))
