"""The answer: which arm makes fewer errors, how sure that is, and what a target WER costs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from asr.claims.statistics import (
    METHOD,
    MIN_GROUPS,
    bootstrap_difference,
    bootstrap_interval,
    resampling_unit,
)
from asr.claims.student import normal, student
from asr.report.costs import (
    arm_mean,
    arm_wer,
    common_target,
    cost_ratio,
    cost_to,
    hours_unit,
    real_time_factor,
    wer_at,
)
from asr.report.quantities import digits, hours, listed, percent, points_interval, times
from asr.report.runs import Arm, Group, Run, differing, part, settings

EQUAL_COST = 1.10  # arms whose device-hours differ by less are called equal in cost
EQUAL_PARAMETERS = 1.05  # science.md 6.1: arms match in parameters within 5 %
MIN_WORDS = 500  # below this an interval of a WER says little
USEFUL = 0.20  # a "no difference" that could hide more than this, relative, is no evidence
LEVEL = 0.95  # of all intervals of a group together
POWER = 0.80  # share of repetitions in which the smallest detectable difference is found


@dataclass(frozen=True)
class Comparison:
    """Arm ``b`` less arm ``a`` on the same test utterances.

    Attributes:
        kind: ``win`` (the interval excludes 0), ``tie`` or ``unknown`` (not enough evidence).
        difference, interval: of the WER, fractions; None when it could not be computed.
        detectable: smallest difference that would be found in 80 % of repetitions.
        reason: why the evidence is not enough, in words.
        method: how the interval was made, in words.
        level: coverage of the interval, raised when several pairs of arms are looked at.
    """

    a: Arm
    b: Arm
    kind: str
    difference: float | None = None
    interval: tuple[float, float] | None = None
    detectable: float | None = None
    reason: str = ""
    method: str = ""
    level: float = LEVEL


def _utterances(arm: Arm) -> tuple[list[str], np.ndarray, np.ndarray, list[str]] | None:
    """Ids, errors averaged over seeds, words and speakers; None without common hypotheses."""
    tables = [{h["id"]: h for h in run.hypotheses} for run in arm.runs if run.hypotheses]
    if (
        not tables
        or len(tables) < len(arm.runs)
        or any(t.keys() != tables[0].keys() for t in tables)
    ):
        return None
    ids = sorted(tables[0])
    counts = [
        [t[i]["substitutions"] + t[i]["deletions"] + t[i]["insertions"] for i in ids]
        for t in tables
    ]
    first = tables[0]
    words = [first[i]["hits"] + first[i]["substitutions"] + first[i]["deletions"] for i in ids]
    speakers = [str(first[i].get("speaker_id")) for i in ids]
    return ids, np.mean(counts, axis=0), np.array(words), speakers


def arm_interval(arm: Arm) -> tuple[float, float] | None:
    """95 % interval of an arm's WER: speakers resampled and, with several seeds, their scatter."""
    if len(arm.runs) == 1:
        metrics = arm.runs[0].metrics
        return tuple(metrics["wer"]["interval"]) if metrics else None
    found = _utterances(arm)
    if found is None:
        return None
    _, errors, words, speakers = found
    interval = bootstrap_interval(errors, words, speakers, level=LEVEL)
    return _widened(errors.sum() / words.sum(), interval, _seed_margin([arm], LEVEL))


def _seed_margin(arms: Sequence[Arm], level: float) -> float:
    """Half-width that seeds add: Student's t times the pooled standard error of the means."""
    rates = [[run.wer for run in arm.runs if run.wer is not None] for arm in arms]
    freedom = sum(len(r) - 1 for r in rates)
    if freedom == 0:
        return 0.0
    variance = sum(float(np.var(r)) * len(r) for r in rates) / freedom
    error = math.sqrt(variance * sum(1 / len(r) for r in rates))
    return student(level, freedom) * error


def _widened(value: float, interval: tuple[float, float], margin: float) -> tuple[float, float]:
    """Two independent sources of error add in quadrature, on each side of the value."""
    low = value - math.hypot(value - interval[0], margin)
    return low, value + math.hypot(interval[1] - value, margin)


def detectable_difference(interval: tuple[float, float], level: float) -> float:
    """The smallest true difference that such an interval excludes 0 for in 80 % of repetitions."""
    quantile = normal(level)
    half = (interval[1] - interval[0]) / 2
    return half * (quantile + NormalDist().inv_cdf(POWER)) / quantile


def compare_arms(a: Arm, b: Arm, pairs: int = 1) -> Comparison:
    """The paired difference of two arms, at a level corrected for several pairs (Bonferroni)."""
    missing = [arm.label for arm in (a, b) if any(run.metrics is None for run in arm.runs)]
    if missing:
        stale = any(run.stale for arm in (a, b) for run in arm.runs)
        why = " as it is now (an evaluation is out of date)" if stale else ""
        return Comparison(a, b, "unknown", reason=f"{listed(missing)} was not evaluated{why}")
    left, right = _utterances(a), _utterances(b)
    if left is None or right is None:
        return Comparison(a, b, "unknown", reason="the hypotheses per utterance are missing")
    ids, errors_a, words, speakers = left
    if ids != right[0] or not np.array_equal(words, right[2]):
        return Comparison(a, b, "unknown", reason="the arms were evaluated on other utterances")
    level = 1 - (1 - LEVEL) / pairs
    found = bootstrap_difference(errors_a, right[1], words, speakers, level=level)
    interval = _widened(found.value, found.interval, _seed_margin([a, b], level))
    detectable = detectable_difference(interval, level)
    method = f"paired {METHOD}, over {resampling_unit(speakers)}"
    if len(a.runs) + len(b.runs) > 2:
        method += ", widened by the scatter of the seeds (Student's t)"
    rates = errors_a.sum() / words.sum(), right[1].sum() / words.sum()
    kind = "win" if interval[0] > 0 or interval[1] < 0 else "tie"
    reason = _too_little(int(words.sum()), speakers, max(rates))
    if kind == "tie" and not reason and detectable > USEFUL * max(rates):
        reason = (
            f"the test set could only show a difference above {100 * detectable:.2f} points "
            f"({len(ids)} utterances, {int(words.sum()):,} words)"
        )
    kind = "unknown" if reason else kind
    return Comparison(a, b, kind, found.value, interval, detectable, reason, method, level)


def _too_little(words: int, speakers: Sequence[str], worse: float) -> str:
    """Why a test set cannot tell arms apart, whatever the interval says; empty when it can."""
    if worse == 0:
        return f"no arm made an error on {words:,} words, so the test is too easy"
    if words < MIN_WORDS:
        return f"the test set has only {words} words ({len(speakers)} utterances)"
    if len(set(speakers)) < MIN_GROUPS:
        return f"the test set has only {len(set(speakers))} speakers"
    return ""


def ranked(group: Group) -> list[Arm]:
    """Evaluated arms, lowest WER first, then the others."""
    return sorted(group.arms, key=lambda arm: math.inf if (w := arm_wer(arm)) is None else w)


def comparisons(group: Group) -> list[Comparison]:
    """The best arm against every other, the next best first.

    Which arm is best was seen in the same data, so the level is corrected for all pairs of arms.
    """
    best, *others = ranked(group)
    return [compare_arms(best, other, math.comb(len(group.arms), 2)) for other in others]


def answer(group: Group, targets: Sequence[float]) -> list[str]:
    """At most five lines in words: errors, cost to a target, cost to run, doubts, the machine."""
    lines = [_errors(group), _training(group, targets), _running(group), _doubts(group)]
    return [line for line in [*lines, _machine(group)] if line]


def _errors(group: Group) -> str:
    split = group.runs[0].split
    best = ranked(group)[0]
    if len(group.arms) == 1:
        wer = arm_wer(best)
        said = (
            f"its {split} WER is {percent(wer)}" if wer is not None else "it is not evaluated yet"
        )
        return f"Only one arm, {best.label}, so there is nothing to compare; {said}."
    first, *others = comparisons(group)
    rates = f"{split} WER {percent(arm_wer(best))} against {percent(arm_wer(first.b))}"
    if first.interval is None or first.difference is None or first.detectable is None:
        return f"{_not_enough(first)}.{_others(best, others)}"
    rates += f", a difference of {points_interval(first.difference, first.interval)}"
    if first.kind == "unknown":
        said = f"{_not_enough(first)}. Measured{_at_cost(group)}: {rates}."
        return said + _others(best, others)
    share = f"{100 * first.level:.3g}"
    if first.kind == "win":
        text = (
            f"{best.label} makes fewer errors than {first.b.label}{_at_cost(group)}: {rates}; "
            f"significant, as the {share} % interval excludes 0."
        )
    else:
        text = (
            f"No difference in errors shown between {best.label} and {first.b.label}"
            f"{_at_cost(group)}: {rates}; the {share} % interval includes 0. A difference of "
            f"{100 * first.detectable:.2f} points would be found 4 times in 5."
        )
    return text + _others(best, others)


def _not_enough(comparison: Comparison) -> str:
    arms = f"{comparison.a.label} or {comparison.b.label}"
    return f"Not enough evidence to say whether {arms} makes fewer errors: {comparison.reason}"


def _others(best: Arm, others: Sequence[Comparison]) -> str:
    worse = [c.b.label for c in others if c.kind == "win"]
    alike = [c.b.label for c in others if c.kind != "win"]
    text = f" Significantly worse than {best.label}: {listed(worse)}." if worse else ""
    return text + (f" Also not told apart from {best.label}: {listed(alike)}." if alike else "")


def _at_cost(group: Group) -> str:
    ratio = cost_ratio(group)
    if ratio is None:
        return " (cost not known)"
    if ratio <= EQUAL_COST:
        return " at equal cost"
    order = sorted(group.arms, key=lambda arm: arm_mean(arm, "device_hours") or 0)
    cheapest, dearest = order[0].label, order[-1].label
    return f" at unequal cost ({dearest} had {times(ratio)} the device-hours of {cheapest})"


def _training(group: Group, targets: Sequence[float]) -> str:
    if not any(run.points for run in group.runs):
        return "No run has a validation yet, so the cost to reach a WER is not known."
    target = common_target(group, targets)
    if target is None:
        return "No target WER was reached by any arm, so no cost to reach one can be given."
    costs = {arm.label: cost_to(arm, target, "device_hours") for arm in group.arms}
    values = {label: math.inf if c.value is None else c.value for label, c in costs.items()}
    order = sorted(values, key=lambda label: values[label])
    lowest = values[order[0]]
    said = []
    for label in order:
        value, limit = costs[label].value, costs[label].limit
        if value is None:
            said.append(f"{label} has no measured cost")
        elif math.isinf(value):
            said.append(f"{label} did not reach it within {hours(limit)}")
        elif label == order[0]:
            said.append(f"{label} took {hours(value, hours_unit(group))}")
        else:
            same = not lowest or value / lowest < 1.05
            ratio = "about as much" if same else f"{times(value / lowest)} as much"
            said.append(f"{label} {hours(value)}, {ratio}")
    return f"To train to {percent(target)} validation WER, {'; '.join(said)}."


def _running(group: Group) -> str:
    factors = {a.label: f for a in group.arms if (f := real_time_factor(a)) is not None}
    if not factors:
        return ""
    order = sorted(factors, key=lambda label: factors[label])
    fast, slow = order[0], order[-1]
    if fast == slow:
        return f"To run, {fast} takes {digits(factors[fast], 2)} s per second of audio."
    if factors[slow] <= EQUAL_COST * factors[fast]:
        values = f"{digits(factors[fast], 2)} and {digits(factors[slow], 2)}"
        return f"To run, {fast} and {slow} take the same time: {values} s per second of audio."
    return (
        f"To run, {fast} takes {digits(factors[fast], 2)} s per second of audio, {slow} "
        f"{digits(factors[slow], 2)} s: {times(factors[slow] / factors[fast])} as long."
    )


def _doubts(group: Group) -> str:
    doubts = []
    seeds = sorted({len(arm.runs) for arm in group.arms})
    if len(group.arms) < 2:
        return ""
    if seeds == [1]:
        doubts.append(
            "One seed per arm: variation between seeds was not measured, so this tells trained "
            "models apart, not encoders."
        )
    elif seeds[0] < 3:
        doubts.append(f"Few seeds per arm ({' to '.join(str(s) for s in seeds)}).")
    going = [a.label for a in group.arms if not all(r.totals.get("finished") for r in a.runs)]
    if going:
        doubts.append(f"Not finished: {listed(going)}.")
    stated = inequalities(group)
    if stated:
        doubts.append(f"The arms are not equal in {listed([word for word, _ in stated])} (below).")
    return " ".join(doubts)


def _machine(group: Group) -> str:
    run = group.runs[0]
    number = run.totals.get("num_devices") or "unknown number of"
    devices = f"{number} device{'' if number == 1 else 's'}"
    said = f"Measured on {run.device_name or 'an unknown device'} ({devices}), "
    said += f"budget {budget(group)}."
    return f"SYNTHETIC speech, not people. {said}" if any(r.synthetic for r in group.runs) else said


def budget(group: Group) -> str:
    """The budgets in words; one when all arms have the same."""
    said = {arm.label: _budget(arm.runs[0]) for arm in group.arms}
    if len(set(said.values())) == 1:
        return said[group.arms[0].label] + (" per run" if len(group.runs) > 1 else "")
    return "; ".join(f"{label}: {text}" for label, text in said.items())


def _budget(run: Run) -> str:
    limits = []
    for key, value in part(run.recipe, ("budget",)).items():
        if value is not None:
            name = key.split(".", 1)[-1].replace("_hours", "-hours").replace("_", " ")
            limits.append(f"{value:g} {name}" if isinstance(value, float) else f"{value} {name}")
    return " or ".join(limits) or "not stated"


def inequalities(group: Group) -> list[tuple[str, str]]:
    """(word, sentence) of what differs between arms besides the encoder: stated, not refused."""
    if len(group.arms) < 2:
        return []
    found = []
    numbers = {a.label: n for a in group.arms if (n := arm_mean(a, "encoder_parameters"))}
    if numbers and max(numbers.values()) > EQUAL_PARAMETERS * min(numbers.values()):
        excess = 100 * (max(numbers.values()) / min(numbers.values()) - 1)
        values = ", ".join(f"{label} {number:,.0f}" for label, number in numbers.items())
        found.append(
            ("parameters", f"The encoders' parameters differ by {excess:.0f} %: {values}.")
        )
    ratio = cost_ratio(group)
    if ratio is not None and ratio > EQUAL_COST:
        found.append(("device-hours", f"{_equal_hours(group)} (spent: {digits(ratio, 2)} to 1)."))
    flat = [_besides(settings(arm.runs[0])) for arm in group.arms]
    words: dict[str, list[str]] = {}
    for key in differing(flat):
        pairs = zip(group.arms, flat, strict=True)
        values = ", ".join(f"{arm.label} {recipe.get(key)}" for arm, recipe in pairs)
        words.setdefault(key.split(".")[0], []).append(f"{key}: {values}.")
    return found + [(word, " ".join(lines)) for word, lines in words.items()]


def _equal_hours(group: Group) -> str:
    """Validation WERs where the cheapest arm stopped: the comparison at equal cost."""
    least = min(arm_mean(arm, "device_hours") or math.inf for arm in group.arms)
    values = [f"{arm.label} {percent(wer_at(arm, least))}" for arm in group.arms]
    return f"Validation WER at equal cost, {hours(least, hours_unit(group))}: {', '.join(values)}"


def _besides(recipe: dict[str, Any]) -> dict[str, Any]:
    encoder = part(recipe, ("encoder",))
    return {k: v for k, v in recipe.items() if k not in encoder}
