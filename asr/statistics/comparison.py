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

LEVEL = 0.95  # 1 - the rate at which something false is said of a family of comparisons
POWER = 0.80
MARGIN = 0.10  # relative difference of error rates below which arms count as the same
MIN_WORDS = 500  # below this an interval of a WER says little
# Between seeds, relative: Jasper 3.6 and 3.0 %, QuartzNet 2.6 and 2.0 % on LibriSpeech's test sets
# (8 seeds each, NVIDIA DeepLearningExamples). Smaller corpora scatter more.
SEED_DEVIATION = 0.03


@dataclass(frozen=True)
class Comparison:
    """Arm B against arm A on the same test utterances.

    Four things may be said, tested in this order:

    * **not enough evidence**, with a reason, whatever the interval: fewer than 500 words, fewer
      than 5 speakers, or not one error. Then the interval itself cannot be trusted.
    * **better**, **worse**: the whole interval lies below, above 0, which is p < 1 - level. B makes
      fewer, more errors. Whether by enough to matter is another question.
    * **no difference**: the whole interval lies within the margin, -margin to +margin times the
      mean of the two rates. An equivalence test (Schuirmann, 1987): were the true difference
      outside the margin, this would be said in at most (1 - level) / 2 of repetitions. That 0 lies
      in the interval is not enough, nor is it enough that ``detectable`` is small (Hoenig and
      Heisey, 2001: a test of high power may still end with p = 0.06 beside a large difference).
    * **not enough evidence**: all else. The truth may be 0 and may be more than the margin.

    With several seeds, "arm" means what training it again would give, on other speakers. Where each
    arm has one seed, the scatter between seeds is not measured: ``scope`` says what was assumed.

    Attributes:
        difference: rate of B less rate of A, with interval, p-value and its level.
        rates: error rates of A and B, means over seeds.
        seeds: of A and B.
        margin: relative.
        adjusted_p: corrected for the family (Holm); equal to ``difference.p`` for a single pair.
        assumed: relative deviation between seeds that was assumed; None where it was measured, or
            where only the two trained models are compared.
        statement: one of the four.
        reason: why the evidence is not enough, in words; empty otherwise.
        decidable: whether the test set has words and speakers enough for anything to be said; if
            not, no errors whatever could have told the arms apart, and ``reason`` says what could.
            That no arm made an error is an outcome, and leaves it true.
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
        """The true difference that is found in 80 % of repetitions, with an error such as this.

        Rough where seeds are few, as the error is estimated: half of the time it is more than 8 %
        too small with 3 seeds per arm, 4 % with 5.
        """
        found = self.difference.scatter
        return found.error * detectable_shift(found.freedom, self.difference.level, POWER)

    @property
    def scope(self) -> str:
        """What the statement is about, in words."""
        if self.difference.seeds_measured:
            return f"arms, as trained with other seeds ({self.seeds[0]} and {self.seeds[1]} seeds)"
        if self.assumed is None:
            return "two trained models; with one seed per arm it says nothing of the arms"
        return (
            "arms with one seed each: the scatter between seeds was not measured but assumed, "
            f"{100 * self.assumed:g} % of the error rate"
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
    """All pairs as one family: "better" or "worse" is said of any equal pair in at most 5 %.

    Holm's procedure, and for every pair the interval of the level at which Holm tested it, so that
    an interval excludes 0 exactly when its ``adjusted_p`` is below 1 - level. All pairs are the
    family because the best of several arms is chosen by the results.

    Args:
        arms: (seeds, B) word errors of every model in every utterance, by name of the arm; arms may
            differ in their number of seeds.
        words: (B,) reference words of each utterance.
        speakers: (B,) who said it.
        level: coverage of the interval of a single pair.
        margin: relative difference below which arms count as the same.
        seed_deviation: relative scatter between seeds, used only where each arm has one seed; None
            compares the two trained models.
        resamples: draws of the bootstrap.
        seed: of the draws.

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
    """(m,) p-values -> (m,) adjusted for the family: Holm, Scand. J. Statist. 6, 1979.

    The k-th smallest of m is multiplied by m - k + 1, and is not below those before it, nor above
    1. Controls the chance of any false rejection, whatever the dependence.
    """
    p = np.asarray(values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, steps)
    return adjusted


def holm_levels(values: ArrayLike, level: float = LEVEL) -> NDArray[np.float64]:
    """(m,) levels at which Holm's procedure tests each p-value: 1 - (1 - level) / (m - k + 1).

    From the first that is not rejected on, all have its level.
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
                f"the interval reaches from {100 * low:+.2f} to {100 * high:+.2f} points, beyond "
                f"the {100 * reach:.2f} points that count as the same"
            )
    assumed = None if difference.seeds_measured else seed_deviation
    seeds = len(a), len(b)
    return Comparison(
        difference, rates, seeds, margin, adjusted_p, assumed, statement, reason, decidable
    )


def _too_small(words: int, speakers: Sequence[str]) -> str:
    """Why a test set cannot tell arms apart, whatever they make of it; empty when it can."""
    if words < MIN_WORDS:
        told = f"the test set has only {words} words ({len(speakers)} utterances)"
        return f"{told}; {MIN_WORDS} are needed"
    if len(set(speakers)) < MIN_GROUPS:
        return f"the test set has only {len(set(speakers))} speakers; {MIN_GROUPS} are needed"
    return ""
