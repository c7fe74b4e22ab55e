"""The rules of C2 (to run), C4 (in parallel) and C5 (bound by memory)."""

from collections.abc import Sequence
from dataclasses import replace

from asr.formatting import digits, listed, points_interval, times
from asr.report.costs import encoder_factor, real_time_factor, recorded, timed_otherwise
from asr.report.evidence import Evidence
from asr.report.families import family
from asr.report.findings import MEASUREMENT, Finding, Sign, Verdict, conclude, unmeasured
from asr.report.groups import Arm
from asr.report.probes import COMMANDS, Probes
from asr.report.runs import Run, part

TIMING = 1.25  # times closer than this are the same: repeats on one machine differ as much
LONG = 1000  # frames from which C4 is judged; below, the cost of a call hides that of its frames
FEW, MANY = 0.1, 0.9  # shares of steps or of pairs of seeds: at most, at least
POOR_FIT = 0.5  # relative residuals above which no share of the fit is believed
STREAM = (
    ("streaming speed", "milliseconds", "ms per frame"),
    ("streaming state", "state_bytes", "bytes of state"),
)


def same_budget(a: Arm, b: Arm) -> bool:
    """Whether two arms were given as much; what more of it buys is no matter of the encoder."""
    return part(a.runs[0].recipe, ("budget",)) == part(b.runs[0].recipe, ("budget",))


def family_pairs(evidence: Evidence) -> list[tuple[Arm, Arm]]:
    """(recurrent, attention) arms that had the same budget."""
    arms = evidence.group.arms
    return [
        (r, a)
        for r in arms
        for a in arms
        if family(r.runs[0].encoder) == "recurrent"
        and family(a.runs[0].encoder) == "attention"
        and same_budget(r, a)
    ]


def running(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """C2: recurrent against attention, by three measurements, all of which are needed.

    * Offline: seconds of features and encoder per second of audio in the evaluation of arms of one
      group; means over seeds. The search is no part of it: arms of a group share decoder, search
      and language model, which would hide what the encoders differ in. Where an evaluation did not
      time them apart, the whole (the real-time factor) stands in: *for* as below, since a common
      part only makes a ratio smaller; *against* only when the recurrent arm takes no longer in all;
      else undecided.
    * As a stream: milliseconds per frame of causal encoders at the last position, where both
      answer as late (equal chunks).
    * As a stream: bytes of state at the last position.

    *For* when the recurrent one takes more than 1.25 times as much, *against* otherwise: the claim
    says "more", so that as much refutes it. Timings have no interval: 1.25 is what repeats on one
    quiet machine differ by. On a busy one they differ by more, so that offline 90 % of the pairs of
    a seed of the one and a seed of the other must say the same, however many seeds there are; else
    undecided. Evaluations on other devices, with other threads, batches or searches are not
    compared; other commits are said.
    """
    findings = [f for e in found for r, a in family_pairs(e) for f in _offline(r, a)]
    offline = any(finding.sign != "unknown" for finding in findings)
    rows = probes.rows("streaming")
    last = {row["encoder"]: row for row in sorted(rows, key=lambda row: row["position"])}
    mine_of = [row for row in last.values() if family(row["encoder"]) == "recurrent"]
    theirs_of = [row for row in last.values() if family(row["encoder"]) == "attention"]
    pairs = [(r, a) for r in mine_of for a in theirs_of if r["chunk"] == a["chunk"]]
    for mine_row, theirs_row in pairs:
        names = (mine_row["encoder"], theirs_row["encoder"])
        for measure, key, unit in STREAM:
            one, other = mine_row[key], theirs_row[key]
            words = f"at frame {mine_row['position']:,} {names[0]} against {names[1]}, "
            words += f"{digits(one)} and {digits(other)} {unit}"
            findings.append(_more(measure, words, one, other, *names))
    missing = [] if offline else [again([run for e in found for run in e.group.runs])]
    missing += [] if pairs else [COMMANDS["streaming"]]
    if not findings:
        return unmeasured("C2", "not measured", missing)
    needs = "not all of offline speed, streaming speed and state are known" if missing else ""
    verdict = conclude("C2", findings, missing, needs)
    return replace(verdict, reasons=_in_short(findings))


def again(runs: Sequence[Run]) -> str:
    """What times runs anew, each with the threads of its training, as a study evaluates them."""
    threads = next((run.num_threads for run in runs if run.num_threads), 1)
    return f"OMP_NUM_THREADS={threads} asr evaluate RUN"


def _offline(r: Arm, a: Arm) -> list[Finding]:
    """The encoders of two arms, with the whole beside; the whole alone where that is all there is.

    Empty where an arm is not evaluated.
    """
    whole = [real_time_factor(arm) for arm in (r, a)]
    if not all(whole):
        return []
    mine, theirs = (digits(value, 2) for value in whole)
    total = f"{mine} and {theirs} s per second of audio"
    alone = [encoder_factor(arm) for arm in (r, a)]
    apart = None not in alone
    words = f"{r.label} against {a.label}, {total} with the search, which was not timed apart"
    if apart:
        words = (
            f"{r.label} against {a.label}, {digits(alone[0], 2)} and {digits(alone[1], 2)} s of "
        )
        words += f"features and encoder per second of audio (with the search {total})"
    sign, said = _compared(r, a, apart)
    if differ := timed_otherwise((r, a)):
        command = again([*r.runs, *a.runs])
        sign = "unknown"
        said = f", which are not compared, as the evaluations differ in {differ}: {command} for all"
    words += f"{said}{_remarks([*r.runs, *a.runs])}."
    return [Finding(sign, words, _facets("offline speed", r.label, a.label))]


def _compared(r: Arm, a: Arm, apart: bool) -> tuple[Sign, str]:
    """The sign that the pairs of a seed of either arm come to, and their ratios in words."""
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
        return "unknown", f"{words}, which are not at one: {command} on a quiet machine"
    words += ", too little to say what the encoders alone took"
    return "unknown", f"{words}: {command} times them apart"


def _remarks(runs: Sequence[Run]) -> str:
    """What is not known of how runs were evaluated, and what differs without being refused."""
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
    """For each measurement how many pairs say what, with one of them."""
    reasons = []
    for measure in dict.fromkeys(f.context[MEASUREMENT] for f in findings):
        own = [f for f in findings if f.context[MEASUREMENT] == measure]
        for sign, words in (("for", "For"), ("against", "Against"), ("unknown", "Undecided")):
            some = [f for f in own if f.sign == sign]
            if some:
                reasons.append(
                    f"{words}, {measure}: {len(some)} of {len(own)} pairs; such as {some[0].words}"
                )
    return reasons


def _more(measure: str, words: str, mine: float, theirs: float, r: str, a: str) -> Finding:
    sign: Sign = "for" if mine > TIMING * theirs else "against"
    return Finding(sign, f"{words}, {times(mine / theirs)}.", _facets(measure, r, a))


def _facets(measure: str, r: str, a: str) -> dict[str, str]:
    return {
        MEASUREMENT: measure,
        "the recurrent encoder": r,
        "the attention encoder": a,
    }


def parallel(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """C4: whether some recurrence is computed faster by a scan than step by step.

    *Against*: at every length of 1,000 frames and more, in every repeat, MinLSTM (or StateSpace) by
    scan takes less than 1 / 1.25 of the time of its own loop: the same function of the same
    weights. *For*: it is not faster than 1 / 1.25 in any repeat. Else undecided. Whether the one
    that scans is as good as the LSTM is a second question: when MinLSTM makes significantly more
    errors than the LSTM at the same budget, that is a finding *for*, since the recurrence which the
    claim is about was given up; no difference or fewer, *against*.
    """
    rows = [row for row in probes.rows("scaling") if not row["error"]]
    findings = []
    for name in ("minlstm-loop", "statespace-loop"):
        long = [row for row in rows if row["name"] == name and row["time"] >= LONG]
        for row in long:
            low, high, middle = row["ratio_min"], row["ratio_max"], row["ratio"]
            sign: Sign = "unknown"
            if high < 1 / TIMING:
                sign = "against"
            elif low > 1 / TIMING:
                sign = "for"
            words = f"{row['subject']} takes {digits(middle, 2)} [{digits(low, 2)} to "
            words += (
                f"{digits(high, 2)}] of the time of {row['reference']} at {row['time']:,} frames."
            )
            context = {MEASUREMENT: "speed", "the recurrence": name, "the length": str(row["time"])}
            findings.append(Finding(sign, words, context))
    if not findings:
        return unmeasured("C4", "not measured", [COMMANDS["scaling"]])
    findings += [f for e in found for f in _price(e)]
    return conclude("C4", findings)


def _price(evidence: Evidence) -> list[Finding]:
    """Errors of MinLSTM against LSTM, where both were trained with several seeds."""
    findings = []
    of = {
        n: [a for a in evidence.group.arms if a.runs[0].encoder == n] for n in ("MinLSTM", "LSTM")
    }
    for scan in of["MinLSTM"]:
        for exact in of["LSTM"]:
            pair = evidence.pair(scan, exact)
            said = evidence.statement(scan, exact)
            if pair.found is None or not pair.of_arms or not same_budget(scan, exact):
                continue
            sign: Sign = "for" if said == "worse" else "against"
            if said == "not enough evidence":
                sign = "unknown"
            value = points_interval(pair.found.difference.value, pair.found.difference.interval)
            words = f"errors, {pair.b.label} less {pair.a.label}: {value}; "
            words += f"{scan.label}: {evidence.told(scan, exact)}."
            findings.append(Finding(sign, words, {MEASUREMENT: "errors"}, pair.undecidable))
    return findings


def bandwidth(probes: Probes) -> Verdict:
    """C5: what a step of an LSTM waits for, over widths and batches, by the fitted roofline.

    *Supported*: memory bounds 90 % of the steps measured or more. *Refuted*: 10 % or fewer. Else it
    depends on width and batch. A fit whose residuals exceed 50 % decides nothing.
    """
    command = [COMMANDS["roofline"]]
    steps = probes.rows("roofline")
    if not steps:
        return unmeasured("C5", "not measured", command)
    probe = probes.found["roofline"]
    share = sum(step["bound"] == "memory" for step in steps) / len(steps)
    of = {b: sum(step["bound"] == b for step in steps) for b in ("latency", "memory", "arithmetic")}
    told = ", ".join(f"{number} by {bound}" for bound, number in of.items())
    bound = [f"{s['width']} x {s['batch']}" for s in steps if s["bound"] == "memory"]
    fit, ridge = probe.rest["fit"], probe.rest["machine"]["ridge"]
    reasons = [
        f"Of {len(steps)} steps, each of one width and batch, bound: {told}.",
        f"Ridge of this machine {digits(ridge)} FLOP per byte; latency of a step "
        f"{digits(1e6 * fit['latency'])} µs; residuals of the fit {100 * fit['error']:.0f} %.",
    ]
    if bound:
        reasons.append(f"By memory (width x batch): {listed(bound)}.")
    if fit["error"] > POOR_FIT:
        return unmeasured("C5", "the fit is poor; measure on an idle machine", command, reasons)
    if share >= MANY:
        return Verdict("C5", "supported", "supported", reasons)
    if share <= FEW:
        return Verdict("C5", "refuted", "refuted", reasons)
    return Verdict("C5", "depends", "depends on width and batch", reasons)
