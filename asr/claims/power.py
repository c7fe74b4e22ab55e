"""What a study can find: the smallest difference that it detects, before and after it is run."""

import math

import numpy as np
from numpy.typing import ArrayLike

from asr.claims.censoring import ALIKE, EXACT, log_rank_scores
from asr.claims.student import detectable_shift

MOST_SEEDS = 100  # of an arm, up to which it is asked what could decide


def detectable_with_seeds(
    deviation: float, seeds: int, level: float = 0.95, power: float = 0.80
) -> float:
    """Smallest true difference of two arms that a two-sample t-test over seeds finds.

    Args:
        deviation: standard deviation of the error rate between seeds, absolute or relative; the
            result is in the same units.
        seeds: of each arm.
        level: 1 - the rate of false positives.
        power: share of repetitions in which such a difference is found.

    The shift of the noncentral t with 2 seeds - 2 degrees of freedom, times deviation *
    sqrt(2 / seeds) (Cohen, Statistical Power Analysis, 1988, chapter 2). Holds where the test set
    is so large that the seeds are all that scatters.

    Raises:
        ValueError: fewer than 2 seeds, or an impossible power.
    """
    if seeds < 2:
        raise ValueError(f"{seeds} seed per arm shows no scatter between seeds; give 2 or more")
    return deviation * math.sqrt(2 / seeds) * detectable_shift(2 * seeds - 2, level, power)


def detectable_with_words(
    disagreement: float,
    words: int,
    speakers: int,
    design_effect: float = 1.0,
    level: float = 0.95,
    power: float = 0.80,
) -> float:
    """Smallest true difference of two trained models' WER that a test set of this size shows.

    Args:
        disagreement: share of words that exactly one of the two models gets wrong; for models
            without a common error it is the sum of their WERs. What both get wrong cancels.
        words: of the test set.
        speakers: of the test set.
        design_effect: by how much more the difference varies than were words independent, 1 + (m -
            1) rho for m words per speaker of correlation rho (Kish, Survey Sampling, 1965).
        level: 1 - the rate of false positives.
        power: share of repetitions in which such a difference is found.

    Returns:
        an absolute difference of WERs. The error is that of McNemar's test, sqrt(disagreement /
        words), by Student's t with speakers - 1 degrees of freedom.

    Raises:
        ValueError: the disagreement is no share, there are no words, or fewer than 2 speakers.
    """
    if not 0 < disagreement <= 1:
        raise ValueError(f"a disagreement of {disagreement} is not above 0 and up to 1")
    if words < 1 or speakers < 2:
        raise ValueError(f"{words} words of {speakers} speakers show nothing; give 2 or more")
    error = math.sqrt(disagreement * design_effect / words)
    return error * detectable_shift(speakers - 1, level, power)


def least_log_rank(a: int, b: int) -> float:
    """The lowest p that ``log_rank`` can give for a runs against b, whatever they cost.

    One deal of C(a + b, a) is the most extreme: every run of one arm before every run of the other.
    Of arms alike in number the mirrored deal is as extreme, so that 3 against 3 give 0.1 or more, 5
    against 5 0.0079. Deals drawn at random end at one of those drawn.

    Raises:
        ValueError: an arm without runs.
    """
    if min(a, b) < 1:
        raise ValueError(f"{a} runs against {b} are no comparison; give 1 or more of each")
    return _share(2 if a == b else 1, math.comb(a + b, a))


def log_rank_floor(
    costs_a: ArrayLike, reached_a: ArrayLike, costs_b: ArrayLike, reached_b: ArrayLike
) -> float:
    """The lowest p that ``log_rank`` gives for these very runs, however they are dealt to two arms.

    Above ``least_log_rank`` where runs tie, as all do that were stopped at one budget: with k runs
    that reached the target, any deal of the others is as extreme. The statistic is a sum of scores,
    so the most extreme deals take the highest, or the lowest, and as many deals are alike as there
    are ways to choose among the runs that tie at the edge.

    Raises:
        ValueError: as ``log_rank``.
    """
    costs = np.concatenate([np.asarray(costs_a, float), np.asarray(costs_b, float)])
    reached = np.concatenate([np.asarray(reached_a, bool), np.asarray(reached_b, bool)])
    scores = np.sort(log_rank_scores(costs, reached))
    size, number = len(np.atleast_1d(costs_a)), len(scores)
    ends = [(scores[:size], scores[size - 1]), (scores[number - size :], scores[number - size])]
    farthest = max(abs(chosen.sum()) for chosen, _ in ends)
    if farthest < ALIKE:
        return 1.0
    ways = 0
    for chosen, edge in ends:
        if abs(chosen.sum()) > farthest - ALIKE:
            tied, taken = (int((np.abs(some - edge) < ALIKE).sum()) for some in (scores, chosen))
            ways += math.comb(tied, taken)
    return _share(ways, math.comb(number, size))


def seeds_to_decide(comparisons: int, level: float = 0.95) -> int | None:
    """Fewest seeds per arm with which ``log_rank`` can be significant in a family of comparisons.

    By Holm's procedure the lowest p of the family is multiplied by their number. None where not
    even 100 seeds could, as p ends at one deal of those drawn at random.
    """
    enough = (n for n in range(2, MOST_SEEDS + 1) if comparisons * least_log_rank(n, n) < 1 - level)
    return next(enough, None)


def comparisons_to_decide(least: float, level: float = 0.95) -> int:
    """Most comparisons of one family (Holm) in which a p of ``least`` is still significant."""
    return math.ceil((1 - level) / least - ALIKE) - 1


def _share(ways: int, deals: int) -> float:
    return ways / deals if deals <= EXACT else max(ways / deals, 1 / (EXACT + 1))
