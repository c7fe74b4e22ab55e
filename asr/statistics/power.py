"""Computes the smallest difference that a study can detect, before and after it is run."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from asr.statistics.censoring import EXACT
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


def expected_error(
    rate: float, seeds: int, speakers: int, words: int, of_seeds: float, of_speakers: float
) -> tuple[float, float]:
    """Returns the standard error of a difference of two arms before it is measured.

    Args:
        rate: expected error rate of both arms.
        seeds: number of seeds of each arm.
        speakers: number of speakers.
        words: number of reference words.
        of_seeds: standard deviation of an arm's rate between seeds, relative to the rate.
        of_speakers: standard deviation between speakers of the difference, relative to the rate.

    Returns:
        The error, and its degrees of freedom (Satterthwaite, 1946).
    """
    parts = [((of_seeds * rate) ** 2 / seeds, seeds - 1)] * 2
    parts += [((of_speakers * rate) ** 2 / speakers + 2 * rate * (1 - rate) / words, speakers - 1)]
    return combined(parts)


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
        error, freedom = combined(parts)
        if not error or power(abs(difference) / error, freedom, level) >= chance:
            return number
    return None


def detectable_cost(logs_a: ArrayLike, logs_b: ArrayLike, level: float = 0.95) -> float:
    """Returns the true ratio of costs that Welch's test of their logarithms finds 4 times in 5.

    The log-rank test, which decides, finds a slightly larger ratio as often.

    Args:
        logs_a: (n,) logarithms of the costs of two or more runs of one arm.
        logs_b: (m,) those of another arm.
        level: confidence level.
    """
    sides = [np.asarray(logs_a, np.float64), np.asarray(logs_b, np.float64)]
    parts = [(side.var(ddof=1) / len(side), len(side) - 1) for side in sides]
    error, freedom = combined(parts)
    return math.exp(error * detectable_shift(freedom, level)) if error else 1.0


def combined(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns the standard error of a sum of variances, and the degrees of freedom of that error.

    The approximation is that of Satterthwaite (1946); without any variance the freedom is infinite.
    """
    variance = sum(part for part, _ in parts)
    if not variance:
        return 0.0, math.inf
    return math.sqrt(variance), variance**2 / sum(part**2 / free for part, free in parts)


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
    assignments = math.comb(a + b, a)
    share = (2 if a == b else 1) / assignments
    return share if assignments <= EXACT else max(share, 1 / (EXACT + 1))


def seeds_to_decide(comparisons: int, level: float = 0.95) -> int | None:
    """Returns the fewest seeds per arm with which ``log_rank`` can be significant in a family.

    The family divides the rate of false positives by the number of comparisons (Bonferroni). The
    result is None if even 100 seeds are too few: the number of random assignments limits p.
    """
    enough = (n for n in range(2, MOST_SEEDS + 1) if comparisons * least_log_rank(n, n) < 1 - level)
    return next(enough, None)
