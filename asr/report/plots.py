"""Draws the figures of the report."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from asr.document.figures import (
    FAINT,
    INK,
    PAPER,
    PHASES,
    Series,
    label_ends,
    legend_above,
    new_figure,
    plain_log,
    style,
    under,
    whiskers,
)
from asr.formatting import digits, percent, scale
from asr.report.costs import (
    arm_mean,
    arm_wer,
    hours_unit,
    mean,
    pareto,
    real_time_factor,
)
from asr.report.groups import Arm, Group
from asr.report.quantities import COSTS
from asr.report.runs import Run

BARE = {"linestyle": "none"}
APART = 0.06  # horizontal distance between the points of two arms, in trials
LOG_SPAN = 10  # an axis is logarithmic if its largest value is more than 10 times the smallest
GRID = 60  # number of costs at which the curves of several seeds are averaged


def curve(run: Run, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """(P,) costs and (P,) WERs in %, for all validations that have both."""
    pairs = [(getattr(p, axis), 100 * p.wer) for p in run.points if getattr(p, axis)]
    x, y = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(x, dtype=float), np.array(y, dtype=float)


def mean_curve(arm: Arm, axis: str) -> tuple[np.ndarray, ...] | None:
    """(P,) each: cost; mean, lowest and highest WER over seeds, at costs that all seeds reached.

    Curves are interpolated linearly between validations. None if there is no validation.
    """
    curves = [curve(run, axis) for run in arm.runs]
    curves = [c for c in curves if len(c[0])]
    if not curves:
        return None
    if len(curves) == 1:
        x, y = curves[0]
        return x, y, y, y
    low, high = max(c[0][0] for c in curves), min(c[0][-1] for c in curves)
    if high <= low:
        return None
    x = np.linspace(low, high, GRID)
    table = np.stack([np.interp(x, *c) for c in curves])
    return x, table.mean(0), table.min(0), table.max(0)


def wer_against_hours(group: Group, target: float | None) -> Figure:
    """The main figure: validation WER against core-hours or GPU-hours, with a line per arm."""
    figure, (axes,) = new_figure(5.0)
    _curves(figure, axes, group, "device_hours", 1.0, labelled=True)
    axes.set_xlabel(f"training cost, {hours_unit(group)}")
    axes.set_ylabel("validation word error rate (WER), %")
    if len(group.arms) > 2:  # labels at the ends of many lines may overlap
        _legend(figure, group)
    if target is not None:
        axes.axhline(100 * target, color=FAINT, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        axes.annotate(
            f"target {percent(target)}",
            (0, 100 * target),
            xycoords=("axes fraction", "data"),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=9.5,
            color=FAINT,
            bbox=under(PAPER),
        )
    return figure


def wer_against_costs(group: Group) -> Figure | None:
    """The same curves against each other cost that was measured, one panel per cost."""
    shown = [
        cost
        for cost in COSTS
        if cost.key != "device_hours" and any(len(curve(run, cost.key)[0]) for run in group.runs)
    ]
    if not shown:
        return None
    figure, panels = new_figure(3.6, len(shown), sharey=True)
    for panel, cost in zip(panels, shown, strict=True):
        if cost.cost in ("hours", "updates"):
            divisor, label = 1.0, cost.heading
        else:
            divisor, prefix = scale(
                [x[-1] for run in group.runs if len(x := curve(run, cost.key)[0])]
            )
            label = f"{cost.heading}, {prefix}{cost.cost}"
        _curves(figure, panel, group, cost.key, divisor, labelled=False)
        panel.set_xlabel(label)
    panels[0].set_ylabel("validation WER, %")
    _legend(figure, group)
    return figure


def _legend(figure: Figure, group: Group, *, lines: bool = True) -> None:
    axes = figure.axes[0]
    handles = [
        axes.plot([], [], markersize=6, label=arm.label, **(style(i) | ({} if lines else BARE)))[0]
        for i, arm in enumerate(group.arms)
    ]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(4, len(handles)),
        frameon=False,
        handlelength=3.5,
    )


def _curves(
    figure: Figure, axes: Axes, group: Group, field: str, divisor: float, *, labelled: bool
) -> None:
    ends, xs, ys = [], [], []
    for index, arm in enumerate(group.arms):
        found = mean_curve(arm, field)
        if found is None:
            continue
        x, middle, low, high = found[0] / divisor, *found[1:]
        look = style(index)
        every = max(1, len(x) // 12) if len(arm.runs) > 1 else max(1, len(x) // 25)
        axes.plot(
            x,
            middle,
            linewidth=2,
            markersize=6,
            markevery=every,
            markeredgecolor=PAPER,
            zorder=3,
            **look,
        )
        if len(arm.runs) > 1:
            axes.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0, zorder=2)
        last = middle[-1]
        told = f"{arm.label}  {digits(last, 2 if last < 10 else 3)} %"
        ends.append((x[-1], last, told, look["color"]))
        xs += list(x)
        ys += [*low, *high]
    _scales(axes, xs, ys)
    if xs:
        axes.set_xlim(right=max(xs) * 1.02)
    if labelled:
        label_ends(figure, axes, ends)


def _scales(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> None:
    """Makes an axis logarithmic if its values span more than tenfold; cuts off WERs above 100 %."""
    if not xs:
        return
    if max(xs) > LOG_SPAN * min(xs):
        axes.set_xscale("log")
        plain_log(axes, "x")
    else:
        axes.set_xlim(left=0)
    top = min(max(ys), 100.0)
    if min(ys) > 0 and top > LOG_SPAN * min(ys):
        axes.set_yscale("log")
        plain_log(axes, "y")
        axes.set_ylim(min(ys) / 1.25, top * 1.15)
    else:
        axes.set_ylim(0, top * 1.06 or 1.0)


def time_spent(group: Group) -> Figure | None:
    """Stacked bars of core-hours or GPU-hours by phase, a bar per arm; means over seeds."""
    arms = [arm for arm in group.arms if any(run.totals.get("wall_seconds") for run in arm.runs)]
    if not arms:
        return None
    figure, (axes,) = new_figure(1.7 + 0.6 * len(arms))
    table = [phase_hours(arm) for arm in arms]
    unit = hours_unit(group)
    small = max(sum(row.values()) for row in table) < 1
    factor = 60 if small else 1
    left = np.zeros(len(arms))
    for phase, (words, colour, hatch) in PHASES.items():
        width = np.array([factor * row[phase] for row in table])
        if not width.any():
            continue
        axes.barh(
            range(len(arms)),
            width,
            left=left,
            height=0.62,
            color=colour,
            hatch=hatch,
            edgecolor=FAINT,
            linewidth=0.8,
            label=words,
        )
        for row, (start, size) in enumerate(zip(left, width, strict=True)):
            share = size / (factor * sum(table[row].values()))
            if share >= 0.06:
                axes.text(
                    start + size / 2,
                    row,
                    f"{100 * share:.0f} %",
                    ha="center",
                    va="center",
                    fontsize=10,
                    bbox=under(colour),
                )
        left += width
    axes.set_yticks(range(len(arms)), [arm.label for arm in arms])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(unit.replace("hours", "minutes") if small else unit)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=10)
    return figure


def phase_hours(arm: Arm) -> dict[str, float]:
    """Hours of devices by phase (means over seeds); their sum is the cost of the arm."""
    rows = []
    for run in arm.runs:
        wall = run.totals.get("wall_seconds")
        if not wall:
            continue
        seconds = dict(run.totals.get("seconds") or {})
        seconds["wasted"] = run.totals.get("wasted_seconds") or 0.0
        seconds["other"] = max(0.0, wall - sum(seconds.values()))
        if seconds["other"] < 0.005 * wall:
            seconds["other"] = 0.0
        scaled = run.totals["device_hours"] / wall
        rows.append({phase: scaled * seconds.get(phase, 0.0) for phase in PHASES})
    return {phase: mean([row[phase] for row in rows]) or 0.0 for phase in PHASES}


def pareto_front(
    group: Group, intervals: Mapping[str, tuple[float, float] | None]
) -> Figure | None:
    """Test WER against training cost and running cost; rings mark the Pareto front."""
    axes_of: list[tuple[str, Callable[[Arm], float | None]]] = [
        (f"training cost, {hours_unit(group)}", lambda arm: arm_mean(arm, "device_hours")),
        ("running cost, seconds per second of audio", real_time_factor),
    ]
    known = [
        (i, arm)
        for i, arm in enumerate(group.arms)
        if None not in (arm_wer(arm), *(f(arm) for _, f in axes_of))
    ]
    if not known:
        return None
    front = pareto(group)
    figure, panels = new_figure(3.9, 2, sharey=True)
    for panel, (words, value) in zip(panels, axes_of, strict=True):
        xs, tops = [], []
        for index, arm in known:
            x, y = value(arm) or 0.0, 100 * (arm_wer(arm) or 0.0)
            low, high = (100 * bound for bound in intervals[arm.label] or (y / 100, y / 100))
            sides = whiskers(Series(arm.label, [x], [y], [low], [high]))
            look = style(index) | BARE
            panel.errorbar(x, y, sides, markersize=8, capsize=4, zorder=3, **look)
            if arm in front:
                panel.plot(
                    x, y, "o", markersize=19, markerfacecolor="none", markeredgecolor=INK, zorder=2
                )
            xs.append(x)
            tops.append(high)
        panel.set_xlabel(words)
        panel.set_ylim(0, max(tops) * 1.12 or 1.0)
        panel.set_xlim(0, max(xs) * 1.25 or 1.0)
        panel.xaxis.set_major_locator(MaxNLocator(5))
    panels[0].set_ylabel(f"{group.runs[0].split} WER, %")
    _legend(figure, group, lines=False)
    return figure


Curve = tuple[str, list[float], list[float], list[float]]  # arm, expected best, low, high


def tuning(curves: Sequence[Curve], hours: Sequence[float], unit: str) -> Figure | None:
    """Expected best validation WER against trials, and against their mean cost.

    Whiskers show intervals, if there are any. The points of the arms are shifted horizontally, so
    that they do not overlap. WERs above 100 % are cut off.
    """
    if not curves:
        return None
    figure, panels = new_figure(3.8, 2, sharey=True)
    places: list[tuple[Axes, Callable[[float, int], float], str]] = [
        (panels[0], lambda n, _: n, "trials"),
        (panels[1], lambda n, arm: n * hours[arm], f"cost of the trials, {unit}"),
    ]
    for panel, place, words in places:
        for index, (label, best, low, high) in enumerate(curves):
            aside = APART * (index - (len(curves) - 1) / 2)
            x = [place(n + aside, index) for n in range(1, len(best) + 1)]
            # A WER without an interval has no whiskers.
            sides = [
                [100 * (b if math.isnan(end) else end) for b, end in zip(best, side, strict=True)]
                for side in (low, high)
            ]
            line = Series(label, x, [100 * b for b in best], *sides)
            panel.errorbar(
                line.x, line.y, whiskers(line), markersize=6, linewidth=1.8, elinewidth=1,
                label=label, **style(index),
            )  # fmt: skip
        panel.set_xlabel(words)
        panel.set_xlim(left=0)
    ends = [100 * v for _, best, _, high in curves for v in (*best, *high) if not math.isnan(v)]
    panels[0].set_ylim(0, 1.04 * min(100.0, max(ends)))
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("expected best validation WER, %")
    legend_above(figure, panels[0], 5)
    return figure
