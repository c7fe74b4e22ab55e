"""Comparisons that several rules use: arms by family, errors of two arms, times of two layers."""

from collections.abc import Callable, Collection

from asr.formatting import digits, points_interval
from asr.probes.scaling import Timing
from asr.report.evidence import Evidence
from asr.report.families import family
from asr.report.findings import MEASUREMENT, Finding, Sign
from asr.report.groups import Arm
from asr.report.probes import Probes, rows_of, times_doubted
from asr.report.runs import part

TIMING = 1.25  # times with a smaller ratio count as equal, as for repeats on one machine
CONTRARY: dict[Sign, Sign] = {"for": "against", "against": "for", "unknown": "unknown"}


def same_budget(a: Arm, b: Arm) -> bool:
    """Whether two arms had the same budget, so that a difference is due to the encoder."""
    return part(a.runs[0].recipe, ("budget",)) == part(b.runs[0].recipe, ("budget",))


def family_pairs(evidence: Evidence) -> list[tuple[Arm, Arm]]:
    """All pairs of a recurrent and an attention arm with the same budget."""
    families = [(arm, family(arm.runs[0].encoder)) for arm in evidence.group.arms]
    return [
        (r, a)
        for r, r_family in families
        for a, a_family in families
        if (r_family, a_family) == ("recurrent", "attention") and same_budget(r, a)
    ]


def errors(evidence: Evidence, encoder: str, others: Collection[str], worse: Sign) -> list[Finding]:
    """Findings on the errors of one encoder against others, for arms of several seeds.

    The two arms of a pair have the same budget. ``worse`` is the sign if ``encoder`` makes
    significantly more errors; with fewer errors or no difference, the sign is the opposite.
    """
    findings = []
    arms = evidence.group.arms
    for one in (arm for arm in arms if arm.runs[0].encoder == encoder):
        for other in (arm for arm in arms if arm.runs[0].encoder in others):
            pair = evidence.pair(one, other)
            if pair.comparison is None or not pair.of_arms or not same_budget(one, other):
                continue
            said = evidence.statement(one, other)
            sign = worse if said == "worse" else CONTRARY[worse]
            sign = "unknown" if said == "not enough evidence" else sign
            value = points_interval(
                pair.comparison.difference.value, pair.comparison.difference.interval
            )
            words = f"errors, {pair.b.label} minus {pair.a.label}: {value}; "
            words += f"{one.label}: {evidence.explained_statement(one, other)}."
            findings.append(Finding(sign, words, {MEASUREMENT: "errors"}, pair.undecidable))
    return findings


def layer_times(
    probes: Probes,
    name: str,
    shortest: int,
    faster: Sign,
    context: Callable[[Timing], dict[str, str]],
) -> list[Finding]:
    """Findings on one comparison of the scaling probe, at ``shortest`` frames or more.

    ``faster`` is the sign if the subject takes less than 1 / 1.25 of the time of its reference in
    every repeat. If it takes more in every repeat, the sign is the opposite.
    """
    findings = []
    doubt = times_doubted(probes, "scaling")
    for row in rows_of(probes, "scaling"):
        if row.name != name or row.time < shortest or row.error:
            continue
        assert row.ratio_min is not None
        assert row.ratio_max is not None
        sign: Sign = "unknown"
        if not doubt and row.ratio_max < 1 / TIMING:
            sign = faster
        elif not doubt and row.ratio_min > 1 / TIMING:
            sign = CONTRARY[faster]
        words = (
            f"{row.subject} takes {digits(row.ratio, 2)} [{digits(row.ratio_min, 2)} to "
            f"{digits(row.ratio_max, 2)}] of the time and {digits(row.peak_ratio, 2)} of the "
            f"memory of {row.reference} at {row.time:,} frames{doubt and f'; {doubt}'}."
        )
        findings.append(Finding(sign, words, context(row)))
    return findings
