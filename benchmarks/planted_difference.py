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

RATE = 0.06  # of the first arm: about LibriSpeech's test-clean with 100 hours
UTTERANCE = 20  # words
RESAMPLES = 2000


@dataclass(frozen=True)
class World:
    """Where word errors come from: factors of mean 1, gamma-distributed with these deviations.

    Attributes:
        speaker: hard and easy speakers, the same for all models.
        utterance: hard and easy sentences, the same for all models.
        taste: speakers that one arm finds harder than the other.
        seed: of a trained model, everywhere.
        whim: of a trained model at one speaker.
    """

    speaker: float = 0.4
    utterance: float = 1.0
    taste: float = 0.05
    seed: float = 0.03
    whim: float = 0.05


Made = tuple[list[np.ndarray], np.ndarray, list[str]]


def make(
    random: np.random.Generator,
    world: World,
    rates: Sequence[float],
    seeds: int,
    speakers: int,
    words: int,
) -> Made:
    """Errors (seeds, utterances) of each arm, words (utterances,) and the speakers' names."""
    number = words // UTTERANCE
    voice = np.arange(number) % speakers

    def factor(deviation: float, *shape: int) -> np.ndarray:
        if deviation == 0:
            return np.ones(shape)
        return random.gamma(deviation**-2, deviation**2, shape)

    shared = factor(world.speaker, speakers)[voice] * factor(world.utterance, number)
    arms = []
    for rate in rates:
        own = factor(world.taste, speakers) * factor(world.whim, seeds, speakers)
        chance = rate * shared * factor(world.seed, seeds, 1) * own[:, voice]
        arms.append(random.binomial(UTTERANCE, np.minimum(chance, 1)))
    return arms, np.full(number, UTTERANCE), [str(name) for name in voice]


def rates(excess: float) -> tuple[float, float]:
    """Of A and B, ``excess`` apart, so that both together always scatter alike."""
    return RATE * (1 - excess / 2), RATE * (1 + excess / 2)


def verdicts(
    excess: float, seeds: int, speakers: int, words: int, repetitions: int
) -> list[Comparison]:
    """What is said, test after test, of two arms whose rates are ``excess`` apart, relative."""
    random = np.random.default_rng([seeds, speakers, words])
    found = []
    for number in range(repetitions):
        (a, b), counts, names = make(random, World(), rates(excess), seeds, speakers, words)
        arms = {"A": a, "B": b}
        pairs = compare_all(arms, counts, names, resamples=RESAMPLES, seed=number)
        found.append(pairs["A", "B"])
    return found


def share(found: Sequence[Comparison], *statements: str) -> float:
    """Of the comparisons in which one of these was said."""
    return sum(one.statement in statements for one in found) / len(found)


def coverage(found: Sequence[Comparison], excess: float) -> float:
    """Share of the intervals of the difference that hold the truth."""
    truth = RATE * excess
    held = [one.difference.interval[0] <= truth <= one.difference.interval[1] for one in found]
    return sum(held) / len(held)


def expected_power(found: Sequence[Comparison], excess: float) -> float:
    """Of a t-test with the true standard error, which only many repetitions show."""
    error = np.std([one.difference.value for one in found], ddof=1)
    freedom = np.median([one.difference.scatter.freedom for one in found])
    return power(RATE * excess / float(error), float(freedom))


def coverage_of_rate(seeds: int, speakers: int, words: int, repetitions: int) -> float:
    """How often the 95 % interval of one arm's WER holds the truth."""
    world = World(seed=0, whim=0) if seeds == 1 else World()  # one seed: of the trained model
    random = np.random.default_rng([seeds, speakers, words, 1])
    held = 0
    for number in range(repetitions):
        (errors,), counts, names = make(random, world, (RATE,), seeds, speakers, words)
        low, high = bootstrap_interval(errors, counts, names, RESAMPLES, number)
        held += low <= RATE <= high
    return held / repetitions


HEAD = (
    "seeds",
    "speakers",
    "same model: better or worse",
    "no difference",
    "interval holds truth",
    "WER's interval holds truth",
    "stated as detectable",
    "that planted: found",
    "5 % planted: found",
    "by a t-test that knows the error",
    "5 % planted: wrong way",
    "interval holds truth",
)


def row(seeds: int, speakers: int, words: int, repetitions: int) -> list[str]:
    """A line of the table."""
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
    """Prints the table, line by line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--words", type=int, default=20_000, help="of the test set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 5, 10])
    parser.add_argument("--speakers", type=int, nargs="+", default=[6, 20, 40])
    options = parser.parse_args()
    error = 100 * (0.05 * 0.95 / options.repetitions) ** 0.5
    print(f"{options.words:,} words, WER {100 * RATE:g} %, {World()}; a share of 5 or 95 % has a ")
    print(f"standard error of {error:.1f} % with {options.repetitions} repetitions.\n")
    print(f"| {' | '.join(HEAD)} |\n|{' --: |' * len(HEAD)}")
    for seeds, speakers in product(options.seeds, options.speakers):
        cells = row(seeds, speakers, options.words, options.repetitions)
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
