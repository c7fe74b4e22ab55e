"""Word error rate against the length of what is heard at once, for trained models."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asr.document.blocks import Block, Picture, Text
from asr.formatting import digits, percent, percent_interval
from asr.probes.probe import Measured, Part, Probe, above_zero, count, run_names, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORDS = (1, 5, 10, 20, 50)
SEVERAL = (
    "Whiskers: of one run the interval over speakers; of several of an encoder and decoder, whose "
    "mean is drawn, the least and the greatest."
)


@dataclass(frozen=True)
class Point:
    """One model at one length.

    Attributes:
        run: folder of the model.
        encoder, decoder, seed: of the run.
        words: least number of words of a recording; the last of a speaker may hold fewer.
        recordings, mean_words, mean_seconds, longest_seconds: what was heard.
        errors, reference_words: pooled.
        wer, low, high: with its 95 % interval over speakers.
        deletions: share of the reference words that are missing.
        unfinished, empty: hypotheses that did not end, and that said nothing.
        real_time_factor: seconds of recognition per second of audio.
    """

    run: str
    encoder: str
    decoder: str
    seed: int
    words: int
    recordings: int
    mean_words: float
    mean_seconds: float
    longest_seconds: float
    errors: int
    reference_words: int
    wer: float
    low: float
    high: float
    deletions: float
    unfinished: int
    empty: int
    real_time_factor: float


def draw(measured: Measured) -> list[Block]:
    """A line per model and length."""
    columns = {
        "run folder": run_names(measured.rows)[1],
        "encoder + decoder": lambda p: f"{p.encoder} + {p.decoder}",
        "seed": lambda p: str(p.seed),
        "words": lambda p: f"{p.words} or more",
        "mean length": lambda p: f"{digits(p.mean_seconds)} s",
        "mean words": lambda p: f"{p.mean_words:.1f}",
        "WER [95 % interval]": lambda p: percent_interval(p.wer, (p.low, p.high)),
        "deleted words": lambda p: percent(p.deletions),
        "did not end": lambda p: str(p.unfinished),
        "empty": lambda p: str(p.empty),
    }
    words = f"The same audio heard in longer and longer pieces. {SEVERAL}"
    note = (
        f"Split {measured.rest.get('split', 'not recorded')}: the same audio at every length, cut "
        "into recordings of at least so many words. Intervals: over speakers."
    )
    picture = Picture("length", lambda: draw_figure(measured.rows), words)
    return [picture, table(measured.rows, columns), Text([note])]


def draw_figure(points: Sequence[Point]) -> "Figure":
    """WER against the length of the recording, a line per encoder and decoder."""
    from asr.document.figures import draw_lines, new_figure
    from asr.probes.curves import models, wer_over_runs

    lines = [wer_over_runs(name, own, "mean_seconds") for name, own in models(points).items()]
    figure, (axes,) = new_figure(3.0 + 0.22 * len(lines))
    draw_lines(figure, axes, lines, log=False)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("mean length of the recordings, seconds")
    axes.set_ylabel("WER, %")
    return figure


def add_corpus(options: argparse.ArgumentParser, split: str) -> None:
    """``--corpus``, ``--split`` and ``--batch-seconds``, which probes of trained models share."""
    options.add_argument(
        "--corpus", metavar="FOLDER",
        help="prepared corpus (default: the corpus that the model was trained on)",
    )  # fmt: skip
    options.add_argument("--split", default=split, help=f"split of the corpus (default: {split})")
    options.add_argument(
        "--batch-seconds", type=above_zero, default=120.0, metavar="S",
        help="seconds of audio in a batch (default: 120)",
    )  # fmt: skip


def add_options(options: argparse.ArgumentParser) -> None:
    """Those of ``asr claims length``."""
    add_corpus(options, "test")
    options.add_argument(
        "--words", nargs="+", type=count, default=list(WORDS), metavar="N",
        help="least number of words that are heard at once (default: 1 5 10 20 50)",
    )  # fmt: skip
    options.add_argument(
        "--search",
        help="Greedy, Beam or a YAML file, for all models (default: the search of each model)",
    )


PROBE = Probe(
    name="length",
    title="Word error rate against length",
    meaning="word error rate of trained models when the same audio is heard in longer pieces",
    example="asr claims length runs/fsdd-transducer --output claims",
    module="asr.probes.length_measure",
    row=Point,
    add_options=add_options,
    parts=(
        Part("Longer recordings than in training", "By model and length", draw, "Not measured."),
    ),
    takes_runs=True,
)
