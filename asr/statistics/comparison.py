"""Compares two arms, or all pairs of several arms, with a family-wise error rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asr.statistics.bootstrap import MIN_GROUPS, Difference, bootstrap_difference
from asr.statistics.power import detectable_shift

Statement = Literal["better", "worse", "no difference", "not enough evidence"]

LEVEL = 0.95  # 1 - the probability of any false statement in a family of comparisons
POWER = 0.80
MARGIN = 0.10  # relative difference of error rates below which arms count as the same
MIN_WORDS = 500  # the interval of a WER over fewer words is not reliable
# Relative deviations between seeds are 3.6 and 3.0 % for Jasper, 2.6 and 2.0 % for QuartzNet on the
# LibriSpeech test sets (8 seeds, NVIDIA DeepLearningExamples). They are larger on smaller corpora.
SEED_DEVIATION = 0.03


@dataclass(frozen=True)
class Comparison:
    """The comparison of arm B with arm A on the same test utterances.

    The statement is the first of these whose condition holds:

    * **not enough evidence**: there are fewer than 500 words, fewer than 5 speakers, or no errors
      at all, so that the interval is not reliable.
    * **better** or **worse**: the whole interval lies below 0 (B makes fewer errors) or above 0 (B
      makes more errors), that is p < 1 - level. The difference may still be too small to matter.
    * **no difference**: the whole interval lies between -margin and +margin times the mean of the
      two rates. This is an equivalence test (Schuirmann, 1987): if the true difference is outside
      the margin, the statement is made with probability (1 - level) / 2 at most. It is not enough
      that the interval contains 0, or that ``detectable`` is small (Hoenig and Heisey, 2001: a
      test of high power can still give p = 0.06 for a large difference).
    * **not enough evidence**: otherwise. The difference may be 0 or more than the margin.

    With several seeds, the statement holds for further training runs and other speakers. With one
    seed per arm, the variation between seeds is not measured; ``scope`` gives the assumption.

    Attributes:
        difference: rate of B minus rate of A, with interval, level and p-value.
        rates: error rates of A and B (means over seeds).
        seeds: numbers of seeds of A and B.
        margin: margin relative to the mean of the two rates.
        adjusted_p: p-value corrected for the family (Holm); ``difference.p`` for a single pair.
        assumed: assumed relative deviation between seeds; None if it was measured, or if only the
            two trained models are compared.
        statement: the statement about B.
        reason: why there is not enough evidence, in words; empty otherwise.
        decidable: whether the test set has enough words and speakers for any other statement. If
            not, ``reason`` says what is needed. It is true even if no arm made an error.
    """

    difference: Difference
    rates: tuple[float, float]
    seeds: tuple[int, int]
    margin: float
    adjusted_p: float
    assumed: float | None
    statement: Statement
    reason: str
    decidable: bool

    @property
    def detectable(self) -> float:
        """The true difference that would be significant in 80 % of repetitions of the study.

        It is an estimate: with 3 seeds per arm, half of the estimates are more than 8 % too small;
        with 5 seeds, 4 %.
        """
        found = self.difference.scatter
        return found.error * detectable_shift(found.freedom, self.difference.level, POWER)

    @property
    def scope(self) -> str:
        """The subject of the statement, in words."""
        if self.difference.seeds_measured:
            return f"arms, as trained with other seeds ({self.seeds[0]} and {self.seeds[1]} seeds)"
        if self.assumed is None:
            return "two trained models; arms with one seed each cannot be compared"
        return (
            "arms with one seed each; the deviation between seeds was not measured, but assumed to "
            f"be {100 * self.assumed:g} % of the error rate"
        )


def compare_all(
    arms: Mapping[str, ArrayLike],
    words: ArrayLike,
    speakers: Sequence[str],
    *,
    level: float = LEVEL,
    margin: float = MARGIN,
    seed_deviation: float | None = SEED_DEVIATION,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[tuple[str, str], Comparison]:
    """Compares all pairs of arms as one family, with Holm's procedure.

    The probability of any false "better" or "worse" is 1 - level at most. The interval of each pair
    has the level at which Holm's procedure tested it, so it excludes 0 exactly if ``adjusted_p`` is
    below 1 - level. The family has all pairs, because the results show which arm is the best.

    Args:
        arms: (seeds, B) word errors of each model in each utterance, by name of the arm; the number
            of seeds may differ between arms.
        words: (B,) reference words of each utterance.
        speakers: (B,) speaker of each utterance.
        level: coverage of the interval of a single pair.
        margin: relative difference below which arms count as the same.
        seed_deviation: relative deviation between seeds, used only if each arm has one seed; None:
            compare the two trained models.
        resamples: number of draws of the bootstrap.
        seed: random seed of the draws.

    Raises:
        ValueError: shapes do not agree, there are no words or no seeds, or a count is negative.
    """
    pairs = list(combinations(arms, 2))
    found = [
        bootstrap_difference(
            arms[a], arms[b], words, speakers, resamples, seed, seed_deviation=seed_deviation
        )
        for a, b in pairs
    ]
    values = [one.p for one in found]
    stated = {}
    for (a, b), one, p, step in zip(
        pairs, found, holm(values), holm_levels(values, level), strict=True
    ):
        errors, tested = (arms[a], arms[b]), one._replace(level=float(step))
        stated[a, b] = _stated(tested, errors, words, speakers, margin, float(p), seed_deviation)
    return stated


def holm(values: ArrayLike) -> NDArray[np.float64]:
    """Adjusts (m,) p-values for the family (Holm, Scand. J. Statist. 6, 1979).

    The k-th smallest p-value is multiplied by m - k + 1, then raised to the one before it if that
    is larger, and limited to 1. This controls the family-wise error rate under any dependence.
    """
    p = np.asarray(values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, steps)
    return adjusted


def holm_levels(values: ArrayLike, level: float = LEVEL) -> NDArray[np.float64]:
    """Levels (m,) at which Holm's procedure tests each p-value: 1 - (1 - level) / (m - k + 1).

    After the first p-value that is not rejected, all others have its level.
    """
    p = np.asarray(values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    alphas = (1 - level) / np.arange(len(p), 0, -1)
    kept = np.flatnonzero(p[order] >= alphas)
    if len(kept):
        alphas[kept[0] :] = alphas[kept[0]]
    levels = np.empty_like(p)
    levels[order] = 1 - alphas
    return levels


def _stated(
    difference: Difference,
    errors: tuple[ArrayLike, ArrayLike],
    words: ArrayLike,
    speakers: Sequence[str],
    margin: float,
    adjusted_p: float,
    seed_deviation: float | None,
) -> Comparison:
    """The statement by the definitions of ``Comparison``."""
    total = float(np.sum(words))
    a, b = (np.atleast_2d(np.asarray(arm)) for arm in errors)
    rates = float(a.sum() / len(a) / total), float(b.sum() / len(b) / total)
    low, high = difference.interval
    reach = margin * sum(rates) / 2
    reason = _too_small(int(total), speakers)
    statement: Statement = "not enough evidence"
    decidable = not reason
    if decidable:
        if not any(rates):
            reason = f"no arm made an error on {total:,.0f} words: harder or more speech is needed"
        elif high < 0 or low > 0:
            statement = "better" if high < 0 else "worse"
        elif -reach < low and high < reach:
            statement = "no difference"
        else:
            reason = (
                f"the interval from {100 * low:+.2f} to {100 * high:+.2f} points contains 0, but "
                f"exceeds the {100 * reach:.2f} points that count as no difference"
            )
    assumed = None if difference.seeds_measured else seed_deviation
    seeds = len(a), len(b)
    return Comparison(
        difference, rates, seeds, margin, adjusted_p, assumed, statement, reason, decidable
    )


def _too_small(words: int, speakers: Sequence[str]) -> str:
    """Why a test set is too small to compare any arms; empty if it is large enough."""
    if words < MIN_WORDS:
        size = f"{words} words ({len(speakers)} utterances)"
        return f"the test set has only {size}; {MIN_WORDS} are needed"
    if len(set(speakers)) < MIN_GROUPS:
        return f"the test set has only {len(set(speakers))} speakers; {MIN_GROUPS} are needed"
    return ""
