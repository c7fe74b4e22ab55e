"""The verdicts on C1 to C7, in this order; each rule is the docstring of its function."""

from collections.abc import Sequence

from asr.report.cost_claims import bandwidth, parallel, running
from asr.report.evidence import Evidence
from asr.report.findings import Verdict
from asr.report.memory_claims import hierarchy, lstm_memory, storing
from asr.report.probes import Probes
from asr.report.training_claim import training

RULES = {
    "C1": training,
    "C2": running,
    "C3": lstm_memory,
    "C4": parallel,
    "C5": bandwidth,
    "C6": hierarchy,
    "C7": storing,
}


def judge(found: Sequence[Evidence], probes: Probes) -> list[Verdict]:
    """A verdict for every claim, whatever was measured."""
    split = found[0].group.runs[0].split
    return [
        training(found),
        running(found, probes),
        lstm_memory(probes),
        parallel(found, probes),
        bandwidth(probes),
        hierarchy(found, probes),
        storing(probes, split),
    ]
