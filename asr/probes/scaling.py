"""Draws the page of the probe ``scaling``: time and memory of layers and encoders by length."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.config import shipped
from asr.document.blocks import Block, Picture, Text
from asr.formatting import NONE, digits, prefixed, whole_number
from asr.probes.probe import Measured, Option, Part, Probe, grouped, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The subject, the reference and the numbers of encoder frames of each comparison of layers.
SHORT, LONG = (200, 1000, 4000), (400, 2000, 10000)
COMPARISONS: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "lstm-loop": ("fused LSTM", "loop of LSTM cells", SHORT),
    "gru-loop": ("fused GRU", "loop of GRU cells", SHORT),
    "minlstm-loop": ("MinLSTM by scan", "MinLSTM by loop", SHORT),
    "minlstm-lstm": ("MinLSTM by scan", "fused LSTM", SHORT),
    "statespace-loop": ("StateSpace by scan", "StateSpace by loop", SHORT),
    "hierarchical-full": ("Hierarchical layer", "causal attention layer", LONG),
    "hierarchical-window": ("Hierarchical layer", "sliding-window attention layer", LONG),
}
ONE_BY_ONE = ("minlstm-loop", "statespace-loop", "lstm-loop", "gru-loop", "minlstm-lstm")
HIERARCHICAL = ("hierarchical-full", "hierarchical-window")
BELOW = "Below the dotted line, the layer named first takes less time than the other one."


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A measurement of an encoder, or of a layer and its reference.

    A time or a ratio is the median over repeats, with the least and the greatest repeat. A value
    is None if it was not measured, for instance because memory was too small.
    """

    name: str  # name of the comparison, or of the encoder's recipe
    subject: str  # name of the layer; for an encoder "training" (both passes) or "encoding"
    reference: str  # name of the reference layer; empty for an encoder
    time: int  # number of encoder frames for a layer, of feature frames for an encoder
    batch: int  # number of utterances
    seconds: float | None
    seconds_min: float | None = None
    seconds_max: float | None = None
    peak_bytes: int | None = None  # peak of the memory that the call allocated
    reference_seconds: float | None = None
    reference_seconds_min: float | None = None
    reference_seconds_max: float | None = None
    reference_peak_bytes: int | None = None
    ratio: float | None = None  # time of the subject divided by that of the reference
    ratio_min: float | None = None
    ratio_max: float | None = None
    peak_ratio: float | None = None  # peak memory of the subject divided by the reference's
    flops: int | None = None  # by the encoder's formula; a backward pass counts as two forward ones
    parameters: int | None = None  # number of parameters of the encoder
    state_bytes: int | None = None  # bytes of state of a causal encoder after ``time`` frames
    flops_per_second: float | None = None
    error: str  # why there is no measurement
    repeats: Sequence[float] = ()  # seconds, in the order of measurement
    reference_repeats: Sequence[float] = ()


def _spread(row: Timing, name: str, factor: float = 1.0) -> str:
    """``1.20 [1.10 to 1.30]``: the median, the least and the greatest repeat."""
    middle, low, high = (getattr(row, name + end) for end in ("", "_min", "_max"))
    if None in (middle, low, high):
        return NONE
    return f"{digits(factor * middle)} [{digits(factor * low)} to {digits(factor * high)}]"


def _power(measured: Measured, row: Timing, subject: str) -> str:
    fitted = _exponents(measured).get((row.name, subject))
    return NONE if fitted is None else f"{fitted['seconds']:.2f} ± {fitted['seconds_error']:.2f}"


def _exponents(measured: Measured) -> dict[tuple[str, str], dict[str, Any]]:
    return {(e["name"], e["subject"]): e for e in measured.rest.get("exponents", ())}


def _layers(measured: Measured, names: Sequence[str], figure: str, words: str) -> list[Block]:
    rows = [row for row in measured.rows if row.name in names]
    if not rows:
        return []
    columns = {
        "subject / reference": lambda r: f"{r.subject} / {r.reference}",
        "frames": lambda r: f"{r.time:,}",
        "batch": lambda r: str(r.batch),
        "ms [least to greatest]": lambda r: _spread(r, "seconds", 1e3),
        "reference, ms": lambda r: _spread(r, "reference_seconds", 1e3),
        "ratio of the times": lambda r: r.error or _spread(r, "ratio"),
        "peak memory": lambda r: prefixed(r.peak_bytes, "B"),
        "reference's": lambda r: prefixed(r.reference_peak_bytes, "B"),
        "ratio of peak memory": lambda r: digits(r.peak_ratio),
        "exponent of the time": lambda r: _power(measured, r, r.subject),
        "reference's exponent": lambda r: _power(measured, r, r.reference),
    }
    words = f"{words} {BELOW}"
    return [Picture(figure, lambda: draw_ratios(rows, names), words), table(rows, columns)]


def _encoders(measured: Measured) -> list[Block]:
    rows = [row for row in measured.rows if not row.reference]
    if not rows:
        return []
    columns = {
        "encoder, pass": lambda r: f"{r.name}, {r.subject}",
        "feature frames": lambda r: f"{r.time:,}",
        "batch": lambda r: str(r.batch),
        "ms [least to greatest]": lambda r: r.error or _spread(r, "seconds", 1e3),
        "peak memory": lambda r: prefixed(r.peak_bytes, "B"),
        "FLOP": lambda r: prefixed(r.flops, "FLOP"),
        "speed": lambda r: prefixed(r.flops_per_second, "FLOP/s"),
        "parameters": lambda r: prefixed(r.parameters, "").strip(),
        "state": lambda r: (
            "sees the future" if r.state_bytes is None else prefixed(r.state_bytes, "B")
        ),
        "exponent of the time": lambda r: _power(measured, r, r.subject),
    }
    words = "Time of a training pass against length; T^p: fitted exponent with its standard error."
    note = (
        "Times are medians over repeats; the encoders are timed in turn. The exponent is the p of "
        "time ~ T^p, fitted over the lengths."
    )
    picture = Picture("scaling", lambda: draw_encoders(rows, measured), words)
    return [picture, table(rows, columns), Text([note])]


def draw_ratios(rows: Sequence[Timing], names: Sequence[str]) -> "Figure | None":
    """Time of the subject / time of the reference, by length; below 1, the subject is faster."""
    from asr.document.figures import FAINT, Series, draw_lines, new_figure, plain_log

    lines = []
    for name in names:
        own = sorted((r for r in rows if r.name == name and not r.error), key=lambda r: r.time)
        if own:
            ends = [[getattr(r, k) for r in own] for k in ("ratio", "ratio_min", "ratio_max")]
            label = f"{own[0].subject} / {own[0].reference}"
            lines.append(Series(label, [float(r.time) for r in own], *ends))
    if not lines:
        return None
    figure, (axes,) = new_figure(3.8)
    axes.axhline(1, color=FAINT, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    draw_lines(figure, axes, lines)
    plain_log(axes, "y")
    axes.set(xlabel="frames", ylabel="time of the first / time of the second")
    return figure


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
        power = f"  T^{_power(measured, own[0], 'training')}"
        label = name.removesuffix("-small") + power * ((name, "training") in _exponents(measured))
        lines.append(Series(label, [float(r.time) for r in own], *ends))
    if not lines:
        return None
    figure, (axes,) = new_figure(3.0 + 0.22 * len(lines))
    draw_lines(figure, axes, lines)
    axes.set(xlabel="feature frames of 10 ms", ylabel="seconds, forward and backward")
    return figure


def small_encoders() -> list[str]:
    """The names of the small recipes that the package includes."""
    return [name for name in shipped.names("encoders") if name.endswith("-small")]


def encoder_files(given: Sequence[str] | None) -> dict[str, Path]:
    """The recipes of ``--encoders`` by name; without the option, the small recipes.

    Raises:
        ValueError: no recipe has such a name.
    """
    paths = [shipped.find(text, "encoders") for text in given or small_encoders()]
    return {path.stem: path for path in paths}


ENCODERS = Option(
    "encoders", (), "names of encoder recipes, or YAML files", str, "NAME", "every small recipe"
)
PROBE = Probe(
    name="scaling",
    title="Time and memory against length",
    meaning="time and peak memory of layers and encoders by length; layers are compared with a "
    "reference implementation",
    example="asr claims scaling --rows lstm-loop gru-loop --output claims",
    module="asr.probes.scaling_measure",
    row=Timing,
    options=(
        Option(
            "rows",
            (),
            "rows to measure",
            str,
            "NAME",
            f"all of {', '.join([*COMPARISONS, *small_encoders()])}",
        ),
        ENCODERS,
        Option("times", (), "lengths in frames", whole_number, "T", "three lengths per row"),
        Option("batch", 4, "number of utterances in a batch", whole_number, "B"),
        Option("dim", 192, "width of the layers", whole_number, "D"),
        Option("repeats", 5, "number of timed calls per row", whole_number, "N"),
    ),
    parts=(
        Part(
            "C4",
            "Recurrences by scan and by loop: forward and backward",
            lambda m: _layers(m, ONE_BY_ONE, "ratios_scan", "Two ways to compute a recurrence."),
        ),
        Part(
            "C6",
            "Layers of attention: forward and backward",
            lambda m: _layers(m, HIERARCHICAL, "ratios_hierarchy", "Layers of attention."),
        ),
        Part("Cost against length", "Encoders", _encoders, "Not measured."),
    ),
    key="rows",
)
