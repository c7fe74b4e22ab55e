"""Draws the page of the probe ``roofline``: what limits a step of an LSTM, by width and batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asr.document.blocks import Block, Picture, Text
from asr.formatting import digits, percent, prefixed, whole_number
from asr.probes.probe import Measured, Option, Part, Probe, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS, BATCHES = (64, 128, 256, 512, 1024), (1, 4, 16, 64)
BOUNDS = ("latency", "memory", "arithmetic")


@dataclass(frozen=True)
class Step:
    """One step of an LSTM whose input has the same width as its state."""

    width: int
    batch: int
    seconds: float  # time of a forward step, without the constant cost of a call
    flops: int
    intensity: float  # FLOPs per byte of the recurrent half, if its weights are read at each step
    latency_share: float | None = None  # fitted share of the latency in the time
    bound: str = ""  # what limits the step, one of ``BOUNDS``; empty before the fit


def draw(measured: Measured) -> list[Block]:
    """A table with a line per step, and the measured limits of the machine."""
    machine, fit = measured.rest["machine"], measured.rest["fit"]
    columns = {
        "width x batch": lambda s: f"{s.width} x {s.batch}",
        "µs a step": lambda s: digits(1e6 * s.seconds),
        "speed": lambda s: prefixed(s.flops / s.seconds, "FLOP/s"),
        "of the peak": lambda s: percent(s.flops / s.seconds / machine["peak"]),
        "FLOP per byte": lambda s: digits(s.intensity),
        "share of latency": lambda s: percent(s.latency_share),
        "bound by": lambda s: s.bound,
    }
    words = (
        f"The machine reached {digits(machine['peak'] / 1e9)} GFLOP/s and "
        f"{digits(machine['bandwidth'] / 1e9)} GB/s: the ridge is at {digits(machine['ridge'])} "
        "FLOP per byte. A step above the slope reads some of its recurrent weights from a cache. "
        "Roof and steps were timed separately, so a step may lie slightly above the roof."
    )
    note = (
        f"Fit: {digits(1e6 * fit['latency'])} ± {digits(1e6 * fit['latency_error'])} µs a step, "
        f"and work at {prefixed(fit['rate'], 'FLOP/s')} (residuals {100 * fit['error']:.0f} %). "
        f"FLOP per byte assumes that each step reads the recurrent weights from memory. {words}"
    )
    picture = Picture("roofline", lambda: draw_figure(measured.rows, machine), words)
    return [picture, table(measured.rows, columns), Text([note])]


def draw_figure(steps: Sequence[Step], machine: Mapping[str, float]) -> "Figure":
    """FLOP/s of each step against FLOP per byte, with the limits of the machine."""
    from asr.document.figures import COLOURS, INK, MARKERS, new_figure, plain_log

    figure, (axes,) = new_figure(3.8)
    reach = [step.intensity for step in steps]
    ends = [min(reach) / 1.5, machine["ridge"], max([*reach, machine["ridge"]]) * 1.5]
    roof = [min(machine["peak"], machine["bandwidth"] * x) / 1e9 for x in ends]
    axes.plot(ends, roof, color=INK, linewidth=1.5, label="roof: bandwidth, then arithmetic")
    for index, bound in enumerate(BOUNDS):
        own = [step for step in steps if step.bound == bound]
        axes.plot(
            [step.intensity for step in own],
            [step.flops / step.seconds / 1e9 for step in own],
            color=COLOURS[index],
            marker=MARKERS[index],
            linestyle="none",
            markersize=7,
            label=f"bound by {bound}: {len(own)}",
        )
    axes.set(xscale="log", yscale="log")
    plain_log(axes, "x")
    plain_log(axes, "y")
    axes.set(xlabel="FLOP per byte, if each step reads the weights from memory", ylabel="GFLOP/s")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=10)
    return figure


PROBE = Probe(
    name="roofline",
    title="What bounds a step of an LSTM",
    meaning="whether a recurrent step is limited by latency, memory bandwidth or arithmetic",
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
        Option("repeats", 5, "number of timed calls per row", whole_number, "N"),
    ),
    parts=(Part("C5", "By width and batch", draw),),
    key="steps",
    machine_key="about",
)
