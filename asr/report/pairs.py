"""Comparisons that several rules use: arms by family, errors of two arms, times of two layers."""

from collections.abc import Callable, Collection, Sequence

from asr.formatting import digits, points_interval
from asr.probes.scaling import Timing
from asr.report.evidence import Evidence
from asr.report.families import family
from asr.report.findings import MEASUREMENT, Finding, Sign
from asr.report.groups import Arm
from asr.report.runs import part

TIMING = 1.25  # times closer than this are the same: repeats on one machine differ as much
CONTRARY: dict[Sign, Sign] = {"for": "against", "against": "for", "unknown": "unknown"}


def same_budget(a: Arm, b: Arm) -> bool:
    """Whether two arms were given as much; what more of it buys is no matter of the encoder."""
    return part(a.runs[0].recipe, ("budget",)) == part(b.runs[0].recipe, ("budget",))


def family_pairs(evidence: Evidence) -> list[tuple[Arm, Arm]]:
    """(recurrent, attention) arms that had the same budget."""
    families = [(arm, family(arm.runs[0].encoder)) for arm in evidence.group.arms]
    return [
        (r, a)
        for r, r_family in families
        for a, a_family in families
        if (r_family, a_family) == ("recurrent", "attention") and same_budget(r, a)
    ]


def errors(evidence: Evidence, encoder: str, others: Collection[str], worse: Sign) -> list[Finding]:
    """Errors of the arms of an encoder against those of others, at one budget, of several seeds.

    ``worse`` is what significantly more errors of ``encoder`` say of the claim; no difference or
    fewer errors say the opposite.
    """
    findings = []
    arms = evidence.group.arms
    for one in (arm for arm in arms if arm.runs[0].encoder == encoder):
        for other in (arm for arm in arms if arm.runs[0].encoder in others):
            pair = evidence.pair(one, other)
            if pair.found is None or not pair.of_arms or not same_budget(one, other):
                continue
            said = evidence.statement(one, other)
            sign = worse if said == "worse" else CONTRARY[worse]
            sign = "unknown" if said == "not enough evidence" else sign
            value = points_interval(pair.found.difference.value, pair.found.difference.interval)
            words = f"errors, {pair.b.label} less {pair.a.label}: {value}; "
            words += f"{one.label}: {evidence.told(one, other)}."
            findings.append(Finding(sign, words, {MEASUREMENT: "errors"}, pair.undecidable))
    return findings


def layer_times(
    rows: Sequence[Timing],
    name: str,
    shortest: int,
    faster: Sign,
    context: Callable[[Timing], dict[str, str]],
) -> list[Finding]:
    """The comparisons of one name in the scaling probe, of ``shortest`` frames or more.

    ``faster`` is what it says of the claim that the subject takes less than 1 / 1.25 of the time of
    its reference in every repeat; more in every repeat says the opposite.
    """
    findings = []
    for row in rows:
        if row.name != name or row.time < shortest or row.error:
            continue
        assert row.ratio_min is not None
        assert row.ratio_max is not None
        sign: Sign = "unknown"
        if row.ratio_max < 1 / TIMING:
            sign = faster
        elif row.ratio_min > 1 / TIMING:
            sign = CONTRARY[faster]
        words = (
            f"{row.subject} takes {digits(row.ratio, 2)} [{digits(row.ratio_min, 2)} to "
            f"{digits(row.ratio_max, 2)}] of the time and {digits(row.peak_ratio, 2)} of the "
            f"memory of {row.reference} at {row.time:,} frames."
        )
        findings.append(Finding(sign, words, context(row)))
    return findings
