"""The rule of C1: cost and errors of recurrent and attention encoders in training."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from asr.formatting import digits, hours, percent, points_interval
from asr.report.costs import Cost, arm_spent, common_target, cost_to, hours_unit, seeds_there
from asr.report.disturbed import EQUAL_COST, WALL, resource
from asr.report.evidence import Evidence
from asr.report.families import unknown_families
from asr.report.findings import MEASUREMENT, Finding, Rule, Sign, Verdict, conclude, unmeasured
from asr.report.groups import Arm
from asr.report.pairs import family_pairs
from asr.report.probes import Probes
from asr.report.runs import part
from asr.report.verdict import group_name
from asr.statistics.censoring import log_rank
from asr.statistics.comparison import holm
from asr.statistics.power import (
    comparisons_to_decide,
    least_log_rank,
    log_rank_floor,
    seeds_to_decide,
)

SIGNIFICANT = 0.05
NO_COST = Cost(None, None, [], [])
NO_AXIS = "that can be compared, since runs were disturbed and their CPU time is not known"
SEEDS = 5  # seeds per arm in the command of the verdict, as in studies; more if needed


def training(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C1, see ``TRAINING``; it does not use the probes."""
    costs = _targets(found)
    pairs = ((e, r, a) for e in found for r, a in family_pairs(e))
    findings = [*costs, *(_errors(e, r, a, _head(found, e)) for e, r, a in pairs)]
    seeds = max(SEEDS, seeds_to_decide(len(costs)) or SEEDS)
    command = (
        f"asr train RECIPE --seed N ({seeds} seeds of a recurrent and of an attention encoder)"
    )
    beside = unknown_families([arm.runs[0].encoder for e in found for arm in e.group.arms])
    if not findings:
        why = "not measured on arms of both families"
        return replace(unmeasured("C1", why, [command]), beside=beside)
    return replace(conclude("C1", findings, [command]), beside=beside)


def _context(evidence: Evidence, measure: str, recurrent: Arm, attention: Arm) -> dict[str, str]:
    run = recurrent.runs[0]
    budget = ", ".join(f"{v}" for v in part(run.recipe, ("budget",)).values() if v is not None)
    return {
        "the decoder": str(run.recipe.get("decoder")),
        "the corpus": str(run.recipe.get("data.corpus")),
        "the budget": budget,
        MEASUREMENT: measure,
        "the recurrent encoder": recurrent.runs[0].encoder,
        "the attention encoder": attention.runs[0].encoder,
    }


def _targets(found: Sequence[Evidence]) -> list[Finding]:
    """Findings on the cost to a target, for all pairs, as one family of tests."""
    rows = []
    for evidence in found:
        target = common_target(evidence.group, evidence.targets)
        for r, a in family_pairs(evidence):
            if target is not None:
                rows.append((evidence, target, r, a))
    axes = [resource([r, a]) for _, _, r, a in rows]
    costs = [
        [cost_to(arm, target, axis) if axis else NO_COST for arm in (r, a)]
        for (_, target, r, a), axis in zip(rows, axes, strict=True)
    ]
    found_of = iter(_tested([c for c in costs if _testable(c)]))
    findings = []
    for (evidence, target, r, a), axis, both in zip(rows, axes, costs, strict=True):
        test = next(found_of) if _testable(both) else None
        undecidable = _no_test(both, len(rows)) if test is None else test.undecidable
        unit = _unit(evidence, axis)
        told = [
            f"{arm.label} "
            + (
                f"has no cost {NO_AXIS}"
                if axis is None
                else "has no measured cost"
                if c.value is None
                else f"did not reach it within {hours(c.limit)}"
                if math.isinf(c.value)
                else f"took {hours(c.value, unit)}{seeds_there(c)}"
            )
            for arm, c in zip((r, a), both, strict=True)
        ]
        mine, theirs = (math.inf if c.value is None else c.value for c in both)
        sign: Sign = "unknown"
        if test is not None and test.p < SIGNIFICANT and mine != theirs:
            sign = "for" if mine > theirs else "against"
        sure = "no test" if test is None else f"log-rank p {digits(test.p, 2)}"
        family = sum(map(_testable, costs))
        sure += f" after Holm over {family} pairs" if test is not None and family > 1 else ""
        why = undecidable or (test.tied if test is not None else "")
        sure += f"; {why}" if why else ""
        head = f"{_head(found, evidence)}to {percent(target)} validation WER"
        words = f"{head} {told[0]}, {told[1]} ({sure})."
        context = _context(evidence, "cost to a target", r, a)
        findings.append(Finding(sign, words, context, undecidable))
    return findings


def _testable(both: Sequence[Cost]) -> bool:
    """Whether the costs of both arms were measured with several seeds."""
    return all(one.value is not None and one.seeds > 1 for one in both)


def _no_test(both: Sequence[Cost], pairs: int) -> str:
    """Why two arms have no test; empty if the reason is not their number of seeds."""
    if any(one.value is None for one in both):
        return ""
    return f"one seed of an arm allows no test; {seeds_to_decide(pairs)} seeds per arm could decide"


def _unit(evidence: Evidence, axis: str | None) -> str:
    return hours_unit(evidence.group) if axis == WALL else "CPU-hours"


class Tested(NamedTuple):
    """The log-rank test of one pair, adjusted for the family of all pairs.

    Attributes:
        p: p-value with Holm's adjustment.
        undecidable: why no costs could be significant; empty if some could.
        tied: why these costs, which tie, could not be significant in any assignment to the arms.
    """

    p: float
    undecidable: str = ""
    tied: str = ""


def _tested(pairs: Sequence[Sequence[Cost]]) -> list[Tested]:
    """The test of each pair.

    Holm's adjusted p-values do not fall when a p-value of the family rises. The adjustment of the
    least possible p-values of all tests therefore gives the least possible adjusted p-values.
    """
    sides = [(r.spent, r.reached, a.spent, a.reached) for r, a in pairs]
    values = holm([log_rank(*side) for side in sides]).tolist()
    plain = [least_log_rank(r.seeds, a.seeds) for r, a in pairs]
    floors = [log_rank_floor(*side) for side in sides]
    family = f" as one of {len(pairs)} comparisons" if len(pairs) > 1 else ""
    told = []
    for (r, a), p, alone, best, floor, tied in zip(
        pairs, values, plain, holm(plain).tolist(), floors, holm(floors).tolist(), strict=True
    ):
        if best >= SIGNIFICANT:
            why = f"{r.seeds} seeds against {a.seeds} give no p below {digits(best, 2)}{family}"
            seeds = seeds_to_decide(len(pairs))
            ways = [f"{seeds} seeds per arm"] if seeds is not None else []
            remedy = _remedy(ways, alone)
            told.append(Tested(p, undecidable=f"{why} at any cost; {remedy}"))
        elif tied >= SIGNIFICANT:
            came, runs = sum([*r.reached, *a.reached]), r.seeds + a.seeds
            why = f"because runs tie ({came} of {runs} at the target), "
            why += f"p cannot be below {digits(tied, 2)}{family}"
            sooner = ["a larger budget", "a higher target"] if came < runs else []
            remedy = _remedy([*sooner, "more seeds"], floor)
            told.append(Tested(p, tied=f"{why}; {remedy}"))
        else:
            told.append(Tested(p))
    return told


def _remedy(ways: Sequence[str], least: float) -> str:
    """What would make the test of a pair decidable, if its own p is at least ``least``."""
    fewer = comparisons_to_decide(least)
    more = [f"at most {fewer} comparison{'s' if fewer > 1 else ''}"] if fewer > 0 else []
    *others, last = [*ways, *more] or ["fewer comparisons of more seeds"]
    return f"{', '.join(others)}{' or ' * bool(others)}{last} could decide"


def _head(found: Sequence[Evidence], evidence: Evidence) -> str:
    """The name of the group and a comma; empty if there is only one group."""
    number = next(i for i, one in enumerate(found, 1) if one is evidence)
    name = group_name(evidence.group, number)
    return f"{name[0].lower()}{name[1:]}, " if len(found) > 1 else ""


def _errors(evidence: Evidence, r: Arm, a: Arm, head: str) -> Finding:
    """The finding on the errors of one pair at equal cost."""
    context = _context(evidence, "errors at equal cost", r, a)
    pair = evidence.pair(r, a)
    if pair.comparison is None:
        return Finding(
            "unknown", f"{head}errors of {r.label} and {a.label}: {pair.reason}.", context
        )
    said = evidence.statement(r, a)
    difference = pair.comparison.difference
    axis = resource([r, a])
    spent = [arm_spent(arm, axis) if axis else None for arm in (r, a)]
    ratio = spent[0] / spent[1] if spent[0] and spent[1] else None
    cost = "unknown cost" if axis else f"a cost {NO_AXIS}"
    if ratio is not None:
        cost = f"{digits(ratio, 2)} times as many {_unit(evidence, axis)}"
    value = points_interval(difference.value, difference.interval)
    words = f"{head}errors, {pair.b.label} minus {pair.a.label}: {value}"
    words += f"; {r.label}: {evidence.explained_statement(r, a)}, at {cost}"
    sign: Sign = "unknown"
    if pair.undecidable:
        words += f"; {pair.undecidable}"
    elif ratio is not None and said == "worse" and ratio > 1 / EQUAL_COST:
        sign = "for"
    elif ratio is not None and said in ("better", "no difference") and ratio < EQUAL_COST:
        sign = "against"
    elif said != "not enough evidence":
        words += "; the costs are too unequal or unknown for a finding"
    return Finding(sign, f"{words}.", context, pair.undecidable)


TRAINING = Rule(
    "C1",
    "A recurrent network needs more resources to train.",
    (
        "Recurrent arms are compared with attention arms of the same budget by two measurements.",
        (
            "Cost to a target: hours of devices (of a CPU: core-hours) to the lowest WER that most "
            "arms reached; CPU-hours if runs were disturbed or had a budget of CPU-hours. The "
            "finding is ‘for’ if the recurrent arm took significantly more, ‘against’ if it took "
            "significantly less (log-rank test over seeds, p < 0.05 with Holm's correction over "
            "all such pairs), and otherwise undecided.",
            "Errors at equal cost, on the test split. The finding is ‘for’ if the recurrent arm "
            "makes significantly more errors and had at least as many hours (within 10 %). "
            "It is ‘against’ if the recurrent arm makes fewer errors or there is no difference "
            "(equivalence within 10 %), and it had no more hours. Otherwise it is undecided. If "
            "runs were disturbed, only arms with equal updates, audio, FLOPs and CPU time are "
            "compared.",
        ),
        "An arm with one seed gives no finding, because one seed compares trained models and not "
        "encoders. A test that could not be significant at any cost of its runs is called "
        "undecidable, and the finding names the remedy: with n seeds per arm, p of the log-rank "
        "test is at least 2 / C(2n, n). Runs that do not reach the target tie with each other. If "
        "a test cannot be significant because runs tie, it is undecided, and the finding says so.",
    ),
    training,
)
