"""Derives the verdict on a claim from the findings for and against it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

from asr.formatting import listed
from asr.report.evidence import Evidence
from asr.report.probes import Probes

Sign = Literal["for", "against", "unknown"]
Kind = Literal["supported", "refuted", "depends", "not enough evidence"]

MEASUREMENT = "the measurement"  # the facet that names the kind of measurement
DECIDED = 0.5  # least share of findings with a sign; below it, there is not enough evidence


@dataclass(frozen=True)
class Finding:
    """Says what one comparison means for a claim.

    Attributes:
        sign: whether the comparison supports the claim, contradicts it, or does neither.
        words: a sentence with the figures.
        context: conditions of the comparison by facet, as ``{"the budget": "0.1 core-hours"}``.
        undecidable: why no outcome could have given a sign (too few seeds, words or speakers, or
            too many comparisons), and the remedy; empty if another outcome could have given one.
    """

    sign: Sign
    words: str
    context: dict[str, str] = field(default_factory=dict)
    undecidable: str = ""


@dataclass(frozen=True)
class Verdict:
    """The conclusion on a claim.

    Attributes:
        claim: C1 to C7.
        words: the printed verdict, with the facets on which it depends or the missing evidence.
        reasons: the findings as sentences with figures.
        commands: command lines for the missing measurements.
        beside: sentences that are printed after the findings but do not affect the verdict.
    """

    claim: str
    kind: Kind
    words: str
    reasons: list[str]
    commands: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Rule:
    """A claim, and the rule that decides it.

    Attributes:
        claim: C1 to C7.
        statement: the claim in words.
        how: the paragraphs of the page that explain the rule; a tuple is a list of points.
        judge: the function that applies the rule.
    """

    claim: str
    statement: str
    how: Sequence[str | tuple[str, ...]]
    judge: Callable[[Sequence[Evidence], Probes], Verdict]


def conclude(
    claim: str, findings: Sequence[Finding], commands: Sequence[str] = (), needs: str = ""
) -> Verdict:
    """The verdict that follows from findings; all claims use this rule.

    * If there are findings of both signs, the claim **depends on** the facets that separate them
      (``separating``).
    * If a measurement is missing (``needs``), or fewer than half of the findings have a sign, there
      is **not enough evidence**.
    * If all signs are *for*, the claim is **supported**. If all are *against*, it is **refuted**.
      If a kind of measurement has no sign, the words name those that have one.

    A finding without a sign counts for neither side. The number of undecidable findings, with the
    remedy, is part of the words if there is not enough evidence, and otherwise the first reason.
    """
    signs = [finding.sign for finding in findings if finding.sign != "unknown"]
    undecidable = _undecidable(findings)
    reasons = [_marked(finding) for finding in findings]
    if undecidable:
        reasons.insert(0, f"Of {len(findings)} comparisons, {undecidable}.")
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
    """`` by A; B: undecided`` if no finding of measurement B has a sign; otherwise empty."""
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
    """The verdict that there is not enough evidence, with the reason."""
    kind: Kind = "not enough evidence"
    return Verdict(claim, kind, f"{kind}: {why}", list(reasons), list(commands))


def separating(findings: Sequence[Finding]) -> str:
    """The smallest set of facets for which findings with equal values have equal signs.

    A single facet is printed with the values of both signs. With several facets, the values are
    printed only for a sign that has a single combination. If even all facets together do not
    separate the signs, the result is ``what is compared``, with the number of each sign.
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
    """``1 for: A, B; 2 against``; a combination is named if it is the only one of its sign."""
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
    """The number of findings that no outcome could have decided, and why; empty if 0."""
    why = [finding.undecidable for finding in findings if finding.undecidable]
    return f"{len(why)} could not have been decided: {'; '.join(dict.fromkeys(why))}" if why else ""


def _marked(finding: Finding) -> str:
    """The sentence of a finding, after its sign."""
    mark = {"for": "For", "against": "Against", "unknown": "Undecided"}[finding.sign]
    mark = "Undecidable" if finding.undecidable else mark
    return f"{mark}: {finding.words}"
