"""The verbs and what their options have in common."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any

VERBS: dict[str, tuple[str, str]] = {
    "prepare": (
        "public corpus or your own recordings -> prepared parquet and a preflight report",
        "asr prepare spoken --output data/spoken",
    ),
    "recipes": (
        "the recipes that ship: name, what each is, parameters and measured cost",
        "asr recipes encoders",
    ),
    "train": (
        "recipe -> run folder with checkpoints, ledger and logs; resumes by itself",
        "asr train spoken --encoder lstm-tiny",
    ),
    "tune-decoding": (
        "model and validation split -> the search that makes the fewest errors, stored with it",
        "asr tune-decoding runs/spoken-lstm-tiny-seed1 --trials 20",
    ),
    "evaluate": (
        "model and split -> WER and CER with intervals, real-time factor, hypotheses",
        "asr evaluate runs/spoken-lstm-tiny-seed1 --split test",
    ),
    "transcribe": (
        "audio files of any length -> text, json, srt, vtt, tsv or ctm",
        "asr transcribe runs/spoken-lstm-tiny-seed1 talk.mp3 --formats srt --output-dir subtitles",
    ),
    "compare": (
        "run folders -> one page: WER against device-hours, cost to reach a WER, significance",
        "asr compare runs/spoken-lstm-tiny-seed1 runs/spoken-transformer-tiny-seed1",
    ),
    "study": (
        "arms x budgets x seeds, all tuned equally -> every run that is missing, and the report",
        "asr study quick",
    ),
    "claims": (
        "what is claimed of encoders, measured: time and memory against the obvious reference",
        "asr claims scaling --rows lstm-loop gru-loop --output claims",
    ),
    "doctor": (
        "what works on this machine, and what to do about the rest",
        "asr doctor",
    ),
}


class Parser(argparse.ArgumentParser):
    """argparse with our exit: the mistake in one line, no usage dump."""

    def error(self, message: str) -> Any:
        """Called by argparse."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message and (near := self.nearest(unknown.split()[0])):
            message += f"; did you mean {near}?"
        raise ValueError(f"{message} (see: {self.prog} --help)")

    def nearest(self, word: str) -> str | None:
        """The option that is spelt almost like a word which is none; None if no one is."""
        name = word.partition("=")[0]
        return next(
            iter(difflib.get_close_matches(name, self._option_string_actions, 1, 0.75)), None
        )


def parser(verb: str) -> Parser:
    """An empty parser with the verb's meaning and example."""
    meaning, example = VERBS[verb]
    return Parser(
        prog=f"asr {verb}",
        description=meaning,
        epilog=f"example: {example}",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=100),
    )


def hyphens(arguments: Sequence[str]) -> list[str]:
    """``--batch_seconds`` is ``--batch-seconds``; values stay as they are."""
    words = []
    for word in arguments:
        name, sign, value = word.partition("=")
        words.append(name.replace("_", "-") + sign + value if word.startswith("--") else word)
    return words


def positive(text: str) -> float:
    """A number of seconds above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def device_of(name: str | None) -> str:
    """``--device``, or the GPU where there is one.

    Raises:
        ValueError: there is no such device.
    """
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ["cpu", *(["cuda"] if number else []), *(f"cuda:{i}" for i in range(number))]
    if name is not None and name not in there:
        raise ValueError(f"--device {name}: no such device; this machine has {', '.join(there)}")
    return name or ("cuda" if number else "cpu")


def fail(message: str, status: int = 2) -> int:
    """One line on stderr."""
    print(message, file=sys.stderr)
    return status
