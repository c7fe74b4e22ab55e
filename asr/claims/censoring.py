"""The cost of reaching a target when some runs never do: censored, never dropped."""

import math
from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asr.claims.student import student

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
    at = np.unique(spent[events])
    going = (spent[None, :] >= at[:, None]).sum(axis=1)  # (k,) runs that might reach it there
    came = (spent[events][None, :] == at[:, None]).sum(axis=1)
    return Survival(at, np.cumprod(1 - came / going))


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
    draws = _drawn(spent, events, resamples, seed, _median)
    interval = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return Estimate(_median(spent, events), (float(interval[0]), float(interval[1])))


def mean_cost(
    costs: ArrayLike,
    reached: ArrayLike,
    limit: float,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Mean cost spent on the target by runs that give up at ``limit``: the restricted mean.

    The area below the survival curve up to the limit (Irwin, 1949; Royston and Parmar, 2013). Use
    one limit for all arms, the budget. Interval: bootstrap over runs, standard error stretched by
    sqrt(n / (n - 1)) and taken by Student's t, as runs are few.

    Raises:
        ValueError: as ``survival``, or a run stopped below the limit without having reached the
            target and no other run tells what it would have spent.
    """
    spent, events = _checked(costs, reached)
    if spent.max() < limit and not events[spent == spent.max()].all():
        raise ValueError(
            f"no run was watched up to {limit:g}; give a limit of at most {spent.max():g}"
        )
    number = len(spent)

    def area(some: Floats, came: Bools) -> float:
        return _area(some, came, limit)

    value = area(spent, events)
    if number < 2:
        return Estimate(value, (0.0, limit))
    draws = _drawn(spent, events, resamples, seed, area)
    error = float(draws.std()) * math.sqrt(number / (number - 1))
    reach = student(level, number - 1) * error
    return Estimate(value, (max(0.0, value - reach), min(limit, value + reach)))


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
    at = np.unique(spent[events])
    going = (spent[None, :] >= at[:, None]).sum(axis=1)
    came = (spent[events][None, :] == at[:, None]).sum(axis=1)
    hazard = (spent[:, None] >= at[None, :]) @ (came / going)
    return events - hazard


def olympic_mean(costs: ArrayLike, reached: ArrayLike) -> float:
    """MLPerf's score: mean without the fastest and the slowest run.

    A run that did not reach the target is the slowest; with two such runs the result is infinite,
    as MLPerf has no score for them.

    Raises:
        ValueError: as ``survival``, or fewer than 3 runs.
    """
    spent, events = _checked(costs, reached)
    if len(spent) < 3:
        raise ValueError(f"{len(spent)} runs leave none between fastest and slowest; give 3")
    return float(np.sort(np.where(events, spent, np.inf))[1:-1].mean())


def reference_limit(reference: ArrayLike, runs: int, chance: float = 0.05) -> float:
    """Lowest mean of ``runs`` that is not significantly faster than the reference's convergence.

    MLPerf's reference convergence points: epochs (or updates) that the plain implementation needs;
    one that converges in significantly fewer has changed the training. One-sided two-sample t-test,
    fastest and slowest dropped from both, the deviation being that of the reference (divisor n, as
    in MLPerf's checker).

    Args:
        reference: (N,) epochs of the reference runs, all of which reached the target.
        runs: of the implementation under test, ends included.
        chance: of refusing an implementation that changed nothing.

    Raises:
        ValueError: fewer than 3 runs of either.
    """
    epochs = np.sort(np.asarray(reference, dtype=np.float64))[1:-1]
    kept = runs - 2
    if not len(epochs) or kept < 1:
        raise ValueError("fewer than 3 runs leave none between fastest and slowest; give more")
    error = float(epochs.std()) * math.sqrt(1 / len(epochs) + 1 / kept)
    freedom = max(1, len(epochs) + kept - 2)
    return float(epochs.mean()) - student(1 - 2 * chance, freedom) * error


def _checked(costs: ArrayLike, reached: ArrayLike) -> tuple[Floats, Bools]:
    spent, events = np.asarray(costs, dtype=np.float64), np.asarray(reached, dtype=bool)
    if spent.ndim != 1 or spent.shape != events.shape or not len(spent):
        raise ValueError(f"costs {spent.shape} and reached {events.shape} are not one per run")
    if not np.isfinite(spent).all() or (spent < 0).any():
        raise ValueError("a cost is negative or not finite; give what the run had spent at its end")
    return spent, events


def _drawn(
    spent: Floats,
    events: Bools,
    resamples: int,
    seed: int,
    statistic: Callable[[Floats, Bools], float],
) -> Floats:
    rows = np.random.default_rng(seed).integers(len(spent), size=(resamples, len(spent)))
    unique, back = np.unique(np.sort(rows, axis=1), axis=0, return_inverse=True)  # 126 for 5 runs
    return np.array([statistic(spent[row], events[row]) for row in unique])[back]


def _median(spent: Floats, events: Bools) -> float:
    costs, share = survival(spent, events)
    below = np.flatnonzero(share <= 0.5 + 1e-12)
    return float(costs[below[0]]) if len(below) else math.inf


def _area(spent: Floats, events: Bools, limit: float) -> float:
    costs, share = survival(spent, events)
    edges = np.minimum(np.concatenate([[0.0], costs, [np.inf]]), limit)
    return float(np.diff(edges) @ np.concatenate([[1.0], share]))
