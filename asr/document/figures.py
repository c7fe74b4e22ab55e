"""Draws figures whose SVG follows the theme of the page and is readable without colour."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

WIDTH = 9.6  # width of all figures in inches
# The colours of Okabe and Ito, which colour-blind readers can distinguish. The page replaces these
# exact values by variables of its theme.
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
# The thin line that connects the end of a line to its name.
TIE: dict[str, Any] = {
    "arrowstyle": "-", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 4, "relpos": (0, 0.5)
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """A line of values with their least and greatest, in ascending order of the x coordinate."""

    label: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def new_figure(height: float, panels: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the page and ``height`` inches high, with panels in one row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False, **options)[0])


def whiskers(line: Series) -> list[list[float]]:
    """The lengths of the whiskers below and above each value; 0 if rounding makes one negative."""
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
    """Draws lines with whiskers; names are at the right ends of lines, or in a legend if given.

    A name of the legend has the same style in all panels.
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
    """Adds a legend of all lines of ``axes`` above the panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=10,
        handlelength=3.5,
    )  # fmt: skip


def style(index: int) -> dict[str, Any]:
    """Colour, marker and line style of the arm with this index; the first arms differ in all."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
    }


def under(colour: str) -> dict[str, Any]:
    """A patch of this colour under a text; an outline would turn the text into shapes."""
    return {"facecolor": colour, "edgecolor": "none", "pad": 1}


def plain_log(axes: Axes, which: str) -> None:
    """Labels a logarithmic axis with the plain numbers 1, 2, 5, 10 ..."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(LogLocator(subs=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)))


def label_ends(figure: Figure, axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes the names of lines at their right ends, moved apart if they would overlap.

    A thin line connects a name that was moved to the end of its line.
    """
    figure.draw_without_rendering()  # the layout determines the positions of the data
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
    """Moves ascending positions to the nearest ones (least squares) at least ``gap`` apart.

    This is an isotonic regression of position i minus i times the gap.
    """
    from scipy.optimize import isotonic_regression  # slow to import

    steps = gap * np.arange(len(wanted))
    return (isotonic_regression(wanted - steps).x + steps).tolist() if len(wanted) else []


def to_png(draw: Callable[[], Figure | None]) -> bytes | None:
    """A figure as a PNG with a white background."""
    with matplotlib.rc_context(STYLE):
        figure = draw()
        if figure is None:
            return None
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()


def to_svg(draw: Callable[[], Figure | None], name: str) -> str | None:
    """A figure as an SVG element for a page, with theme variables as colours and unique ids."""
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
    """Replaces the colours of this file by variables of the page's theme."""
    names = {INK: "ink", FAINT: "faint", PAPER: "paper"}
    names |= {colour: f"arm{i}" for i, colour in enumerate(COLOURS)}
    names |= {look[1]: f"phase-{phase}" for phase, look in PHASES.items()}
    for colour, variable in names.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
