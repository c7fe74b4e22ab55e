"""What a study can find: the smallest difference that it detects, before and after it is run."""

import math

from asr.claims.student import detectable_shift


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
