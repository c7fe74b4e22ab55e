"""The costs of arms: means over seeds, cost to reach a WER, and the best trade-offs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asr.formatting import listed
from asr.report.groups import Arm, Group
from asr.report.runs import Point, Run
from asr.statistics.censoring import median_cost

FACTORS = (1.5, 1.15, 1.0)  # default targets, as multiples of the weaker arm's best validation WER
# Keys of metrics.json, and their names, on which the times of an evaluation depend.
TIMED_BY = {
    "device_name": "device",
    "threads": "number of threads",
    "batch_seconds": "seconds of a batch",
    "search": "search",
}


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the known values; None if no value is known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def arm_mean(arm: Arm, field: str) -> float | None:
    """The mean over seeds of a number in the totals of the ledger."""
    return mean([run.totals.get(field) for run in arm.runs])


def arm_wer(arm: Arm) -> float | None:
    """Mean over seeds of the evaluated WER."""
    return mean([run.wer for run in arm.runs])


def real_time_factor(arm: Arm) -> float | None:
    """Mean over seeds of seconds of decoding per second of audio."""
    return mean([run.real_time_factor for run in arm.runs])


def encoder_factor(arm: Arm) -> float | None:
    """Mean over seeds of seconds of features and encoder per second of audio, without the search.

    It is None unless every evaluation timed them separately, so that it covers all runs.
    """
    evaluated = [run.encoder_factor for run in arm.runs if run.metrics is not None]
    return None if None in evaluated else mean(evaluated)


def timed_otherwise(arms: Sequence[Arm]) -> str:
    """The differences between the evaluations of arms that affect their times; empty if none.

    A value that was not recorded agrees with all values, because earlier versions did not record
    the number of threads.
    """
    told = []
    for key, word in TIMED_BY.items():
        of = {arm.label: recorded(arm.runs, key) for arm in arms}
        if len({value for values in of.values() for value in values}) > 1:
            own = [f"{label}: {listed([str(v) for v in values])}" for label, values in of.items()]
            told.append(f"{word} ({'; '.join(own)})")
    return listed(told)


def recorded(runs: Sequence[Run], key: str) -> list[Any]:
    """The values of an entry of metrics.json, each once, where it was written down."""
    return list(dict.fromkeys(v for run in runs if (v := run.metric(key)) is not None))


def first_at(run: Run, target: float) -> Point | None:
    """The first validation at or below a target WER; None when none was."""
    return next((p for p in run.points if p.wer <= target + 1e-12), None)


@dataclass(frozen=True)
class Cost:
    """What an arm paid for a target on one axis.

    Attributes:
        value: by which half of the seeds reached it (Kaplan and Meier); infinite when fewer did,
            None when the axis was not measured.
        interval: 95 %, over seeds; None with a single one. A bound is infinite where too few
            reached the target.
        spent: what each run had spent when it reached the target, or when it stopped without (one
            that failed: when the longest stopped); empty when the axis was not measured.
        reached: whether each run did.
    """

    value: float | None
    interval: tuple[float, float] | None
    spent: list[float]
    reached: list[bool]

    @property
    def seeds(self) -> int:
        """How many runs."""
        return len(self.reached)

    @property
    def limit(self) -> float | None:
        """Where the longest of the runs stopped that did not reach it: they are censored there."""
        stopped = [spent for spent, came in zip(self.spent, self.reached, strict=False) if not came]
        return max(stopped, default=None)


def cost_to(arm: Arm, target: float, axis: str) -> Cost:
    """What reaching a target WER cost on ``axis``, a field of ``Point``: see ``median_cost``.

    A run that failed before the target never reaches it, whatever more it were given: it stays
    among those that have not until the longest run of the arm stopped. Censored where it failed, it
    would be taken for one that might have got there like the others, and change no median.
    """
    runs = [*arm.runs, *arm.failed]
    points = [first_at(run, target) for run in runs]
    reached = [point is not None for point in points]
    spent = [
        _spent(run, axis) if point is None else getattr(point, axis)
        for run, point in zip(runs, points, strict=True)
    ]
    known = [value for value in spent if value is not None]
    if len(known) < len(spent) or not any(run.points for run in arm.runs):
        return Cost(None, None, [], reached)
    longest = max(_spent(run, axis) or 0.0 for run in runs)
    for place in range(len(arm.runs), len(runs)):
        if not reached[place]:
            known[place] = longest
    found = median_cost(known, reached)
    return Cost(found.value, found.interval if len(known) > 1 else None, known, reached)


def seeds_there(cost: Cost) -> str:
    """``, 1 of 2 seeds`` where not all reached the target: half of them make a median already."""
    came = sum(cost.reached)
    return "" if came == cost.seeds else f", {came} of {cost.seeds} seeds"


def _spent(run: Run, axis: str) -> float | None:
    """What a run had spent in all; 0 when it has not come to its first entry."""
    value = run.audio_hours if axis == "audio_hours" else run.totals.get(axis)
    if value is None and run.points:
        value = getattr(run.points[-1], axis)
    return 0.0 if value is None and not run.points else value


def arm_best(arm: Arm) -> float | None:
    """Median over seeds of the best validation WER."""
    best = [run.best_validation_wer for run in arm.runs]
    known = [value for value in best if value is not None]
    return float(np.median(known)) if known else None


def wer_at(arm: Arm, device_hours: float) -> float | None:
    """Mean over seeds of the last validation WER within this cost."""
    within = [[p.wer for p in run.points if p.device_hours <= device_hours] for run in arm.runs]
    return mean([wers[-1] if wers else None for wers in within])


def default_targets(group: Group) -> list[float]:
    """1.5, 1.15 and 1.0 times the weaker arm's best validation WER; those of 100 % left out."""
    best = [value for arm in group.arms if (value := arm_best(arm)) is not None]
    if not best:
        return []
    return list(dict.fromkeys(f * max(best) for f in FACTORS if f * max(best) < 1))


def common_target(group: Group, targets: Sequence[float]) -> float | None:
    """The lowest target of those that most arms reached, each by half of its seeds at least."""
    reached: dict[float, int] = {}
    for target in targets:
        costs = [cost_to(arm, target, "device_hours").value for arm in group.arms]
        reached[target] = sum(c is not None and math.isfinite(c) for c in costs)
    most = max(reached.values(), default=0)
    return (
        min((t for t, number in reached.items() if number == most), default=None) if most else None
    )


def hours_unit(group: Group) -> str:
    """``device-hours (CPU)``; another word than CPU only when such a device was used."""
    kinds = {str(run.device_kind) for run in group.runs if run.device_kind}
    words = sorted({"cuda": "GPU"}.get(kind, kind.upper()) for kind in kinds)
    return f"device-hours ({listed(words)})" if words else "device-hours"


def cost_ratio(group: Group) -> float | None:
    """Device-hours of the dearest arm over those of the cheapest; None when not known."""
    spent = [arm_mean(arm, "device_hours") for arm in group.arms]
    known = [hours for hours in spent if hours]
    return max(known) / min(known) if len(known) == len(spent) and known else None


def pareto(group: Group) -> list[Arm]:
    """Arms that no other beats or equals in WER, device-hours and real-time factor at once.

    Costs within 1 % of each other count as equal, as two runs of one budget never stop at the
    same second. An arm that lacks one of the three is left out.
    """
    axes: list[Callable[[Arm], float | None]] = [
        arm_wer,
        lambda arm: arm_mean(arm, "device_hours"),
        real_time_factor,
    ]
    values = {arm.label: [axis(arm) for axis in axes] for arm in group.arms}
    full = {label: v for label, v in values.items() if None not in v}
    return [
        arm
        for arm in group.arms
        if arm.label in full
        and not any(
            _dominates(v, full[arm.label]) for label, v in full.items() if label != arm.label
        )
    ]


def _dominates(a: Sequence[Any], b: Sequence[Any]) -> bool:
    no_worse = all(x <= 1.01 * y for x, y in zip(a, b, strict=True))
    return no_worse and any(1.01 * x < y for x, y in zip(a, b, strict=True))
