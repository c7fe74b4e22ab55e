"""Draws the page of the probe ``streaming``: time per frame and size of the state, by position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asr.document.blocks import Block, Picture, Text
from asr.formatting import digits, prefixed, whole_number
from asr.probes.probe import Measured, Option, Part, Probe, format_interval, grouped, table
from asr.probes.scaling import ENCODERS
from asr.statistics.median import MIN_REPEATS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POSITIONS = (400, 1600, 10_000)  # feature frames: 4, 16 and 100 s
HOP_SECONDS = 0.01  # duration of a feature frame


@dataclass(frozen=True)
class StreamPoint:
    """One encoder at one position of its stream."""

    encoder: str  # name of the recipe
    position: int  # feature frames read before, rounded to chunks
    chunk: int  # feature frames in a chunk; the output has a delay of one chunk
    batch: int  # number of parallel streams
    milliseconds: float  # per feature frame of all streams together, median over repeats
    slowest: float  # milliseconds per feature frame in the slowest chunk
    state_bytes: int  # bytes of state for one stream
    parameters: int  # number of parameters of the encoder
    repeats: Sequence[float] = ()  # milliseconds of each repeat, median over chunks


def draw(measured: Measured) -> list[Block]:
    """A figure, and a table with a line per encoder and position."""
    points: Sequence[StreamPoint] = measured.rows
    columns = {
        "causal encoder": lambda p: p.encoder,
        "parameters": lambda p: prefixed(p.parameters, "").strip(),
        "output delay": lambda p: f"{1000 * HOP_SECONDS * p.chunk:.0f} ms",
        "at frame": lambda p: f"{p.position:,}",
        "ms per frame": lambda p: (
            format_interval(p.repeats) if p.repeats else digits(p.milliseconds)
        ),
        "slowest, ms": lambda p: digits(p.slowest),
        "real-time factor": lambda p: digits(p.milliseconds / 1000 / HOP_SECONDS),
        "state": lambda p: prefixed(p.state_bytes, "B"),
    }
    positions = ", ".join(f"{p:,}" for p in sorted({point.position for point in points}))
    words = f"Streams at frames {positions}: time and state per stream."
    note = (
        f"Number of parallel streams: {points[0].batch}; all are read chunk by chunk. Times are "
        "per feature frame of 10 ms: median of the repeats with its interval (each repeat is the "
        "median over chunks), and slowest chunk. The state is that of one stream."
    )
    picture = Picture("streaming", lambda: draw_figure(points), words)
    return [picture, table(points, columns), Text([note])]


def draw_figure(points: Sequence[StreamPoint]) -> "Figure":
    """Milliseconds per frame and bytes of state against the position in the stream."""
    from asr.document.figures import Series, draw_lines, legend_above, new_figure, plain_log

    several = {
        p.encoder for p in points if len({q.chunk for q in points if q.encoder == p.encoder}) > 1
    }
    encoders = [
        (name.removesuffix("-small") + f", {10 * chunk} ms" * (name in several), own)
        for (name, chunk), own in grouped(points, "encoder", "chunk")
    ]
    figure, panels = new_figure(4.2 + 0.06 * len(encoders), 2)
    for panel, key, words in (
        (panels[0], "milliseconds", "ms per feature frame of 10 ms"),
        (panels[1], "state_bytes", "bytes of state of one stream"),
    ):
        lines = []
        for label, own in encoders:
            own = sorted(own, key=lambda point: point.position)
            y = [float(getattr(point, key)) for point in own]
            lines.append(Series(label, [float(point.position) for point in own], y, y, y))
        draw_lines(figure, panel, lines, legend=[label for label, _ in encoders])
        if key == "milliseconds":
            plain_log(panel, "y")
        panel.set(xlabel="feature frames read before", ylabel=words)
    legend_above(figure, panels[0], 4)
    return figure


PROBE = Probe(
    name="streaming",
    title="Streaming",
    meaning="milliseconds per frame and bytes of state of causal encoders, by position in a stream",
    example="asr claims streaming --encoders lstm-causal-small --output claims",
    module="asr.probes.streaming_measure",
    row=StreamPoint,
    options=(
        ENCODERS,
        Option("positions", POSITIONS, "feature frames read before the timing", whole_number, "T"),
        Option(
            "chunk",
            (),
            "feature frames in a chunk, which gives the delay; an encoder reads those that are "
            "multiples of its own",
            whole_number,
            "T",
            "that of each encoder",
        ),
        Option("batch", 1, "number of parallel streams", whole_number, "B"),
        Option("chunks", 50, "number of chunks timed in each repeat", whole_number, "N"),
        Option("repeats", MIN_REPEATS, "number of repeats at each position", whole_number, "N"),
    ),
    parts=(Part("C2", "Time and state by position", draw),),
)
