"""Writes the answer at the top of the page: the arm with fewer errors, the certainty, the costs."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from asr.formatting import digits, hours, listed, percent, points_interval, times
from asr.report.costs import (
    arm_mean,
    arm_wer,
    budget_in_words,
    common_target,
    cost_ratio,
    cost_to,
    encoder_factor,
    hours_unit,
    real_time_factor,
    seeds_there,
    timed_otherwise,
    waited,
    wer_at_in_words,
)
from asr.report.disturbed import EQUAL_COST, WALL, at_cost, at_equal_costs, disturbed, resource
from asr.report.evidence import Evidence, Pair
from asr.report.groups import Arm, Group, settings
from asr.report.runs import UNKNOWN, Run, differing, part

STATED = 4  # largest number of inequalities that the answer names
EQUAL_PARAMETERS = 1.05  # largest ratio for equal parameters (Long Range Arena allows 10 %)


def from_best(evidence: Evidence) -> list[Pair]:
    """The planned pairs, the primary first; then those of the arm with the lowest WER.

    The pairs of the best arm begin with the next best; a single arm has none.
    """
    planned = [c for c in evidence.contrasts or () if c.estimator == "errors"]
    planned.sort(key=lambda contrast: not contrast.primary)
    pairs = [evidence.pair(*evidence.arms(contrast)) for contrast in planned]
    best = [pair for pair in evidence.pairs if pair.a.label == evidence.pairs[0].a.label]
    return pairs + [pair for pair in best if pair not in pairs]


def answer(evidence: Evidence) -> list[str]:
    """At most five lines of text: errors, cost to a target, running cost, doubts, the machine."""
    group = evidence.group
    lines = [_errors(evidence), _training(evidence), _running(group)]
    return [line for line in [*lines, _doubts(group), _machine(group)] if line]


def _errors(evidence: Evidence) -> str:
    group = evidence.group
    split = group.runs[0].split
    if len(group.arms) == 1:
        (only,) = group.arms
        wer = arm_wer(only)
        said = (
            f"its {split} WER is {percent(wer)}" if wer is not None else "it is not evaluated yet"
        )
        return f"There is only one arm, {only.label}, so nothing can be compared; {said}."
    first, *others = from_best(evidence)
    best = first.a
    if first.comparison is None:
        return f"{_not_enough(first)}.{_others(best, others)}"
    found = first.comparison
    rates = f"{split} WER {percent(found.rates[0])} against {percent(found.rates[1])}"
    value = points_interval(found.difference.value, found.difference.interval)
    share = f"{100 * found.difference.level:.3g}"
    cost = at_cost(group, best, first.b)
    if found.statement == "not planned":
        text = f"The study planned no comparison of errors. Measured{cost}: {rates}, {value}."
    elif found.statement == "not enough evidence":
        text = f"{_not_enough(first)}. Measured{cost}: {rates}. {found.outlook}"
    elif found.statement == "no difference":
        head = f"No difference in errors between {best.label} and {first.b.label}"
        if first.reason:
            head = f"{first.b.label} makes more errors than {best.label}, but within the margin,"
        text = (
            f"{head}{cost}: {rates}, a difference of {value}; the {share} % interval lies within "
            f"{100 * found.margin:.2f} points. {found.outlook}"
        )
    else:
        text = (
            f"{best.label} makes fewer errors than {first.b.label}{cost}: {rates}, "
            f"a difference of {value}; significant, as the {share} % interval excludes 0."
        )
    caveat = "" if evidence.caveat.removesuffix(".") in text else f" {evidence.caveat}"
    return text + caveat + _others(best, others)


def _not_enough(pair: Pair) -> str:
    arms = f"{pair.a.label} or {pair.b.label}"
    return f"Not enough evidence to say whether {arms} makes fewer errors: {pair.reason}"


def _others(best: Arm, others: Sequence[Pair]) -> str:
    words = {
        "worse": f"Significantly worse than {best.label}",
        "no difference": f"No difference that matters from {best.label}",
        "not enough evidence": f"Not enough evidence for a difference from {best.label}",
    }
    said = ""
    for statement, text in words.items():
        own = [p for p in others if (p.a.label, p.statement) == (best.label, statement)]
        labels = [pair.b.label for pair in own]
        said += f" {text}: {listed(labels)}." if labels else ""
    return said


def _training(evidence: Evidence) -> str:
    group, targets = evidence.group, evidence.targets
    if not any(run.points for run in group.runs):
        return "No run has a validation yet, so the cost to reach a WER is not known."
    axis = resource(group.arms)
    beside = f" {at_equal_costs(group.arms)}" if disturbed(group.arms) else ""
    if axis is None:
        return beside.strip()
    unit = hours_unit(group) if axis == WALL else "CPU-hours"
    target = common_target(group, targets)
    if target is None:
        return f"No arm reached a target WER, so the cost to reach one is not known.{beside}"
    costs = {arm.label: cost_to(arm, target, axis) for arm in group.arms}
    values = {label: math.inf if c.value is None else c.value for label, c in costs.items()}
    order = sorted(values, key=lambda label: values[label])
    lowest = values[order[0]]
    said = []
    for label in order:
        value, limit, there = costs[label].value, costs[label].limit, seeds_there(costs[label])
        if value is None:
            said.append(f"{label} has no measured cost")
        elif math.isinf(value):
            said.append(f"{label} did not reach it within {hours(limit)}")
        elif label == order[0]:
            said.append(f"{label} took {hours(value, unit)}{there}")
        else:
            same = not lowest or value / lowest < 1.05
            ratio = "about as much" if same else f"{times(value / lowest)} as much"
            said.append(f"{label} {hours(value)}, {ratio}{there}")
    several = any(cost.seeds > 1 for cost in costs.values())
    told = ["medians over seeds, not tested"] if several else []
    told += [] if evidence.registered else ["target chosen after the results"]
    how = f" ({', '.join(told)})" if told else ""
    return f"To train to {percent(target)} validation WER{how}, {'; '.join(said)}.{beside}"


def _running(group: Group) -> str:
    factors = {a.label: f for a in group.arms if (f := real_time_factor(a)) is not None}
    if not factors:
        return ""
    order = sorted(factors, key=lambda label: factors[label])
    fast, slow = order[0], order[-1]
    head = "In recognition (features, encoder and search),"
    if fast == slow:
        return f"{head} {fast} takes {digits(factors[fast], 2)} s per second of audio."
    if factors[slow] <= EQUAL_COST * factors[fast]:
        values = f"{digits(factors[fast], 2)} and {digits(factors[slow], 2)} s per second of audio"
        told = f"{fast} and {slow} take the same time: {values}"
    else:
        ratio = times(factors[slow] / factors[fast])
        told = f"{fast} takes {digits(factors[fast], 2)} s per second of audio, {slow} "
        told += f"{digits(factors[slow], 2)} s: {ratio} as long"
    pair = [arm for arm in group.arms if arm.label in (fast, slow)]
    differ = timed_otherwise(pair)
    why = waited(pair) or (f"differ in {differ}" if differ else "")
    doubt = f"; their evaluations cannot be compared because they {why}" if why else ""
    return f"{head} {told}; {_without_search(group, fast, slow)}{doubt}."


def _without_search(group: Group, fast: str, slow: str) -> str:
    """The real-time factors of two arms without the search, in words."""
    of = {arm.label: encoder_factor(arm) for arm in group.arms}
    if None in (of[fast], of[slow]):
        return "the time without the search was not measured"
    return f"without the search {digits(of[fast], 2)} and {digits(of[slow], 2)} s"


def _doubts(group: Group) -> str:
    doubts = []
    seeds = sorted({len(arm.runs) for arm in group.arms})
    if len(group.arms) < 2:
        return ""
    if seeds == [1]:
        doubts.append(
            "Each arm has one seed: the variation between seeds was not measured, so the result "
            "compares trained models, not encoders."
        )
    elif seeds[0] < 3:
        doubts.append(f"The arms have few seeds ({' to '.join(str(s) for s in seeds)}).")
    going = [a.label for a in group.arms if not all(r.totals.get("finished") for r in a.runs)]
    if going:
        doubts.append(f"Arms with unfinished runs: {listed(going)}.")
    stated = inequalities(group)
    if stated:
        words = [word for word, _ in stated[:STATED]]
        words += [f"{len(stated) - STATED} more"] if len(stated) > STATED else []
        doubts.append(f"The arms also differ in {listed(words)} (below).")
    mixed = mixtures(group)
    if mixed:
        doubts.append(f"The runs differ in their {listed([word for word, _ in mixed])} (below).")
    return " ".join(doubts)


def mixtures(group: Group) -> list[tuple[str, str]]:
    """(word, sentence) for each fact that should be equal in all runs but differs."""
    facts: dict[str, Callable[[Run], Any]] = {
        "commit": lambda run: run.environment.get("git_commit"),
        "number of threads": lambda run: run.num_threads,
    }
    found = []
    for word, fact in facts.items():
        counts = Counter((fact(run), arm.label) for arm in group.arms for run in arm.runs)
        values = list(dict.fromkeys(value for value, _ in counts))
        told = []
        for value in values:  # each value is followed by the runs that have it: 3 of LSTM
            own = [f"{n} of {label}" for (one, label), n in counts.items() if one == value]
            told.append(f"{UNKNOWN if value is None else value} ({listed(own)})")
        if len(values) > 1:
            found.append((word, f"The runs differ in their {word}: {listed(told)}."))
    return found


def group_name(group: Group, number: int) -> str:
    """``Group 2``, with its budget if groups differ in their budgets."""
    return f"Group {number}" + (f", budget {budget(group)}" if group.by_budget else "")


def _machine(group: Group) -> str:
    run = group.runs[0]
    number = run.totals.get("num_devices") or "unknown number of"
    device = hours_unit(group).removesuffix("-hours")
    devices = f"{number} {device}{'' if number == 1 else 's'}"
    said = f"Measured on {run.device_name or 'an unknown device'} ({devices}), "
    said += f"budget {budget(group)}."
    return f"SYNTHETIC speech, not people. {said}" if any(r.synthetic for r in group.runs) else said


def budget(group: Group) -> str:
    """The budgets in words; a single budget if all arms have the same."""
    said = {arm.label: _budget(arm.runs[0]) for arm in group.arms}
    if len(set(said.values())) == 1:
        return said[group.arms[0].label] + (" per run" if len(group.runs) > 1 else "")
    return "; ".join(f"{label}: {text}" for label, text in said.items())


def _budget(run: Run) -> str:
    limits = {key.split(".", 1)[-1]: v for key, v in part(run.recipe, ("budget",)).items()}
    return budget_in_words(limits, [run.device_kind]) or "not stated"


def inequalities(group: Group) -> list[tuple[str, str]]:
    """(word, sentence) for each difference between arms besides the encoder."""
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
    ratio = None if disturbed(group.arms) else cost_ratio(group.arms)
    if ratio is not None and ratio > EQUAL_COST:
        least = min(arm_mean(arm, "device_hours") or math.inf for arm in group.arms)
        values = ", ".join(wer_at_in_words(arm, least) for arm in group.arms)
        spent = f"Validation WER at equal cost, {hours(least, hours_unit(group))}: {values}"
        found.append((hours_unit(group), f"{spent} (spent: {digits(ratio, 2)} to 1)."))
    flat = [
        {key: v for key, v in settings(arm.runs[0]).items() if key.split(".")[0] != "encoder"}
        for arm in group.arms
    ]
    for key in differing(flat):
        pairs = zip(group.arms, flat, strict=True)
        values = ", ".join(f"{arm.label} {recipe.get(key)}" for arm, recipe in pairs)
        found.append((key, f"{key}: {values}."))
    return found
