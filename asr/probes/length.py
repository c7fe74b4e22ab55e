"""Draws the page of the probe ``length``: word error rate against the length of recordings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asr.document.blocks import Block, Picture, Text
from asr.formatting import digits, percent, percent_interval, positive_duration, whole_number
from asr.probes.probe import Measured, Option, Part, Probe, grouped, run_names, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from asr.document.figures import Series

WORDS = (1, 5, 10, 20, 50)
SEVERAL = (
    "If an encoder and decoder have one run, whiskers show its interval over speakers; if they "
    "have several runs, the line is their mean and whiskers show the lowest and highest WER."
)


@dataclass(frozen=True)
class LengthPoint:
    """One model at one length; errors are pooled over recordings."""

    run: str  # folder of the model
    encoder: str  # class of the encoder
    decoder: str  # class of the decoder
    seed: int
    words: int  # minimum number of words in a recording; a speaker's last one may have fewer
    recordings: int
    mean_words: float
    mean_seconds: float
    longest_seconds: float
    errors: int
    reference_words: int
    wer: float
    low: float  # lower end of the 95 % interval over speakers
    high: float
    deletions: float  # share of the reference words that are missing
    unfinished: int  # hypotheses that did not end
    empty: int  # hypotheses without words
    real_time_factor: float  # seconds of recognition per second of audio


def draw(measured: Measured) -> list[Block]:
    """A figure, and a table with a line per model and length."""
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
    words = f"The same audio, recognised in longer and longer pieces. {SEVERAL}"
    note = (
        f"Split {measured.rest.get('split', 'not recorded')}: all lengths have the same audio, cut "
        "into recordings with a minimum number of words. Intervals are over speakers."
    )
    picture = Picture("length", lambda: draw_figure(measured.rows), words)
    return [picture, table(measured.rows, columns), Text([note])]


def draw_figure(points: Sequence[LengthPoint]) -> "Figure":
    """WER against the length of the recordings, with a line per encoder and decoder."""
    from asr.document.figures import draw_lines, new_figure

    lines = [wer_over_runs(name, own, "mean_seconds") for name, own in models(points).items()]
    figure, (axes,) = new_figure(3.0 + 0.22 * len(lines))
    draw_lines(figure, axes, lines, log=False)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="mean length of the recordings, seconds", ylabel="WER, %")
    return figure


def models(rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Rows of each encoder and decoder, by their names."""
    return {" + ".join(names): own for names, own in grouped(rows, "encoder", "decoder")}


def wer_over_runs(label: str, rows: Sequence[Any], key: str, shift: float = 0.0) -> "Series":
    """WER, in percent, against ``key``: of a run with its interval over speakers.

    Of several runs their mean, from the least to the greatest, and the mean of ``key`` where theirs
    differ: the n-th row of one belongs to the n-th of another.
    """
    from asr.document.figures import Series

    runs = [sorted(own, key=lambda row: getattr(row, key)) for _, own in grouped(rows, "run")]
    steps = list(zip(*runs, strict=False))
    x = [shift + sum(getattr(row, key) for row in step) / len(step) for step in steps]
    y = [100 * sum(row.wer for row in step) / len(step) for step in steps]
    ends = ("low", "high") if len(runs) == 1 else ("wer", "wer")
    low = [100 * min(getattr(row, ends[0]) for row in step) for step in steps]
    high = [100 * max(getattr(row, ends[1]) for row in step) for step in steps]
    return Series(label, x, y, low, high)


def corpus_options(split: str) -> tuple[Option, ...]:
    """Options that the probes of trained models share; ``split`` is the default split."""
    return (
        Option("corpus", None, "prepared corpus", metavar="FOLDER", shown="the training corpus"),
        Option("split", split, "split of the corpus"),
        Option("batch-seconds", 120.0, "seconds of audio in a batch", positive_duration, "S"),
    )


PROBE = Probe(
    name="length",
    title="Word error rate against length",
    meaning="word error rate of trained models when utterances are joined to longer recordings",
    example="asr claims length runs/fsdd-transducer --output claims",
    module="asr.probes.length_measure",
    row=LengthPoint,
    options=(
        *corpus_options("test"),
        Option("words", WORDS, "minimum number of words in a recording", whole_number, "N"),
        Option(
            "search", None, "Greedy, Beam or a YAML file, for all models", shown="each model's own"
        ),
    ),
    parts=(
        Part("Longer recordings than in training", "By model and length", draw, "Not measured."),
    ),
    takes_runs=True,
)
