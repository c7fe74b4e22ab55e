"""Writes the sections about a group of comparable runs: errors, costs and trade-offs."""

import math
from collections.abc import Callable, Sequence

from asr.document.blocks import Block, Picture, Section, Table, Text
from asr.document.figures import PHASES
from asr.formatting import (
    NONE,
    digits,
    listed,
    percent,
    percent_interval,
    points_interval,
)
from asr.report import costs, plots, verdict
from asr.report.costs import cost_to, hours_unit
from asr.report.disturbed import disturbed, no_front
from asr.report.evidence import Evidence
from asr.report.groups import Arm, Group
from asr.report.provenance import measured
from asr.report.quantities import BY_COLUMN, COSTS
from asr.report.runs import Run

LATE_TARGETS = (
    "No study registered these targets before the runs. They were chosen after the results, so no "
    "verdict follows from them."
)


def group_sections(evidence: Evidence, suffix: str) -> list[Section]:
    """All sections about a group, except its answer and its curves."""
    group = evidence.group
    return [
        (
            "Each arm in figures",
            [_figures(evidence), *_differences(evidence), *_unequal(group)],
        ),
        ("Cost to reach a WER", _costs(evidence)),
        ("Where the time went", _time(group, suffix)),
        ("Best trade-offs", _trade_offs(evidence, suffix)),
        ("How it was measured", measured(group)),
    ]


def curves(evidence: Evidence, suffix: str) -> list[Block]:
    """WER against all costs; ``suffix`` makes the names of the group's pictures unique."""
    group = evidence.group
    target = costs.common_target(group, evidence.targets)
    if not any(run.points for run in group.runs):
        return [Text(["No run has a validation yet, so there is no curve."])]
    unit = hours_unit(group)
    words = f"Validation WER against training cost in {unit}: lower and further left is better."
    if disturbed(group.arms):
        words += f" Runs were disturbed, so compare the arms by the other costs, not by {unit}."
    return [
        Picture(
            f"wer_against_device_hours{suffix}",
            lambda: plots.wer_against_hours(group, target),
            words + _bands(group),
        ),
        Picture(
            f"wer_against_costs{suffix}",
            lambda: plots.wer_against_costs(group),
            "Validation WER of the same runs against the other costs.",
        ),
        *[Text([line]) for line in _energy(group)],
    ]


def _time(group: Group, suffix: str) -> list[Block]:
    if not any(run.totals.get("wall_seconds") for run in group.runs):
        return [Text(["All ledgers are still empty."])]
    words = "Where the time went, mean over seeds; the percentages are shares of an arm's cost."
    picture = Picture(f"time_spent{suffix}", lambda: plots.time_spent(group), words)
    return [picture, _phases(group)]


def _bands(group: Group) -> str:
    if any(len(arm.runs) > 1 for arm in group.arms):
        return " Lines are means over seeds; bands show the lowest and the highest seed."
    return ""


def _energy(group: Group) -> list[str]:
    unmetered = [run.totals for run in group.runs if run.totals.get("energy_joules") is None]
    if not unmetered:
        return []
    notes = {totals.get("energy_note") for totals in unmetered}
    why = listed(sorted(str(note) for note in notes - {None}))
    return [f"Joules are not shown: energy was not metered{f' ({why})' if why else ''}."]


def _figures(evidence: Evidence) -> Table:
    """A table of means over seeds, with a row per quantity and a column per arm."""
    group = evidence.group

    def row(words: str, show: Callable[[Arm], str]) -> list[str]:
        return [words, *map(show, group.arms)]

    def of(*columns: str) -> list[list[str]]:
        return [row(q.title(group), q.told) for q in (BY_COLUMN[name] for name in columns)]

    front = costs.pareto(group)

    def in_front(arm: Arm) -> str:
        return "yes" if arm in front else "no"

    failed = any(arm.failed for arm in group.arms)
    infeasible = any(run.totals.get("infeasible_utterances") for run in group.runs)
    rows = [
        row("seeds", lambda arm: _seeds(arm.runs)),
        *([row("seeds that failed", lambda arm: _seeds(arm.failed) or "none")] if failed else []),
        *of("encoder_parameters", "parameters"),
        row(
            f"{group.runs[0].split} WER [95 % interval]",
            lambda arm: percent_interval(costs.arm_wer(arm), evidence.intervals[arm.label]),
        ),
        *of("cer_percent", "best_validation_wer_percent", "device_hours", "wasted_device_hours"),
        row("runs disturbed by other programs", _disturbed),
        *of("cpu_hours", "core_wait_percent", "audio_seconds_per_second"),
        *of("train_flop", "audio_hours", "audio_hours_per_device_hour"),
        *of("model_flops_utilisation_percent", "peak_memory_bytes", "energy_joules"),
        *of("real_time_factor_seconds_per_second", "encoder_seconds_per_second", "updates"),
        *(of("infeasible_utterances") if infeasible else []),
        row("reason for the end", lambda arm: "; ".join(dict.fromkeys(map(_stopped, arm.runs)))),
        *([] if no_front(group) else [row("a best trade-off (Pareto front)", in_front)]),
    ]
    return Table(["", *[arm.label for arm in group.arms]], rows)


def _seeds(runs: Sequence[Run]) -> str:
    return ", ".join(NONE if run.seed is None else str(run.seed) for run in runs)


def _disturbed(arm: Arm) -> str:
    if all(run.disturbances is None for run in arm.runs):
        return "not recorded"
    return f"{len(disturbed([arm]))} of {len(arm.runs) + len(arm.failed)}"


def _stopped(run: Run) -> str:
    if run.totals.get("finished"):
        return str(run.totals.get("reason") or "finished")
    return "not finished" if "updates" in run.totals else "nothing in the ledger"


def _differences(evidence: Evidence) -> list[Block]:
    """The paired differences from the best arm, with notes on the method."""
    if len(evidence.group.arms) < 2:
        return []
    matched = any(pair.matched is not None for pair in evidence.pairs)
    header = ["difference in WER", "value [interval]", "level", "p (family)", "detectable"]
    header += ["p of these two models (MPSSWE)"] if matched else []
    rows = []
    for pair in verdict.from_best(evidence):
        said = pair.statement + (f": {pair.reason}" if pair.reason else "")
        row = [f"{pair.b.label} minus {pair.a.label}"]
        if (found := pair.comparison) is None:
            row += [NONE] * (len(header) - 1)
        else:
            row += [
                points_interval(found.difference.value, found.difference.interval),
                f"{100 * found.difference.level:.3g} %",
                digits(found.adjusted_p, 2) if found.of_arms else NONE,
                f"{100 * found.detectable:.2f} points" if found.of_arms else NONE,
                *([NONE if pair.matched is None else digits(pair.matched, 2)] if matched else []),
            ]
        rows.append([*row, said])
    notes = [line for line in (evidence.method, evidence.caveat) if line]
    if matched:
        notes.append(
            "MPSSWE: the matched-pairs sentence-segment word error test compares two trained "
            "models on these speakers; its result does not hold for other seeds."
        )
    header.append(f"errors of the first, against {evidence.pairs[0].a.label}")
    return [Table(header, rows), *[Text([line]) for line in notes]]


def _unequal(group: Group) -> list[Block]:
    lines = [sentence for _, sentence in verdict.inequalities(group) + verdict.mixtures(group)]
    if not lines or len(group.arms) < 2:
        return []
    return [Text(["What differs between the arms besides the encoder:"]), Text(lines, "list")]


def _costs(evidence: Evidence) -> list[Block]:
    group, targets = evidence.group, evidence.targets
    if not targets:
        return [Text(["There is no target, because no arm has a WER far enough below 100 %."])]
    rows = [
        [
            f"{percent(target)}: {quantity.title(group)}",
            *[_cost(cost_to(arm, target, quantity.key), quantity.show) for arm in group.arms],
        ]
        for target in targets
        for quantity in COSTS
    ]
    note = (
        "The cost is interpolated between the first validation at or below the target and the one "
        "before it. A run that stopped above the target counts as censored, not as missing."
    )
    if not evidence.registered:
        note = f"{LATE_TARGETS} {note}"
    if any(arm.failed for arm in group.arms):
        note += (
            " A run that failed before the target counts as one that never reached it, until the "
            "longest run of its arm stopped."
        )
    if any(len(arm.runs) + len(arm.failed) > 1 for arm in group.arms):
        note += (
            " With several seeds, it is the cost by which half of them reached the target (Kaplan "
            "and Meier), with percentiles over resampled seeds. These contain the true median in "
            "50 % of cases with 2 seeds, 75 % with 3, 94 % with 5, and never more than 95 %."
        )
    return [Table(["validation WER", *[arm.label for arm in group.arms]], rows), Text([note])]


def _cost(cost: costs.Cost, show: Callable[[float | None], str]) -> str:
    if cost.value is None:
        return NONE
    if math.isinf(cost.value):
        text = f"not reached within {show(cost.limit)}"
    else:
        text = show(cost.value)
    if cost.interval is not None and math.isfinite(cost.interval[0]):
        low, high = cost.interval
        text += f" [{show(low)} to {'not reached' if math.isinf(high) else show(high)}]"
    return text + (f", {sum(cost.reached)} of {cost.seeds} seeds" if cost.seeds > 1 else "")


def _phases(group: Group) -> Table:
    spent = [plots.phase_hours(arm) for arm in group.arms]
    rows = [
        [words, *[digits(60 * row[phase]) for row in spent]]
        for phase, (words, *_) in PHASES.items()
        if any(row[phase] for row in spent)
    ]
    unit = hours_unit(group).replace("hours", "minutes")
    return Table([unit, *[arm.label for arm in group.arms]], rows)


def _trade_offs(evidence: Evidence, suffix: str) -> list[Block]:
    group = evidence.group
    front = [arm.label for arm in costs.pareto(group)]
    if why := no_front(group):
        return [Text([f"No arm is called a best trade-off, because {why}."])]
    if not front:
        words = "No arm has a WER, a training cost and a real-time factor, so there is no front."
        return [Text([words])]
    note = (
        f"On the front: {listed(front)}. No other arm is as good in WER, {hours_unit(group)} and "
        "real-time factor at once; differences below 1 % count as equal."
    )
    words = (
        "WER against training and running cost. Whiskers: 95 % intervals; rings: best trade-offs."
    )
    figure = Picture(
        f"trade_offs{suffix}", lambda: plots.pareto_front(group, evidence.intervals), words
    )
    return [Text([note]), figure]
