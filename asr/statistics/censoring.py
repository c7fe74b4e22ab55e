"""Estimates the cost of reaching a target if some runs do not reach it (censored runs)."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asr.statistics.comparison import MIN_SEEDS, Difference
from asr.statistics.variance_components import welch

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ALIKE = 1e-9  # WERs closer than this are equal
TINY = 1e-12  # a cost of 0 counts as this much


class Survival(NamedTuple):
    """The share of runs that have not reached the target, as a function of the cost.

    Attributes:
        costs: (k,) ascending costs at which a run reached the target.
        share: (k,) share of the runs that have not reached the target after that cost.
    """

    costs: Floats
    share: Floats


class Estimate(NamedTuple):
    """A cost with its interval; a value is infinite if too few runs reached the target."""

    value: float
    interval: tuple[float, float]


def crossing(costs: ArrayLike, rates: ArrayLike, target: float) -> float:
    """The cost at which a run reached a target error rate; infinite if it did not.

    It lies between the first validation with this rate and the one before it: the rate is
    interpolated linearly in the logarithm of the cost. The cost of the first validation itself is
    too high by half of the distance between validations, which would favour runs that are
    validated more often (``benchmarks.planted_difference``).

    Args:
        costs: (n,) ascending cost of each validation.
        rates: (n,) error rate of each validation.
        target: the error rate to reach.
    """
    spent, wers = np.asarray(costs, dtype=np.float64), np.asarray(rates, dtype=np.float64)
    (there,) = np.nonzero(wers <= target + ALIKE)
    if not len(there):
        return math.inf
    at = there[0]
    if at == 0 or spent[at - 1] <= 0 or wers[at] >= target:
        return float(spent[at])
    ends = slice(at, at - 2 if at > 1 else None, -1)  # ascending rates
    return float(np.exp(np.interp(target, wers[ends], np.log(spent[ends]))))


def survival(costs: ArrayLike, reached: ArrayLike) -> Survival:
    """The estimate of Kaplan and Meier, J. Am. Stat. Assoc. 53, 1958.

    Args:
        costs: (n,) cost of each run when it reached the target, or else when it stopped.
        reached: (n,) whether the run reached the target.

    Raises:
        ValueError: no runs, shapes differ, or a cost is negative or not finite.
    """
    spent, events = _checked(costs, reached)
    at = np.unique(spent[events])
    going = (spent[None, :] >= at[:, None]).sum(axis=1)
    came = (spent[events][None, :] == at[:, None]).sum(axis=1)
    return Survival(at, np.cumprod(1 - came / going, dtype=np.float64))


def median_cost(
    costs: ArrayLike,
    reached: ArrayLike,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """The cost by which half of the runs reach the target; infinite if fewer reach it.

    The interval has percentiles over resampled runs (Efron, J. Am. Stat. Assoc. 76, 1981); each is
    the cost of a run, or infinite. The widest possible interval goes from the cheapest run to the
    most expensive: it covers 94 % with 5 runs and 75 % with 3, even if a higher level is requested.

    Raises:
        ValueError: as ``survival``.
    """
    spent, events = _checked(costs, reached)
    rows = np.random.default_rng(seed).integers(len(spent), size=(resamples, len(spent)))
    unique, back = np.unique(np.sort(rows, axis=1), axis=0, return_inverse=True)  # 126 for 5 runs
    draws = np.array([_median(spent[row], events[row]) for row in unique])[back]
    interval = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return Estimate(_median(spent, events), (float(interval[0]), float(interval[1])))


def ratio_of_costs(
    costs_a: ArrayLike,
    reached_a: ArrayLike,
    costs_b: ArrayLike,
    reached_b: ArrayLike,
    level: float = 0.95,
) -> Estimate:
    """The factor by which the target costs arm A more than arm B.

    If all runs reached the target, it is the ratio of the geometric means of the costs, with
    Student's interval of the difference of their logarithms (``welch``).

    Otherwise it is the ratio of the medians. Its interval excludes 1 only if each run of one arm
    reached the target at a lower cost than each run of the other arm. If the medians are equal,
    this has a probability of at most 2^(1 - n) for any two distributions, because all runs of at
    least one arm then lie on one side of the median; n is the number of runs of the smaller arm.
    The log-rank test assumes arms with equal distributions: if one arm scatters 6 to 10 times as
    much as the other, it finds a false difference in 9 to 12 % of cases instead of 5 %.

    The interval goes from 0 to infinity if an arm has fewer than 3 runs or, with runs that did not
    reach the target, fewer than ``runs_to_decide``.

    Raises:
        ValueError: as ``survival``.
    """
    a, b = _checked(costs_a, reached_a), _checked(costs_b, reached_b)
    runs = min(len(a[0]), len(b[0]))
    if a[1].all() and b[1].all():
        logs = [np.log(np.maximum(costs, TINY)) for costs in (a[0], b[0])]
        middle = float(logs[0].mean() - logs[1].mean())
        if runs < MIN_SEEDS:
            return Estimate(math.exp(middle), (0.0, math.inf))
        low, high = Difference(middle, welch(*logs), level).interval
        return Estimate(math.exp(middle), (math.exp(low), math.exp(high)))
    middles = _median(*a), max(_median(*b), TINY)
    value = math.nan if middles == (math.inf, math.inf) else middles[0] / middles[1]
    if runs < runs_to_decide(level):
        return Estimate(value, (0.0, math.inf))
    (low_a, high_a), (low_b, high_b) = (
        (max(float(costs.min()), TINY), float(costs.max()) if came.all() else math.inf)
        for costs, came in (a, b)
    )
    return Estimate(value, (low_a / high_b, high_a / low_b))


def runs_to_decide(level: float) -> int:
    """The fewest runs of each arm that can differ at this level if some miss the target."""
    return math.ceil(1 - math.log2(1 - level) - ALIKE)


def _checked(costs: ArrayLike, reached: ArrayLike) -> tuple[Floats, Bools]:
    spent, events = np.asarray(costs, dtype=np.float64), np.asarray(reached, dtype=bool)
    if spent.ndim != 1 or spent.shape != events.shape or not len(spent):
        raise ValueError(f"costs {spent.shape} and reached {events.shape} need one value per run")
    if not np.isfinite(spent).all() or (spent < 0).any():
        raise ValueError("a cost is negative or not finite; give the cost of the run at its end")
    return spent, events


def _median(spent: Floats, events: Bools) -> float:
    costs, share = survival(spent, events)
    below = np.flatnonzero(share <= 0.5 + 1e-12)
    return float(costs[below[0]]) if len(below) else math.inf
