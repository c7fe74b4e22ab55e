"""Bootstrap intervals of error rates and their differences, over speakers and seeds."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from asr.statistics.variance_components import Floats, Scatter, scatter

MIN_GROUPS = 5  # fewer speakers than this say nothing about other speakers
MAX_DRAWS = 2_000_000  # counts drawn at once, 16 MB
SHAPE = 0.95  # of the percentiles that tell how long each side of an interval is
METHOD = "percentile bootstrap, stretched by Student's t for the number of groups"


class Difference(NamedTuple):
    """Rate of B minus rate of A, both on the same utterances.

    Attributes:
        value: difference of the pooled rates, means over seeds; negative when B is better.
        scatter: its standard error, and degrees of freedom of that.
        units: what a t of 1 is worth (below, above) the value; the scatter's error where draws are
            distributed evenly.
        level: coverage of the interval.
        seeds_measured: whether an arm has two seeds. If not, and unless something was assumed,
            this tells two trained models apart and says nothing of what other seeds had given.
    """

    value: float
    scatter: Scatter
    units: tuple[float, float]
    level: float
    seeds_measured: bool

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high): as many units to each side as Student's t says for the level."""
        t = _quantile(self.level, self.scatter.freedom)
        return self.value - t * self.units[0], self.value + t * self.units[1]

    @property
    def p(self) -> float:
        """Two-sided p-value: 1 - level of the interval that ends at 0, so that they agree.

        Neither resamples nor speakers are counted, so that they set it no floor. A permutation test
        would be exact, but for two fixed models only: what one may permute, the two names at each
        speaker, leaves the scatter of the seeds out.
        """
        from scipy import special

        unit = self.units[0] if self.value > 0 else self.units[1]  # of the side on which 0 lies
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
    """(low, high) of sum(errors) / sum(words): percentile bootstrap, whole groups at a time.

    Utterances of one speaker err together, so that resampling them one by one makes the interval
    too narrow. Bisani and Ney, ICASSP 2004; Liu and Peng, 2020 (speakers as blocks). With several
    seeds the rate is the mean of theirs, and seeds are drawn as well: see ``scatter``.

    Args:
        errors: (B,) errors of each utterance; or (seeds, B), a row for each trained model.
        words: (B,) reference words of each utterance; zeros are allowed, all zeros are not.
        groups: (B,) the speaker of each utterance; None or fewer than 5 different ones: utterances
            are resampled (``resampling_unit`` says which).
        resamples: how many times to draw.
        seed: of the draws.
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
    """How much system B differs from system A on the same utterances.

    Both systems see the same resamples of speakers, which removes what they share: the hard
    speakers. Their seeds are drawn apart, and A and B may have different numbers of them.

    Args:
        errors_a: (B,) or (seeds, B) errors of A.
        errors_b: (B,) or (seeds, B) errors of B.
        words: (B,) reference words.
        groups: (B,) speakers, as in ``bootstrap_interval``.
        resamples: how many times to draw.
        seed: of the draws.
        level: coverage of the interval.
        seed_deviation: what to assume where no arm has two seeds: standard deviation of the rate
            between seeds, relative to the rate. None: the difference is that of two trained models.

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
    """The rate of one arm, or the difference of two, with all that its interval rests on."""
    blocks, signs = _blocks(arms, words, groups)
    sums = blocks.sum(axis=0)
    value = float(sums[:-1] @ signs / sums[-1])
    found = scatter(blocks, signs, seed_deviation)
    units = _units(value, _draws(blocks, signs, resamples, seed), found)
    return Difference(value, found, units, level, seeds_measured=len(signs) > len(arms))


def _quantile(level: float, freedom: float) -> float:
    """The t that Student's distribution stays within, on both sides, with probability ``level``."""
    from scipy import special

    return float(special.stdtrit(freedom, (1 + level) / 2))


def resampling_unit(groups: Sequence[str] | None) -> str:
    """What the bootstrap draws, in words: ``40 speakers``, or utterances and why."""
    if groups is None:
        return "utterances"
    number = len(set(groups))
    if number < MIN_GROUPS:
        return f"utterances, as there are fewer than {MIN_GROUPS} speakers ({number})"
    return f"{number} speakers"


def _blocks(
    errors: list[ArrayLike], words: ArrayLike, groups: Sequence[str] | None
) -> tuple[Floats, Floats]:
    """(G, seeds + 1): errors of each model and words, summed over each group; (seeds,): signs."""
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
            np.full(len(arm), (1 if arm is arms[-1] else -1) / len(arm))  # B less A, or one arm
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
    """(resamples,): the value, of speakers drawn for all models at once and seeds for each arm."""
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


def _units(value: float, draws: Floats, found: Scatter) -> tuple[float, float]:
    """What a t of 1 is worth below and above the value.

    Percentiles of the draws say how long the two sides are, in units of a normal distribution's;
    the draws' own scatter, too small for few groups, is replaced by the right one, and the interval
    takes Student's t instead of the normal's z: Hesterberg, "What teachers should know about the
    bootstrap", 2015. He moves the percentiles out until a normal distribution is as wide; here the
    distances from the value are multiplied, the same for a normal distribution, because percentiles
    end at the worst group: of five speakers not even the outermost would cover 98 %.
    """
    reach = np.nanquantile(draws, [(1 - SHAPE) / 2, (1 + SHAPE) / 2]) - value
    grown = found.error / found.resampled if found.resampled else 1.0
    below, above = np.maximum(0, [-1, 1] * reach) * grown / NormalDist().inv_cdf((1 + SHAPE) / 2)
    return float(below), float(above)
