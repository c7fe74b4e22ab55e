"""Computes the interval of an error rate by a bootstrap over speakers."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from asr.statistics.variance_components import Arm, Floats, arm_of, scatter

FEW = 5  # with fewer speakers, percentiles of draws say nothing about the shape of an interval
MAX_DRAWS = 2_000_000  # largest number of counts in memory (16 MB)
SHAPE = 0.95  # coverage of the percentiles that give the lengths of the sides of an interval
METHOD = "percentile bootstrap, stretched by Student's t for the number of groups"


def bootstrap_interval(
    errors: ArrayLike,
    words: ArrayLike,
    groups: Sequence[str] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of sum(errors) / sum(words): a percentile bootstrap of whole groups.

    Errors in the utterances of one speaker are correlated, so an interval from single utterances is
    too narrow. Bisani and Ney, ICASSP 2004; Liu and Peng, 2020 (speakers as blocks). With several
    seeds, the rate is the mean over seeds, and their scatter is part of the interval.

    Percentiles of the draws give the ratio of the two sides. With few groups, the standard
    deviation of the draws is too small, so the standard error (``scatter``) replaces it, and
    Student's t replaces the normal z (Hesterberg, "What teachers should know about the bootstrap",
    2015). Hesterberg takes more extreme percentiles. Here the distances from the rate are
    multiplied instead (both agree for a normal distribution), because percentiles cannot go beyond
    the worst group. With 2 to 4 groups, both sides are equal: Student's interval.

    Args:
        errors: (B,) errors of each utterance; or (seeds, B), a row for each trained model.
        words: (B,) reference words of each utterance; zeros are allowed, all zeros are not.
        groups: (B,) the speaker of each utterance. With None or one speaker, single utterances are
            resampled, and the interval does not hold for other speakers.
        resamples: number of draws.
        seed: random seed of the draws.
        level: coverage, 0.95 for a 95 % interval.

    Raises:
        ValueError: lengths differ, there are no words or no seeds, or a count is negative.
    """
    from scipy import special

    (arm,), counted = by_group([errors], words, groups)
    found = scatter([arm])
    below = above = found.error
    if len(counted) >= FEW and arm.off.any():
        own = arm.off + arm.rate * counted / counted.sum()  # a group's part of the rate
        sums = _resample(np.stack([own, counted / counted.sum()], axis=1), resamples, seed)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = sums[:, 0] / sums[:, 1] - arm.rate
        drawn[sums[:, 1] == 0] = np.nan  # only utterances without words
        sides = np.maximum(0, [-1, 1] * np.nanquantile(drawn, [(1 - SHAPE) / 2, (1 + SHAPE) / 2]))
        z = NormalDist().inv_cdf((1 + SHAPE) / 2)
        below, above = sides * found.error / np.sqrt((arm.off**2).sum()) / z
    t = special.stdtrit(found.freedom, (1 + level) / 2)
    return max(0.0, float(arm.rate - t * below)), float(arm.rate + t * above)


def resampling_unit(groups: Sequence[str] | None) -> str:
    """Says what an interval holds for: ``40 speakers``, or utterances with the reason."""
    if groups is None:
        return "utterances"
    number = len(set(groups))
    if number < 2:
        return "utterances of one speaker, so it does not hold for other speakers"
    return f"{number} speakers" + (" (too few: Student's t alone)" if number < FEW else "")


def by_group(
    arms: Sequence[ArrayLike], words: ArrayLike, groups: Sequence[str] | None
) -> tuple[list[Arm], Floats]:
    """Sums errors and words over groups; returns the components of each arm and words (G,).

    Arguments and errors are those of ``bootstrap_interval``.
    """
    tables = [np.atleast_2d(np.asarray(arm, dtype=np.float64)) for arm in arms]
    columns = [*(model for table in tables for model in table), np.asarray(words, np.float64)]
    lengths = [len(column) for column in columns] + ([] if groups is None else [len(groups)])
    if len(set(lengths)) != 1:
        raise ValueError(f"errors, words and groups differ in length: {lengths}")
    if not all(map(len, tables)):
        raise ValueError("an arm has no seed, so there is nothing to compare; give a row of errors")
    if any((column < 0).any() for column in columns):
        raise ValueError("a count of errors or words is negative")
    if columns[-1].sum() == 0:
        raise ValueError("no reference words, so there is no error rate")
    blocks = np.stack(columns, axis=1)
    if groups is not None and len(set(groups)) > 1:
        names, index = np.unique(np.asarray(groups), return_inverse=True)
        blocks = np.zeros((len(names), blocks.shape[1]))
        np.add.at(blocks, index, np.stack(columns, axis=1))
    ends = np.cumsum([len(table) for table in tables])
    parts = np.split(blocks[:, :-1], ends[:-1], axis=1)
    return [arm_of(part, blocks[:, -1]) for part in parts], blocks[:, -1]


def _resample(blocks: Floats, resamples: int, seed: int) -> Floats:
    """Column sums (resamples, C) over G rows that are drawn with replacement.

    A resample is a row of counts; one matrix product computes all sums of a chunk.
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
