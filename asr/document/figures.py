"""The style of figures: SVG that follows the page's theme and is readable without colour."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

WIDTH = 9.6  # inches, of all figures of the page
# Okabe and Ito's colours, which stay apart for colour-blind readers; the page replaces each of
# these exact values by a variable of its theme.
COLOURS = ("#0072b2", "#c04f00", "#007a58", "#a4487e", "#8a6d00", "#4b5dbd")
INK, FAINT, PAPER = "#1b1b1f", "#76767c", "#fefefd"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 2, 1, 2)), (0, (3, 1)))
PHASES = {
    "startup": ("set-up", "#e8e6df", ".."),
    "compilation": ("compilation", "#f2e3ae", "oo"),
    "step": ("training steps", "#bcd7ea", ""),
    "data_wait": ("waiting for data", "#f3c9a5", "xx"),
    "validation": ("validation", "#c7e3c3", "//"),
    "checkpoint": ("checkpoints", "#dccbe6", "--"),
    "wasted": ("lost to crashes", "#efb3b3", "\\\\"),
    "other": ("since the last entry", "#d5d5d5", "++"),
}
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "svg.fonttype": "none",
    "svg.hashsalt": "asr",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "hatch.color": FAINT,
    "hatch.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
# From the end of a line to its name.
TIE: dict[str, Any] = {
    "arrowstyle": "-", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 4, "relpos": (0, 0.5)
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """A line: values with least and greatest over an abscissa, in ascending order of it."""

    label: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def new_figure(height: float, panels: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of the page's width, ``height`` inches high, with panels side by side."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False, **options)[0])


def whiskers(line: Series) -> list[list[float]]:
    """What reaches below and above each value; none where rounding puts an end beside it."""
    below = [max(0.0, y - low) for y, low in zip(line.y, line.low, strict=True)]
    return [below, [max(0.0, high - y) for y, high in zip(line.y, line.high, strict=True)]]


def draw_lines(
    figure: Figure,
    axes: Axes,
    lines: Sequence[Series],
    *,
    log: bool = True,
    legend: Sequence[str] = (),
) -> None:
    """Lines with whiskers, named at their right ends, or by the figure's legend of these names.

    A name of the legend looks the same in every panel, whichever lines a panel has.
    """
    ends = []
    for index, line in enumerate(lines):
        look = style(legend.index(line.label) if legend else index)
        axes.errorbar(
            line.x, line.y, whiskers(line), linewidth=1.8, markersize=6, markeredgecolor=PAPER,
            capsize=3, elinewidth=1, zorder=3, label=line.label, **look,
        )  # fmt: skip
        ends.append((line.x[-1], line.y[-1], line.label, look["color"]))
    axes.set_xscale("log")
    plain_log(axes, "x")
    if log:
        axes.set_yscale("log")
    if not legend:
        label_ends(figure, axes, ends)


def legend_above(figure: Figure, axes: Axes, columns: int) -> None:
    """The names of all lines of ``axes``, above the panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=10,
        handlelength=3.5,
    )  # fmt: skip


def style(index: int) -> dict[str, Any]:
    """Colour, marker and line of the arm at this place; all three differ for the first arms."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
    }


def under(colour: str) -> dict[str, Any]:
    """A patch of this colour under a text, which an outline would turn into shapes."""
    return {"facecolor": colour, "edgecolor": "none", "pad": 1}


def plain_log(axes: Axes, which: str) -> None:
    """1, 2, 5, 10 ... written as such."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(LogLocator(subs=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)))


def label_ends(figure: Figure, axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names the lines at their right ends, pushed apart where they would overlap.

    A name that is not where its line ends is tied to it by a thin one.
    """
    figure.draw_without_rendering()  # the layout decides where the data are
    order = sorted(ends, key=lambda end: end[1])
    bottom = axes.get_ylim()[0]
    wanted = [float(axes.transData.transform((x, max(y, bottom)))[1]) for x, y, *_ in order]
    point = figure.dpi / 72
    placed = spread(wanted, 15 * point)
    moved = [abs(a - b) > 2 * point for a, b in zip(placed, wanted, strict=True)]
    right = max(end[0] for end in ends) if ends else 0.0
    for (_, y, label, colour), pixel, place, tied in zip(order, wanted, placed, moved, strict=True):
        axes.annotate(
            label,
            (right, max(y, bottom)),
            xytext=(26 if any(moved) else 10, (place - pixel) / point),
            textcoords="offset points",
            color=colour,
            fontweight="bold",
            va="center",
            annotation_clip=False,
            arrowprops={"color": colour, **TIE} if tied else None,
            bbox=under(PAPER),
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending places -> the nearest ones (least squares) that are ``gap`` apart or more.

    Isotonic regression of the places less their multiples of the gap, by pooling neighbours that
    are in the wrong order (Barlow et al., Statistical Inference under Order Restrictions, 1972).
    """
    pools: list[tuple[float, int]] = []  # (mean, number) of places in one run of touching names
    for number, place in enumerate(wanted):
        mean, size = place - number * gap, 1
        while pools and pools[-1][0] > mean:
            before, others = pools.pop()
            mean, size = (mean * size + before * others) / (size + others), size + others
        pools.append((mean, size))
    flat = [mean for mean, size in pools for _ in range(size)]
    return [mean + number * gap for number, mean in enumerate(flat)]


def to_png(draw: Callable[[], Figure | None]) -> bytes | None:
    """A figure as PNG on white."""
    with matplotlib.rc_context(STYLE):
        figure = draw()
        if figure is None:
            return None
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()


def to_svg(draw: Callable[[], Figure | None], name: str) -> str | None:
    """A figure as an SVG element for inlining: theme variables for colours, ids of its own."""
    with matplotlib.rc_context(STYLE):
        figure = draw()
        if figure is None:
            return None
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    text = re.sub(
        r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text
    )
    return _themed(text)


def _themed(svg: str) -> str:
    """Colours of this file -> variables of the page."""
    names = {INK: "ink", FAINT: "faint", PAPER: "paper"}
    names |= {colour: f"arm{i}" for i, colour in enumerate(COLOURS)}
    names |= {look[1]: f"phase-{phase}" for phase, look in PHASES.items()}
    for colour, variable in names.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
