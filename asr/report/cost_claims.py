"""The rules of C2 (cost to run), C4 (parallelism) and C5 (memory bandwidth)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from asr.formatting import digits, percent, times
from asr.probes import PROBES
from asr.probes.streaming import StreamPoint
from asr.report.evidence import Evidence
from asr.report.findings import Rule, Verdict, conclude, unmeasured
from asr.report.probes import Probes, rows_of, times_doubted
from asr.statistics.contrast import Decision

TIMING = 1.25  # ratio of the times of repeats on one quiet machine
STREAMS = ("lstm-causal", "transformer-causal")  # recipes of C2, without their size
WIDTH, HALF = 512, 0.5  # cells of the step of C5; share of its time that makes a limit


def running(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C2, see ``RUNNING``."""
    points: dict[tuple[object, ...], StreamPoint] = {
        _alike(point): point for point in rows_of(probes, "streaming")
    }
    pairs = [
        (points[STREAMS[0], *rest], reference)
        for (name, *rest), reference in points.items()
        if name == STREAMS[1] and (STREAMS[0], *rest) in points
    ]
    if not pairs:
        why = f"{' and '.join(STREAMS)} not measured with one size, position and batch"
        return unmeasured("C2", why, PROBES["streaming"].command)
    subject, reference = max(pairs, key=lambda pair: (pair[1].position, pair[1].parameters))
    told = f"{subject.encoder} / {reference.encoder}, ms per frame at frame {subject.position:,}"
    if subject.chunk != reference.chunk:
        return unmeasured("C2", f"{told}: their delays differ", PROBES["streaming"].command)
    ratio = subject.milliseconds / reference.milliseconds
    low, high = ratio / TIMING, ratio * TIMING
    told += f" in chunks of {10 * subject.chunk} ms, batch {subject.batch}, "
    told += f"{times(ratio)} [{digits(low, 2)} to {digits(high, 2)}], threshold 1"
    doubt = times_doubted(probes, "streaming")
    decision: Decision = "for" if low > 1 else "against" if high < 1 else "not enough evidence"
    decision = "not enough evidence" if doubt else decision
    verdict = conclude("C2", decision, told, _machine(probes["streaming"].machine), doubt)
    state = times(subject.state_bytes / reference.state_bytes)
    return replace(verdict, reasons=[f"Does not affect the verdict: state {state} (exact)."])


def _alike(point: StreamPoint) -> tuple[object, ...]:
    """An encoder without its size, then what two streams of C2 must share."""
    encoder, _, size = point.encoder.rpartition("-")
    return encoder, size, point.position, point.batch


def parallel(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C4, see ``PARALLEL``."""
    why = "no probe measures the speed-up from one thread to several at equal FLOPs"
    rows = [r for r in rows_of(probes, "scaling") if r.name == "minlstm-lstm" and not r.error]
    if not rows:
        command = f"{PROBES['scaling'].command} --rows minlstm-lstm"
        return unmeasured("C4", why, command)
    row = max(rows, key=lambda r: r.time)
    told = f"{row.subject} / {row.reference}, time of a pass at {row.time:,} frames, "
    told += f"{times(row.ratio)} [{digits(row.ratio_min, 2)} to {digits(row.ratio_max, 2)}]"
    machine = _machine(probes["scaling"].machine)
    reasons = [f"Does not affect the verdict: {told}; {machine}."]
    return replace(unmeasured("C4", why), reasons=reasons)


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


RUNNING = Rule(
    "C2",
    "A recurrent network needs more resources to run.",
    (
        "The verdict is that of the milliseconds per frame of a causal LSTM, divided by those of a "
        "causal Transformer of the same size with the same delay (chunks of 40 ms), at the same "
        "position and batch. The last position decides, and there the largest size.",
        f"As the times have no repeats, the interval is the ratio up to {TIMING} times smaller or "
        "larger, which is the difference between repeats on one quiet machine.",
        "The finding is ‘for’ if the whole interval is above 1, and ‘against’ if it is below 1. "
        "Such an interval is too wide to call two times equivalent. Times that other programs "
        "disturbed decide nothing.",
        "Other encoders, larger chunks, the size of the state and the speed on whole recordings "
        "are description.",
    ),
    running,
)
PARALLEL = Rule(
    "C4",
    "Recurrence cannot be parallelised.",
    (
        "There is not enough evidence, whatever the times are. The claim needs the speed-up from "
        "one thread to several at equal FLOPs, of a recurrent layer and of a reference. No probe "
        "measures this yet.",
        "The time of a MinLSTM layer, computed by a parallel scan, divided by that of a fused LSTM "
        "layer is description: a MinLSTM does about 0.4 times the multiplications of an LSTM, so "
        "it can take less time without being more parallel. Comparisons with loops are "
        "description, too, because a loop has an overhead for each step.",
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
        "The finding is ‘for’ if the whole interval is between 50 and 100 %, and ‘against’ if it "
        "is below 50 %. Shares above 100 % mean that the weights lie in a cache. The bandwidth of "
        "the cache was not measured, so an interval that holds such shares is not enough evidence. "
        "Other widths and batches are description.",
    ),
    bandwidth,
)
