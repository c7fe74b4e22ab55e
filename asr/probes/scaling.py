"""Draws the page of the probe ``scaling``: time and memory of encoders by length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asr.document.blocks import Block, Picture, Text
from asr.formatting import NONE, digits, prefixed, whole_number
from asr.probes.probe import Measured, Option, Part, Probe, grouped, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PASSES = {"training": 3, "encoding": 1}  # FLOPs by the number of forward passes


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A measurement of an encoder.

    The time is the median over repeats, with the least and the greatest repeat. A value is None if
    it was not measured, for instance because memory was too small.
    """

    name: str  # name of the encoder's recipe
    subject: str  # "training" (both passes) or "encoding"
    time: int  # number of feature frames
    batch: int  # number of utterances
    seconds: float | None
    seconds_min: float | None = None
    seconds_max: float | None = None
    peak_bytes: int | None = None  # peak of the memory that the call allocated
    flops: int | None = None  # by the encoder's formula; a backward pass counts as two forward ones
    parameters: int | None = None  # number of parameters of the encoder
    state_bytes: int | None = None  # bytes of state of a causal encoder after ``time`` frames
    flops_per_second: float | None = None
    error: str  # why there is no measurement
    repeats: Sequence[float] = ()  # seconds, in the order of measurement


def _seconds(row: Timing) -> str:
    """Formats median, least and greatest repeat in milliseconds, as ``120 [110 to 130]``."""
    ends = (row.seconds, row.seconds_min, row.seconds_max)
    middle, low, high = (digits(None if end is None else 1e3 * end) for end in ends)
    return row.error or f"{middle} [{low} to {high}]"


def _power(measured: Measured, row: Timing) -> str:
    """The exponent of the time with its standard error; empty for fewer than three lengths."""
    for fitted in measured.rest.get("exponents", ()):
        if (fitted["name"], fitted["subject"]) == (row.name, row.subject):
            return f"{fitted['seconds']:.2f} ± {fitted['seconds_error']:.2f}"
    return ""


def draw(measured: Measured) -> list[Block]:
    """A figure, and a table with a line per encoder, pass and length."""
    # Earlier versions also compared layers, which have other subjects.
    rows = [row for row in measured.rows if row.subject in PASSES]
    if not rows:
        return []
    columns = {
        "encoder, pass": lambda r: f"{r.name}, {r.subject}",
        "feature frames": lambda r: f"{r.time:,}",
        "batch": lambda r: str(r.batch),
        "ms [least to greatest]": _seconds,
        "peak memory": lambda r: prefixed(r.peak_bytes, "B"),
        "FLOP": lambda r: prefixed(r.flops, "FLOP"),
        "speed": lambda r: prefixed(r.flops_per_second, "FLOP/s"),
        "parameters": lambda r: prefixed(r.parameters, "").strip(),
        "state": lambda r: (
            "sees the future" if r.state_bytes is None else prefixed(r.state_bytes, "B")
        ),
        "exponent of the time": lambda r: _power(measured, r) or NONE,
    }
    words = "Time of a training pass against length; T^p: fitted exponent with its standard error."
    note = (
        "Times are medians over repeats; the encoders are timed in turn. The exponent is the p of "
        "time ~ T^p, fitted over the lengths."
    )
    picture = Picture("scaling", lambda: draw_encoders(rows, measured), words)
    return [picture, table(rows, columns), Text([note])]


def draw_encoders(rows: Sequence[Timing], measured: Measured) -> "Figure | None":
    """Seconds of a training pass of whole encoders against length, with fitted exponents."""
    from asr.document.figures import Series, draw_lines, new_figure

    order = [encoder.lower() for encoder in measured.first]

    def place(group: tuple[Any, ...]) -> int:
        kind = group[0][0].split("-")[0]
        return order.index(kind) if kind in order else len(order)

    lines = []
    timed = [row for row in rows if row.subject == "training" and row.seconds]
    for (name,), own in sorted(grouped(timed, "name"), key=place):
        own.sort(key=lambda row: row.time)
        ends = [[getattr(r, k) for r in own] for k in ("seconds", "seconds_min", "seconds_max")]
        power = _power(measured, own[0])
        label = name.removesuffix("-small") + f"  T^{power}" * bool(power)
        lines.append(Series(label, [float(r.time) for r in own], *ends))
    if not lines:
        return None
    figure, (axes,) = new_figure(3.0 + 0.22 * len(lines))
    draw_lines(figure, axes, lines)
    axes.set(xlabel="feature frames of 10 ms", ylabel="seconds, forward and backward")
    return figure


ENCODERS = Option(
    "encoders", (), "names of encoder recipes, or YAML files", str, "NAME", "every small recipe"
)
PROBE = Probe(
    name="scaling",
    title="Time and memory against length",
    meaning="time and peak memory of encoders by length, in training and encoding",
    example="asr claims scaling --encoders lstm-small transformer-small --output claims",
    module="asr.probes.scaling_measure",
    row=Timing,
    options=(
        ENCODERS,
        Option(
            "times", (), "lengths in feature frames", whole_number, "T", "three lengths per encoder"
        ),
        Option("batch", 4, "number of utterances in a batch", whole_number, "B"),
        Option("repeats", 5, "number of timed calls per row", whole_number, "N"),
    ),
    parts=(Part("Cost against length", "Encoders", draw, "Not measured."),),
    key="rows",
)
