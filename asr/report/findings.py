"""Findings for or against a claim, and the verdict that follows from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

from asr.formatting import listed
from asr.report.evidence import Evidence
from asr.report.probes import Probes

Sign = Literal["for", "against", "unknown"]
Kind = Literal["supported", "refuted", "depends", "not enough evidence"]

MEASUREMENT = "the measurement"  # the facet that says how a finding was come by
DECIDED = 0.5  # share of the findings that must have a sign before the whole has one


@dataclass(frozen=True)
class Finding:
    """One comparison, and what it says of a claim.

    Attributes:
        words: the figures, in a sentence.
        context: what it was found under, by facet, such as ``{"the budget": "0.1 device-hours"}``.
        undecidable: why it has no sign whatever had been measured (too few seeds, words or
            speakers, or too many comparisons), and what would decide it; empty where an outcome
            could have, though not this one (no error at all, or hardly a run at the target).
    """

    sign: Sign
    words: str
    context: dict[str, str] = field(default_factory=dict)
    undecidable: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the measurements say of a claim.

    Attributes:
        claim: C1 to C7.
        words: the verdict as it is printed: what it depends on, or why it is not known.
        reasons: findings in sentences, with figures.
        commands: what measures what is missing.
        beside: sentences that stand beside the findings, and decide nothing.
    """

    claim: str
    kind: Kind
    words: str
    reasons: list[str]
    commands: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Rule:
    """How a claim is decided.

    Attributes:
        claim: C1 to C7.
        statement: what is claimed.
        how: the rule in words for the page, by paragraphs; a tuple is a list of points.
        judge: follows it, whatever was measured.
    """

    claim: str
    statement: str
    how: Sequence[str | tuple[str, ...]]
    judge: Callable[[Sequence[Evidence], Probes], Verdict]


def conclude(
    claim: str, findings: Sequence[Finding], commands: Sequence[str] = (), needs: str = ""
) -> Verdict:
    """The rule by which findings become a verdict, the same for all claims.

    * Findings of both signs: **depends on** the facets that tell them apart (``separating``).
    * No finding with a sign, or fewer than half of them: **not enough evidence**.
    * A part of the measurement missing (``needs``): not enough evidence, though all the rest agree.
    * All signs *for*: **supported**. All *against*: **refuted**. Where a whole measurement gave no
      sign, the words say which ones the verdict rests on.

    A finding without a sign never counts for either side. Those that could have had none are told
    apart, with what would decide them: in the words where the evidence is not enough, else as the
    first reason.
    """
    signs = [finding.sign for finding in findings if finding.sign != "unknown"]
    undecidable = _undecidable(findings)
    reasons = [_marked(finding) for finding in findings]
    if undecidable:
        reasons.insert(0, f"Of {len(findings)} comparisons {undecidable}.")
    if len(set(signs)) == 2:
        words = f"depends on {separating(findings)}"
        return Verdict(claim, "depends", words, reasons, list(commands) if needs else [])
    if needs:
        return unmeasured(claim, needs, commands, reasons)
    if not signs or len(signs) < DECIDED * len(findings):
        told = f"{len(signs)} of {len(findings)} comparisons decided"
        told += f"; {undecidable}" if undecidable else ""
        return unmeasured(claim, told, commands, reasons[bool(undecidable) :])
    kind: Kind = "supported" if signs[0] == "for" else "refuted"
    return Verdict(claim, kind, kind + _resting_on(findings), reasons)


def _resting_on(findings: Sequence[Finding]) -> str:
    """`` by A; B: undecided``, where measurement B gave no sign at all; else empty."""
    signs: dict[str, set[Sign]] = {}
    for finding in findings:
        if name := finding.context.get(MEASUREMENT):
            signs.setdefault(name, set()).add(finding.sign)
    silent = [name for name, found in signs.items() if found == {"unknown"}]
    if not silent:
        return ""
    return f" by {listed([n for n in signs if n not in silent])}; {listed(silent)}: undecided"


def unmeasured(
    claim: str, why: str, commands: Sequence[str], reasons: Sequence[str] = ()
) -> Verdict:
    """Not enough evidence, and why."""
    kind: Kind = "not enough evidence"
    return Verdict(claim, kind, f"{kind}: {why}", list(reasons), list(commands))


def separating(findings: Sequence[Finding]) -> str:
    """The fewest facets whose combinations of values have one sign each, the first named first.

    A single one is told with the values on either side, and of several those of a side that has but
    one combination. Where not even all facets together separate
    the signs, findings of the same kind contradict each other, and that is said.
    """
    signed = [finding for finding in findings if finding.sign != "unknown"]
    told = {sign: sum(f.sign == sign for f in signed) for sign in ("for", "against")}
    count = f"{told['for']} for, {told['against']} against"
    facets = list(dict.fromkeys(name for finding in signed for name in finding.context))
    for number in range(1, len(facets) + 1):
        for chosen in combinations(facets, number):
            sides: dict[tuple[str | None, ...], set[Sign]] = {}
            for finding in signed:
                key = tuple(finding.context.get(facet) for facet in chosen)
                sides.setdefault(key, set()).add(finding.sign)
            if len(sides) > 1 and all(len(signs) == 1 for signs in sides.values()):
                if number > 1:
                    return f"{listed(chosen)} ({_counted(told, sides)})"
                return f"{chosen[0]} ({_sides({k[0]: s for k, s in sides.items()})})"
    return f"what is compared ({count})"


def _counted(told: dict[str, int], sides: dict[tuple[str | None, ...], set[Sign]]) -> str:
    """``1 for: A, B; 2 against``: a side of a single combination is named."""
    parts = []
    for sign in ("for", "against"):
        keys = [key for key, signs in sides.items() if sign in signs]
        own = f": {', '.join(map(str, keys[0]))}" if len(keys) == 1 < len(sides) - 1 else ""
        parts.append(f"{told[sign]} {sign}{own}")
    return "; ".join(parts) if any(":" in part for part in parts) else ", ".join(parts)


def _sides(sides: dict[str | None, set[Sign]]) -> str:
    """``for: A; against: B and C``."""
    parts = []
    for sign in ("for", "against"):
        values = [str(value) for value, signs in sides.items() if sign in signs and value]
        parts += [f"{sign}: {listed(values)}"] if values else []
    return "; ".join(parts)


def _undecidable(findings: Sequence[Finding]) -> str:
    """How many findings no outcome could have decided, and why; empty without any."""
    why = [finding.undecidable for finding in findings if finding.undecidable]
    return f"{len(why)} could not have been decided: {'; '.join(dict.fromkeys(why))}" if why else ""


def _marked(finding: Finding) -> str:
    """The sentence, and which way it points."""
    mark = {"for": "For", "against": "Against", "unknown": "Undecided"}[finding.sign]
    mark = "Undecidable" if finding.undecidable else mark
    return f"{mark}: {finding.words}"
