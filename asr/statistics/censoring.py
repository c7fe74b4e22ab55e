"""Estimates the cost of reaching a target if some runs do not reach it (censored runs)."""

import math
from bisect import bisect_left
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

EXACT = 20_000  # largest number of assignments of runs to arms that are all computed
ALIKE = 1e-9  # scores or WERs closer than this are equal


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
    at, hazard = _hazards(spent, events)
    return Survival(at, np.cumprod(1 - hazard, dtype=np.float64))


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


def log_rank(
    costs_a: ArrayLike,
    reached_a: ArrayLike,
    costs_b: ArrayLike,
    reached_b: ArrayLike,
    seed: int = 0,
) -> float:
    """Two-sided p-value of the hypothesis that two arms reach the target at the same cost.

    The log-rank statistic (Mantel, 1966) is the number of runs of A that reached the target, minus
    the number expected if the arms are equal. Its chi-squared approximation needs dozens of runs,
    so this is a permutation test: over all assignments of runs to arms, or 20,000 random ones if
    there are more. It is exact if both arms have the same budget (Heller and Venkatraman, 1996).
    The smallest possible p is 0.1 for three runs against three, and 0.03 for four against four.

    Raises:
        ValueError: as ``survival``.
    """
    a, b = _checked(costs_a, reached_a), _checked(costs_b, reached_b)
    scores = log_rank_scores(np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]]))
    number, size = len(scores), len(a[0])
    if math.comb(number, size) <= EXACT:
        dealt = np.array([scores[list(some)].sum() for some in combinations(range(number), size)])
        extra = 0
    else:
        random = np.random.default_rng(seed)
        dealt = np.array([random.permutation(scores)[:size].sum() for _ in range(EXACT)])
        extra = 1  # the observed assignment counts as one of them
    as_far = int((np.abs(dealt) >= abs(scores[:size].sum()) - ALIKE).sum())
    return (as_far + extra) / (len(dealt) + extra)


def ratio_interval(
    costs_a: ArrayLike,
    reached_a: ArrayLike,
    costs_b: ArrayLike,
    reached_b: ArrayLike,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of the factor by which the target costs arm A more than arm B.

    It holds the factors that ``log_rank`` does not reject: the costs of B times the factor are
    compared with those of A (Wei and Gail, J. Am. Stat. Assoc. 78, 1983). It excludes 1 where the
    test is significant. With too few runs for the level it goes from 0 to infinity.

    Raises:
        ValueError: as ``survival``.
    """
    a, b = _checked(costs_a, reached_a), _checked(costs_b, reached_b)
    ends = np.unique(np.divide.outer(a[0], np.maximum(b[0], 1e-12)).round(12))
    ends = np.concatenate([[0.0], ends[ends > 0], [math.inf]])
    # Only the order of the costs matters, which is the same for all factors between two ends.
    inner = ends[1:-1]
    factors = np.concatenate([[inner[0] / 2], np.sqrt(inner[1:] * inner[:-1]), [2 * inner[-1]]])

    def kept(place: int) -> bool:
        return log_rank(*a, b[0] * factors[place], b[1]) >= 1 - level

    middle = int(np.searchsorted(inner, np.median(a[0]) / max(np.median(b[0]), 1e-12)))
    low = bisect_left(range(middle), True, key=kept)
    high = middle + bisect_left(range(middle, len(factors)), True, key=lambda i: not kept(i))
    return float(ends[low]), float(ends[high])


def log_rank_scores(costs: ArrayLike, reached: ArrayLike) -> Floats:
    """Scores (n,): 1 if reached, else 0, minus the Nelson-Aalen hazard up to the cost.

    The sum over the runs of an arm is the log-rank statistic; the sum over all runs is 0.
    """
    spent, events = _checked(costs, reached)
    at, hazard = _hazards(spent, events)
    return events - (spent[:, None] >= at[None, :]) @ hazard


def _hazards(spent: Floats, events: Bools) -> tuple[Floats, Floats]:
    """Costs (k,) at which runs reached the target, and the share (k,) of the remaining runs."""
    at = np.unique(spent[events])
    going = (spent[None, :] >= at[:, None]).sum(axis=1)
    came = (spent[events][None, :] == at[:, None]).sum(axis=1)
    return at, came / going


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
