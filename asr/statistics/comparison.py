"""Compares arms in pairs, with a family-wise error rate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from asr.statistics.bootstrap import by_group
from asr.statistics.contrast import Decision, decide, within_margin
from asr.statistics.power import MOST_SEEDS, detectable_shift, seeds_to_find
from asr.statistics.variance_components import (
    Arm,
    Floats,
    Scatter,
    over_speakers,
    scatter,
    unbiased,
)

Statement = Literal["better", "worse", "no difference", "not enough evidence", "not planned"]
Pair = tuple[str, str]

LEVEL = 0.95  # 1 - the probability of any false statement in a family of comparisons
POWER = 0.80
MARGIN = 0.10  # relative difference of error rates below which arms count as the same
MIN_SPEAKERS = 5  # fewer speakers do not represent other speakers
# With fewer speakers, the detectable difference is found less often (planted_difference).
SOME_SPEAKERS = 10
# The scatter of two seeds is a single difference. If one arm has 20 times the scatter of the other,
# a test with 2 seeds per arm is wrong in 9 % of cases instead of 5 % (planted_difference).
MIN_SEEDS = 3
SCATTERS = (0.015, 0.30)  # least and largest scatter of seeds that were seen, relative to the rate
DRAWS = 20_000  # draws of the smallest p-value of a family
METHOD = "Student's t for seeds and speakers (Welch, Satterthwaite)"
# The statements about B, by the decision on the claim that B is worse.
STATEMENTS: dict[Decision, Statement] = {
    "for": "worse",
    "against": "better",
    "equivalent": "no difference",
    "not enough evidence": "not enough evidence",
}


class Difference(NamedTuple):
    """Rate of B minus rate of A, both on the same utterances.

    Attributes:
        value: difference of the pooled rates (means over seeds); negative if B is better.
        scatter: standard error of the value, and the degrees of freedom of this error.
        level: coverage of the interval.
    """

    value: float
    scatter: Scatter
    level: float = LEVEL

    @property
    def interval(self) -> tuple[float, float]:
        """Interval (low, high): the value with Student's t on both sides."""
        from scipy import special

        reach = special.stdtrit(self.scatter.freedom, (1 + self.level) / 2) * self.scatter.error
        return float(self.value - reach), float(self.value + reach)

    @property
    def p(self) -> float:
        """Two-sided p-value of this pair alone."""
        from scipy import special

        if self.scatter.error == 0:
            return float(self.value == 0)
        t = abs(self.value) / self.scatter.error
        return float(2 * special.stdtr(self.scatter.freedom, -t))


@dataclass(frozen=True)
class Comparison:
    """The comparison of arm B with arm A on the same test utterances.

    The statement is the first of these whose condition holds:

    * **not planned**: a study planned other comparisons; this one is description.
    * **not enough evidence**: an arm has fewer than 3 seeds, there are fewer than 5 speakers, or
      there are no errors at all, so that the interval is not reliable.
    * **no difference**: the whole interval lies between -margin and +margin. This is an
      equivalence test (Schuirmann, 1987): if the true difference is outside the margin, the
      statement is made with probability (1 - level) / 2 at most. It is not enough that the interval
      contains 0, or that ``detectable`` is small (Hoenig and Heisey, 2001: a test of high power can
      still give p = 0.06 for a large difference). If the interval does not contain 0, ``reason``
      says that B is better or worse, but within the margin.
    * **better** or **worse**: the whole interval lies below 0 (B makes fewer errors) or above 0 (B
      makes more errors), that is p < 1 - level.
    * **not enough evidence**: otherwise. The difference may be 0 or more than the margin.

    A statement holds for further training runs and other speakers.

    Attributes:
        difference: rate of B minus rate of A, with interval, level and p-value.
        rates: error rates of A and B (means over seeds).
        seeds: numbers of seeds of A and B.
        people: number of speakers.
        speakers: variation of the difference over speakers alone, for these trained models.
        margin: difference of rates below which the arms count as the same.
        adjusted_p: p-value corrected for the family; ``difference.p`` for a single pair.
        statement: the statement about B.
        reason: why there is not enough evidence, or that a significant difference lies within the
            margin, in words; empty otherwise.
        decidable: whether there are enough seeds and speakers for any other statement. If not,
            ``reason`` says what is needed. It is true even if no arm made an error.
    """

    difference: Difference
    rates: tuple[float, float]
    seeds: tuple[int, int]
    people: int
    speakers: Scatter
    margin: float
    adjusted_p: float
    statement: Statement
    reason: str
    decidable: bool

    @property
    def of_arms(self) -> bool:
        """Returns whether both arms have enough seeds for a statement about further seeds."""
        return min(self.seeds) >= MIN_SEEDS

    @property
    def detectable(self) -> float:
        """The true difference that would be significant in ``chance`` repetitions of the study.

        It is an estimate: with 3 seeds per arm, half of the estimates are more than 15 % too small;
        with 5 seeds, 6 %.
        """
        found = self.difference.scatter
        return found.error * detectable_shift(found.freedom, self.difference.level, POWER)

    @property
    def chance(self) -> str:
        """How often ``detectable`` would be found, in words (``benchmarks.planted_difference``).

        A difference varies over speakers more than none does, which a few speakers do not show.
        """
        return "4 times in 5" if self.people >= SOME_SPEAKERS else "3 times in 4"

    @property
    def outlook(self) -> str:
        """What such a study can find, or how many seeds could decide; a sentence."""
        if self.of_arms:
            points = f"{100 * self.detectable:.2f} points"
            return f"A difference of {points} would be found {self.chance}."
        value, rates = self.difference.value, self.rates
        numbers = [seeds_to_find(value, self.speakers, [s * r for r in rates]) for s in SCATTERS]
        if not any(numbers):
            return (
                "A true difference as small as the measured one would not be found 4 times in 5 "
                f"even with {MOST_SEEDS} seeds per arm."
            )
        needed = [
            f"{number or f'more than {MOST_SEEDS}'} seeds per arm if seeds scatter by "
            f"{100 * share:g} % of the error rate"
            for share, number in zip(SCATTERS, numbers, strict=True)
        ]
        return (
            "A true difference as large as the measured one would be found 4 times in 5 with "
            f"{' and '.join(needed)}."
        )

    @property
    def scope(self) -> str:
        """The subject of the statement, in words."""
        seeds = f"{self.seeds[0]} and {self.seeds[1]} seeds"
        if self.of_arms:
            return f"arms, as trained with other seeds ({seeds})"
        return f"trained models ({seeds}); arms need {MIN_SEEDS} seeds each"


def compare_all(
    arms: Mapping[str, ArrayLike],
    words: ArrayLike,
    speakers: Sequence[str],
    *,
    family: Mapping[Pair, float] | None = None,
    level: float = LEVEL,
    margin: float = MARGIN,
    seed: int = 0,
) -> dict[Pair, Comparison]:
    """Compares all pairs of arms; those of the family get statements and simultaneous intervals.

    The probability of any false "better" or "worse" is 1 - level at most, and all intervals hold
    together with probability ``level`` (see ``smallest_p``). The interval of a pair excludes 0
    exactly if ``adjusted_p`` is below 1 - level.

    Args:
        arms: (seeds, B) word errors of each model in each utterance, by name of the arm; the number
            of seeds may differ between arms. Pairs with fewer than 3 seeds of an arm get no
            statement and are no part of the family.
        words: (B,) reference words of each utterance.
        speakers: (B,) speaker of each utterance.
        family: the planned pairs, each with the difference of rates below which its arms count as
            the same; None: all pairs, because the results show which arm is the best.
        level: coverage of the intervals of the family together, and of each other interval.
        margin: this difference relative to the mean of the two rates, without a planned family.
        seed: random seed of the draws.

    Raises:
        ValueError: shapes do not agree, there are no words or no seeds, or a count is negative.
    """
    known, counted = by_group(list(arms.values()), words, speakers)
    named = dict(zip(arms, known, strict=True))
    pairs = list(combinations(arms, 2))
    planned = pairs if family is None else [p for p in pairs if {p, p[::-1]} & family.keys()]
    tested = [pair for pair in planned if min(named[name].models for name in pair) >= MIN_SEEDS]
    least = smallest_p(named, tested, seed)
    found = {}
    for pair in pairs:
        a, b = (named[name] for name in pair)
        one = Difference(b.rate - a.rate, scatter([a, b]), level)
        p, reach = one.p, margin * (a.rate + b.rate) / 2
        if pair in tested:
            p = adjusted(p, least, len(tested))
            one = one._replace(level=1 - threshold(1 - level, least, len(tested)))
        if family is not None:
            reach = family.get(pair, family.get(pair[::-1], math.nan))
        found[pair] = _stated(one, a, b, reach, p, int(counted.sum()), len(set(speakers)))
    return found


def smallest_p(arms: Mapping[str, Arm], pairs: Sequence[Pair], seed: int = 0) -> Floats:
    """Draws (n,) of the smallest p-value of a family of pairs without any difference, ascending.

    Differences of a family are correlated, because they share arms and speakers, so the smallest
    p-value is larger than that of independent tests. This is the single-step "min p" of Westfall
    and Young (1993), with normal draws of the differences that have the estimated covariance. Its
    intervals are simultaneous; those at the levels of Holm's procedure are not (Strassburger and
    Bretz, Statistics in Medicine 27, 2008).
    """
    from scipy import special

    if len(pairs) < 2:
        return np.ones(0)
    off = np.stack([arms[b].off - arms[a].off for a, b in pairs])
    signs = np.array([[(name == b) - (name == a) for name in arms] for a, b in pairs], float)
    seeds = np.array([max(0.0, arm.seeds - arm.rest) for arm in arms.values()])
    covariance = unbiased(off.shape[1]) * off @ off.T + signs * seeds @ signs.T
    random = np.random.default_rng(seed)
    drawn = random.multivariate_normal(np.zeros(len(off)), covariance, DRAWS, method="eigh")
    error = np.sqrt(np.diag(covariance))
    t = np.divide(drawn, error, out=np.zeros_like(drawn), where=error > 0)
    return np.sort(2 * special.ndtr(-np.abs(t).max(axis=1)))


def adjusted(p: float, least: Floats, number: int) -> float:
    """The probability that a family of ``number`` pairs without differences has such a p-value.

    ``least`` are the draws of ``smallest_p``. The result is at least ``p`` and at most that of
    Bonferroni, so few draws limit no p-value.
    """
    share = (np.searchsorted(least, p, side="right") + 1) / (len(least) + 1)
    return float(min(1.0, number * p, max(p, share)))


def threshold(rate: float, least: Floats, number: int) -> float:
    """The p-value of a single pair for which ``adjusted`` is ``rate``."""
    allowed = math.ceil(rate * (len(least) + 1)) - 2  # so many draws may lie below
    drawn = least[allowed] if 0 <= allowed < len(least) else 0.0
    return float(max(rate / number, min(rate, drawn)))


def _stated(
    difference: Difference,
    a: Arm,
    b: Arm,
    margin: float,
    adjusted_p: float,
    words: int,
    people: int,
) -> Comparison:
    """The statement by the definitions of ``Comparison``; a margin of NaN was not planned."""
    rates, seeds = (a.rate, b.rate), (a.models, b.models)
    low, high = difference.interval
    statement: Statement = "not enough evidence"
    reason = ""
    if math.isnan(margin):
        statement, reason = "not planned", "description"
    elif people < MIN_SPEAKERS:
        some = f"{people} speaker{'s' * (people > 1)}"
        reason = f"the test set has only {some}; {MIN_SPEAKERS} are needed"
    elif min(seeds) < MIN_SEEDS:
        reason = (
            f"{min(seeds)} seed{'s' * (min(seeds) > 1)} of an arm cannot tell encoders apart; "
            f"{MIN_SEEDS} seeds of each arm are needed"
        )
    decidable = not reason
    if decidable:
        if not any(rates):
            reason = f"no arm made an error on {words:,} words: harder or more speech is needed"
        elif (statement := STATEMENTS[decide(low, high, margin)]) == "no difference":
            reason = within_margin(low, high)
        elif statement == "not enough evidence":
            reason = (
                f"the interval from {100 * low:+.2f} to {100 * high:+.2f} points contains 0, but "
                f"exceeds the {100 * margin:.2f} points that count as no difference"
            )
    speakers = Scatter(over_speakers(b.off - a.off) ** 0.5, max(1, len(a.off) - 1))
    return Comparison(
        difference, rates, seeds, people, speakers, margin, adjusted_p, statement, reason, decidable
    )
