"""Times the start of training, and measures the memory that its process shares with no other.

    python -m benchmarks.startup CORPUS [--copies 10] [--starts 5]

Each start is forked after the imports and trains ten updates in one process. The first start finds
no decoded audio and makes it; the later ones open it. The seconds end with the first update; the
CPU seconds do not depend on other programs. The unique memory (USS) is the largest that was seen.
``--copies`` trains on copies of the training split, in a corpus beside ``CORPUS`` that is removed
at the end.
"""

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from asr.config import strict_yaml
from asr.metering.ledger_format import read_ledger
from asr.recipe.schema import Recipe
from asr.training.run import train

RUN_SECONDS = 60  # of each run of a study
UPDATES = 10
MODEL = {
    "tokenizer": {"class_path": "SentencePiece", "init_args": {"size": 256}},
    "encoder": {"class_path": "LSTM", "init_args": {"dim": 320, "layers": 4}},
    "decoder": {"class_path": "CTC", "init_args": {}},
    "search": {"class_path": "Greedy", "init_args": {}},
    "augmentation": {"speed": [0.9, 1.0, 1.1], "frequency_masks": 2, "time_masks": 2},
}


@contextlib.contextmanager
def copied(corpus: Path, copies: int) -> Iterator[Path]:
    """Writes a corpus whose training split holds that of ``corpus`` a number of times."""
    with tempfile.TemporaryDirectory(dir=corpus.parent) as folder:
        for path in (corpus / "corpus.json", *corpus.glob("validation-*.parquet")):
            shutil.copy(path, folder)
        shards = sorted(corpus.glob("train-*.parquet"))
        number = copies * len(shards)
        for i in range(number):
            shutil.copy(
                shards[i % len(shards)], Path(folder, f"train-{i:05d}-of-{number:05d}.parquet")
            )
        about = json.loads((corpus / "corpus.json").read_text())
        split = about["splits"]["train"]
        split["utterances"] *= copies
        split["hours"] *= copies
        split["rows_sha256"] = hashlib.sha256(split["rows_sha256"].encode()).hexdigest()
        Path(folder, "corpus.json").write_text(json.dumps(about))
        yield Path(folder)


def start(corpus: Path) -> tuple[float, float, float]:
    """Trains in a forked process.

    Returns:
        Seconds and CPU seconds to the first update, and the unique memory in MiB.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = MODEL | {
            "data": {"corpus": str(corpus), "max_batch_seconds": 60},
            "trainer": {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1},
            "validation": {"every_updates": 10_000},
            "budget": {"updates": UPDATES},
        }
        run = Path(folder, "run")
        context = multiprocessing.get_context("fork")
        process = context.Process(target=train, args=(strict_yaml.read(Recipe, tree), run))
        process.start()
        assert process.pid is not None
        memory, watched = 0.0, psutil.Process(process.pid)
        while process.is_alive() and len(lines(run)) < UPDATES:
            with contextlib.suppress(psutil.Error):
                memory = max(memory, watched.memory_full_info().uss / 2**20)
            time.sleep(0.2)
        process.kill()
        process.join()
        line = lines(run)[0]
        return sum(line["seconds"].values()), sum(line["cpu_seconds"].values()), memory


def lines(run: Path) -> list[dict]:
    """Returns the ledger's lines of updates so far."""
    found = read_ledger(run) if (run / "ledger.jsonl").exists() else []
    return [line for line in found if line["event"] == "step"]


def main() -> None:
    """Prints a table of all starts, and the share of start-up in a study of short runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--starts", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        corpus = given.corpus
        if given.copies > 1:
            corpus = stack.enter_context(copied(corpus, given.copies))
        shutil.rmtree(corpus / "cache", ignore_errors=True)
        print("start  seconds to the first update  CPU seconds  USS in MiB")
        seconds = []
        for number in range(given.starts + 1):
            took, cpu, memory = start(corpus)
            seconds.append(took)
            print(f"{number + 1:5}  {took:27.2f}  {cpu:11.2f}  {memory:10.0f}", flush=True)
        later = statistics.median(seconds[1:])
        spread = f"{min(seconds[1:]):.2f} to {max(seconds[1:]):.2f}"
        print(f"later starts: median {later:.2f} s ({spread} s)")
        every = 20 * seconds[0] / (20 * RUN_SECONDS)
        once = (seconds[0] + 19 * later) / (20 * RUN_SECONDS)
        print(f"start-up in 20 runs of {RUN_SECONDS} s: {once:.1%}; without the cache {every:.1%}")


if __name__ == "__main__":
    main()
