"""A slice of half an hour on a GPU: its commands in order of value, within a limit of time.

scripts/gpu_slice 1 --bundle build/gpu --output results    # again: goes on where it stopped
scripts/gpu_slice 1 --toy                                  # the same on a CPU, at toy size

The work is in runs/gpu/slice-N (runs/gpu-toy/slice-N). After every command the output folder gets
``slice-N.tar.gz`` (all of it but checkpoints) and ``slice-N.md`` (what was done, on what machine).
On a new machine the slice goes on from that tar, where the output folder holds it. Standard library
and PyYAML only: it runs before the bundle's packages are there.
"""

import argparse
import dataclasses
import json
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from asr.files import read_json_lines, write
from benchmarks import gpu_archive, gpu_setup, gpu_step

SLICES = Path("scripts/gpu_slices.yaml")
STUDIES = {
    "curves": "mini_librispeech_curves",
    "study": "mini_librispeech",
}
TOY_STUDY = "scripts/gpu_toy_study.yaml"
CLOSING_SECONDS = 5.0  # to pack what is left at the end
LEAST_SECONDS = 8.0  # less is not worth a start
UNFINISHED = 3  # exit status: call again


@dataclass(frozen=True)
class Step:
    """A command of a slice.

    Attributes:
        seconds: that it may take of one call.
        command: words, with {device}, {folder} (of the slice), {sample}, {curves} and {study}
            in them.
        full: further words on a GPU.
        toy: in their place in a rehearsal.
        resumes: whether it goes on where it was cut, so that time left over is worth giving.
    """

    name: str
    seconds: float
    command: str
    full: str = ""
    toy: str = ""
    resumes: bool = False

    def words(self, values: Mapping[str, str], toy: bool) -> list[str]:
        """The command line; python is the one that runs this."""
        text = f"{self.command} {self.toy if toy else self.full}".format_map(values)
        first, *others = shlex.split(text)
        if first == "asr":
            return [sys.executable, "-m", "asr", *others]
        return [sys.executable if first == "python" else first, *others]


@dataclass(frozen=True)
class Slice:
    """Commands in order of value; the title says what they answer."""

    number: int
    title: str
    steps: tuple[Step, ...]


def read_slices(path: Path) -> dict[int, Slice]:
    """All slices by number.

    Raises:
        ValueError: a step has a key that is none, or lacks one.
    """
    slices = {}
    for number, each in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        try:
            steps = tuple(Step(**step) for step in each["steps"])
        except TypeError as error:
            raise ValueError(f"{path}, slice {number}: {error}") from None
        slices[number] = Slice(number, each["title"], steps)
    return slices


class Work:
    """The folder of a slice and what was done in it: a line of steps.jsonl per attempt."""

    def __init__(self, given: Slice, place: Path, output: Path, toy: bool):
        self.slice, self.toy = given, toy
        name = f"slice-{given.number}"
        self.folder = place / name
        self.archive = output / f"{'toy-' * toy}{name}.tar.gz"
        self.restored = gpu_archive.unpack(self.archive, self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Of all calls, in order."""
        path = self.folder / "steps.jsonl"
        return read_json_lines(path)[0] if path.is_file() else []

    def open_steps(self) -> list[Step]:
        """Those that are not done."""
        done = {line["step"] for line in self.attempts if line["status"] == "done"}
        return [step for step in self.slice.steps if step.name not in done]

    def run(
        self, step: Step, values: Mapping[str, str], environment: Mapping[str, str], limit: float
    ) -> str:
        """One attempt at a step, of at most ``limit`` seconds; its status."""
        words = step.words(values, self.toy)
        print(f"{step.name}: at most {limit:.0f} s: {shlex.join(words)}", flush=True)
        line = {"step": step.name, "unix_time": time.time(), "limit_seconds": limit}
        log = self.folder / f"{step.name}.log"
        began = time.monotonic()
        outcome = None
        try:
            outcome = gpu_step.run(words, log, environment, limit)
        finally:  # an interruption of this process cuts the step
            told = outcome or gpu_step.Outcome("cut", -signal.SIGTERM, time.monotonic() - began)
            line |= {"command": shlex.join(words), **dataclasses.asdict(told)}
            with (self.folder / "steps.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        print(f"{step.name}: {outcome.status} after {outcome.seconds:.0f} s", flush=True)
        if outcome.status == "failed":
            print("\n".join(log.read_text(errors="replace").splitlines()[-8:]), flush=True)
        return outcome.status

    def last_word(self, step: Step) -> str:
        """The end of its log, as how many tests passed."""
        path = self.folder / f"{step.name}.log"
        lines = path.read_text(errors="replace").split("\n") if path.is_file() else []
        words = [line.strip() for line in lines if line.strip()]
        return words[-1][:100].replace("|", "/") if words else ""

    def save(self) -> str:
        """Writes the archive and the page beside it; says where and how large."""
        page = self.page(gpu_archive.pack(self.folder, self.archive))
        write(self.archive.with_name(self.archive.name.replace(".tar.gz", ".md")), page)
        return f"written: {self.archive} ({self.archive.stat().st_size / 1e6:.2f} MB)"

    def page(self, left: Sequence[str]) -> str:
        """What was done, on what machine, and what is missing, in Markdown."""
        machine = json.loads((self.folder / "machine.json").read_text())
        told = [f"# Slice {self.slice.number}: {self.slice.title}", ""]
        if self.toy:
            told += ["Rehearsal at toy size on a CPU: no figure of it says anything of a GPU.", ""]
        told += [f"{key}: {value}  " for key, value in machine.items()]
        told += [
            "",
            "| step | status | seconds | calls | last word | command |",
            "| --- | --- | --: | --: | --- | --- |",
        ]
        for step in self.slice.steps:
            tries = [line for line in self.attempts if line["step"] == step.name]
            status = tries[-1]["status"] if tries else "not yet run"
            command = f"`{tries[-1]['command']}`" if tries else ""
            seconds = f"{sum(line['seconds'] for line in tries):.0f}"
            cells = [step.name, status, seconds, str(len(tries)), self.last_word(step), command]
            told.append(f"| {' | '.join(cells)} |")
        return "\n".join([*told, "", *(f"- left out: {line}" for line in left)]) + "\n"


def work_through(
    work: Work, values: Mapping[str, str], environment: Mapping[str, str], end: float
) -> None:
    """Each open step for its seconds, in order of value, until ``end`` (of the monotonic clock).

    What is left then goes to those that were cut and can go on, twice as long each time: some have
    nothing to go on from before they have come far.
    """
    waiting, times = work.open_steps(), 1
    while waiting:
        again = []
        for step in waiting:
            limit = min(times * step.seconds, end - time.monotonic())
            if limit < LEAST_SECONDS:
                print(f"{step.name}: no time left in this call", flush=True)
                continue
            status = work.run(step, values, environment, limit)
            work.save()
            if status == "cut" and step.resumes:
                again.append(step)
        waiting, times = again, 2 * times


def carry_out(given: argparse.Namespace, began: float) -> int:
    """Sets up, works through the slice, packs; the exit status.

    Raises:
        ValueError: no such slice, no GPU, or a bundle that does not fit.
    """
    slices = read_slices(given.slices)
    if given.number not in slices:
        raise ValueError(f"slice {given.number}: {given.slices} has {', '.join(map(str, slices))}")
    place = Path("runs/gpu-toy" if given.toy else "runs/gpu")
    work = Work(slices[given.number], place, given.output or place / "results", given.toy)
    if work.restored:
        print(f"goes on from {work.archive}", flush=True)
    environment = gpu_setup.install(given.bundle, place / "site")
    corpus = gpu_setup.find_corpus(given.bundle, given.corpus)
    machine = gpu_setup.describe_machine(environment)
    if not given.toy and machine["gpu"] is None:
        raise ValueError("no CUDA device; rehearse with --toy")
    write(work.folder / "machine.json", json.dumps(machine, indent=1))
    values = {
        "device": "cpu" if given.toy else "cuda",
        "folder": str(work.folder),
        "sample": str(gpu_setup.sample(corpus, place / "sample", environment, given.toy)),
        **(dict.fromkeys(STUDIES, TOY_STUDY) if given.toy else STUDIES),
    }
    end = began + 60 * given.minutes - gpu_step.GRACE_SECONDS - CLOSING_SECONDS
    try:
        work_through(work, values, environment, end)
    finally:
        print(work.save(), flush=True)
    missing = work.open_steps()
    if any(line["status"] == "failed" for line in last_attempts(work, missing)):
        return 1
    return UNFINISHED if missing else 0


def last_attempts(work: Work, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The latest attempt at each of these steps that was tried."""
    latest = {line["step"]: line for line in work.attempts}
    return [latest[step.name] for step in steps if step.name in latest]


def interrupted(number: int, frame: object) -> None:
    """SIGTERM is heard as Ctrl-C is: the step saves and ends, and the archive is written."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all done; 1: a step failed; 2: a mistake, in one line; 3: call again; 130: told to end."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="scripts/gpu_slice", description=__doc__.split("\n")[0])
    parser.add_argument("number", type=int, help="of the slice")
    parser.add_argument("--minutes", type=float, default=9, help="that this call may take; 9")
    parser.add_argument("--bundle", type=Path, help="folder that scripts/gpu_bundle wrote")
    parser.add_argument("--corpus", type=Path, default=Path("data/mini_librispeech"))
    parser.add_argument("--output", type=Path, help="the small folder; runs/gpu/results")
    parser.add_argument("--toy", action="store_true", help="rehearse on a CPU, at toy size")
    parser.add_argument("--slices", type=Path, default=SLICES, help=argparse.SUPPRESS)
    before = signal.signal(signal.SIGTERM, interrupted)
    try:
        return carry_out(parser.parse_args(arguments), began)
    except ValueError as error:
        print(f"gpu_slice: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
