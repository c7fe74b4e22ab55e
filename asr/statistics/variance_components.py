"""Variance of an error rate over two crossed factors: seeds and speakers."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ASSUMED_FREEDOM = 14  # of a seed deviation not measured here but on two models of 8 seeds each


class Scatter(NamedTuple):
    """How much an estimate varies.

    Attributes:
        error: standard error.
        freedom: degrees of freedom of it.
        resampled: standard error that draws of a bootstrap have, which is another.
    """

    error: float
    freedom: float
    resampled: float


class Squares(NamedTuple):
    """Estimated variances of an estimate: each factor alone, with what is left in each of them.

    Attributes:
        speakers, seeds: of the means over the other factor.
        rest: of what neither factor explains; in ``speakers`` and in ``seeds`` as well.
        resampled: variance of the draws of a two-level bootstrap.
    """

    speakers: float
    seeds: float
    rest: float
    resampled: float


def scatter(blocks: Floats, signs: Floats, seed_deviation: float | None = None) -> Scatter:
    """How the signed mean of the models' rates varies over other speakers and other seeds.

    The variance is that of seeds + that of speakers - what is left, which both of them hold, and
    not less than either; Satterthwaite's degrees of freedom (1946; Gaylor and Hopper, 1969, where
    one is subtracted). A two-level bootstrap counts what is left three times (Owen, "The pigeonhole
    bootstrap", 2007), and its divisors, n instead of n - 1, make the factors too small.

    The variance between seeds is taken to be the same in all arms, as in a two-sample t-test: a few
    seeds tell too little for one each. With one seed per arm it cannot be known; then the scatter
    is that of these models over speakers, or what is assumed is added.

    Args:
        blocks: (G, models + 1) errors of every model at every speaker, and words.
        signs: (models,) what each model's rate is multiplied with before all are added: 1 / seeds
            of its arm, negative for the first of two arms.
        seed_deviation: standard deviation between seeds, relative to the rate, where every arm has
            one seed.
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
    """The two-way table of speakers and seeds, each arm's seeds apart; arguments as above.

    Errors at a speaker less what the model's rate predicts for its words are the linearised ratio
    (Cochran, Sampling Techniques, 1977, section 6.4), so that speakers may differ in words.
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
