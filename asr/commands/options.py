"""The verbs of the command line, and the helpers that parse their options."""

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from typing import Any

VERBS: dict[str, tuple[str, str]] = {  # meaning and example
    "prepare": (
        "Writes a public corpus or your own recordings as parquet, with a preflight report.",
        "asr prepare spoken --output data/spoken",
    ),
    "recipes": (
        "Lists the shipped recipes, each with its parameters and its measured cost.",
        "asr recipes encoders",
    ),
    "train": (
        "Trains the model of a recipe; the same command resumes an interrupted run.",
        "asr train spoken --encoder lstm-tiny",
    ),
    "tune-decoding": (
        "Finds the search that makes the fewest errors on a split, and stores it with the model.",
        "asr tune-decoding runs/spoken-lstm-tiny-seed1 --trials 20",
    ),
    "evaluate": (
        "Measures WER and CER with intervals, and the real-time factor, on a split of a corpus.",
        "asr evaluate runs/spoken-lstm-tiny-seed1 --split test",
    ),
    "transcribe": (
        "Transcribes audio files of any length to text, subtitles or words with times.",
        "asr transcribe runs/spoken-lstm-tiny-seed1 talk.mp3 --formats srt --output-dir subtitles",
    ),
    "export": (
        "Writes the model of a run as a small folder with a card: data, cost and error rates.",
        "asr export runs/spoken-lstm-tiny-seed1 models/spoken",
    ),
    "compare": (
        "Compares runs on one page: WER against core- or GPU-hours, with tests of significance.",
        "asr compare runs/spoken-lstm-tiny-seed1 runs/spoken-transformer-tiny-seed1",
    ),
    "study": (
        "Trains all arms of a study at all budgets and seeds, with equal tuning; can be resumed.",
        "asr study quick",
    ),
    "claims": (
        "Tests claims about encoders, for instance about their time, memory and context.",
        "asr claims threads --output claims",
    ),
    "doctor": (
        "Checks what works on this machine, and gives a remedy for each problem.",
        "asr doctor",
    ),
}
FOREIGN_OPTIONS = {  # options of other programs and of earlier versions, by verb, and what to use
    "train": {
        "--epochs": "use --budget.updates, --budget.audio_hours or --budget.device_hours",
        "--batch-size": "use --data.max_batch_seconds, the seconds of audio in a batch",
        "--lr": "use --optimizer.lr",
        "--learning-rate": "use --optimizer.lr",
        "--output": "use --run",
        "--output-dir": "use --run",
        "--data": "use --data.corpus",
        "--device": "use --trainer.accelerator and --trainer.devices",
    },
    "transcribe": {
        "--language": "a model transcribes the language that it was trained on; leave it out",
        "--output-format": "use --formats",
        "--output": "use --output-dir",
    },
    "tune-decoding": {"--search": "tune-decoding chooses the search itself; leave it out"},
    "claims scaling": {
        "--rows": "use --encoders; layers are no longer compared, see asr claims threads"
    },
    "prepare": {"--language": "a manifest names the language of each row in its column language"},
}


class Parser(argparse.ArgumentParser):
    """An argparse parser that reports a mistake in one line, without the usage text."""

    def error(self, message: str) -> Any:
        """Raises ValueError with the message; called by argparse."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message and (near := self.nearest(unknown.split()[0])):
            message += f"; {near}"
        raise ValueError(f"{message} (see: {self.prog} --help)")

    def nearest(self, word: str) -> str:
        """Suggests the option to use in place of one that does not exist; '' if none is similar."""
        name = word.partition("=")[0]
        if meant := FOREIGN_OPTIONS.get(self.prog.removeprefix("asr "), {}).get(name):
            return meant
        close = difflib.get_close_matches(name, self._option_string_actions, 1, 0.75)
        return f"did you mean {close[0]}?" if close else ""


def parser(verb: str) -> Parser:
    """Makes a parser with the meaning and example of a verb, and without options."""
    meaning, example = VERBS[verb]
    return Parser(
        prog=f"asr {verb}",
        description=meaning,
        epilog=f"example: {example}",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=100),
    )


def hyphens(arguments: Sequence[str]) -> list[str]:
    """Replaces underscores in option names by hyphens; values stay unchanged."""
    words = []
    for word in arguments:
        name, sign, value = word.partition("=")
        words.append(name.replace("_", "-") + sign + value if word.startswith("--") else word)
    return words


def device_of(name: str | None) -> str:
    """Returns the device ``name``; without a name, the GPU if there is one, otherwise the CPU.

    On a CPU, torch then uses one thread unless OMP_NUM_THREADS is set: several threads wait for
    each other by spinning, so that another program on one core takes nearly all of their speed.

    Raises:
        ValueError: there is no such device.
    """
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ["cpu", *(["cuda"] if number else []), *(f"cuda:{i}" for i in range(number))]
    if name is not None and name not in there:
        raise ValueError(f"--device {name}: no such device; this machine has {', '.join(there)}")
    device = name or ("cuda" if number else "cpu")
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    return device


def fail(message: str, status: int = 2) -> int:
    """Prints one line on stderr, and returns the exit status."""
    print(message, file=sys.stderr)
    return status
