"""The rules of C2 (cost to run), C4 (parallelism) and C5 (memory bandwidth)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from asr.formatting import digits, percent, times
from asr.probes import PROBES
from asr.probes.streaming import StreamPoint
from asr.probes.threads import PRODUCT, REFERENCE, Speedup
from asr.report.evidence import Evidence
from asr.report.findings import Rule, Verdict, conclude, unmeasured
from asr.report.probes import Probes, rows_of, times_doubted
from asr.statistics.contrast import Decision, decide
from asr.statistics.median import MIN_REPEATS, median_interval

MARGIN = 1.1  # ratios of times that differ from 1 by less do not matter
STREAMS = ("lstm-causal", "transformer-chunked")  # recipes of C2, without their size
CHUNK = 64  # feature frames; the chunks of the reference, and thus the delay of both streams
DIM, UTTERANCES = 320, (16, 400)  # LSTM of C4; utterances in a batch, frames of each
PARALLEL_SHARE = 0.75  # speed-up of a product by thread, from which on the cores were free
LAYERS, WIDTH, HALF = 5, 512, 0.5  # stream of C5; share of its time that makes a limit


def running(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C2, see ``RUNNING``."""
    points: dict[tuple[object, ...], StreamPoint] = {
        _alike(point): point for point in rows_of(probes, "streaming")
    }
    pairs = [
        (points[STREAMS[0], *rest], reference)
        for (name, *rest), reference in points.items()
        if name == STREAMS[1] and (STREAMS[0], *rest) in points and reference.chunk == CHUNK
    ]
    if not pairs:
        why = f"{' and '.join(STREAMS)} not measured with one size and position in chunks of "
        command = (
            f"{PROBES['streaming'].command} --encoders {' '.join(f'{s}-small' for s in STREAMS)}"
        )
        return unmeasured("C2", f"{why}{10 * CHUNK} ms", f"{command} --chunk {CHUNK}")
    subject, reference = max(pairs, key=lambda pair: (pair[1].position, pair[1].parameters))
    told = f"{subject.encoder} / {reference.encoder}, ms per frame at frame {subject.position:,} "
    told += f"in chunks of {10 * CHUNK} ms, batch {subject.batch}"
    ratios = [a / b for a, b in zip(subject.repeats, reference.repeats, strict=False)]
    state = times(subject.state_bytes / reference.state_bytes)
    return _of_ratios("C2", told, ratios, probes, "streaming", f"state {state} (exact)")


def _alike(point: StreamPoint) -> tuple[object, ...]:
    """An encoder without its size, then what two streams of C2 must share."""
    encoder, _, size = point.encoder.rpartition("-")
    return encoder, size, point.position, point.batch, point.chunk


def parallel(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C4, see ``PARALLEL``."""
    rows: Sequence[Speedup] = rows_of(probes, "threads")
    here = {row.layer: row for row in rows if (row.batch, row.frames) == UTTERANCES}
    if "LSTM" not in here or here["LSTM"].width != DIM:
        shape = f"an LSTM of width {DIM} and {UTTERANCES[0]} x {UTTERANCES[1]} frames"
        return unmeasured("C4", f"{shape} not measured", PROBES["threads"].command)
    row = here["LSTM"]
    told = f"speed-up of a {REFERENCE} layer / of an LSTM layer from 1 thread to {row.threads}, "
    told += f"training passes of equal FLOPs, {row.batch} x {row.frames} frames"
    others = [f"{r.layer} {times(median_interval(r.speedup).value)}" for r in here.values()]
    others += [
        f"a MinLSTM takes {times(here['MinLSTM'].seconds / row.seconds)} as long on 1 thread"
    ]
    ratios = [1 / ratio for ratio in row.ratio]
    least, product = PARALLEL_SHARE * row.threads, next(r for r in rows if r.layer == PRODUCT)
    reached = median_interval(product.speedup)
    why = f"a matrix product gains {times(reached.value)} [{digits(reached.low, 3)} or more], and "
    why += f"needs {times(least)} to show that the cores were free"
    why = "" if reached.low >= least else why
    beside = f"speed-ups: {', '.join(others)}"
    return _of_ratios("C4", told, ratios, probes, "threads", beside, why)


def bandwidth(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C5, see ``BANDWIDTH``."""
    steps = {(s.layers, s.width, s.batch): s for s in rows_of(probes, "roofline")}
    if (step := steps.get((LAYERS, WIDTH, 1))) is None:
        return unmeasured("C5", "not measured", PROBES["roofline"].command)
    if not step.multiplying:
        return unmeasured("C5", "measured without products", PROBES["roofline"].command)
    told = f"time to read the weights / time of a step of {LAYERS} layers of {WIDTH} cells at "
    told += f"batch 1, at least {_shares(step.reading)} (a sum) and at most "
    told += f"{_shares(step.multiplying)} (a product with a vector), threshold {percent(HALF)}"
    low, high = median_interval(step.reading).low, median_interval(step.multiplying).high
    decision = decide(low - HALF, high - HALF, 0)
    return _of_times("C5", decision, told, len(step.reading), probes, "roofline")


def _shares(values: Sequence[float]) -> str:
    value, low, high = map(percent, median_interval(values))
    return f"{value} [{low} to {high}]"


def _of_ratios(
    claim: str,
    told: str,
    ratios: Sequence[float],
    probes: Probes,
    probe: str,
    beside: str,
    why: str = "",
) -> Verdict:
    """The verdict from the ratios of repeats; a ratio above 1 speaks for the claim.

    ``why`` is a reason for no verdict, and empty if there may be one.
    """
    if not ratios:
        return unmeasured(claim, f"{told}: measured without repeats", PROBES[probe].command)
    value, low, high = median_interval(ratios)
    told += f", {times(value)} [{digits(low, 3)} to {digits(high, 3)}], margin {times(MARGIN)}"
    decision = decide(math.log(low), math.log(high), math.log(MARGIN))
    verdict = _of_times(claim, decision, told, len(ratios), probes, probe, why)
    return replace(verdict, reasons=[f"Does not affect the verdict: {beside}."])


def _of_times(
    claim: str,
    decision: Decision,
    told: str,
    repeats: int,
    probes: Probes,
    probe: str,
    why: str = "",
) -> Verdict:
    """Returns the verdict from repeats of times: open if they are too few or disturbed."""
    machine: dict[str, Any] = dict(probes[probe].machine)
    threads = machine.get("threads")
    where = machine.get("device_name") or "an unknown device"
    where += f", {threads} thread{'s' * (threads != 1)}" if threads else ""
    why = times_doubted(probes, probe) or why
    if repeats < MIN_REPEATS:
        why = why or f"{repeats} repeats; {MIN_REPEATS} could decide"
    decision = "not enough evidence" if why else decision
    return conclude(claim, decision, f"{told} ({repeats} repeats)", where, why)


REPEATS = (
    f"The interval holds the median of the repeats in 95 of 100 cases and needs {MIN_REPEATS} "
    "repeats. Times that other programs disturbed decide nothing."
)
RATIO = (
    "‘For’: the whole interval is above 1. ‘Against’: it is below 1. ‘Equivalent’: it lies between "
    f"1 / {MARGIN} and {MARGIN}. {REPEATS}"
)
RUNNING = Rule(
    "C2",
    "A recurrent network needs more resources to run.",
    (
        "The verdict is that of the milliseconds per frame of a causal LSTM, divided by those of a "
        f"chunked Transformer of the same size with the same delay (chunks of {10 * CHUNK} ms), at "
        "the same position and batch. The chunked Transformer is the attention encoder that "
        "streams fastest. The last position decides, and there the largest size.",
        RATIO,
        "Other encoders and chunks, the size of the state and the speed on whole recordings are "
        "description.",
    ),
    running,
)
PARALLEL = Rule(
    "C4",
    "Recurrence cannot be parallelised.",
    (
        "The verdict is that of the speed-up from one thread to several: the speed-up of a "
        "Transformer layer divided by that of an LSTM layer of equal FLOPs, in training passes of "
        f"{UTTERANCES[0]} utterances of {UTTERANCES[1]} frames, at a width of {DIM}. There is no "
        f"verdict unless a large matrix product gains {PARALLEL_SHARE:g} times the number of "
        "threads: otherwise the cores were not free.",
        RATIO,
        "Other batches, MinLSTM (computed by a parallel scan), and the share of a core's peak "
        "that each layer reaches on one thread are description.",
    ),
    parallel,
)
BANDWIDTH = Rule(
    "C5",
    "An LSTM does four affine maps a step, so it is bound by memory bandwidth.",
    (
        f"The verdict is that of a live stream of {LAYERS} layers of {WIDTH} cells at batch 1, "
        "which reads all its weights for each frame. Two times, as shares of the time of the step, "
        "bound the time to read the weights from the memory or cache where they lie. To sum a "
        "buffer of the same size is the least time. To multiply a matrix of the same size by a "
        "vector, as the step does, is the most.",
        f"‘For’: the interval of the sum is above {percent(HALF)}. ‘Against’: the interval of the "
        f"product is below. {REPEATS}",
        "Shares near 100 % mean that the step does little else than read its weights. Other widths "
        "and batches, and steps in one call, are description.",
    ),
    bandwidth,
)
