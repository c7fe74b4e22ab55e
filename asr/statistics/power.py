"""Computes the smallest difference that a study can detect, before and after it is run."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from asr.statistics.censoring import ALIKE, EXACT, log_rank_scores
from asr.statistics.variance_components import Scatter

MOST_SEEDS = 100  # largest number of seeds per arm that is tried


def power(shift: float, freedom: float, level: float = 0.95) -> float:
    """Returns the probability that a two-sided t-test at this level finds a true difference.

    The square of a noncentral t variable has a noncentral F distribution, with 1 degree of freedom
    in the numerator.

    Args:
        shift: the true difference in standard errors (the noncentrality).
        freedom: degrees of freedom of the estimated standard error.
        level: confidence level, 1 minus the rate of false positives.
    """
    from scipy import special

    critical = special.stdtrit(freedom, (1 + level) / 2)
    return float(1 - special.ncfdtr(1, freedom, shift**2, critical**2))


@lru_cache(maxsize=1024)
def detectable_shift(freedom: float, level: float = 0.95, chance: float = 0.80) -> float:
    """Returns the true difference, in standard errors, that a t-test finds with this chance.

    Args:
        freedom: degrees of freedom of the estimated standard error.
        level: confidence level, 1 minus the rate of false positives.
        chance: power of the test.

    Raises:
        ValueError: the chance is not between 1 - level and 1.
    """
    from scipy import optimize

    if not 1 - level < chance < 1:
        raise ValueError(
            f"a power of {chance} is not between the rate of false positives, {1 - level:.3g}, and "
            "1; give 0.8"
        )
    high = 1.0
    while power(high, freedom, level) < chance:
        high *= 2
    found = optimize.brentq(lambda shift: power(shift, freedom, level) - chance, 0, high)
    return float(found)


def seeds_to_find(
    difference: float,
    speakers: Scatter,
    deviations: Sequence[float],
    level: float = 0.95,
    chance: float = 0.80,
) -> int | None:
    """Returns the fewest seeds per arm, at least 3, that find a true difference with this chance.

    Args:
        difference: the true difference of two error rates.
        speakers: variation of the difference over speakers, which more seeds do not reduce.
        deviations: standard deviation of the rate between seeds, for each arm.
        level: confidence level, 1 minus the rate of false positives.
        chance: power of the test.

    Returns:
        None if ``MOST_SEEDS`` seeds per arm are too few.
    """
    for number in range(3, MOST_SEEDS + 1):
        parts = [(deviation**2 / number, number - 1) for deviation in deviations]
        parts.append((speakers.error**2, speakers.freedom))
        variance = sum(part for part, _ in parts)
        if not variance:
            return number
        freedom = variance**2 / sum(part**2 / free for part, free in parts)
        if power(abs(difference) / math.sqrt(variance), freedom, level) >= chance:
            return number
    return None


def least_log_rank(a: int, b: int) -> float:
    """Returns the lowest p that ``log_rank`` can give for ``a`` against ``b`` runs of any cost.

    One of the C(a + b, a) assignments of runs to arms is the most extreme: all runs of one arm cost
    less than all runs of the other. With equal numbers of runs, the opposite assignment is as
    extreme. So p is at least 0.1 for 3 against 3 runs, and 0.0079 for 5 against 5. If ``log_rank``
    draws n random assignments, p is at least 1 / (n + 1).

    Raises:
        ValueError: an arm has no runs.
    """
    if min(a, b) < 1:
        raise ValueError(f"{a} runs against {b} cannot be compared; give 1 or more of each arm")
    return _share(2 if a == b else 1, math.comb(a + b, a))


def log_rank_floor(
    costs_a: ArrayLike, reached_a: ArrayLike, costs_b: ArrayLike, reached_b: ArrayLike
) -> float:
    """Returns the lowest p that ``log_rank`` gives for any assignment of these runs to two arms.

    It is above ``least_log_rank`` if runs tie, for instance if several runs stopped at one budget
    without reaching the target. The statistic is a sum of scores, so the most extreme assignments
    give an arm the runs with the highest, or the lowest, scores. If several runs tie for the last
    place in the arm, each choice among them is an equally extreme assignment.

    Raises:
        ValueError: the costs or the targets reached are not valid; see ``log_rank``.
    """
    costs = np.concatenate([np.asarray(costs_a, float), np.asarray(costs_b, float)])
    reached = np.concatenate([np.asarray(reached_a, bool), np.asarray(reached_b, bool)])
    scores = np.sort(log_rank_scores(costs, reached))
    size, number = len(np.atleast_1d(costs_a)), len(scores)
    lowest, highest = scores[:size], scores[number - size :]
    extremes = [(lowest, lowest[-1]), (highest, highest[0])]  # with the score of the last place
    largest = max(abs(chosen.sum()) for chosen, _ in extremes)
    if largest < ALIKE:
        return 1.0
    ways = 0
    for chosen, last in extremes:
        if abs(chosen.sum()) > largest - ALIKE:
            tied, taken = (int((np.abs(some - last) < ALIKE).sum()) for some in (scores, chosen))
            ways += math.comb(tied, taken)
    return _share(ways, math.comb(number, size))


def seeds_to_decide(comparisons: int, level: float = 0.95) -> int | None:
    """Returns the fewest seeds per arm with which ``log_rank`` can be significant in a family.

    Holm's procedure multiplies the lowest p by the number of comparisons. The result is None if
    even 100 seeds are too few: the number of random assignments limits p.
    """
    enough = (n for n in range(2, MOST_SEEDS + 1) if comparisons * least_log_rank(n, n) < 1 - level)
    return next(enough, None)


def comparisons_to_decide(least: float, level: float = 0.95) -> int:
    """Returns the largest number of comparisons in which a p of ``least`` is significant (Holm)."""
    return math.ceil((1 - level) / least - ALIKE) - 1


def _share(ways: int, assignments: int) -> float:
    """Returns the p-value if so many of the assignments are the most extreme."""
    share = ways / assignments
    return share if assignments <= EXACT else max(share, 1 / (EXACT + 1))
