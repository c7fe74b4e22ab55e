"""The rules of C2 (cost to run), C4 (parallelism) and C5 (memory bandwidth)."""

from collections.abc import Sequence
from dataclasses import replace

from asr.formatting import digits, listed, times
from asr.probes import PROBES
from asr.probes.roofline import BOUNDS
from asr.probes.scaling import Timing
from asr.report.costs import encoder_factor, real_time_factor, recorded, timed_otherwise, waited
from asr.report.evidence import Evidence
from asr.report.families import family, unknown_families
from asr.report.findings import MEASUREMENT, Finding, Rule, Sign, Verdict, conclude, unmeasured
from asr.report.groups import Arm
from asr.report.pairs import TIMING, errors, family_pairs, layer_times
from asr.report.probes import Probes, rows_of, times_doubted
from asr.report.runs import Run

LONG = 1000  # least number of frames for C4; on fewer, the overhead of a call dominates
FEW, MANY = 0.1, 0.9  # shares of steps or of pairs of seeds that refute and support a claim
POOR_FIT = 0.5  # largest relative residual of a fit that gives a verdict
STREAM = (
    ("streaming speed", "milliseconds", "ms per frame"),
    ("streaming state", "state_bytes", "bytes of state"),
)


def running(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C2, see ``RUNNING``."""
    findings = [f for e in found for r, a in family_pairs(e) for f in _offline(r, a)]
    offline = any(finding.sign != "unknown" for finding in findings)
    points = sorted(rows_of(probes, "streaming"), key=lambda point: point.position)
    last = {point.encoder: point for point in points}.values()
    pairs = [
        (r, a)
        for r in last
        for a in last
        if (family(r.encoder), family(a.encoder)) == ("recurrent", "attention")
        and r.chunk == a.chunk
    ]
    for r, a in pairs:
        for measure, key, unit in STREAM:
            one, other = getattr(r, key), getattr(a, key)
            sign: Sign = "for" if one > TIMING * other else "against"
            doubt = times_doubted(probes, "streaming") if key == "milliseconds" else ""
            sign = "unknown" if doubt else sign
            words = f"at frame {r.position:,} {r.encoder} against {a.encoder}, {digits(one)} and "
            words += f"{digits(other)} {unit}, {times(one / other)}{doubt and f'; {doubt}'}."
            findings.append(Finding(sign, words, _facets(measure, r.encoder, a.encoder)))
    missing = [] if offline else [again([run for e in found for run in e.group.runs])]
    missing += [] if pairs else [PROBES["streaming"].command]
    names = [arm.runs[0].encoder for e in found for arm in e.group.arms]
    beside = unknown_families([*names, *(point.encoder for point in last)])
    if not findings:
        return replace(unmeasured("C2", "not measured", missing), beside=beside)
    needs = "not all of offline speed, streaming speed and state are known" if missing else ""
    verdict = conclude("C2", findings, missing, needs)
    return replace(verdict, reasons=_in_short(findings), beside=beside)


def again(runs: Sequence[Run]) -> str:
    """The command that times runs again, with the number of threads of their training."""
    threads = next((run.num_threads for run in runs if run.num_threads), 1)
    return f"OMP_NUM_THREADS={threads} asr evaluate RUN"


def _offline(r: Arm, a: Arm) -> list[Finding]:
    """The finding on the offline speed of two arms; empty if an arm was not evaluated.

    It uses the time of the whole recogniser if an evaluation did not time the encoder.
    """
    whole = [real_time_factor(arm) for arm in (r, a)]
    if not all(whole):
        return []
    mine, theirs = (digits(value, 2) for value in whole)
    total = f"{mine} and {theirs} s per second of audio"
    alone = [encoder_factor(arm) for arm in (r, a)]
    apart = None not in alone
    words = f"{r.label} against {a.label}, {total} with the search, which was not timed separately"
    if apart:
        words = (
            f"{r.label} against {a.label}, {digits(alone[0], 2)} and {digits(alone[1], 2)} s of "
        )
        words += f"features and encoder per second of audio (with the search {total})"
    sign, said = _compared(r, a, apart)
    differ = timed_otherwise((r, a))
    if why := waited((r, a)) or (f"differ in {differ}" if differ else ""):
        command = again([*r.runs, *a.runs])
        sign = "unknown"
        said = f", not compared because the evaluations {why}: run {command} for all"
    words += f"{said}{_remarks([*r.runs, *a.runs])}."
    return [Finding(sign, words, _facets("offline speed", r.label, a.label))]


def _compared(r: Arm, a: Arm, apart: bool) -> tuple[Sign, str]:
    """The sign from all pairs of a seed of each arm, and the range of their ratios in words."""
    mine, theirs = (
        [run.encoder_factor if apart else run.metric("real_time_factor") for run in arm.runs]
        for arm in (r, a)
    )
    ratios = sorted(m / t for m in mine for t in theirs if m is not None and t is not None)
    longer = sum(ratio > TIMING for ratio in ratios)
    low, high = ratios[0], ratios[-1]
    words = f", {times(low)}" if low == high else f", {digits(low, 2)} to {times(high)}"
    if len(ratios) > 1:
        words += f", above {TIMING} in {longer} of {len(ratios)} pairs of seeds"
    share = longer / len(ratios)
    if share >= MANY:
        return "for", words
    if share <= FEW and (apart or sum(ratio > 1 for ratio in ratios) <= FEW * len(ratios)):
        return "against", words
    command = again([*r.runs, *a.runs])
    if share > FEW:
        return "unknown", f"{words}, so the pairs disagree: run {command} on a quiet machine"
    words += ", which does not show the time of the encoders alone"
    return "unknown", f"{words}: {command} times them separately"


def _remarks(runs: Sequence[Run]) -> str:
    """Remarks on evaluations: numbers of threads that are not recorded, and unequal commits."""
    evaluated = [run for run in runs if run.metrics is not None]
    lacking = sum(run.metric("threads") is None for run in evaluated)
    commits = recorded(evaluated, "git_commit")
    told = (
        f"; the threads of {lacking} of {len(evaluated)} evaluations are not recorded"
        if lacking
        else ""
    )
    return told + (f"; evaluated at commits {listed(commits)}" if len(commits) > 1 else "")


def _in_short(findings: Sequence[Finding]) -> list[str]:
    """For each measurement, the number of pairs with each sign, and one example."""
    reasons = []
    for measure in dict.fromkeys(f.context[MEASUREMENT] for f in findings):
        own = [f for f in findings if f.context[MEASUREMENT] == measure]
        for sign, words in (("for", "For"), ("against", "Against"), ("unknown", "Undecided")):
            some = [f for f in own if f.sign == sign]
            if some:
                share = f"{len(some)} of {len(own)} pairs"
                reasons.append(f"{words}, {measure}: {share}; for example, {some[0].words}")
    return reasons


def _facets(measure: str, r: str, a: str) -> dict[str, str]:
    return {
        MEASUREMENT: measure,
        "the recurrent encoder": r,
        "the attention encoder": a,
    }


def parallel(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C4, see ``PARALLEL``."""

    def context(row: Timing) -> dict[str, str]:
        return {MEASUREMENT: "speed", "the recurrence": row.name, "the length": str(row.time)}

    findings = [
        finding
        for name in ("minlstm-loop", "statespace-loop")
        for finding in layer_times(probes, name, LONG, "against", context)
    ]
    if not findings:
        return unmeasured("C4", "not measured", [PROBES["scaling"].command])
    findings += [f for e in found for f in errors(e, "MinLSTM", ("LSTM",), worse="for")]
    return conclude("C4", findings)


def bandwidth(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C5, see ``BANDWIDTH``; it does not use trained arms."""
    command = [PROBES["roofline"].command]
    steps = rows_of(probes, "roofline")
    if not steps:
        return unmeasured("C5", "not measured", command)
    rest = probes["roofline"].rest
    fit, ridge = rest["fit"], rest["machine"]["ridge"]
    number = {bound: sum(step.bound == bound for step in steps) for bound in BOUNDS}
    share = number["memory"] / len(steps)
    numbers = ", ".join(f"{steps} by {bound}" for bound, steps in number.items())
    bound = [f"{s.width} x {s.batch}" for s in steps if s.bound == "memory"]
    reasons = [
        f"Bounds of {len(steps)} steps, one per width and batch: {numbers}.",
        f"Ridge of this machine {digits(ridge)} FLOP per byte; latency of a step "
        f"{digits(1e6 * fit['latency'])} µs; residuals of the fit {100 * fit['error']:.0f} %.",
    ]
    if bound:
        reasons.append(f"Bound by memory (width x batch): {listed(bound)}.")
    if doubt := times_doubted(probes, "roofline"):
        return unmeasured("C5", doubt, command, reasons)
    if fit["error"] > POOR_FIT:
        return unmeasured("C5", "the fit is poor; measure on an idle machine", command, reasons)
    if share >= MANY:
        return Verdict("C5", "supported", "supported", reasons)
    if share <= FEW:
        return Verdict("C5", "refuted", "refuted", reasons)
    return Verdict("C5", "depends", "depends on width and batch", reasons)


RUNNING = Rule(
    "C2",
    "A recurrent network needs more resources to run.",
    (
        "Recurrent encoders are compared with attention encoders by three measurements. All three "
        "are needed.",
        (
            "Offline speed: seconds for features and encoder per second of audio, in the "
            "evaluation of arms of one group, as means over seeds. The search is not included, "
            "because the arms share it, and this common time would hide the difference of the "
            "encoders. If an evaluation did not time the encoder separately, the rule uses the "
            "whole time (the real-time factor). The finding can then be ‘for’ as below, since a "
            "common part only lowers the ratio. It is ‘against’ only if the recurrent arm takes no "
            "longer as a whole, and otherwise undecided.",
            "Streaming speed: milliseconds per frame of causal encoders at the last position, for "
            "encoders with equal chunks and so with equal delay.",
            "Streaming state: bytes of state at the last position.",
        ),
        "A finding is ‘for’ if the recurrent encoder takes more than 1.25 times as much, and "
        "‘against’ otherwise, because the claim says “more”. Timings have no interval; 1.25 is the "
        "difference between repeats on one quiet machine. On a busy machine they differ more. An "
        "offline finding therefore needs agreement of 90 % of the pairs of one seed of each arm, "
        "and is otherwise undecided. Evaluations with different devices, threads, batches or "
        "searches are not compared, nor those that waited for a core for more than 10 % of their "
        "time. Evaluations at different commits are compared, and the finding "
        "names the commits.",
    ),
    running,
)
PARALLEL = Rule(
    "C4",
    "Recurrence cannot be parallelised.",
    (
        "The scan of MinLSTM (or StateSpace) is compared with a loop that computes the same "
        "function of the same weights, at each length of 1,000 frames or more. The finding is "
        "‘against’ if the scan takes less than 1 / 1.25 of the time of the loop in every repeat. "
        "It is ‘for’ if the scan takes more than this in every repeat, and otherwise undecided.",
        "A second question is whether the parallel recurrence is as accurate as the LSTM. The "
        "finding is ‘for’ if MinLSTM makes significantly more errors than the LSTM at the same "
        "budget, because MinLSTM gives up the recurrence that the claim is about. It is ‘against’ "
        "if there is no difference or MinLSTM makes fewer errors.",
    ),
    parallel,
)
BANDWIDTH = Rule(
    "C5",
    "An LSTM does four affine maps a step, so it is bound by memory bandwidth.",
    (
        "A fitted roofline shows what limits the speed of an LSTM step, for several widths and "
        "batches.",
        "The claim is supported if memory bandwidth limits at least 90 % of the measured steps, "
        "and refuted if it limits at most 10 %. Otherwise it depends on width and batch. If the "
        "residuals of the fit exceed 50 %, there is not enough evidence.",
    ),
    bandwidth,
)
