"""Applies the rules of C1 to C7 in order, and collects their verdicts."""

from collections.abc import Sequence

from asr.report.cost_claims import BANDWIDTH, PARALLEL, RUNNING
from asr.report.evidence import Evidence
from asr.report.findings import Rule, Verdict
from asr.report.memory_claims import HIERARCHY, LSTM_MEMORY, STORING
from asr.report.probes import Probes
from asr.report.training_claim import TRAINING

RULES: dict[str, Rule] = {
    rule.claim: rule
    for rule in (TRAINING, RUNNING, LSTM_MEMORY, PARALLEL, BANDWIDTH, HIERARCHY, STORING)
}


def judge(found: Sequence[Evidence], probes: Probes) -> list[Verdict]:
    """A verdict for every claim, whatever was measured."""
    return [rule.judge(found, probes) for rule in RULES.values()]
