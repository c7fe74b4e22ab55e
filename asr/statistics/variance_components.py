"""Estimates the variance of an error rate over two crossed factors: seeds and speakers."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ASSUMED_FREEDOM = 14  # an assumed seed deviation comes from two models with 8 seeds each


class Scatter(NamedTuple):
    """The variation of an estimate.

    Attributes:
        error: standard error.
        freedom: degrees of freedom of the standard error.
        resampled: standard deviation of bootstrap draws, which differs from the standard error.
    """

    error: float
    freedom: float
    resampled: float


class Squares(NamedTuple):
    """The variance components of an estimate; each factor includes the residual variance.

    Attributes:
        speakers, seeds: variance of the means over the other factor.
        rest: residual variance, which is part of both ``speakers`` and ``seeds``.
        resampled: variance of the draws of a two-level bootstrap.
    """

    speakers: float
    seeds: float
    rest: float
    resampled: float


def scatter(blocks: Floats, signs: Floats, seed_deviation: float | None = None) -> Scatter:
    """The variation of the weighted sum of the models' rates over speakers and seeds.

    The variance is seeds + speakers - residual, because both factors include the residual; it is at
    least as large as each factor. The degrees of freedom are Satterthwaite's (1946; Gaylor and
    Hopper, 1969, for the difference). A two-level bootstrap counts the residual three times (Owen,
    "The pigeonhole bootstrap", 2007), and its divisors n instead of n - 1 make factors too small.

    All arms are assumed to have the same variance between seeds, as in a two-sample t-test, because
    a few seeds are not enough to estimate it for each arm. With one seed per arm, it is unknown:
    the result is the variation of these models over speakers, plus ``seed_deviation`` if given.

    Args:
        blocks: (G, models + 1) errors of each model for each speaker, and words in the last column.
        signs: (models,) weights of the rates in the sum: 1 / number of seeds of the arm, negative
            for the first of two arms.
        seed_deviation: standard deviation between seeds, relative to the rate, if each arm has one
            seed.
    """
    number = max(1, len(blocks) - 1)
    arms = len(np.unique(signs))
    found = squares(blocks, signs)
    if len(signs) > arms:
        between = len(signs) - arms
        variance = max(found.speakers, found.seeds, found.seeds + found.speakers - found.rest)
        parts = [(found.seeds, between), (found.speakers, number), (found.rest, between * number)]
        least = min(between, number)
    else:
        rates = blocks[:, :-1].sum(axis=0) / blocks[:, -1].sum()
        assumed = float((((seed_deviation or 0.0) * rates) ** 2).sum())
        variance = found.speakers + assumed
        parts = [(found.speakers, number), (assumed, ASSUMED_FREEDOM)]
        least = min(number, ASSUMED_FREEDOM)
    divisor = sum(square**2 / freedom for square, freedom in parts)
    return Scatter(
        error=math.sqrt(variance),
        freedom=max(least, variance**2 / divisor) if divisor else number,
        resampled=math.sqrt(found.resampled),
    )


def squares(blocks: Floats, signs: Floats) -> Squares:
    """Variance components of the table of speakers and seeds; seeds are nested in arms.

    It has the errors for each speaker minus those that the model's rate predicts for the speaker's
    words (Cochran, Sampling Techniques, 1977, section 6.4). Arguments are those of ``scatter``.
    """
    total = blocks[:, -1].sum()
    rates = blocks[:, :-1].sum(axis=0) / total  # (models,)
    off = (blocks[:, :-1] - rates * blocks[:, -1:]) / total  # (G, models), 0 summed over G
    arms = [np.flatnonzero(signs == sign) for sign in np.unique(signs)]
    counts = np.array([len(arm) for arm in arms])
    between = np.array([((rates[arm] - rates[arm].mean()) ** 2).sum() for arm in arms])
    left = np.array(
        [((off[:, arm] - off[:, arm].mean(axis=1, keepdims=True)) ** 2).sum() for arm in arms]
    )
    grown = len(blocks) / max(1, len(blocks) - 1)
    over_speakers = float(((off @ signs) ** 2).sum())
    pooling = (1 / counts).sum() / max(1, (counts - 1).sum())
    return Squares(
        speakers=grown * over_speakers,
        seeds=float(pooling * between.sum()),
        rest=float(grown * pooling * left.sum()),
        resampled=over_speakers + float(((between + left) / counts**2).sum()),
    )
