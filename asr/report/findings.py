"""The verdict on a claim, which follows from one contrast."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from asr.report.evidence import Evidence
from asr.report.probes import Probes
from asr.statistics.contrast import Decision


@dataclass(frozen=True)
class Verdict:
    """The conclusion on a claim.

    Attributes:
        claim: C1 to C7.
        words: the verdict on one line: decision, contrast, value, interval and machine.
        reasons: sentences on the contrast and on other results, which do not affect the verdict.
        commands: command lines for missing measurements.
    """

    claim: str
    kind: Decision
    words: str
    reasons: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


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


def conclude(claim: str, decision: Decision, measured: str, machine: str, why: str = "") -> Verdict:
    """The verdict from one contrast.

    Args:
        claim: C1 to C7.
        decision: what follows from the contrast.
        measured: the contrast with its value and its interval.
        machine: where it was measured.
        why: why there is not enough evidence; empty otherwise.
    """
    words = f"{decision}: {measured}; {machine}{why and f' ({why})'}"
    return Verdict(claim, decision, words)


def unmeasured(claim: str, why: str, *commands: str) -> Verdict:
    """The verdict without a measurement, with the reason."""
    return Verdict(claim, "not enough evidence", f"not enough evidence: {why}", [], list(commands))
