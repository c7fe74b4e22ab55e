"""The figures of the probes: one per question, readable without colour."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from asr.document.figures import COLOURS, FAINT, INK, MARKERS, PAPER, label_ends, plain_log, style
from asr.formatting import digits, percent
from asr.probes.context_table import Effective
from asr.probes.horizon_summary import AXES, Attempt, horizon
from asr.report.costs import cost_to, hours_unit
from asr.report.evidence import Evidence
from asr.report.probes import Probe, Rows

APART = 0.06  # trials between arms that stand side by side
WIDTH = 9.6  # inches, as all figures of the page
ONE_BY_ONE = ("minlstm-loop", "statespace-loop", "lstm-loop", "gru-loop", "minlstm-lstm")
HIERARCHICAL = ("hierarchical-full", "hierarchical-window")


@dataclass(frozen=True)
class Series:
    """A line: values with least and greatest over an abscissa, in ascending order of it."""

    label: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def draw(
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
        below = [max(0.0, y - low) for y, low in zip(line.y, line.low, strict=True)]
        above = [max(0.0, high - y) for y, high in zip(line.y, line.high, strict=True)]
        axes.errorbar(
            line.x,
            line.y,
            [below, above],
            linewidth=1.8,
            markersize=6,
            markeredgecolor=PAPER,
            capsize=3,
            elinewidth=1,
            zorder=3,
            label=line.label,
            **look,
        )
        ends.append((line.x[-1], line.y[-1], line.label, look["color"]))
    axes.set_xscale("log")
    plain_log(axes, "x")
    if log:
        axes.set_yscale("log")
    if not legend:
        label_ends(figure, axes, ends)


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    """The names of all lines of ``axes``, above the panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        fontsize=10,
        handlelength=3.5,
    )


def costs_to_targets(evidence: Evidence) -> Figure | None:
    """Device-hours to each target with intervals, a row per arm; arrows: not reached."""
    arms, targets = evidence.group.arms, evidence.targets
    found = {t: [cost_to(arm, t, "device_hours") for arm in arms] for t in targets}
    shown = [t for t in targets if any(c.value is not None and c.reached for c in found[t])]
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH, 1.4 + 0.36 * len(arms)), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for panel, target in zip(panels, shown, strict=True):
        for row, cost in enumerate(found[target]):
            look = style(row)
            dot = {"color": look["color"], "marker": look["marker"], "linestyle": "none"}
            if cost.value is None:
                continue
            if math.isinf(cost.value):
                limit = cost.limit or 0.0
                panel.plot(limit, row, color=look["color"], marker=">", markersize=8, mfc="none")
                panel.annotate(
                    " not reached", (limit, row), va="center", ha="right", fontsize=9,
                    xytext=(-8, 0), textcoords="offset points",
                )  # fmt: skip
                continue
            panel.plot(cost.value, row, markersize=7, zorder=3, **dot)
            if cost.interval is not None:
                low, high = cost.interval
                end = max(cost.spent) if math.isinf(high) else high
                panel.plot([low, end], [row, row], color=look["color"], linewidth=1.5)
                if math.isinf(high):
                    panel.plot(end, row, color=look["color"], marker=">", markersize=7)
        panel.set_xlim(0, 1.08 * panel.get_xlim()[1])
        panel.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))
        panel.set_title(f"to {percent(target)}", fontsize=11)
        panel.set_xlabel(hours_unit(evidence.group), fontsize=10)
    panels[0].set_yticks(range(len(arms)), [arm.label for arm in arms])
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    return figure


def horizons(attempts: Sequence[Attempt]) -> Figure | None:
    """Longest lag that each arm answers, by task, at equal updates and at equal seconds."""
    if not attempts:
        return None
    tasks = list(dict.fromkeys(row.task for row in attempts))
    arms = list(dict.fromkeys(row.arm for row in attempts))
    lags = sorted({row.lag for row in attempts})
    figure = Figure(figsize=(WIDTH, 1.6 + 0.36 * len(arms)), layout="constrained")
    panels = figure.subplots(1, len(tasks), sharex=True, sharey=True, squeeze=False)[0]
    for panel, task in zip(panels, tasks, strict=True):
        for row, arm in enumerate(arms):
            own = [a for a in attempts if (a.arm, a.task) == (arm, task)]
            for axis, marker, shift in zip(AXES, ("o", "s"), (-0.14, 0.14), strict=True):
                if not own:
                    continue
                found = horizon(own, axis)
                place = min(a.lag for a in own) / 1.5 if found is None else found
                colour = COLOURS[AXES.index(axis)]
                face = PAPER if found is None else colour
                panel.plot([lags[0] / 1.5, place], [row + shift] * 2, color=FAINT, linewidth=0.8)
                panel.plot(
                    place, row + shift, color=colour, marker=marker, markerfacecolor=face,
                    markersize=7, linestyle="none",
                )  # fmt: skip
                if found == max(a.lag for a in own):
                    panel.annotate(
                        "→", (place, row + shift), xytext=(6, 0), textcoords="offset points",
                        va="center", fontsize=10, color=INK,
                    )  # fmt: skip
        panel.set_xscale("log", base=2)
        panel.set_xticks(lags, [str(lag) for lag in lags], rotation=45, fontsize=9)
        panel.minorticks_off()
        panel.set_xlim(lags[0] / 1.8, lags[-1] * 1.5)  # the arrows' room
        panel.set_title(task, fontsize=11)
        panel.set_xlabel("longest lag answered, frames")
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    handles = [
        panels[0].plot(
            [], [], color=COLOURS[i], marker=marker, linestyle="none", label=f"equal {axis}"
        )[0]
        for i, (axis, marker) in enumerate(zip(AXES, ("o", "s"), strict=True))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return figure


def models(rows: Rows) -> dict[str, Rows]:
    """Rows of each encoder and decoder, by their names."""
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(f"{row['encoder']} + {row['decoder']}", []).append(row)
    return found


def wer_over_runs(label: str, rows: Rows, key: str, shift: float = 0.0) -> Series:
    """WER, in percent, against ``key``: of a run with its interval over speakers.

    Of several runs their mean, from the least to the greatest, and the mean of ``key`` where theirs
    differ: the n-th row of one belongs to the n-th of another.
    """
    runs = [
        sorted((r for r in rows if r["run"] == run), key=lambda r: r[key])
        for run in dict.fromkeys(row["run"] for row in rows)
    ]
    steps = list(zip(*runs, strict=False))
    x = [shift + sum(float(r[key]) for r in step) / len(step) for step in steps]
    y = [100 * sum(float(r["wer"]) for r in step) / len(step) for step in steps]
    ends = ("low", "high") if len(runs) == 1 else ("wer", "wer")
    low = [100 * min(float(r[ends[0]]) for r in step) for step in steps]
    high = [100 * max(float(r[ends[1]]) for r in step) for step in steps]
    return Series(label, x, y, low, high)


def contexts(rows: Rows, runs: Sequence[Effective]) -> Figure | None:
    """WER against the past that a frame hears, and gradients against distance, a line per model."""
    if not runs:
        return None
    groups = models(rows)
    figure = Figure(figsize=(WIDTH, 3.6 + 0.09 * len(groups)), layout="constrained")
    panels = figure.subplots(1, 2)
    errors, gradients = [], []
    for label, own in groups.items():
        trained = [one for one in runs if f"{one.encoder} + {one.decoder}" == label]
        frame = trained[0].frame_seconds
        errors.append(wer_over_runs(label, own, "context", frame))
        told = [one.gradient for one in trained if one.gradient[0] > 0]
        shortest = min(map(len, told), default=0)
        ratios = [[one[k] / one[0] for one in told] for k in range(shortest)]
        lags = [k for k in range(1, shortest) if min(ratios[k]) > 0]
        if lags:
            means = [sum(ratios[k]) / len(told) for k in lags]
            low, high = ([edge(ratios[k]) for k in lags] for edge in (min, max))
            gradients.append(Series(label, [k * frame for k in lags], means, low, high))
    draw(figure, panels[0], errors, log=False, legend=list(groups))
    _legend(figure, panels[0], 3)
    panels[0].set_ylim(bottom=0)
    panels[0].set_xlabel("past heard, seconds")
    panels[0].set_ylabel("WER, %")
    if gradients:
        draw(figure, panels[1], gradients, legend=list(groups))
    panels[1].set_xlabel("distance, seconds")
    panels[1].set_ylabel("gradient, relative")
    return figure


def streams(rows: Rows) -> Figure | None:
    """Milliseconds per frame and bytes of state against the position in the stream."""
    if not rows:
        return None
    names = list(dict.fromkeys(row["encoder"] for row in rows))
    labels = [name.removesuffix("-small") for name in names]
    figure = Figure(figsize=(WIDTH, 4.2 + 0.06 * len(names)), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, key, words in (
        (panels[0], "milliseconds", "ms per feature frame of 10 ms"),
        (panels[1], "state_bytes", "bytes of state of one stream"),
    ):
        lines = []
        for name, label in zip(names, labels, strict=True):
            own = sorted((r for r in rows if r["encoder"] == name), key=lambda r: r["position"])
            y = [float(r[key]) for r in own]
            lines.append(Series(label, [float(r["position"]) for r in own], y, y, y))
        draw(figure, panel, lines, legend=labels)
        if key == "milliseconds":
            plain_log(panel, "y")
        panel.set_xlabel("feature frames read before")
        panel.set_ylabel(words)
    _legend(figure, panels[0], 4)
    return figure


def ratios(rows: Rows, names: Sequence[str]) -> Figure | None:
    """Time of a subject over that of its reference against the length; below 1: faster."""
    lines = []
    for name in names:
        own = sorted(
            (r for r in rows if r["name"] == name and not r["error"]), key=lambda r: r["time"]
        )
        if own:
            y, low, high = ([float(r[k]) for r in own] for k in ("ratio", "ratio_min", "ratio_max"))
            label = f"{own[0]['subject']} / {own[0]['reference']}"
            lines.append(Series(label, [float(r["time"]) for r in own], y, low, high))
    if not lines:
        return None
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(1, color=FAINT, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    draw(figure, axes, lines)
    plain_log(axes, "y")
    axes.set_xlabel("frames")
    axes.set_ylabel("time of the first over that of the second")
    return figure


def scaling(
    rows: Rows, exponents: Sequence[dict[str, Any]], first: Sequence[str] = ()
) -> Figure | None:
    """Seconds of a training pass of whole encoders against the length, with fitted exponents.

    ``first``: classes of encoders that come first, so that they look as in the other figures.
    """
    fitted = {(e["name"], e["subject"]): e for e in exponents}
    order = [encoder.lower() for encoder in first]
    lines = []

    def place(name: str) -> int:
        kind = name.split("-")[0]
        return order.index(kind) if kind in order else len(order)

    for name in sorted(dict.fromkeys(r["name"] for r in rows if not r["reference"]), key=place):
        own = [r for r in rows if (r["name"], r["subject"]) == (name, "training") and r["seconds"]]
        own.sort(key=lambda r: r["time"])
        if own:
            y, low, high = (
                [float(r[k]) for r in own] for k in ("seconds", "seconds_min", "seconds_max")
            )
            power = fitted.get((name, "training"))
            told = f"  T^{power['seconds']:.2f} ± {power['seconds_error']:.2f}" if power else ""
            label = name.removesuffix("-small") + told
            lines.append(Series(label, [float(r["time"]) for r in own], y, low, high))
    if not lines:
        return None
    figure = Figure(figsize=(WIDTH, 3.0 + 0.22 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    draw(figure, axes, lines)
    axes.set_xlabel("feature frames of 10 ms")
    axes.set_ylabel("seconds, forward and backward")
    return figure


def roofline(probe: Probe) -> Figure:
    """FLOP/s of each step against FLOP per byte, below what the machine can do."""
    machine = probe.rest["machine"]
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.add_subplot()
    reach = [step["intensity"] for step in probe.rows]
    ends = [min(reach) / 1.5, machine["ridge"], max([*reach, machine["ridge"]]) * 1.5]
    roof = [min(machine["peak"], machine["bandwidth"] * x) / 1e9 for x in ends]
    axes.plot(ends, roof, color=INK, linewidth=1.5, label="roof: bandwidth, then arithmetic")
    for index, bound in enumerate(("latency", "memory", "arithmetic")):
        own = [step for step in probe.rows if step["bound"] == bound]
        axes.plot(
            [step["intensity"] for step in own],
            [step["flops"] / step["seconds"] / 1e9 for step in own],
            color=COLOURS[index],
            marker=MARKERS[index],
            linestyle="none",
            markersize=7,
            label=f"bound by {bound}: {len(own)}",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_log(axes, "x")
    plain_log(axes, "y")
    axes.set_xlabel("FLOP per byte, if recurrent weights are read anew at every step")
    axes.set_ylabel("GFLOP/s")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=10)
    return figure


def lengths(rows: Rows) -> Figure | None:
    """WER against the length of the recording, a line per encoder and decoder."""
    groups = models(rows)
    lines = [wer_over_runs(label, own, "mean_seconds") for label, own in groups.items()]
    if not lines:
        return None
    figure = Figure(figsize=(WIDTH, 3.0 + 0.22 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    draw(figure, axes, lines, log=False)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("mean length of the recordings, seconds")
    axes.set_ylabel("WER, %")
    return figure


def kept(rows: Rows) -> Figure | None:
    """WER against the share of frames that is stored, by gate; whiskers over speakers."""
    known = [row for row in rows if row["wer"] is not None]
    if not known:
        return None
    gates = list(dict.fromkeys((row["encoder"], row["gate"]) for row in known))
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for index, (encoder, gate) in enumerate(gates):
        own = [row for row in known if (row["encoder"], row["gate"]) == (encoder, gate)]
        look = style(index)
        axes.errorbar(
            [100 * row["kept"] for row in own],
            [100 * row["wer"] for row in own],
            [
                [100 * max(0.0, row["wer"] - row["low"]) for row in own],
                [100 * max(0.0, row["high"] - row["wer"]) for row in own],
            ],
            color=look["color"],
            marker=look["marker"],
            markersize=7,
            capsize=3,
            linestyle="none",
            label=f"{encoder}, {'everything stored' if gate == 'none' else gate}",
        )
    axes.set_xlim(0, 105)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("frames stored, %")
    axes.set_ylabel("WER, %")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=10)
    return figure


Curve = tuple[str, list[float], list[float], list[float]]  # arm, expected best, low, high


def tuning(curves: Sequence[Curve], hours: Sequence[float], unit: str) -> Figure | None:
    """Expected best validation WER against trials, and against their mean cost.

    Whiskers where there is an interval; the arms stand side by side, so that each can be seen. WERs
    above 100 % are cut off.
    """
    if not curves:
        return None
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    places: list[tuple[Axes, Callable[[float, int], float], str]] = [
        (panels[0], lambda n, _: n, "trials"),
        (panels[1], lambda n, arm: n * hours[arm], f"cost of the trials, {unit}"),
    ]
    for panel, place, words in places:
        for index, (label, best, low, high) in enumerate(curves):
            aside = APART * (index - (len(curves) - 1) / 2)
            x = [place(n + aside, index) for n in range(1, len(best) + 1)]
            known = [not math.isnan(value) for value in low]
            # Rounding may end an interval beside the value in it, and matplotlib refuses that.
            below = [
                100 * max(0.0, b - end) if k else 0
                for b, end, k in zip(best, low, known, strict=True)
            ]
            above = [
                100 * max(0.0, end - b) if k else 0
                for b, end, k in zip(best, high, known, strict=True)
            ]
            panel.errorbar(
                x,
                [100 * b for b in best],
                [below, above],
                markersize=6,
                linewidth=1.8,
                elinewidth=1,
                label=label,
                **style(index),
            )
        panel.set_xlabel(words)
        panel.set_xlim(left=0)
    ends = [100 * v for _, best, _, high in curves for v in (*best, *high) if not math.isnan(v)]
    panels[0].set_ylim(0, 1.04 * min(100.0, max(ends)))
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("expected best validation WER, %")
    _legend(figure, panels[0], 5)
    return figure


def told_roof(probe: Probe) -> str:
    """The machine of the roofline in words."""
    machine = probe.rest["machine"]
    return (
        f"At best {digits(machine['peak'] / 1e9)} GFLOP/s and {digits(machine['bandwidth'] / 1e9)} "
        f"GB/s were measured: a ridge of {digits(machine['ridge'])} FLOP per byte. "
        "A step above the slope keeps its recurrent weights, or some of them, in a cache; roof and "
        "steps were timed apart, so that one may touch the other."
    )
