"""The rules of C1 (to train), C2 (to run), C4 (in parallel) and C5 (bound by memory)."""

import math
from collections.abc import Sequence
from dataclasses import replace

from asr.claims.censoring import log_rank
from asr.claims.comparison import holm
from asr.report.costs import (
    arm_mean,
    common_target,
    cost_to,
    encoder_factor,
    hours_unit,
    real_time_factor,
    seeds_there,
)
from asr.report.evidence import Evidence
from asr.report.families import family
from asr.report.findings import Finding, Sign, Verdict, conclude, unmeasured
from asr.report.groups import Arm
from asr.report.probes import COMMANDS, Probes
from asr.report.quantities import digits, hours, percent, points_interval, times
from asr.report.runs import part
from asr.report.verdict import EQUAL_COST, group_name

SIGNIFICANT = 0.05
TIMING = 1.25  # times closer than this are the same: repeats on one machine differ as much
LONG = 1000  # frames from which C4 is judged; below, the cost of a call hides that of its frames
FEW, MANY = 0.1, 0.9  # shares of steps: at most, at least
POOR_FIT = 0.5  # relative residuals above which no share of the fit is believed
PRICE = "the measurement"
STREAM = (
    ("streaming speed", "milliseconds", "ms per frame"),
    ("streaming state", "state_bytes", "bytes of state"),
)
HIDDEN = ", too little to say what the encoders alone took: asr evaluate RUN times them apart."
TRAIN = "asr train RECIPE --seed N (5 seeds of a recurrent and of an attention encoder)"


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


def training(found: Sequence[Evidence]) -> Verdict:
    """C1: recurrent against attention arms of one budget, by two measurements.

    * Cost to a target: device-hours to the lowest WER that most arms reached. *For* when the
      recurrent arm took more, *against* when less, by the log-rank test over seeds, p < 0.05 with
      Holm's correction over all such pairs; else undecided.
    * Errors at equal cost, on the test split: *for* when the recurrent arm makes significantly more
      errors and had not less device-hours (10 %); *against* when it makes fewer or there is no
      difference (equivalence within 10 %), and it had not more; else undecided.

    An arm of one seed decides nothing: it tells trained models apart, not encoders.
    """
    findings = [
        *_targets(found),
        *(_errors(e, r, a, _head(found, e)) for e in found for r, a in family_pairs(e)),
    ]
    if not findings:
        return unmeasured("C1", "not measured on arms of both families", [TRAIN])
    return conclude("C1", findings, [TRAIN])


def _context(evidence: Evidence, measure: str, recurrent: Arm, attention: Arm) -> dict[str, str]:
    run = recurrent.runs[0]
    budget = ", ".join(f"{v}" for v in part(run.recipe, ("budget",)).values() if v is not None)
    return {
        "the decoder": str(run.recipe.get("decoder")),
        "the corpus": str(run.recipe.get("data.corpus")),
        "the budget": budget,
        "the measurement": measure,
        "the recurrent encoder": recurrent.runs[0].encoder,
        "the attention encoder": attention.runs[0].encoder,
    }


def _targets(found: Sequence[Evidence]) -> list[Finding]:
    """Cost to a target of every pair, as one family of tests."""
    rows = []
    for evidence in found:
        target = common_target(evidence.group, evidence.targets)
        for r, a in family_pairs(evidence):
            if target is not None:
                rows.append((evidence, target, r, a))
    costs = [[cost_to(arm, target, "device_hours") for arm in (r, a)] for _, target, r, a in rows]
    tested = [c for c in costs if all(one.value is not None and one.seeds > 1 for one in c)]
    values = [log_rank(r.spent, r.reached, a.spent, a.reached) for r, a in tested]
    adjusted = iter(holm(values).tolist())
    least = iter(holm([_least(r.seeds, a.seeds) for r, a in tested]).tolist())
    findings = []
    for (evidence, target, r, a), both in zip(rows, costs, strict=True):
        p = next(adjusted) if both in tested else None
        unit = hours_unit(evidence.group)
        told = [
            f"{arm.label} "
            + (
                "has no measured cost"
                if c.value is None
                else f"did not get there within {hours(c.limit)}"
                if math.isinf(c.value)
                else f"took {hours(c.value, unit)}{seeds_there(c)}"
            )
            for arm, c in zip((r, a), both, strict=True)
        ]
        mine, theirs = (math.inf if c.value is None else c.value for c in both)
        sign: Sign = "unknown"
        if p is not None and p < SIGNIFICANT and mine != theirs:
            sign = "for" if mine > theirs else "against"
        sure = "one seed, so no test" if p is None else f"log-rank p {digits(p, 2)}"
        if p is not None and next(least) >= SIGNIFICANT:
            sure += "; so few seeds can give none below 0.05"
        head = f"{_head(found, evidence)}to {percent(target)} validation WER"
        words = f"{head} {told[0]}, {told[1]} ({sure})."
        findings.append(Finding(sign, words, _context(evidence, "cost to a target", r, a)))
    return findings


def _least(a: int, b: int) -> float:
    """The lowest p that so many runs, dealt to two arms in all ways, can give.

    Of two arms alike in number the mirrored deal is as extreme.
    """
    return (2 if a == b else 1) / math.comb(a + b, a)


def _head(found: Sequence[Evidence], evidence: Evidence) -> str:
    """Which group it is, where there are several."""
    number = next(i for i, one in enumerate(found, 1) if one is evidence)
    name = group_name(evidence.group, number)
    return f"{name[0].lower()}{name[1:]}, " if len(found) > 1 else ""


def _errors(evidence: Evidence, r: Arm, a: Arm, head: str) -> Finding:
    """Errors at equal cost of one pair."""
    context = _context(evidence, "errors at equal cost", r, a)
    pair = evidence.pair(r, a)
    if pair.found is None:
        return Finding(
            "unknown", f"{head}errors of {r.label} and {a.label}: {pair.reason}.", context
        )
    said = evidence.statement(r, a)
    difference = pair.found.difference
    spent = [arm_mean(arm, "device_hours") for arm in (r, a)]
    ratio = spent[0] / spent[1] if spent[0] and spent[1] else None
    cost = "unknown cost" if ratio is None else f"{digits(ratio, 2)} times as many device-hours"
    value = points_interval(difference.value, difference.interval)
    words = f"{head}errors, {pair.b.label} less {pair.a.label}: {value}"
    words += f"; {r.label}: {said}, at {cost}"
    sign: Sign = "unknown"
    if not pair.of_arms:
        words += "; an arm of one seed, so it is not about encoders"
    elif ratio is not None and said == "worse" and ratio > 1 / EQUAL_COST:
        sign = "for"
    elif ratio is not None and said in ("better", "no difference") and ratio < EQUAL_COST:
        sign = "against"
    elif said != "not enough evidence":
        words += "; the costs are too unequal to say"
    return Finding(sign, f"{words}.", context)


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
    machine differ by.
    """
    findings = [f for e in found for r, a in family_pairs(e) for f in _offline(r, a)]
    offline = bool(findings)
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
    missing = [] if offline else ["asr evaluate RUN"]
    missing += [] if pairs else [COMMANDS["streaming"]]
    if not findings:
        return unmeasured("C2", "not measured", missing)
    needs = "not all of offline speed, streaming speed and state are measured" if missing else ""
    verdict = conclude("C2", findings, missing, needs)
    return replace(verdict, reasons=_in_short(findings))


def _offline(r: Arm, a: Arm) -> list[Finding]:
    """The encoders of two arms, with the whole beside; the whole alone where that is all there is.

    Empty where an arm is not evaluated.
    """
    whole = [real_time_factor(arm) for arm in (r, a)]
    if not all(whole):
        return []
    mine, theirs = (value or 0.0 for value in whole)
    total = f"{digits(mine, 2)} and {digits(theirs, 2)} s per second of audio"
    apart = [encoder_factor(arm) for arm in (r, a)]
    if all(apart):
        encoders = [value or 0.0 for value in apart]
        words = (
            f"{r.label} against {a.label}, {digits(encoders[0], 2)} and {digits(encoders[1], 2)}"
        )
        words += f" s of features and encoder per second of audio (with the search {total})"
        return [_more("offline speed", words, encoders[0], encoders[1], r.label, a.label)]
    words = f"{r.label} against {a.label}, {total} with the search, which was not timed apart"
    found = _more("offline speed", words, mine, theirs, r.label, a.label)
    if theirs < mine <= TIMING * theirs:
        return [replace(found, sign="unknown", words=found.words.removesuffix(".") + HIDDEN)]
    return [found]


def _in_short(findings: Sequence[Finding]) -> list[str]:
    """For each measurement how many pairs say what, with one of them."""
    reasons = []
    for measure in dict.fromkeys(f.context["the measurement"] for f in findings):
        own = [f for f in findings if f.context["the measurement"] == measure]
        for sign, words in (("for", "For"), ("against", "Against"), ("unknown", "Undecided")):
            some = [f for f in own if f.sign == sign]
            if some:
                reasons.append(
                    f"{words}, {measure}: {len(some)} of {len(own)} pairs; such as {some[0].words}"
                )
    return reasons


def _more(measure: str, words: str, mine: float, theirs: float, r: str, a: str) -> Finding:
    sign: Sign = "for" if mine > TIMING * theirs else "against"
    context = {
        "the measurement": measure,
        "the recurrent encoder": r,
        "the attention encoder": a,
    }
    return Finding(sign, f"{words}, {times(mine / theirs)}.", context)


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
            context = {PRICE: "speed", "the recurrence": name, "the length": str(row["time"])}
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
            words = f"errors, {pair.b.label} less {pair.a.label}: {value}; {scan.label}: {said}."
            findings.append(Finding(sign, words, {PRICE: "errors"}))
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
    widths = sorted({step["width"] for step in steps if step["bound"] == "memory"})
    batches = sorted({step["batch"] for step in steps if step["bound"] == "memory"})
    fit, ridge = probe.rest["fit"], probe.rest["machine"]["ridge"]
    reasons = [
        f"Of {len(steps)} steps (width x batch), bound: {told}.",
        f"Ridge of this machine {digits(ridge)} FLOP per byte; latency of a step "
        f"{digits(1e6 * fit['latency'])} us; residuals of the fit {100 * fit['error']:.0f} %.",
    ]
    if widths:
        reasons.append(
            f"By memory: widths {', '.join(map(str, widths))}; batches "
            f"{', '.join(map(str, batches))}."
        )
    if fit["error"] > POOR_FIT:
        return unmeasured("C5", "the fit is poor; measure on an idle machine", command, reasons)
    if share >= MANY:
        return Verdict("C5", "supported", "supported", reasons)
    if share <= FEW:
        return Verdict("C5", "refuted", "refuted", reasons)
    return Verdict("C5", "depends", "depends on width and batch", reasons)
