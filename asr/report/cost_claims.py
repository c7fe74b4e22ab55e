"""The rules of C2 (cost to run), C4 (parallelism) and C5 (memory bandwidth)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from asr.formatting import digits, percent, times
from asr.probes import PROBES
from asr.report.evidence import Evidence
from asr.report.findings import Rule, Verdict, conclude, unmeasured
from asr.report.probes import Probes, rows_of, times_doubted
from asr.statistics.contrast import Decision, decide

TIMING = 1.25  # times with a smaller ratio count as equal, as for repeats on one machine
LONG = 1000  # least number of frames for C4; on fewer, the overhead of a call dominates
STREAMS = ("lstm-causal", "transformer-causal")  # recipes of C2, without their size
WIDTH, HALF = 512, 0.5  # cells of the step of C5; share of its time that makes a limit


def running(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C2, see ``RUNNING``."""
    points = sorted(rows_of(probes, "streaming"), key=lambda point: point.position)
    last = {point.encoder.rpartition("-")[0]: point for point in points}
    if any(name not in last for name in STREAMS):
        return unmeasured(
            "C2", f"{' and '.join(STREAMS)} not measured", PROBES["streaming"].command
        )
    subject, reference = (last[name] for name in STREAMS)
    told = f"{subject.encoder} / {reference.encoder}, ms per frame at frame {subject.position:,}"
    if subject.chunk != reference.chunk:
        return unmeasured("C2", f"{told}: their delays differ", PROBES["streaming"].command)
    ratio = subject.milliseconds / reference.milliseconds
    told += f" in chunks of {10 * subject.chunk} ms, "
    verdict = _timed(probes, "C2", "streaming", told, ratio, ratio / TIMING, ratio * TIMING)
    state = times(subject.state_bytes / reference.state_bytes)
    return replace(verdict, reasons=[f"Does not affect the verdict: state {state} (exact)."])


def parallel(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C4, see ``PARALLEL``."""
    rows = [r for r in rows_of(probes, "scaling") if r.name == "minlstm-lstm" and not r.error]
    row = max((r for r in rows if r.time >= LONG), key=lambda r: r.time, default=None)
    if row is None:
        command = f"{PROBES['scaling'].command} --rows minlstm-lstm"
        return unmeasured("C4", "not measured", command)
    told = f"{row.subject} / {row.reference}, time of a pass at {row.time:,} frames, "
    return _timed(probes, "C4", "scaling", told, row.ratio, row.ratio_min, row.ratio_max)


def _timed(
    probes: Probes, claim: str, probe: str, told: str, ratio: float, low: float, high: float
) -> Verdict:
    """The verdict from a ratio of times, with the margin ``TIMING``."""
    told += f"{times(ratio)} [{digits(low, 2)} to {digits(high, 2)}], margin {TIMING} times"
    doubt = times_doubted(probes, probe)
    decision: Decision = decide(math.log(low), math.log(high), math.log(TIMING))
    decision = "not enough evidence" if doubt else decision
    return conclude(claim, decision, told, _machine(probes[probe].machine), doubt)


def bandwidth(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C5, see ``BANDWIDTH``."""
    steps = {(s.width, s.batch): s for s in rows_of(probes, "roofline")}
    if (step := steps.get((WIDTH, 1))) is None:
        return unmeasured("C5", "not measured", PROBES["roofline"].command)
    of_machine = probes["roofline"].rest["machine"]["bandwidth"]
    seconds = step.flops / 2 / step.intensity / of_machine  # to read the recurrent weights
    share = seconds / step.seconds
    low, high = share / TIMING, share * TIMING
    told = f"time to read the recurrent weights from memory / time of a step of {WIDTH} cells at "
    told += (
        f"batch 1, {percent(share)} [{percent(low)} to {percent(high)}], threshold {percent(HALF)}"
    )
    decision: Decision = (
        "for" if low > HALF else "against" if high < HALF else "not enough evidence"
    )
    why = times_doubted(probes, "roofline")
    if high > 1:  # memory cannot deliver the weights in less than its own time
        where = "lie" if low > 1 else "may lie"
        why = f"the weights {where} in a cache, whose bandwidth was not measured"
    decision = "not enough evidence" if why else decision
    return conclude("C5", decision, told, _machine(probes["roofline"].machine), why)


def _machine(machine: Mapping[str, Any]) -> str:
    threads = machine.get("threads")
    name = machine.get("device_name") or "an unknown device"
    return f"{name}, {threads} thread{'s' * (threads != 1)}" if threads else str(name)


SPREAD = (
    f"Ratios below {TIMING} count as equal, which is the difference between repeats on one quiet "
    "machine. The finding is ‘equivalent’ if the interval lies within this margin, ‘for’ if the "
    "whole interval is above 1, and ‘against’ if it is below 1. Times that other programs "
    "disturbed decide nothing."
)
RUNNING = Rule(
    "C2",
    "A recurrent network needs more resources to run.",
    (
        "The verdict is that of the milliseconds per frame of a causal LSTM, divided by those of a "
        "causal Transformer with the same delay (chunks of 40 ms), at the last position of the "
        f"stream. As the times have no repeats, the interval is the ratio up to {TIMING} times "
        "smaller or larger.",
        SPREAD,
        "Other encoders, larger chunks, the size of the state and the speed on whole recordings "
        "are description.",
    ),
    running,
)
PARALLEL = Rule(
    "C4",
    "Recurrence cannot be parallelised.",
    (
        "The verdict is that of the time of a MinLSTM layer, computed by a parallel scan, divided "
        "by that of a fused LSTM layer, at the longest sequence measured. The interval goes from "
        "the least to the greatest ratio of the repeats.",
        SPREAD,
        "The claim holds for the LSTM itself, whose recurrence is not linear. The verdict is about "
        "whether a recurrent layer can be. Comparisons with loops are description, because a loop "
        "has an overhead for each step.",
    ),
    parallel,
)
BANDWIDTH = Rule(
    "C5",
    "An LSTM does four affine maps a step, so it is bound by memory bandwidth.",
    (
        f"The verdict is that of one step of an LSTM of {WIDTH} cells at batch 1: the time that it "
        "takes to read the recurrent weights at the measured bandwidth of memory, as a share of "
        "the time of the step. Its interval is the share up to 1.25 times smaller or larger.",
        "The finding is ‘for’ if the whole interval is between 50 and 100 %, and ‘against’ if it is "
        "below 50 %. Shares above 100 % mean that the weights lie in a cache. The bandwidth of the "
        "cache was not measured, so an interval that holds such shares is not enough evidence. "
        "Other widths and batches are description.",
    ),
    bandwidth,
)
