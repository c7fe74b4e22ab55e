"""Estimates the variance of an error rate over two crossed factors: seeds and speakers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Scatter(NamedTuple):
    """The standard error of an estimate, and the degrees of freedom of this error."""

    error: float
    freedom: int


class Arm(NamedTuple):
    """The error rate of an arm with its variance components.

    Attributes:
        rate: error rate, the mean over seeds.
        models: number of trained models, one for each seed.
        off: (G,) errors of each speaker beyond those that the rate predicts for the speaker's
            words, divided by all words: means over seeds, with the sum 0.
        seeds: variance of the rate between seeds, divided by their number; 0 for one seed.
        rest: residual variance of the rate; ``seeds`` and the variance over speakers include it.
    """

    rate: float
    models: int
    off: Floats
    seeds: float
    rest: float


def arm_of(errors: Floats, words: Floats) -> Arm:
    """Variance components of an arm, with the ratio estimator of Cochran (1977, section 6.4).

    Args:
        errors: (G, seeds) errors of each model for each speaker.
        words: (G,) words of each speaker.
    """
    total, number = words.sum(), errors.shape[1]
    rates = errors.sum(axis=0) / total
    off = (errors - rates * words[:, None]) / total  # (G, seeds)
    mean = off.mean(axis=1)
    pairs = max(1, number - 1) * number
    left = unbiased(len(words)) * ((off - mean[:, None]) ** 2).sum() / pairs
    between = ((rates - rates.mean()) ** 2).sum() / pairs
    return Arm(float(rates.mean()), number, mean, float(between), float(left))


def unbiased(number: int) -> float:
    """The factor n / (n - 1) of a variance that was estimated from n values; 1 for one value."""
    return number / max(1, number - 1)


def over_speakers(off: Floats) -> float:
    """The variance of a rate or of a difference over speakers, from its ``Arm.off`` (G,)."""
    return float(unbiased(len(off)) * (off**2).sum())


def scatter(arms: Sequence[Arm]) -> Scatter:
    """The variation of the rate of one arm, or of the difference of two arms.

    The variance is seeds + speakers - residual, because both factors include the residual; it is at
    least as large as each factor. The degrees of freedom are Satterthwaite's (1946; Gaylor and
    Hopper, 1969, for the difference). Each arm has its own variance between seeds, as in the test
    of Welch (1947), because encoders differ in it; the degrees of freedom are rounded down, because
    Welch's test finds too many differences with 3 to 5 seeds if the variances are very unequal.
    With one seed per arm, this variance is unknown: the result is the variation of these trained
    models over speakers.
    """
    off = arms[-1].off - sum(arm.off for arm in arms[:-1])
    number = max(1, len(off) - 1)
    speakers = over_speakers(off)
    seeds, rest = (sum(part) for part in zip(*((a.seeds, a.rest) for a in arms), strict=True))
    variance = max(speakers, seeds, seeds + speakers - rest)
    parts = [(speakers, number)]
    parts += [(arm.seeds, max(1, arm.models - 1)) for arm in arms]
    parts += [(arm.rest, max(1, arm.models - 1) * number) for arm in arms]
    divisor = sum(square**2 / freedom for square, freedom in parts)
    least = min([number, *(arm.models - 1 for arm in arms if arm.models > 1)])
    freedom = max(least, math.floor(variance**2 / divisor + 1e-9)) if divisor else number
    return Scatter(math.sqrt(variance), freedom)


def welch(a: Floats, b: Floats) -> Scatter:
    """The standard error of the difference of two means with unequal variances (Welch, 1947).

    The degrees of freedom are rounded down, see ``scatter``.

    Args:
        a: (n,) two or more values.
        b: (m,) two or more other values.
    """
    parts = [(side.var(ddof=1) / len(side), len(side) - 1) for side in (a, b)]
    error, freedom = combined(parts)
    least = min(free for _, free in parts)
    return Scatter(error, max(least, math.floor(freedom + 1e-9)) if error else least)


def combined(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns the standard error of a sum of variances, and the degrees of freedom of that error.

    The approximation is that of Satterthwaite (1946); without any variance the freedom is infinite.
    """
    variance = sum(part for part, _ in parts)
    if not variance:
        return 0.0, math.inf
    return math.sqrt(variance), variance**2 / sum(part**2 / free for part, free in parts)
