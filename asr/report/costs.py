"""The costs of arms: means over seeds, cost to reach a WER, and the best trade-offs."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asr.formatting import hours_of, listed, percent
from asr.metering.cpu import SHARES, WAIT_LIMIT
from asr.report.groups import Arm, Group
from asr.report.runs import Run
from asr.statistics.censoring import ALIKE, crossing, median_cost

NEAR = 1.02  # a validation at a cost up to 2 % away counts as one at this cost
FACTORS = (1.5, 1.15, 1.0)  # default targets over the weakest arm's best validation WER
# Keys of metrics.json that affect the times of an evaluation, and their names.
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
    """Mean over seeds of a field in the totals of the ledger."""
    return mean([run.totals.get(field) for run in arm.runs])


def arm_spent(arm: Arm, axis: str) -> float | None:
    """Mean over seeds of a cost, by the name of a field of ``Point``."""
    return mean([run_spent(run, axis) for run in arm.runs])


def arm_wer(arm: Arm) -> float | None:
    """Mean over seeds of the evaluated WER."""
    return mean([run.wer for run in arm.runs])


def real_time_factor(arm: Arm) -> float | None:
    """Mean over seeds of seconds of decoding per second of audio."""
    return mean([run.real_time_factor for run in arm.runs])


def encoder_factor(arm: Arm) -> float | None:
    """Mean over seeds of the seconds for features and encoder per second of audio.

    The search is not included. The result is None if an evaluation did not time it separately.
    """
    evaluated = [run.encoder_factor for run in arm.runs if run.metrics is not None]
    return None if None in evaluated else mean(evaluated)


def timed_otherwise(arms: Sequence[Arm]) -> str:
    """The differences between the evaluations of arms that affect their times; empty if none.

    A missing value counts as equal, because earlier versions did not record the number of threads.
    """
    told = []
    for key, word in TIMED_BY.items():
        of = {arm.label: recorded(arm.runs, key) for arm in arms}
        if len({value for values in of.values() for value in values}) > 1:
            own = [f"{label}: {listed([str(v) for v in values])}" for label, values in of.items()]
            told.append(f"{word} ({'; '.join(own)})")
    return listed(told)


def waited(arms: Sequence[Arm]) -> str:
    """Why the times of evaluations do not compare: they waited, or the GPU was not theirs alone."""
    told = []
    for key, words in SHARES.items():
        shares = {arm.label: max(recorded(arm.runs, key), default=0.0) for arm in arms}
        long = [
            f"{label} {percent(share)}" for label, share in shares.items() if share > WAIT_LIMIT
        ]
        told += [f"{words} ({listed(long)} of the time)"] if long else []
    return listed(told)


def recorded(runs: Sequence[Run], key: str) -> list[Any]:
    """The distinct values of a key in the metrics.json of runs; missing values are left out."""
    return list(dict.fromkeys(v for run in runs if (v := run.metric(key)) is not None))


def spent_at(run: Run, target: float, axis: str) -> float | None:
    """The cost on ``axis`` at which a run reached a target WER; infinite if it did not.

    None if the cost was not measured. See ``crossing``.
    """
    values = [getattr(point, axis) for point in run.points]
    if any(value is None for value in values):
        return None
    return crossing(values, [point.wer for point in run.points], target)


@dataclass(frozen=True)
class Cost:
    """The cost at which an arm reached a target, on one axis.

    Attributes:
        value: Kaplan-Meier median over seeds; infinite if fewer than half of the seeds reached the
            target, None if the axis was not measured.
        interval: 95 % interval over seeds; None for a single seed. A bound is infinite if too few
            seeds reached the target.
        spent: cost of each run when it reached the target or stopped; empty if not measured.
        reached: whether each run reached the target.
    """

    value: float | None
    interval: tuple[float, float] | None
    spent: list[float]
    reached: list[bool]

    @property
    def seeds(self) -> int:
        """Number of runs."""
        return len(self.reached)

    @property
    def limit(self) -> float | None:
        """Highest cost of a run that stopped without the target; None if all reached it."""
        stopped = [spent for spent, came in zip(self.spent, self.reached, strict=False) if not came]
        return max(stopped, default=None)


def cost_to(arm: Arm, target: float, axis: str) -> Cost:
    """The cost of a target WER on ``axis``, a field of ``Point``; see ``median_cost``.

    A run that failed before the target would not reach it with a larger budget, so it is censored
    at the cost of the longest run of the arm. Censoring it at its own cost would treat it like a
    run that might still reach the target.
    """
    runs = [*arm.runs, *arm.failed]
    reached = [any(point.wer <= target + ALIKE for point in run.points) for run in runs]
    spent = [
        spent_at(run, target, axis) if came else run_spent(run, axis)
        for run, came in zip(runs, reached, strict=True)
    ]
    known = [value for value in spent if value is not None]
    if len(known) < len(spent) or not any(run.points for run in arm.runs):
        return Cost(None, None, [], reached)
    longest = max(run_spent(run, axis) or 0.0 for run in runs)
    for place in range(len(arm.runs), len(runs)):
        if not reached[place]:
            known[place] = longest
    found = median_cost(known, reached)
    return Cost(found.value, found.interval if len(known) > 1 else None, known, reached)


def seeds_there(cost: Cost) -> str:
    """``, 1 of 2 seeds``; empty if all reached the target. Half suffice for the median."""
    came = sum(cost.reached)
    return "" if came == cost.seeds else f", {came} of {cost.seeds} seeds"


def run_spent(run: Run, axis: str) -> float | None:
    """The total cost of a run; 0 if its ledger has no entry, None if it was not measured."""
    value = getattr(run, axis) if hasattr(Run, axis) else run.totals.get(axis)
    if value is None and run.points:
        value = getattr(run.points[-1], axis)
    return 0.0 if value is None and not run.points else value


def arm_best(arm: Arm) -> float | None:
    """Median over seeds of the best validation WER; None without a validation."""
    best = [run.best_validation_wer for run in arm.runs]
    known = [value for value in best if value is not None]
    return float(np.median(known)) if known else None


def wer_at(arm: Arm, amount: float, axis: str = "device_hours") -> float | None:
    """Mean over seeds of the validation WER at an amount of a cost.

    It is interpolated linearly between two validations, and never extrapolated: None if a run has
    no validation on one side of the amount, nor one within 2 % of it.
    """
    found = []
    for run in arm.runs:
        at = [cost for point in run.points if (cost := getattr(point, axis))]
        if not at or not at[0] / NEAR <= amount <= at[-1] * NEAR:
            return None
        rates = [point.wer for point in run.points if getattr(point, axis)]
        found.append(float(np.interp(amount, at, rates)))
    return mean(found)


def wer_at_in_words(arm: Arm, amount: float, axis: str = "device_hours") -> str:
    """``LSTM 12.0 %``; without a figure, why there is none."""
    rate = wer_at(arm, amount, axis)
    return f"{arm.label} {percent(rate) if rate is not None else 'not validated within 2 % of it'}"


def default_targets(group: Group) -> list[float]:
    """1.5, 1.15 and 1.0 times the weakest arm's best validation WER, if below 100 %."""
    best = [value for arm in group.arms if (value := arm_best(arm)) is not None]
    if not best:
        return []
    return list(dict.fromkeys(f * max(best) for f in FACTORS if f * max(best) < 1))


def common_target(group: Group, targets: Sequence[float]) -> float | None:
    """The target that most arms reached by at least half of their seeds; the lowest of several."""
    reached: dict[float, int] = {}
    for target in targets:
        costs = [cost_to(arm, target, "device_hours").value for arm in group.arms]
        reached[target] = sum(c is not None and math.isfinite(c) for c in costs)
    most = max(reached.values(), default=0)
    return (
        min((t for t, number in reached.items() if number == most), default=None) if most else None
    )


def hours_unit(group: Group) -> str:
    """``core-hours`` or ``GPU-hours``, by the devices of the runs."""
    return hours_of(run.device_kind for run in group.runs)


def budget_in_words(limits: Mapping[str, float | None], kinds: Iterable[str | None]) -> str:
    """``0.5 core-hours or 100 updates``; ``kinds`` of device name the unit of device-hours."""
    names = {
        "device_hours": hours_of(kinds),
        "cpu_hours": "CPU-hours",
        "audio_hours": "audio-hours",
    }
    known = {names.get(key, key): value for key, value in limits.items() if value is not None}
    return " or ".join(
        f"{v:g} {name}" if isinstance(v, float) else f"{v} {name}" for name, v in known.items()
    )


def cost_ratio(arms: Sequence[Arm], axis: str = "device_hours") -> float | None:
    """The cost of the most expensive arm over that of the cheapest; None if unknown."""
    known = [cost for arm in arms if (cost := arm_spent(arm, axis))]
    return max(known) / min(known) if len(known) == len(arms) and known else None


def pareto(group: Group) -> list[Arm]:
    """The arms that no other arm dominates in WER, training cost and real-time factor.

    Values within 1 % of each other count as equal, because two runs of one budget never stop at the
    same second. An arm without one of the three values is left out.
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
