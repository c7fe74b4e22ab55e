"""The rules of C1 (cost to train) and C7 (what to store), which a planned contrast decides."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from asr.formatting import digits, listed, numbered, points_interval, times
from asr.probes import PROBES
from asr.report.costs import cost_to, hours_unit
from asr.report.disturbed import WALL, budget_kind, resource
from asr.report.evidence import LEVEL, Evidence
from asr.report.findings import Rule, Verdict, conclude, unmeasured
from asr.report.probes import Probes
from asr.report.quantities import COSTS
from asr.report.runs import Run
from asr.report.verdict import budget
from asr.statistics.censoring import ratio_of_costs, runs_to_decide
from asr.statistics.comparison import MIN_SEEDS
from asr.statistics.contrast import Contrast, Decision, decide, within_margin
from asr.statistics.power import detectable_cost

EARLY = 0.5  # WER; above it, a comparison is about the beginning of training
NOT_PLANNED = (
    "no study planned a contrast for it before its runs, and what is chosen after the results "
    "decides nothing"
)


def planned(claim: str, *commands: str) -> Callable[[Sequence[Evidence], Probes], Verdict]:
    """The rule of a claim that is decided by the primary contrast of a study.

    ``commands`` measure what the page shows beside the contrast.
    """

    def judge(found: Sequence[Evidence], probes: Probes) -> Verdict:
        planned = list(dict.fromkeys(c for e in found for c in e.planned if c.claim == claim))
        planned.sort(key=lambda contrast: not contrast.primary)
        if not planned:
            return unmeasured(claim, NOT_PLANNED, "asr study FILE (with contrasts)", *commands)
        first, *others = [verdict for c in planned for verdict in _verdicts(c, found)]
        return replace(first, reasons=[f"Also planned: {other.words}." for other in others])

    return judge


def _verdicts(contrast: Contrast, found: Sequence[Evidence]) -> list[Verdict]:
    """A verdict from each group that measures the contrast, or one that says what is missing."""
    if here := [e for e in found if contrast in (e.contrasts or ())]:
        return [judged(evidence, contrast) for evidence in here]
    known = {arm.name for evidence in found for arm in evidence.group.arms}
    names = [name for name in (contrast.subject, contrast.reference) if name not in known]
    why = listed([f"arm {name} has no finished run" for name in names])
    why = why or (
        f"arms {contrast.subject} and {contrast.reference} have no finished runs at the largest "
        "budget that can be compared"
    )
    return [unmeasured(contrast.claim, why, "asr study FILE")]


def judged(evidence: Evidence, contrast: Contrast) -> Verdict:
    """The verdict from one planned contrast."""
    return (_errors if contrast.estimator == "errors" else _cost)(evidence, contrast)


def _errors(evidence: Evidence, contrast: Contrast) -> Verdict:
    subject, reference = evidence.arms(contrast)
    pair = evidence.pair(subject, reference)
    told = f"{subject.label} minus {reference.label}, {subject.runs[0].split} WER"
    decision: Decision = "not enough evidence"
    why, seeds = pair.reason, [len(subject.runs), len(reference.runs)]
    if (found := pair.comparison) is None:
        return conclude(
            contrast.claim, decision, told, _measured_on(evidence, contrast, seeds), why
        )
    sign = 1 if pair.b.label == subject.label else -1
    low, high = sorted(sign * bound for bound in found.difference.interval)
    told += f", {points_interval(sign * found.difference.value, (low, high))}"
    told += f" at {100 * found.difference.level:.3g} %, margin {contrast.margin:g}"
    if found.decidable and any(found.rates):
        told += f", detectable {100 * found.detectable:.2f} points"
    told += _early(min(found.rates))
    if found.statement != decision:
        decision = decide(low, high, contrast.margin / 100)
        why = within_margin(low, high) if decision == "equivalent" else ""
    where = _measured_on(evidence, contrast, seeds, f", {numbered(found.people, 'speaker')}")
    return conclude(contrast.claim, decision, told, where, why)


def _cost(evidence: Evidence, contrast: Contrast) -> Verdict:
    arms, claim = evidence.arms(contrast), contrast.claim
    axis = resource(arms) if contrast.unit == WALL else contrast.unit
    if contrast.unit == WALL != axis and budget_kind(arms) != "cpu_hours":
        axis = None  # the CPU time of disturbed runs is not what the study registered
    words = {quantity.key: quantity.title(evidence.group) for quantity in COSTS}
    unit = "hours" if axis is None else hours_unit(evidence.group) if axis == WALL else words[axis]
    target = contrast.target or 0.0
    told = f"{arms[0].label} / {arms[1].label}, {unit} to {target:g} % validation WER"
    told += _early(target / 100)
    costs = [cost_to(arm, target / 100, axis or WALL) for arm in arms]
    where = _measured_on(evidence, contrast, [cost.seeds for cost in costs])
    if axis is None or any(cost.value is None for cost in costs):
        why = "the runs were disturbed" if axis is None else "the cost was not measured"
        return conclude(claim, "not enough evidence", told, where, why)
    a, b = costs
    ratio, (low, high) = ratio_of_costs(a.spent, a.reached, b.spent, b.reached, evidence.level)
    told += f", {times(ratio) if 0 < ratio < math.inf else 'not reached'}"
    told += f" [{digits(low, 2)} to {digits(high, 2)}] at {100 * evidence.level:.3g} %"
    told += f", margin {contrast.margin:g} times"
    with np.errstate(divide="ignore"):
        ends = float(np.log(low)), float(np.log(high))
    decision = decide(*ends, math.log(contrast.margin))
    why = within_margin(*ends) if decision == "equivalent" else ""
    if not all(a.reached + b.reached):
        came = [f"{arm.label} {sum(c.reached)}" for arm, c in zip(arms, costs, strict=True)]
        why = f"seeds that reached the target: {listed(came)}"
        if min(a.seeds, b.seeds) < (needed := runs_to_decide(evidence.level)):
            why += f"; if a seed misses it, {needed} seeds of each arm are needed"
    elif first := _at_first([run for arm in arms for run in arm.runs], target):
        decision = "not enough evidence"
        why = f"{numbered(first, 'run')} had reached the target at the first validation"
        why += ", so the cost is not known; validate earlier or register a lower target"
    elif min(a.seeds, b.seeds) >= MIN_SEEDS:
        found = detectable_cost(np.log(a.spent), np.log(b.spent), evidence.level)
        told += f", detectable {times(found)}"
    else:
        why = f"{MIN_SEEDS} seeds of each arm are needed"
    if barred := evidence.undecided(contrast):
        decision, why = "not enough evidence", barred
    return conclude(claim, decision, told, where, why)


def _early(rate: float) -> str:
    """Says that a comparison is about early training, if the lower WER is above ``EARLY``."""
    return f" (early training: above {100 * EARLY:g} % WER)" if rate > EARLY else ""


def _at_first(runs: Sequence[Run], target: float) -> int:
    """Counts the runs whose first validation had reached a target in percent."""
    return sum(run.points[0].wer <= target / 100 for run in runs)


def _measured_on(
    evidence: Evidence, contrast: Contrast, seeds: Sequence[int], speakers: str = ""
) -> str:
    """Seeds, speakers, corpus, budget and machine of a contrast, and what was known before it."""
    run = evidence.group.runs[0]
    corpus = run.metric("corpus", "name") or (run.corpus or {}).get("name") or "unknown"
    unit = hours_unit(evidence.group).removesuffix("-hours")
    number = run.totals.get("num_devices")
    told = listed([str(some) for some in dict.fromkeys(seeds)])
    return (
        f"{told} seed{'s' * (seeds != [1, 1])}{speakers}, corpus {corpus}, "
        f"{budget(evidence.group)}; {run.device_name or 'an unknown device'}, "
        f"{number} {unit}{'s' * (number != 1)}"
        + (f"; planned after {contrast.planned_after}" if contrast.planned_after else "")
    )


PLANNED = (
    "The verdict is that of the primary contrast of the study, which is registered before the "
    "first run with its arms, estimator, unit and margin. The subject is the arm that errs more, "
    "or costs more, according to the claim. There is no verdict before all registered seeds of "
    "both arms have ended, nor if the plan was amended after the first run had begun. All seeds of "
    "an arm share one tuned setting: another tuning could give another result, which no interval "
    "here includes (Bouthillier et al., 2021). Above a WER of "
    f"{100 * EARLY:g} % in the better arm, the verdict says that it is about early training."
)
DECISIONS = (
    "‘Equivalent’: the whole interval lies within the margin; the subject may still be worse or "
    "better. Otherwise ‘for’: the whole interval says that the subject is worse. ‘Against’: that "
    "it is better. ‘Not enough evidence’: the interval holds both. All contrasts of the study hold "
    f"together with a probability of {100 * LEVEL:.0f} %."
)
TRAINING = Rule(
    "C1",
    "A recurrent network needs more resources to train.",
    (
        PLANNED,
        (
            "Errors: the difference of the WERs on the evaluated split, at the largest budget. If "
            "a seed failed, there is not enough evidence.",
            "Cost to a target: the ratio of the costs to the registered validation WER (geometric "
            "means over seeds), with Student's interval of their logarithms (Welch). If a seed "
            "stopped before the target, the ratio is that of the medians, and there is a verdict "
            "only if each seed of one arm reached the target at a lower cost than each seed of "
            "the other, with 6 seeds or more of each arm (more for several contrasts). There is no "
            "verdict if a run had reached the target at its first validation, nor on hours of the "
            "machine if other programs disturbed a run.",
        ),
        DECISIONS,
        "Other pairs, targets and budgets on this page are description.",
    ),
    planned("C1"),
)
STORING = Rule(
    "C7",
    "Near-duplicate frames need not be stored; what to store can be learnt.",
    (
        PLANNED,
        "The subject is a control that stores the same share of frames as the gate, evenly or at "
        "random; the reference is the learnt gate. The claim needs the control to err more.",
        DECISIONS,
    ),
    planned("C7", PROBES["memory"].command),
)
