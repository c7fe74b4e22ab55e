"""The cost of reaching a target if some runs do not reach it (censored runs)."""

import math
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

EXACT = 20_000  # ways to deal runs to two arms that are all looked at
ALIKE = 1e-9  # scores closer than this are ties


class Survival(NamedTuple):
    """Share of runs that have not reached the target, falling at each cost where some did.

    Attributes:
        costs: (k,) ascending costs at which a run reached the target.
        share: (k,) of runs still going after that cost.
    """

    costs: Floats
    share: Floats


class Estimate(NamedTuple):
    """A cost with its interval; infinite where too few runs reached the target to say."""

    value: float
    interval: tuple[float, float]


def survival(costs: ArrayLike, reached: ArrayLike) -> Survival:
    """Kaplan and Meier, J. Am. Stat. Assoc. 53, 1958.

    Args:
        costs: (n,) what each run had spent when it reached the target, or when it stopped without.
        reached: (n,) whether it did.

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
    """The cost by which half of the runs reach the target: infinite when fewer do.

    Interval: percentiles over resampled runs (Efron, J. Am. Stat. Assoc. 76, 1981), each a cost of
    some run or infinite. With 5 runs it is at most from the cheapest to the dearest, which covers
    94 %; with 3 runs 75 %, whatever level is asked for.

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
    """Two-sided p-value of two arms reaching the target at the same cost.

    The log-rank statistic (Mantel, 1966): runs of A that reached the target less those expected
    were the arms alike. Its chi-squared distribution needs dozens of runs; here the runs are dealt
    to the arms in every way that there is, or in 20,000 at random where there are more (exact when
    both arms are censored at the same budget: Heller and Venkatraman, 1996). Three runs against
    three cannot give less than 0.1, four against four 0.03.

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
        extra = 1  # the deal that was seen is one of them
    as_far = int((np.abs(dealt) >= abs(scores[:size].sum()) - ALIKE).sum())
    return (as_far + extra) / (len(dealt) + extra)


def log_rank_scores(costs: ArrayLike, reached: ArrayLike) -> Floats:
    """(n,): 1 if reached, less Nelson and Aalen's hazard up to the run's cost.

    Their sum over an arm is the log-rank statistic, over all runs 0.
    """
    spent, events = _checked(costs, reached)
    at, hazard = _hazards(spent, events)
    return events - (spent[:, None] >= at[None, :]) @ hazard


def _hazards(spent: Floats, events: Bools) -> tuple[Floats, Floats]:
    """(k,), (k,): costs at which a run reached the target, and the share of those still going."""
    at = np.unique(spent[events])
    going = (spent[None, :] >= at[:, None]).sum(axis=1)
    came = (spent[events][None, :] == at[:, None]).sum(axis=1)
    return at, came / going


def _checked(costs: ArrayLike, reached: ArrayLike) -> tuple[Floats, Bools]:
    spent, events = np.asarray(costs, dtype=np.float64), np.asarray(reached, dtype=bool)
    if spent.ndim != 1 or spent.shape != events.shape or not len(spent):
        raise ValueError(f"costs {spent.shape} and reached {events.shape} are not one per run")
    if not np.isfinite(spent).all() or (spent < 0).any():
        raise ValueError("a cost is negative or not finite; give what the run had spent at its end")
    return spent, events


def _median(spent: Floats, events: Bools) -> float:
    costs, share = survival(spent, events)
    below = np.flatnonzero(share <= 0.5 + 1e-12)
    return float(costs[below[0]]) if len(below) else math.inf
