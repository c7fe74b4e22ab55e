"""Measures the error rates of the statistics on made-up errors whose true difference is known.

python -m benchmarks.planted_difference --repetitions 1000
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from asr.statistics.bootstrap import bootstrap_interval
from asr.statistics.comparison import Comparison, compare_all
from asr.statistics.power import power

RATE = 0.06  # mean WER of both arms, as on LibriSpeech test-clean with 100 hours
UTTERANCE = 20  # words per utterance
RESAMPLES = 2000


@dataclass(frozen=True)
class Variation:
    """Standard deviations of the factors that the error rate is multiplied by.

    The factors are gamma-distributed with mean 1.

    Attributes:
        speaker: one factor per speaker, the same for all models.
        utterance: one factor per utterance, the same for all models.
        arm_speaker: one factor per arm and speaker.
        seed: one factor per trained model.
        seed_speaker: one factor per trained model and speaker.
    """

    speaker: float = 0.4
    utterance: float = 1.0
    arm_speaker: float = 0.05
    seed: float = 0.03
    seed_speaker: float = 0.05


Made = tuple[list[np.ndarray], np.ndarray, list[str]]


def make(
    random: np.random.Generator,
    variation: Variation,
    rates: Sequence[float],
    seeds: int,
    speakers: int,
    words: int,
) -> Made:
    """Draws errors (seeds, utterances) of each arm, words (utterances,) and names of speakers."""
    number = words // UTTERANCE
    voice = np.arange(number) % speakers

    def factor(deviation: float, *shape: int) -> np.ndarray:
        if deviation == 0:
            return np.ones(shape)
        return random.gamma(deviation**-2, deviation**2, shape)

    shared = factor(variation.speaker, speakers)[voice] * factor(variation.utterance, number)
    arms = []
    for rate in rates:
        by_speaker = factor(variation.arm_speaker, speakers)
        by_speaker = by_speaker * factor(variation.seed_speaker, seeds, speakers)
        chance = rate * shared * factor(variation.seed, seeds, 1) * by_speaker[:, voice]
        arms.append(random.binomial(UTTERANCE, np.minimum(chance, 1)))
    return arms, np.full(number, UTTERANCE), [str(name) for name in voice]


def rates(excess: float) -> tuple[float, float]:
    """The error rates of A and B with the relative difference ``excess`` and a fixed mean."""
    return RATE * (1 - excess / 2), RATE * (1 + excess / 2)


def verdicts(
    excess: float, seeds: int, speakers: int, words: int, repetitions: int
) -> list[Comparison]:
    """Compares two arms ``repetitions`` times; ``excess`` is their relative difference."""
    random = np.random.default_rng([seeds, speakers, words])
    found = []
    for number in range(repetitions):
        (a, b), counts, names = make(random, Variation(), rates(excess), seeds, speakers, words)
        arms = {"A": a, "B": b}
        pairs = compare_all(arms, counts, names, resamples=RESAMPLES, seed=number)
        found.append(pairs["A", "B"])
    return found


def share(found: Sequence[Comparison], *statements: str) -> float:
    """Share of the comparisons with one of these statements."""
    return sum(one.statement in statements for one in found) / len(found)


def coverage(found: Sequence[Comparison], excess: float) -> float:
    """Share of the intervals of the difference that contain the true difference."""
    truth = RATE * excess
    held = [one.difference.interval[0] <= truth <= one.difference.interval[1] for one in found]
    return sum(held) / len(held)


def expected_power(found: Sequence[Comparison], excess: float) -> float:
    """Power of a t-test with the standard error that the repetitions show."""
    error = np.std([one.difference.value for one in found], ddof=1)
    freedom = np.median([one.difference.scatter.freedom for one in found])
    return power(RATE * excess / float(error), float(freedom))


def coverage_of_rate(seeds: int, speakers: int, words: int, repetitions: int) -> float:
    """Share of the 95 % intervals of one arm's WER that contain the true WER."""
    # With one seed the interval is that of the trained model, so the seed must not matter.
    variation = Variation(seed=0, seed_speaker=0) if seeds == 1 else Variation()
    random = np.random.default_rng([seeds, speakers, words, 1])
    held = 0
    for number in range(repetitions):
        (errors,), counts, names = make(random, variation, (RATE,), seeds, speakers, words)
        low, high = bootstrap_interval(errors, counts, names, RESAMPLES, number)
        held += low <= RATE <= high
    return held / repetitions


HEAD = (
    "seeds",
    "speakers",
    "same model: called better or worse",
    "same model: “no difference”",
    "interval holds truth",
    "WER's interval holds truth",
    "stated as detectable",
    "detectable difference planted: found",
    "5 % planted: found",
    "found by a t-test that knows the error",
    "5 % planted: wrong sign",
    "interval holds truth",
)


def row(seeds: int, speakers: int, words: int, repetitions: int) -> list[str]:
    """Measures one line of the table."""
    same = verdicts(0, seeds, speakers, words, repetitions)
    stated = float(np.mean([one.detectable**2 for one in same])) ** 0.5 / RATE
    large = verdicts(stated, seeds, speakers, words, repetitions)
    small = verdicts(0.05, seeds, speakers, words, repetitions)
    shares = [
        share(same, "better", "worse"),
        share(same, "no difference"),
        coverage(same, 0),
        coverage_of_rate(seeds, speakers, words, repetitions),
        stated,
        share(large, "worse"),
        share(small, "worse"),
        expected_power(small, 0.05),
        share(small, "better"),
        coverage(small, 0.05),
    ]
    return [str(seeds), str(speakers), *(f"{100 * value:.1f} %" for value in shares)]


def main() -> None:
    """Prints the table line by line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--words", type=int, default=20_000, help="words of the test set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 5, 10])
    parser.add_argument("--speakers", type=int, nargs="+", default=[6, 20, 40])
    options = parser.parse_args()
    error = 100 * (0.05 * 0.95 / options.repetitions) ** 0.5
    made = Variation()
    print(
        f"The made-up test set has {options.words:,} words and a WER of {100 * RATE:g} %. Errors "
        f"vary by speaker ({made.speaker:g}), by utterance ({made.utterance:g}), by arm and "
        "speaker\n"
        f"({made.arm_speaker:g}), by seed ({made.seed:g}) and by seed and speaker "
        f"({made.seed_speaker:g}); these are standard deviations of factors with mean 1. A share "
        f"of 5 or\n95 % has a standard error of {error:.1f} % with {options.repetitions} "
        "repetitions.\n"
    )
    print(f"| {' | '.join(HEAD)} |\n|{' --: |' * len(HEAD)}")
    for seeds, speakers in product(options.seeds, options.speakers):
        cells = row(seeds, speakers, options.words, options.repetitions)
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
