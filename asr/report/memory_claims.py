"""The rules of C3 (an LSTM's memory), C6 (hierarchical attention) and C7 (what to store)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from asr.formatting import digits, listed, percent, points_interval
from asr.probes import PROBES
from asr.probes.context import Effective, effective_contexts
from asr.probes.horizon import AXES, Attempt, extrapolation, horizon
from asr.probes.memory import CONTROLS, EVERYTHING, StoredRun, format_gate
from asr.probes.probe import grouped
from asr.report.evidence import Evidence, compare_arms
from asr.report.findings import MEASUREMENT, Finding, Rule, Sign, Verdict, conclude, unmeasured
from asr.report.groups import SHARED, Arm, Group, settings
from asr.report.pairs import CONTRARY, errors, layer_times
from asr.report.probes import Probes, rows_of
from asr.report.runs import differing, part, read_run

THOUSANDS = 1_000  # steps that an LSTM does not reach, according to the claim
TEN_THOUSAND = 10_000  # steps that the hierarchy reaches, according to the claim
SEEDS = 3  # least number of seeds for a median
# Tasks that test distance alone, with the lags of their training. Recall tests capacity, too.
DISTANCE = {"latch": "the lag of the test", "latch-mixed": "lags up to the lag of the test"}
NEAR = 0.05  # largest difference between stored shares that count as equal
STORED = 0.9  # largest stored share of a gate that counts
TRAINED_AT = "the training lags"
FORGET_GATE = "the initialisation of the forget gate"


def _reach(attempts: Sequence[Attempt], arm: str, axis: str) -> int:
    """Horizon of an arm in one task, in steps; 0 if the arm solves no lag."""
    return horizon([row for row in attempts if row.arm == arm], axis) or 0


def _reached(
    attempts: Sequence[Attempt], arm: str, axis: str, wanted: int
) -> tuple[bool | None, str]:
    """Whether an arm solves a lag of ``wanted`` or more in one task, and its longest lag in words.

    The answer is None (unknown) instead of False if no other arm reached the lag with the same
    budget, because the budget may then be too small to learn that lag at all.
    """
    attempts = _with_median(attempts)
    tried = [row.lag for row in attempts if row.arm == arm]
    if not tried:
        return None, f"no lag was tried with {SEEDS} seeds."
    found = _reach(attempts, arm, axis)
    words = f"longest lag solved {_format_lag(found)}"
    if found >= wanted:
        return True, f"{words}."
    if found == max(tried):
        return None, f"{words}; no lag above {found:,} was tried."
    others = {row.arm for row in attempts} - {arm}
    if not any(_reach(attempts, other, axis) >= wanted for other in others):
        why = f"no arm solved a lag of {wanted:,}, so the budget may be too small"
        return None, f"{words}; {why}."
    return False, f"{words}."


def _with_median(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts at lags that at least ``SEEDS`` seeds of the arm tried."""
    seeds: dict[tuple[str, int], set[int]] = {}
    for row in attempts:
        seeds.setdefault((row.arm, row.lag), set()).add(row.seed)
    return [row for row in attempts if len(seeds[row.arm, row.lag]) >= SEEDS]


def _reach_findings(
    attempts: Sequence[Attempt], arms: Iterable[str], wanted: int, reached: Sign
) -> tuple[list[Finding], list[str]]:
    """Whether arms solve a lag of ``wanted`` or more, for all lags of training and both budgets.

    ``reached`` is the sign of a finding if the arm solves it; otherwise the finding has the
    opposite sign.

    Returns:
        The findings for those lags of training that have at least one sign, and sentences on the
        others. Undecided attempts, such as interrupted ones, thus do not outweigh decided ones.
    """
    findings = []
    for task, arm, axis in product(DISTANCE, arms, AXES):
        own = [row for row in attempts if row.task == task]
        if arm not in {row.arm for row in own}:
            continue
        yes, figures = _reached(own, arm, axis, wanted)
        sign = "unknown" if yes is None else reached if yes else CONTRARY[reached]
        words = f"{arm}, trained at {DISTANCE[task]}, equal {axis}: {figures}"
        facets = {MEASUREMENT: "reach", TRAINED_AT: DISTANCE[task], FORGET_GATE: arm}
        facets["which budget is equal"] = f"equal {axis}"
        findings.append(Finding(sign, words, facets))
    known = {one.context[TRAINED_AT] for one in findings if one.sign != "unknown"}
    counted = [one for one in findings if not known or one.context[TRAINED_AT] in known]
    rest = [one.words for one in findings if one not in counted]
    return counted, [f"Not counted, because undecided: {words}" for words in rest]


def _format_lag(lag: int) -> str:
    return "none" if not lag else f"{lag:,} steps"


def lstm_memory(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C3, see ``LSTM_MEMORY``; it does not use trained arms."""
    attempts = rows_of(probes, "horizon")
    arms = list(dict.fromkeys(row.arm for row in attempts if row.arm.split(",")[0] == "lstm"))
    findings, rest = _reach_findings(attempts, arms, THOUSANDS, "against")
    command = [PROBES["horizon"].command]
    verdict = (
        conclude("C3", findings, command) if findings else unmeasured("C3", "not measured", command)
    )
    trained = effective_contexts(probes["context"]) if "context" in probes else []
    beside = [*rest, *_untrained(attempts, arms), *_trained_memory(trained)]
    return replace(verdict, beside=beside)


def _untrained(attempts: Sequence[Attempt], arms: Sequence[str]) -> list[str]:
    """A sentence per task and arm on the training lag that it exceeds by the largest factor."""
    told = []
    for task, arm in product(DISTANCE, arms):
        own = [row for row in attempts if (row.task, row.arm) == (task, arm)]
        beyond = {
            lag: max(extrapolation([r for r in own if r.lag == lag], axis) or 0 for axis in AXES)
            for lag in sorted({row.lag for row in own})
        }
        lag = max(beyond, key=lambda one: beyond[one] / one, default=0)
        if lag and beyond[lag] > lag:
            upto = "up to " if task.endswith("mixed") else ""
            told.append(
                f"Not part of the verdict: {arm}, trained at {upto}{lag:,} steps, solves "
                f"{_format_lag(beyond[lag])} without further training."
            )
    return told


def _trained_memory(runs: Sequence[Effective]) -> list[str]:
    """A sentence per encoder with the ranges of effective contexts and half-lives of its runs."""
    told = []
    for encoder in dict.fromkeys(one.encoder for one in runs):
        own = [one for one in runs if one.encoder == encoder]
        known = [one for one in own if one.context is not None]
        words = f"Not part of the verdict: {encoder} trained on speech (runs: {len(own)}): "
        words += "the whole past is needed" if not known else "effective context "
        if known:
            words += f"{_range([one.context or 0.0 for one in known])} s, "
            frames = [(one.context or 0.0) / one.frame_seconds for one in known]
            words += f"{_range(frames)} encoder frames"
            missing = len(own) - len(known)
            words += f" (the whole past in {missing} of {len(own)})" if missing else ""
        lives = [one.half_life for one in own if one.half_life is not None]
        words += f"; gradients halve in {_range(lives)} s" if lives else ""
        told.append(f"{words}.")
    return told


def _range(values: Sequence[float]) -> str:
    """``0.320 to 1.28``; a single number if all values are equal."""
    low, high = digits(min(values)), digits(max(values))
    return low if low == high else f"{low} to {high}"


def hierarchy(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C6, see ``HIERARCHY``."""
    attempts = rows_of(probes, "horizon")
    findings, rest = _reach_findings(attempts, ["hierarchical"], TEN_THOUSAND, "for")
    known = [f.sign for f in findings if f.sign != "unknown"]
    short = bool(known) and known == ["against"] * len(findings)
    layers = rows_of(probes, "scaling")
    findings += layer_times(
        probes, "hierarchical-full", TEN_THOUSAND, "for", lambda row: {MEASUREMENT: "cost"}
    )
    full = ("Transformer", "Conformer")
    findings += [f for e in found for f in errors(e, "Hierarchical", full, worse="against")]
    commands = [] if known else [PROBES["horizon"].command]
    if not layers:
        commands.append(PROBES["scaling"].command)
    if not findings:
        return unmeasured("C6", "not measured", commands)
    verdict = conclude("C6", findings)
    if not known:
        return unmeasured("C6", "its reach is not known", commands, verdict.reasons)
    if short:
        return Verdict("C6", "refuted", "refuted", verdict.reasons, beside=rest)
    return replace(verdict, beside=rest)


@dataclass(frozen=True)
class Stored:
    """The runs of one gate at one setting, as an arm; ``kept`` is the stored share of frames."""

    encoder: str
    gate: str
    kept: float
    arm: Arm


def stored(points: Sequence[StoredRun], split: str) -> list[Stored]:
    """The arms of the memory probe, read from their run folders."""
    return [
        Stored(
            encoder,
            gate,
            sum(point.kept for point in own) / len(own),
            Arm(
                f"{encoder}, {format_gate(gate, setting)}",
                [read_run(Path(point.run), split) for point in own],
            ),
        )
        for (encoder, gate, setting), own in grouped(points, "encoder", "gate", "setting")
    ]


def storing(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C7, see ``STORING``."""
    split = found[0].group.runs[0].split
    command = [PROBES["memory"].command]
    points: Sequence[StoredRun] = rows_of(probes, "memory")
    if not points:
        return unmeasured("C7", "not measured", command)
    there = [point for point in points if (Path(point.run) / "recipe.yaml").is_file()]
    gone = [point.run for point in points if point not in there]
    reasons = [f"Missing run folders: {', '.join(gone)}."] if gone else []
    if not there:
        return unmeasured("C7", "the run folders are missing", command, reasons)
    arms = stored(there, split)
    evidence = compare_arms(Group([one.arm for one in arms]), [])
    findings, missing = [], set()
    for gate in (one for one in arms if one.gate not in (EVERYTHING, *CONTROLS)):
        if gate.kept > STORED:
            continue
        for control in (EVERYTHING, *CONTROLS):
            others = [o for o in arms if (o.encoder, o.gate) == (gate.encoder, control)]
            near = [o for o in others if control == EVERYTHING or abs(o.kept - gate.kept) <= NEAR]
            if not near:
                missing.add(
                    f"no run of {gate.encoder} with gate {control} stores {percent(gate.kept)}"
                )
            findings += [_against(evidence, gate, other) for other in near]
    if not findings and not missing:
        why = f"no gate stores less than {percent(STORED)}"
        return unmeasured("C7", why, command, reasons)
    verdict = conclude("C7", findings, command, "; ".join(sorted(missing)))
    return replace(verdict, reasons=reasons + verdict.reasons)


def _against(evidence: Evidence, gate: Stored, other: Stored) -> Finding:
    facet = "what it is compared with"
    blind = f"a control that stores as much ({other.gate})"
    context = {facet: "storing everything" if other.gate == EVERYTHING else blind}
    context |= {"the encoder": gate.encoder, "the gate": gate.gate}
    pair, said = evidence.pair(gate.arm, other.arm), evidence.statement(gate.arm, other.arm)
    head = f"{gate.arm.label} ({percent(gate.kept)} stored) against {other.arm.label}"
    if pair.comparison is None or not pair.of_arms:
        why = pair.reason if pair.comparison is None else pair.undecidable
        return Finding("unknown", f"{head}: {why}.", context, pair.undecidable)
    if keys := _unlike(gate.arm, other.arm):
        return Finding("unknown", f"{head}: their runs differ in {listed(keys)}.", context)
    value = points_interval(pair.comparison.difference.value, pair.comparison.difference.interval)
    words = f"{head}: {evidence.explained_statement(gate.arm, other.arm)}; "
    words += f"{pair.b.label} minus {pair.a.label}: {value}."
    if said == "not enough evidence":
        return Finding("unknown", words, context, pair.undecidable)
    good = ("better", "no difference") if other.gate == EVERYTHING else ("better",)
    return Finding("for" if said in good else "against", words, context)


def _unlike(a: Arm, b: Arm) -> list[str]:
    """The recipe keys in which two arms, or runs of one arm, must agree but do not."""
    within = [key for arm in (a, b) for key in differing([settings(run) for run in arm.runs])]
    alike = ("budget", *(name for names in SHARED.values() for name in names))
    between = differing([part(run.recipe, alike) for run in [*a.runs, *b.runs]])
    return list(dict.fromkeys([*within, *between]))


LSTM_MEMORY = Rule(
    "C3",
    "An LSTM remembers 100s of steps, not 1,000s or 10,000s.",
    (
        "The rule uses the horizon of the LSTM arms on the latch tasks, which test distance alone.",
        "There is one finding for each kind of training lags, each initialisation of the forget "
        "gate and each budget (equal updates, equal seconds). It is ‘against’ if the arm solves a "
        "lag of 1,000 or more in the median of at least 3 seeds. It is ‘for’ if the arm does not, "
        "but another arm does with the same budget. It is undecided if no arm does, or if no "
        "longer lag was tried. If the findings differ between initialisations or kinds of training "
        "lags, the horizon is no property of the architecture, and the verdict is “depends on”. "
        "A kind of training lags without any decided finding does not count if another kind has "
        "one.",
        "The page also shows the lags that arms solve without further training, and the effective "
        "context of trained models. Neither affects the verdict. Utterances are shorter than 1,000 "
        "steps, so the past that an encoder used does not show how much it could use.",
    ),
    lstm_memory,
)
HIERARCHY = Rule(
    "C6",
    "A hierarchical attention encoder, 100 x 100, reaches 10,000 past vectors.",
    (
        "The rule uses the reach, the cost and the errors of the hierarchical encoder. The reach "
        "must be known.",
        (
            "Reach: ‘for’ if the encoder solves a lag of 10,000 or more (latch tasks, 3 seeds, "
            "equal updates and equal seconds, each kind of training lags). ‘Against’ if it does "
            "not, but another arm does.",
            "Cost: the time of its layer divided by the time of full causal attention, at 10,000 "
            "frames or more. ‘For’ if the ratio is below 1 / 1.25 in every repeat, ‘against’ if it "
            "is above 1 / 1.25 in every repeat.",
            "Errors on speech, compared with full attention (Transformer, Conformer) at the same "
            "budget. ‘For’ if the encoder makes fewer errors or there is no difference, ‘against’ "
            "if it makes more. Utterances are too short to need the reach, so this only shows what "
            "the hierarchy costs in accuracy.",
        ),
        "If all findings on the reach are ‘against’, the claim is refuted, whatever the cost and "
        "the errors.",
    ),
    hierarchy,
)
STORING = Rule(
    "C7",
    "Near-duplicate frames need not be stored; what to store can be learnt.",
    (
        "Each gate is compared with storing everything, and with two controls that store the same "
        "share of frames: a uniform stride and a random choice.",
        "A gate counts if it stores at most 90 % of the frames. Compared with storing everything, "
        "the finding is ‘for’ if the gate makes fewer errors or there is no difference, and "
        "‘against’ if it makes more. Compared with a control whose stored share differs by at most "
        "0.05, the finding is ‘for’ only if the gate makes fewer errors. Otherwise it is "
        "‘against’, because a choice that is no better than the control need not be learnt. Both "
        "controls are needed. A comparison is undecided if an arm has only one seed, if the runs "
        "differ in budget, data, features, tokenizer, decoder or search, or if the runs of one arm "
        "differ in more than the seed.",
    ),
    storing,
)
