"""Computes the smallest difference that a study can detect, before and after it is run."""

import math
from collections.abc import Sequence
from functools import lru_cache

from asr.statistics.variance_components import Floats, Scatter, combined, welch

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


def detectable_cost(logs_a: Floats, logs_b: Floats, level: float = 0.95) -> float:
    """Returns the true ratio of costs that ``ratio_of_costs`` finds 4 times in 5.

    It holds if all runs reach the target. As it rests on the scatter of few runs, it is itself an
    estimate: see ``Comparison.detectable``.

    Args:
        logs_a: (n,) logarithms of the costs of two or more runs of one arm.
        logs_b: (m,) those of another arm.
        level: confidence level.
    """
    found = welch(logs_a, logs_b)
    return math.exp(found.error * detectable_shift(found.freedom, level))
