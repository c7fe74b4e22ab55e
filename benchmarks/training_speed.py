"""Compares the training speed of this code with that of an older checkout, alone and in company.

python -m benchmarks.training_speed --corpus data/mini_librispeech --older ../older-checkout

The unit is seconds of audio per core-second, which is a second in which a run holds one core of the
machine. Each checkout trains with its own defaults for processes and threads, and holds all cores.
Every round starts each of these runs once, one after the other:

- older: the older checkout, whose encoder frames last 40 ms.
- now, 40 ms: this code.
- now, 80 ms: this code with ``encoder.subsampling: 8``.

Each run is measured for ``--seconds`` twice: on the machine as it is, and then beside a program
that keeps one core busy (``while :; do :; done`` in a session of its own). Start-up, and ``--warm``
seconds before each measurement, do not count. The time and the audio are those of the ledger's
step lines. The table shows medians over the rounds, with the least and the most. Nothing else
should run on the machine.

Other arguments are keys of the recipe, and go to ``asr train`` of both checkouts, which name their
recipes by path: ``--decoder recipes/decoders/ctc.yaml --data.max_batch_seconds 120``.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from asr.files import write
from asr.metering.environment import environment

HERE = Path(__file__).parents[1]
BUSY = ["sh", "-c", "while :; do :; done"]
START_SECONDS = 900  # most that a run may take to its first update
PATIENCE = 4  # times the measured seconds that a single update may take

Row = dict[str, Any]


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def program(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """A program in a session of its own, whose processes end with the block."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def step_lines(folder: Path) -> list[Row]:
    """The whole step lines of the ledger of a run that goes on."""
    path = folder / "ledger.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [row for row in map(json.loads, lines) if row["event"] == "step"]


def clock(line: Row) -> float:
    """Seconds of training up to a line."""
    return line["seconds"]["step"] + line["seconds"]["data_wait"]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of those that it started."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def wait_for_line(process: subprocess.Popen, folder: Path, after: int, seconds: float) -> bool:
    """Waits until the run has more than ``after`` step lines; False if it takes too long.

    Raises:
        RuntimeError: the run has ended.
    """
    ends = time.monotonic() + seconds
    while len(step_lines(folder)) <= after:
        if process.poll() is not None:
            raise RuntimeError(f"the run ended with status {process.returncode}; see its log")
        if time.monotonic() > ends:
            return False
        time.sleep(0.1)
    return True


def measure(process: subprocess.Popen, folder: Path, warm: float, seconds: float) -> Row:
    """Speed of a run from now on."""
    time.sleep(warm)
    before, cpu, began = step_lines(folder), cpu_seconds(process.pid), time.monotonic()
    time.sleep(seconds)
    updated = wait_for_line(process, folder, len(before), PATIENCE * seconds)
    after, took = step_lines(folder), time.monotonic() - began
    audio = after[-1]["audio_seconds"] - before[-1]["audio_seconds"]
    step = clock(after[-1]) - clock(before[-1]) if updated else took
    return {
        "updates": len(after) - len(before),
        "speed": audio / step / cores(),
        "cpu_share": (cpu_seconds(process.pid) - cpu) / took / cores(),
    }


def run(checkout: Path, keys: Sequence[str], given: argparse.Namespace, log: Path) -> list[Row]:
    """Trains once; what was measured alone and beside the busy program."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        command = [sys.executable, "-m", "asr", "train", f"recipes/{given.recipe}.yaml"]
        command += [
            "--run",
            str(folder),
            "--data.corpus",
            str(given.corpus),
            "--budget",
            "{updates: 1000000}",
        ]
        command += ["--trainer.log_every_n_steps", "1", "--trainer.accelerator", "cpu", *keys]
        variables = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        variables["PYTHONPATH"] = str(checkout)
        with log.open("w") as file:
            options = {"cwd": checkout, "env": variables, "stdout": file, "stderr": file}
            with program(command, **options) as process:
                if not wait_for_line(process, folder, 0, START_SECONDS):
                    raise RuntimeError(f"no update in {START_SECONDS} s; see {log}")
                rows = [{"company": "alone"} | measure(process, folder, given.warm, given.seconds)]
                with program(BUSY):
                    found = measure(process, folder, given.warm, given.seconds)
                    rows.append({"company": "busy core"} | found)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: a row for each encoder, company and code."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["encoder"], row["company"], row["code"]].append(row)
    lines = [
        "| encoder | company | code | audio-s per core-s | times the older | CPU time got |",
        "| --- | --- | --- | --: | --: | --: |",
    ]
    for (encoder, company, code), found in groups.items():
        speeds = [row["speed"] for row in found]
        older = statistics.median(row["speed"] for row in groups[encoder, company, "older"])
        median = statistics.median(speeds)
        ratio = f"{median / older:.2f}" if older else "no update of the older code in time"
        share = statistics.median(row["cpu_share"] for row in found)
        speed = f"{median:.1f} ({min(speeds):.1f} to {max(speeds):.1f})"
        lines.append(f"| {encoder} | {company} | {code} | {speed} | {ratio} | {share:.0%} |")
    return "\n".join(lines)


def main() -> None:
    """Measures, and writes the table after each round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="prepared corpus")
    parser.add_argument("--older", type=Path, required=True, help="checkout of older code")
    parser.add_argument("--recipe", default="mini_librispeech")
    parser.add_argument("--encoders", nargs="+", default=["lstm-small"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm", type=float, default=5.0)
    parser.add_argument("--output", type=Path, default=Path("runs/training_speed"))
    given, keys = parser.parse_known_args()
    given.corpus, older = given.corpus.resolve(), given.older.resolve()
    given.output.mkdir(parents=True, exist_ok=True)
    codes = {
        "older": (older, []),
        "now, 40 ms": (HERE, []),
        "now, 80 ms": (HERE, ["--encoder.subsampling", "8"]),
    }
    machine, load, rows = environment(), os.getloadavg(), []
    for number in range(1, given.rounds + 1):
        for encoder in given.encoders:
            for code, (checkout, own) in codes.items():
                log = given.output / f"{encoder}-{code.replace(', ', '-').replace(' ', '')}.log"
                words = ["--encoder", f"recipes/encoders/{encoder}.yaml", *own, *keys]
                for row in run(checkout, words, given, log):
                    rows.append({"encoder": encoder, "code": code, "round": number} | row)
                    print(json.dumps(rows[-1]), flush=True)
        facts = {"machine": machine, "load": load, "options": sys.argv[1:], "rows": rows}
        write(given.output / "training_speed.json", json.dumps(facts, indent=1))
        write(given.output / "training_speed.md", table(rows) + "\n")
    print(table(rows))
    print(
        f"\n{machine['cpu']}, {cores()} cores, load {load[0]:.1f} before; {' '.join(sys.argv[1:])}"
    )


if __name__ == "__main__":
    main()
