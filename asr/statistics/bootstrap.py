"""Computes bootstrap intervals of error rates and of differences, over speakers and seeds."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from asr.statistics.variance_components import Floats, Scatter, scatter

MIN_GROUPS = 5  # fewer speakers do not represent other speakers
MAX_DRAWS = 2_000_000  # largest number of counts in memory (16 MB)
SHAPE = 0.95  # coverage of the percentiles that give the lengths of the sides of an interval
METHOD = "percentile bootstrap, stretched by Student's t for the number of groups"


class Difference(NamedTuple):
    """Rate of B minus rate of A, both on the same utterances.

    Attributes:
        value: difference of the pooled rates (means over seeds); negative if B is better.
        scatter: standard error of the value, and the degrees of freedom of this error.
        units: (below, above) lengths that one unit of Student's t has on each side of the value;
            both equal the standard error if the draws are symmetric.
        level: coverage of the interval.
        seeds_measured: whether an arm has at least two seeds. If not, and if no deviation was
            assumed, the result holds for the two trained models only, not for other seeds.
    """

    value: float
    scatter: Scatter
    units: tuple[float, float]
    level: float
    seeds_measured: bool

    @property
    def interval(self) -> tuple[float, float]:
        """Interval (low, high); each side is its unit times Student's t for the level."""
        t = _quantile(self.level, self.scatter.freedom)
        return self.value - t * self.units[0], self.value + t * self.units[1]

    @property
    def p(self) -> float:
        """Two-sided p-value: 1 minus the level of the interval that ends at 0.

        Unlike the p-value of a count of resamples, it has no lower bound. A permutation test would
        be exact, but only for two fixed models: it exchanges the two models for each speaker, which
        leaves out the variation between seeds.
        """
        from scipy import special

        unit = self.units[0] if self.value > 0 else self.units[1]  # 0 lies on this side
        if unit == 0:
            return float(self.value == 0)
        return float(2 * special.stdtr(self.scatter.freedom, -abs(self.value) / unit))


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
    seeds, the rate is the mean over seeds, and seeds are resampled too (see ``scatter``).

    Args:
        errors: (B,) errors of each utterance; or (seeds, B), a row for each trained model.
        words: (B,) reference words of each utterance; zeros are allowed, all zeros are not.
        groups: (B,) the speaker of each utterance. With None or fewer than 5 different speakers,
            single utterances are resampled (see ``resampling_unit``).
        resamples: number of draws.
        seed: random seed of the draws.
        level: coverage, 0.95 for a 95 % interval.

    Raises:
        ValueError: lengths differ, there are no words or no seeds, or a count is negative.
    """
    low, high = _estimate([errors], words, groups, resamples, seed, level).interval
    return max(0.0, low), high


def bootstrap_difference(
    errors_a: ArrayLike,
    errors_b: ArrayLike,
    words: ArrayLike,
    groups: Sequence[str] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    seed_deviation: float | None = None,
) -> Difference:
    """The difference of the error rates of systems B and A on the same utterances.

    Each resample has the same speakers for both systems, so that difficult speakers cancel out.
    The seeds of A and B are drawn independently; their numbers may differ.

    Args:
        errors_a: (B,) or (seeds, B) errors of A.
        errors_b: (B,) or (seeds, B) errors of B.
        words: (B,) reference words.
        groups: (B,) speakers, as in ``bootstrap_interval``.
        resamples: number of draws.
        seed: random seed of the draws.
        level: coverage of the interval.
        seed_deviation: standard deviation of the rate between seeds, relative to the rate, to
            assume if no arm has two seeds. None: compare the two trained models only.

    Raises:
        ValueError: lengths differ, there are no words or no seeds, or a count is negative.
    """
    both = [errors_a, errors_b]
    return _estimate(both, words, groups, resamples, seed, level, seed_deviation)


def _estimate(
    arms: list[ArrayLike],
    words: ArrayLike,
    groups: Sequence[str] | None,
    resamples: int,
    seed: int,
    level: float,
    seed_deviation: float | None = None,
) -> Difference:
    """The rate of one arm, or the difference of two arms, with its standard error and units."""
    blocks, signs = _blocks(arms, words, groups)
    sums = blocks.sum(axis=0)
    value = float(sums[:-1] @ signs / sums[-1])
    found = scatter(blocks, signs, seed_deviation)
    units = _units(value, _draws(blocks, signs, resamples, seed), found)
    return Difference(value, found, units, level, seeds_measured=len(signs) > len(arms))


def _quantile(level: float, freedom: float) -> float:
    """The t for which a Student variable lies in [-t, t] with probability ``level``."""
    from scipy import special

    return float(special.stdtrit(freedom, (1 + level) / 2))


def resampling_unit(groups: Sequence[str] | None) -> str:
    """Says what the bootstrap resamples: ``40 speakers``, or utterances with the reason."""
    if groups is None:
        return "utterances"
    number = len(set(groups))
    if number < MIN_GROUPS:
        return f"utterances, as there are fewer than {MIN_GROUPS} speakers ({number})"
    return f"{number} speakers"


def _blocks(
    errors: list[ArrayLike], words: ArrayLike, groups: Sequence[str] | None
) -> tuple[Floats, Floats]:
    """Sums errors per model and words over each group, (G, seeds + 1); returns weights, too."""
    arms = [np.atleast_2d(np.asarray(arm, dtype=np.float64)) for arm in errors]
    columns = [*(model for arm in arms for model in arm), np.asarray(words, dtype=np.float64)]
    lengths = [len(column) for column in columns] + ([] if groups is None else [len(groups)])
    if len(set(lengths)) != 1:
        raise ValueError(f"errors, words and groups differ in length: {lengths}")
    if not all(map(len, arms)):
        raise ValueError("an arm has no seed, so there is nothing to compare; give a row of errors")
    if any((column < 0).any() for column in columns):
        raise ValueError("a count of errors or words is negative")
    if columns[-1].sum() == 0:
        raise ValueError("no reference words, so there is no error rate")
    signs = np.concatenate(
        [
            np.full(len(arm), (1 if arm is arms[-1] else -1) / len(arm))  # B - A, or one arm
            for arm in arms
        ]
    )
    table = np.stack(columns, axis=1)
    if groups is None or len(set(groups)) < MIN_GROUPS:
        return table, signs
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    blocks = np.zeros((len(names), table.shape[1]))
    np.add.at(blocks, index, table)
    return blocks, signs


def _draws(blocks: Floats, signs: Floats, resamples: int, seed: int) -> Floats:
    """Draws (resamples,) values; models share the drawn speakers, and arms draw their own seeds."""
    sums = _resample(blocks, resamples, seed)  # (resamples, seeds + 1)
    random = np.random.default_rng([seed, 1])
    weights = np.empty((resamples, len(signs)))
    for sign in np.unique(signs):
        arm = np.flatnonzero(signs == sign)
        weights[:, arm] = sign * random.multinomial(len(arm), [1 / len(arm)] * len(arm), resamples)
    errors, counted = (sums[:, :-1] * weights).sum(axis=1), sums[:, -1]
    # NaN for a resample that drew only utterances without words.
    return np.divide(errors, counted, out=np.full_like(errors, np.nan), where=counted > 0)


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


def _units(value: float, draws: Floats, found: Scatter) -> tuple[float, float]:
    """The lengths of one unit of Student's t below and above the value.

    Percentiles of the draws give the ratio of the two sides. With few groups, the standard
    deviation of the draws is too small, so the standard error replaces it, and Student's t replaces
    the normal z (Hesterberg, "What teachers should know about the bootstrap", 2015). Hesterberg
    takes more extreme percentiles. Here the distances from the value are multiplied instead (both
    agree for a normal distribution), because percentiles cannot go beyond the worst group: with
    five speakers, even the most extreme percentiles would cover less than 98 %.
    """
    reach = np.nanquantile(draws, [(1 - SHAPE) / 2, (1 + SHAPE) / 2]) - value
    grown = found.error / found.resampled if found.resampled else 1.0
    below, above = np.maximum(0, [-1, 1] * reach) * grown / NormalDist().inv_cdf((1 + SHAPE) / 2)
    return float(below), float(above)
