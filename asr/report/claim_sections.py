"""Writes a section per claim: the claim, the verdict, its reasons, and the results of probes."""

from collections.abc import Sequence
from dataclasses import replace

from asr.document.blocks import Block, Folded, Section, Table, Text
from asr.probes import PROBES
from asr.probes.probe import source
from asr.report.arms import curves
from asr.report.claims import RULES, rule
from asr.report.evidence import Evidence
from asr.report.findings import Verdict
from asr.report.probes import Probes


def overview(verdicts: Sequence[Verdict]) -> list[Block]:
    """The claims and their verdicts at a glance."""
    rows = [[f"{v.claim}: {rule(v.claim).statement}", v.words] for v in verdicts]
    note = (
        'The claims are those of "The fall of RNN / LSTM" (E. Culurciello, 2018), split into parts '
        "that can be measured. The verdicts hold only for the machine, corpus and sizes shown here."
    )
    return [Table(["claim", "verdict"], rows), Text([note])]


def claim_sections(
    verdicts: Sequence[Verdict], found: Sequence[Evidence], probes: Probes
) -> list[Section]:
    """Sections for C1 to C7, then for results of probes that belong to no single claim.

    The curves of a single group are in the section of C1; several groups each have their own.
    """
    arms = found[0].group.arms if found else []
    first = [arm.runs[0].encoder for arm in arms]
    probes = {name: replace(measured, first=first) for name, measured in probes.items()}
    sections: list[Section] = []
    for verdict in verdicts:
        blocks = _words(verdict)
        if verdict.claim == "C1":
            blocks += curves(found[0], "") if len(found) == 1 else []
        title = f"{verdict.claim}. {rule(verdict.claim).statement}"
        sections.append((title, [*blocks, *_measured(verdict.claim, probes)]))
    places = dict.fromkeys(part.place for probe in PROBES.values() for part in probe.parts)
    others = [place for place in places if place not in RULES]
    return [*sections, *((place, _measured(place, probes)) for place in others)]


def _words(verdict: Verdict) -> list[Block]:
    blocks: list[Block] = [Text([f"Verdict: {verdict.words}."], "verdict")]
    if verdict.reasons:
        blocks.append(Text(verdict.reasons, "list"))
    if verdict.commands:
        blocks.append(Text([f"Commands for the missing results: {'; '.join(verdict.commands)}"]))
    how = [
        Text([part], "rule") if isinstance(part, str) else Text(part, "rules")
        for part in rule(verdict.claim).how
    ]
    return [*blocks, Folded("How it is decided", how)]


def _measured(place: str, probes: Probes) -> list[Block]:
    """The results of probes for a place of the report, or the command that measures them."""
    blocks: list[Block] = []
    for probe in PROBES.values():
        for part in probe.parts:
            if part.place != place:
                continue
            drawn = part.draw(probes[probe.name]) if probe.name in probes else []
            if drawn:
                blocks += [*drawn, source(probes[probe.name])]
            elif part.missing:
                blocks.append(Text([f"{part.missing} To measure it: {probe.command}"]))
    return blocks
