"""Applies the rules of C1 to C7 in order, and collects their verdicts."""

from collections.abc import Sequence

from asr.report.cost_claims import BANDWIDTH, PARALLEL, RUNNING
from asr.report.evidence import Evidence
from asr.report.findings import Rule, Verdict
from asr.report.memory_claims import HIERARCHY, LSTM_MEMORY
from asr.report.probes import Probes
from asr.report.training_claim import STORING, TRAINING, planned

RULES: dict[str, Rule] = {
    rule.claim: rule
    for rule in (TRAINING, RUNNING, LSTM_MEMORY, PARALLEL, BANDWIDTH, HIERARCHY, STORING)
}


def rule(claim: str) -> Rule:
    """The rule of a claim; a study can name a claim of its own."""
    own = Rule(claim, "A claim of this study.", TRAINING.how, planned(claim))
    return RULES.get(claim, own)


def judge(found: Sequence[Evidence], probes: Probes) -> list[Verdict]:
    """A verdict for every claim, whatever was measured."""
    own = [contrast.claim for evidence in found for contrast in evidence.planned]
    return [rule(claim).judge(found, probes) for claim in dict.fromkeys([*RULES, *own])]
