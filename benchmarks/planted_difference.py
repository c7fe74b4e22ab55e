"""Measures the error rates of the statistics on made-up errors whose true difference is known.

python -m benchmarks.planted_difference --repetitions 1000
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from asr.statistics.bootstrap import bootstrap_interval
from asr.statistics.censoring import crossing, ratio_of_costs
from asr.statistics.comparison import Comparison, compare_all
from asr.statistics.power import detectable_cost

RATE = 0.06  # mean WER of both arms, as on LibriSpeech test-clean with 100 hours
UTTERANCE = 20  # words per utterance
RESAMPLES = 500
STUCK = 3.0  # factor by which a stuck run costs more


@dataclass(frozen=True)
class Scenario:
    """A study, and the standard deviations of the factors that its error rate is multiplied by.

    The factors are gamma-distributed with mean 1.

    Attributes:
        scatters: one factor per trained model, for arms A and B.
        seeds: trained models of each arm.
        speakers: number of speakers.
        words: words of the test set.
        uses: how often each recording is used; errors of the same recording are alike.
        speaker: one factor per speaker, the same for all models.
        recording: one factor per utterance, the same for all models.
        arm_speaker: one factor per arm and speaker.
        seed_speaker: one factor per trained model and speaker.
        seed_recording: one factor per trained model and recording.
    """

    scatters: tuple[float, ...] = (0.03, 0.03)
    seeds: int = 3
    speakers: int = 20
    words: int = 20_000
    uses: int = 1
    speaker: float = 0.4
    recording: float = 1.0
    arm_speaker: float = 0.05
    seed_speaker: float = 0.05
    seed_recording: float = 0.5

    def __str__(self) -> str:
        scatter = " and ".join(f"{100 * value:g}" for value in dict.fromkeys(self.scatters))
        cells = [scatter, self.seeds, self.speakers, f"{self.words:,}", self.uses]
        return " | ".join(map(str, cells))


Made = tuple[list[np.ndarray], np.ndarray, list[str]]


def scenarios() -> Iterator[Scenario]:
    """The scenarios of the table."""
    base = Scenario()
    for scatter in (0.015, 0.03, 0.06, 0.15, 0.30):
        for seeds in (3, 5):
            yield replace(base, scatters=(scatter, scatter), seeds=seeds)
    yield replace(base, scatters=(0.03, 0.03), seeds=10)
    # Very unequal.
    for low, high, seeds in (
        (0.03, 0.30, 3), (0.03, 0.30, 5), (0.03, 0.40, 3), (0.09, 0.54, 3), (0.09, 0.54, 4),
        (0.09, 0.54, 5), (0.09, 0.90, 5),
    ):  # fmt: skip
        yield replace(base, scatters=(low, high), seeds=seeds)
    for seeds in (1, 2):
        yield replace(base, scatters=(0.06, 0.06), seeds=seeds)
    for speakers in (2, 4, 5, 6, 10):
        yield replace(base, scatters=(0.06, 0.06), speakers=speakers, seeds=5)
    for words, uses in ((300, 1), (1200, 4), (1200, 1)):  # the digits: 300 recordings of 6 people
        yield replace(base, scatters=(0.15, 0.15), speakers=6, seeds=5, words=words, uses=uses)


def make(random: np.random.Generator, study: Scenario, rates: Sequence[float]) -> Made:
    """Draws errors (seeds, utterances) of each arm, words (utterances,) and names of speakers."""
    length = min(UTTERANCE, study.words // study.uses // (10 * study.speakers))
    number = study.words // study.uses // length
    voice = np.arange(number) % study.speakers

    def factor(deviation: float, *shape: int) -> np.ndarray:
        return random.gamma(deviation**-2, deviation**2, shape)

    shared = factor(study.speaker, study.speakers)[voice] * factor(study.recording, number)
    arms = []
    for rate, scatter in zip(rates, study.scatters, strict=True):
        by_speaker = factor(study.arm_speaker, study.speakers)
        by_speaker = by_speaker * factor(study.seed_speaker, study.seeds, study.speakers)
        chance = rate * shared * factor(scatter, study.seeds, 1) * by_speaker[:, voice]
        chance = chance * factor(study.seed_recording, study.seeds, number)
        errors = [random.binomial(length, np.minimum(chance, 1)) for _ in range(study.uses)]
        arms.append(np.concatenate(errors, axis=1))
    words = np.full(number * study.uses, length)
    return arms, words, [str(name) for name in np.tile(voice, study.uses)]


def rates(excess: float) -> tuple[float, float]:
    """The error rates of A and B with the relative difference ``excess`` and a fixed mean."""
    return RATE * (1 - excess / 2), RATE * (1 + excess / 2)


def verdicts(excess: float, study: Scenario, repetitions: int) -> list[Comparison]:
    """Compares two arms ``repetitions`` times; ``excess`` is their relative difference.

    The seeds of an arm scatter by as many points as without a difference.
    """
    random = np.random.default_rng(0)
    found = []
    planted = rates(excess)
    scatters = tuple(s * RATE / rate for s, rate in zip(study.scatters, planted, strict=True))
    for _ in range(repetitions):
        (a, b), words, names = make(random, replace(study, scatters=scatters), planted)
        found.append(compare_all({"A": a, "B": b}, words, names)["A", "B"])
    return found


def share(found: Sequence[Comparison], sign: int) -> float:
    """Share of the decidable comparisons whose interval lies above 0 (sign 1) or below (-1)."""
    ends = [one.difference.interval[(1 - sign) // 2] for one in found if one.decidable]
    return sum(sign * end > 0 for end in ends) / len(found)


def coverage(found: Sequence[Comparison], excess: float) -> float:
    """Share of the intervals of the difference that contain the true difference."""
    truth = RATE * excess
    held = [one.difference.interval[0] <= truth <= one.difference.interval[1] for one in found]
    return sum(held) / len(held)


def coverage_of_rate(study: Scenario, repetitions: int) -> float:
    """Share of the 95 % intervals of one arm's WER that contain the true WER."""
    random = np.random.default_rng(1)
    held = 0
    for number in range(repetitions):
        (errors, _), words, names = make(random, study, (RATE, RATE))
        low, high = bootstrap_interval(errors, words, names, RESAMPLES, number)
        held += low <= RATE <= high
    return held / repetitions


def false_in_family(study: Scenario, arms: int, repetitions: int) -> float:
    """Share of families of all pairs of equal arms with any "better" or "worse"."""
    random = np.random.default_rng(2)
    wide = replace(study, scatters=study.scatters[:1] * arms)
    wrong = 0
    for number in range(repetitions):
        made, words, names = make(random, wide, [RATE] * arms)
        pairs = compare_all(dict(zip("ABCDEFGH", made, strict=False)), words, names, seed=number)
        wrong += any(one.statement in ("better", "worse") for one in pairs.values())
    return wrong / repetitions


@dataclass(frozen=True)
class CostScenario:
    """Costs to a target with the median 1, whose logarithms are normal but for stuck runs.

    Attributes:
        scatters: standard deviations of the logarithms of the costs of arms A and B.
        seeds: runs of each arm.
        budget: cost at which all runs stop; those that cost more miss the target.
        stuck: share of the runs of arm A that cost ``STUCK`` times as much.
    """

    scatters: tuple[float, float]
    seeds: int
    budget: float = np.inf
    stuck: float = 0.0


def cost_scenarios() -> Iterator[CostScenario]:
    """The scenarios of the table of costs."""
    for scatters in ((0.09, 0.09), (0.30, 0.30), (0.09, 0.54), (0.03, 0.30)):
        for seeds in (3, 4, 5, 10):
            yield CostScenario(scatters, seeds)
    for scatters in ((0.09, 0.09), (0.09, 0.54), (0.03, 0.30)):
        for seeds in (5, 6, 10):
            for budget in (1.1, 1.4):
                yield CostScenario(scatters, seeds, budget)
    for stuck in (0.1, 0.2, 0.3):
        for seeds in (3, 5, 10):
            yield CostScenario((0.09, 0.09), seeds, stuck=stuck)


def cost_row(study: CostScenario, repetitions: int) -> list[str]:
    """Measures one line of the table of costs; B costs less by the stated ratio in the end."""
    random = np.random.default_rng(4)
    logs = np.array(study.scatters)[:, None] * random.normal(size=(repetitions, 2, study.seeds))
    if study.stuck:
        late = random.random((repetitions, study.seeds)) < study.stuck
        median = study.scatters[0] * NormalDist().inv_cdf(0.5 / (1 - study.stuck))
        logs[:, 0] += np.log(STUCK) * late - median

    def excluded(ratio: float) -> list[int]:
        """1 for each interval above a ratio of 1, -1 for each interval below it."""
        signs = []
        for a, b in np.exp(logs + [[np.log(ratio)], [0]]):
            ends = [(cost.clip(max=study.budget), cost < study.budget) for cost in (a, b)]
            low, high = ratio_of_costs(*ends[0], *ends[1]).interval
            signs.append((low > 1) - (high < 1))
        return signs

    reached = np.mean(np.exp(logs) < study.budget)
    cells = [" and ".join(f"{100 * s:g}" for s in study.scatters), str(study.seeds)]
    cells += [f"{100 * study.stuck:g} %"]
    cells += ["none" if np.isinf(study.budget) else f"{study.budget:g}", f"{100 * reached:.0f} %"]
    cells.append(f"{100 * np.mean(np.abs(excluded(1))):.1f} %")
    if study.budget < np.inf:
        return [*cells, "none", "–", "–"]
    stated = np.exp(np.mean([np.log(detectable_cost(a, b)) ** 2 for a, b in logs]) ** 0.5)
    found = np.array(excluded(stated))
    cells += [f"{stated:.2f} times", f"{100 * np.mean(found > 0):.1f} %"]
    return [*cells, f"{100 * np.mean(found < 0):.1f} %"]


def costs_to_target(step: float, repetitions: int) -> tuple[float, float]:
    """Excess of the measured cost of arm A, and the share of intervals that exclude a ratio of 1.

    Both arms have 5 runs with the same true costs (scatter 9 %); A is validated every ``step`` of
    the cost, B twice as often. A validation WER has noise of 3 %.
    """
    random = np.random.default_rng(3)
    excess, wrong = [], 0
    for _ in range(repetitions):
        arms = []
        for every in (step, step / 2):
            at = every * np.arange(1, round(3 / every) + 1)
            true = np.exp(0.09 * random.normal(size=(5, 1)))
            curves = RATE * true / at * np.exp(0.03 * random.normal(size=(5, len(at))))
            arms.append([crossing(at, curve, RATE) for curve in curves])
        excess.append(np.log(arms[0]).mean() - np.log(arms[1]).mean())
        low, high = ratio_of_costs(arms[0], [True] * 5, arms[1], [True] * 5).interval
        wrong += not low <= 1 <= high
    return float(np.mean(excess)), wrong / repetitions


HEAD = (
    "scatter of seeds, %",
    "seeds",
    "speakers",
    "words",
    "uses of a recording",
    "no difference: called better or worse",
    "no difference: called “no difference”",
    "no difference: interval holds 0",
    "WER's interval holds truth",
    "stated as detectable",
    "promised: found",
    "that difference planted: found",
    "wrong sign",
)
COST_HEAD = (
    "scatter of costs, %",
    "seeds",
    "runs of A stuck at 3 times the cost",
    "budget, in median costs",
    "runs that reach the target",
    "equal medians: called better or worse",
    "stated as detectable",
    "that ratio planted: found (promised: 4 times in 5)",
    "wrong sign",
)


def row(study: Scenario, repetitions: int) -> list[str]:
    """Measures one line of the table."""
    same = verdicts(0, study, repetitions)
    cells = [
        share(same, 1) + share(same, -1),
        sum(one.statement == "no difference" for one in same) / len(same),
        coverage(same, 0),
        coverage_of_rate(study, repetitions // 2),
    ]
    told = [f"{100 * value:.1f} %" for value in cells]
    if not any(one.decidable for one in same):
        return [str(study), *told, "none", "–", "–", "–"]
    stated = float(np.mean([one.detectable**2 for one in same])) ** 0.5 / RATE
    large = verdicts(min(stated, 1.9), study, repetitions)
    found = (f"{100 * share(large, sign):.1f} %" for sign in (1, -1))
    return [str(study), *told, f"{100 * stated:.1f} %", same[0].chance, *found]


def main() -> None:
    """Prints the table line by line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=1000)
    options = parser.parse_args()
    error = 100 * (0.05 * 0.95 / options.repetitions) ** 0.5
    power = 100 * (0.8 * 0.2 / options.repetitions) ** 0.5
    made = Scenario()
    print(
        f"The made-up test sets have a WER of {100 * RATE:g} %. Errors vary by speaker "
        f"({made.speaker:g}), by recording ({made.recording:g}), by arm and\nspeaker "
        f"({made.arm_speaker:g}), by seed (first column), by seed and speaker "
        f"({made.seed_speaker:g}), and by seed and recording ({made.seed_recording:g}); these are\n"
        f"standard deviations of factors with mean 1. With {options.repetitions} repetitions, a "
        f"share of 5 or 95 % has a standard error of\n{error:.1f} %, and one of 80 % has "
        f"{power:.1f} %.\n"
    )
    print(f"| {' | '.join(HEAD)} |\n|{' --: |' * len(HEAD)}")
    for study in scenarios():
        print(f"| {' | '.join(row(study, options.repetitions))} |", flush=True)
    print("\n| equal arms, all pairs compared | seeds | any pair called better or worse |")
    print("| --: | --: | --: |")
    for arms in (3, 5, 8):
        wrong = false_in_family(made, arms, options.repetitions // 2)
        print(f"| {arms} | {made.seeds} | {100 * wrong:.1f} % |", flush=True)
    print(f"\n| {' | '.join(COST_HEAD)} |\n|{' --: |' * len(COST_HEAD)}")
    for costs in cost_scenarios():
        print(f"| {' | '.join(cost_row(costs, 2 * options.repetitions))} |", flush=True)
    head = "equal arm validated twice as often: excess cost | called better or worse"
    print(f"\n| validation every | {head} |\n| --: | --: | --: |")
    for step in (0.05, 0.15, 0.30):
        told = (f"{100 * value:.1f} %" for value in costs_to_target(step, options.repetitions))
        print(f"| {100 * step:g} % of the cost | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
