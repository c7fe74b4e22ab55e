"""Intervals of pooled error rates and of their differences, by the blockwise bootstrap."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

MIN_GROUPS = 5  # fewer speakers than this say nothing about other speakers
MAX_DRAWS = 2_000_000  # counts drawn at once, 16 MB
METHOD = "percentile bootstrap, stretched by Student's t for the number of groups"


class Difference(NamedTuple):
    """Rate of B minus rate of A, both on the same utterances.

    Attributes:
        value: difference of the pooled rates; negative when B is better.
        interval: (low, high) of the difference.
        probability_of_improvement: share of resamples in which B is strictly better.
    """

    value: float
    interval: tuple[float, float]
    probability_of_improvement: float


def bootstrap_interval(
    errors: ArrayLike,
    words: ArrayLike,
    groups: Sequence[str] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """(low, high) of sum(errors) / sum(words): percentile bootstrap, whole groups at a time.

    Utterances of one speaker err together, so that resampling them one by one makes the interval
    too narrow. Bisani and Ney, ICASSP 2004; Liu and Peng, 2020 (speakers as blocks). Of few groups
    the percentiles lie too close together as well: see ``stretch``.

    Args:
        errors: (B,) errors of each utterance.
        words: (B,) reference words of each utterance; zeros are allowed, all zeros are not.
        groups: (B,) the speaker of each utterance; None or fewer than 5 different ones: utterances
            are resampled (``resampling_unit`` says which).
        resamples: how many times to draw.
        seed: of the draws.
        level: coverage, 0.95 for a 95 % interval.

    Raises:
        ValueError: lengths differ, there are no words, or a count is negative.
    """
    blocks = _blocks([errors], words, groups)
    sums = _resample(blocks, resamples, seed)  # (resamples, 2)
    errors_of_all, words_of_all = blocks.sum(axis=0)
    resampled = _rates(sums[:, 0], sums[:, 1])
    low, high = _interval(errors_of_all / words_of_all, resampled, len(blocks), level)
    return max(0.0, low), high


def bootstrap_difference(
    errors_a: ArrayLike,
    errors_b: ArrayLike,
    words: ArrayLike,
    groups: Sequence[str] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """How much system B differs from system A on the same utterances.

    Both systems see the same resamples, which removes what they share: the hard speakers.
    Arguments are those of ``bootstrap_interval``.

    Raises:
        ValueError: lengths differ, there are no words, or a count is negative.
    """
    blocks = _blocks([errors_a, errors_b], words, groups)
    sums = _resample(blocks, resamples, seed)  # (resamples, 3)
    differences = _rates(sums[:, 1] - sums[:, 0], sums[:, 2])
    a, b, total = blocks.sum(axis=0)
    value = (b - a) / total
    better = differences[~np.isnan(differences)] < 0
    interval = _interval(value, differences, len(blocks), level)
    return Difference(value, interval, float(better.mean()))


def resampling_unit(groups: Sequence[str] | None) -> str:
    """What the bootstrap draws, in words: ``40 speakers``, or utterances and why."""
    if groups is None:
        return "utterances"
    number = len(set(groups))
    if number < MIN_GROUPS:
        return f"utterances, as there are fewer than {MIN_GROUPS} speakers ({number})"
    return f"{number} speakers"


def student(level: float, freedom: float) -> float:
    """The t that Student's distribution stays within, on both sides, with probability ``level``.

    With t = sqrt(freedom) tan(a) the density is proportional to cos(a) ** (freedom - 1), which is
    summed up to a right angle. To 1e-4 for 4 degrees of freedom or more and levels to 0.9999.
    """
    angle = np.linspace(0, np.pi / 2, 100_001)
    density = np.cos(angle) ** (freedom - 1)
    below = np.cumsum(density[1:] + density[:-1])
    return math.sqrt(freedom) * math.tan(np.interp(level, below / below[-1], angle[1:]))


def normal(level: float) -> float:
    """The same of the standard normal distribution: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + level) / 2)


def stretch(groups: int, level: float) -> float:
    """By how much a percentile interval of so few groups is too narrow.

    A resample scatters about the mean with the divisor n instead of n - 1, and percentiles know
    the normal distribution where the scatter was estimated: sqrt(n / (n - 1)) t / z, Hesterberg,
    "What teachers should know about the bootstrap", 2015. He moves the percentiles out until a
    normal distribution is as wide; here the distances from the estimate are multiplied, the same
    for a normal distribution, because percentiles end at the worst group: of five speakers not
    even the outermost would cover 98 %.
    """
    freedom = max(1, groups - 1)
    return math.sqrt(groups / freedom) * student(level, freedom) / normal(level)


def _blocks(errors: list[ArrayLike], words: ArrayLike, groups: Sequence[str] | None) -> Floats:
    """(G, len(errors) + 1): errors of each system and words, summed over each group."""
    columns = [np.asarray(column, dtype=np.float64) for column in (*errors, words)]
    lengths = [len(column) for column in columns] + ([] if groups is None else [len(groups)])
    if len(set(lengths)) != 1:
        raise ValueError(f"errors, words and groups differ in length: {lengths}")
    if any((column < 0).any() for column in columns):
        raise ValueError("a count of errors or words is negative")
    if columns[-1].sum() == 0:
        raise ValueError("no reference words, so there is no error rate")
    table = np.stack(columns, axis=1)
    if groups is None or len(set(groups)) < MIN_GROUPS:
        return table
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    blocks = np.zeros((len(names), table.shape[1]))
    np.add.at(blocks, index, table)
    return blocks


def _resample(blocks: Floats, resamples: int, seed: int) -> Floats:
    """(G, C) -> (resamples, C): column sums over G rows drawn with replacement.

    A resample is a row of counts, so that all sums are one matrix product per chunk.
    """
    number = len(blocks)
    random = np.random.default_rng(seed)
    chunk = max(1, MAX_DRAWS // number)
    sums = []
    for done in range(0, resamples, chunk):
        rows = min(chunk, resamples - done)
        drawn = random.integers(number, size=(rows, number))
        drawn += np.arange(rows)[:, None] * number  # one histogram for the whole chunk
        counts = np.bincount(drawn.ravel(), minlength=rows * number).reshape(rows, number)
        sums.append(counts @ blocks)
    return np.concatenate(sums)


def _rates(errors: Floats, words: Floats) -> Floats:
    """Errors per word; NaN for a resample that drew only utterances without words."""
    return np.divide(errors, words, out=np.full_like(errors, np.nan), where=words > 0)


def _interval(value: float, resampled: Floats, groups: int, level: float) -> tuple[float, float]:
    """Percentiles of the resamples, their distances from the value stretched for few groups."""
    tail = (1 - level) / 2
    low, high = value + stretch(groups, level) * (
        np.nanquantile(resampled, [tail, 1 - tail]) - value
    )
    return float(low), float(high)
