"""Draws the page of the probe ``threads``: how much faster layers train on several threads."""

from collections.abc import Sequence
from dataclasses import dataclass

from asr.document.blocks import Block, Text
from asr.formatting import percent, prefixed, whole_number
from asr.probes.probe import Columns, Measured, Option, Part, Probe, format_interval, table
from asr.statistics.median import MIN_REPEATS, median_interval

PRODUCT, REFERENCE = "matrix product", "Transformer"  # the peak, and what layers are divided by


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """The times of a layer on one thread and on several, with one value per repeat."""

    layer: str  # class of the encoder, or ``PRODUCT``
    width: int  # width D of the layer; rows and columns of the product
    frames: int  # encoder frames of an utterance; 0 for the product
    batch: int  # number of utterances; 0 for the product
    threads: int  # number of threads of ``many``
    flops: int  # of a training pass by formula; a backward pass counts as two forward ones
    seconds: float  # median time of a pass on one thread
    one: Sequence[float]  # seconds of a pass on one thread
    many: Sequence[float]  # seconds on ``threads`` threads
    share: Sequence[float]  # FLOP/s on one thread, as a share of those of the product
    ratio: Sequence[float]  # speed-up, divided by that of the Transformer of this shape

    @property
    def speedup(self) -> list[float]:
        """Time on one thread divided by time on ``threads`` threads, for each repeat."""
        return [one / many for one, many in zip(self.one, self.many, strict=True)]


def draw(measured: Measured) -> list[Block]:
    """A table with a line per layer and batch, and notes."""
    rows: Sequence[Speedup] = measured.rows
    threads = rows[0].threads
    columns: Columns = {
        "layer and width": lambda r: f"{r.layer} {r.width}",
        "batch x frames": lambda r: f"{r.batch} x {r.frames:,}" if r.batch else "-",
        "FLOP": lambda r: prefixed(r.flops, "FLOP"),
        "ms, 1 thread": lambda r: format_interval(r.one, 1e3),
        f"ms, {threads} threads": lambda r: format_interval(r.many, 1e3),
        "speed-up": lambda r: format_interval(r.speedup),
        f"speed-up / {REFERENCE}'s": lambda r: format_interval(r.ratio),
        "share of the peak of one core": lambda r: percent(median_interval(r.share).value),
    }
    note = (
        f"Forward and backward passes of one layer; widths are chosen "
        f"for equal FLOPs (within 5 %). Speed-up: time on 1 thread / time on {threads} threads. "
        f"Each of the {len(rows[0].one)} repeats starts a process with 1 thread and one with "
        f"{threads}; in each, the layers take turns. Values are medians over the repeats, with "
        "intervals that hold the median in 95 of 100 cases if there are 6 repeats or more."
    )
    peak = (
        f"The {PRODUCT} shows what the machine can reach: its FLOP/s on one thread are the peak of "
        f"one core, and its speed-up is near {threads} if {threads} cores are free. The shares of "
        "the peak are those of one thread; operations other than products count as no FLOPs."
    )
    return [table(rows, columns), Text([note, peak], "list")]


PROBE = Probe(
    name="threads",
    title="Speed-up from one thread to several",
    meaning="how much faster recurrent and attention layers of equal FLOPs train on several "
    "threads; needs a machine that does nothing else",
    example="asr claims threads --threads 2 --output claims",
    module="asr.probes.threads_measure",
    row=Speedup,
    options=(
        Option("threads", 2, "number of threads to compare with one", whole_number, "N"),
        Option("dim", 320, "width of the LSTM; gives the FLOPs of all layers", whole_number, "D"),
        Option("frames", 400, "encoder frames of each utterance", whole_number, "T"),
        Option("batches", (16, 1), "numbers of utterances in a batch", whole_number, "B"),
        Option("calls", 5, "timed passes in a process, of which the median counts", whole_number),
        Option("repeats", MIN_REPEATS, "processes for each number of threads", whole_number, "N"),
    ),
    parts=(Part("C4", "Training passes of layers", draw),),
)
