"""Draws the page of the probe ``roofline``: what limits a step of an LSTM, by width and batch."""

from collections.abc import Sequence
from dataclasses import dataclass

from asr.document.blocks import Block, Text
from asr.formatting import digits, percent, prefixed, whole_number
from asr.probes.probe import Columns, Measured, Option, Part, Probe, format_interval, table
from asr.statistics.median import MIN_REPEATS

WIDTHS, BATCHES = (256, 512, 1024), (1, 16)


@dataclass(frozen=True)
class Step:
    """One step of an LSTM whose input has the same width as its state."""

    width: int
    batch: int
    seconds: float  # time of a forward step, without the constant cost of a call
    flops: int
    intensity: float  # FLOPs per byte of the weights that a step reads, and of the states
    bound: str = ""  # what takes more than half of the time: latency, memory or arithmetic
    layers: int = 0  # layers of a live stream that is read frame by frame; 0: a layer, in one call
    bytes: int = 0  # of the weights that the step reads; 0 in a file of an earlier version
    # Time to sum as many bytes, and to multiply a matrix of as many bytes by a vector, as shares
    # of the time of the step, by repeat: bounds of the share that reading the weights takes.
    reading: Sequence[float] = ()
    multiplying: Sequence[float] = ()


def draw(measured: Measured) -> list[Block]:
    """Returns a table with a line per step, and the bandwidth by the number of bytes."""
    machine = measured.rest["machine"]
    columns: Columns = {
        "width x batch": lambda s: f"{s.width} x {s.batch}",
        "read": lambda s: f"frame by frame, {s.layers} layers" if s.layers else "in one call",
        "µs a step": lambda s: digits(1e6 * s.seconds),
        "speed": lambda s: prefixed(s.flops / s.seconds, "FLOP/s"),
        "arithmetic, of the time": lambda s: percent(s.flops / s.seconds / machine["peak"]),
        "weights": lambda s: prefixed(s.bytes or None, "B"),
        "summing them, % of the time": lambda s: format_interval(s.reading, 100),
        "a product with them, % of the time": lambda s: (
            format_interval(s.multiplying, 100) if s.multiplying else "-"
        ),
        "bound by": lambda s: s.bound,
    }
    words = (
        f"The peak is {digits(machine['peak'] / 1e9)} GFLOP/s, and memory delivers "
        f"{digits(machine['bandwidth'] / 1e9)} GB/s: the ridge is at {digits(machine['ridge'])} "
        "FLOP per byte."
    )
    notes = [
        "In one call, the input weights are applied to all frames by a single product, so a step "
        "reads the recurrent weights of one layer. Frame by frame, as in live recognition, a step "
        "reads all weights of all layers.",
        "Shares of the time of a step: its arithmetic at the peak (a large matrix product), and "
        "two bounds of the time to read its weights from memory or a cache. The lower bound sums "
        "as many bytes over and over. The upper bound multiplies a matrix of as many bytes by a "
        "vector. Reading and arithmetic can overlap. A step is bound by arithmetic or, with the "
        "lower bound, by memory if that takes more than 50 %, and otherwise by latency. Each "
        "repeat is a process of its own. Values are medians over repeats. From 6 repeats on, an "
        "interval holds the median in 95 of 100 cases.",
    ]
    caches = {
        "read over and over": lambda c: prefixed(c["bytes"], "B"),
        "GB/s": lambda c: (
            f"{digits(c['rate'] / 1e9)} [{digits(c['low'] / 1e9)} to {digits(c['high'] / 1e9)}]"
        ),
    }
    found = measured.rest.get("caches")
    tables = [table(found, caches)] if found else []
    return [table(measured.rows, columns), Text([words, *notes], "list"), *tables]


PROBE = Probe(
    name="roofline",
    title="What bounds a step of an LSTM",
    meaning="whether a recurrent step is limited by latency, by reading its weights from memory "
    "or a cache, or by arithmetic",
    example="asr claims roofline --widths 64 256 1024 --output claims",
    module="asr.probes.roofline_measure",
    row=Step,
    options=(
        Option("widths", WIDTHS, "widths of the LSTM", whole_number, "H"),
        Option("batches", BATCHES, "numbers of utterances in a batch", whole_number, "B"),
        Option(
            "frames",
            100,
            "frames in the shorter of two calls; their difference in time gives the time of a step",
            whole_number,
            "T",
        ),
        Option("layers", 5, "layers of the LSTM that reads frame by frame", whole_number, "N"),
        Option("repeats", MIN_REPEATS, "number of processes that measure", whole_number, "N"),
    ),
    parts=(Part("C5", "By width and batch", draw),),
    key="steps",
    machine_key="about",
)
