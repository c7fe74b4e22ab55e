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
from asr.report.evidence import Evidence, weigh
from asr.report.findings import MEASUREMENT, Finding, Rule, Sign, Verdict, conclude, unmeasured
from asr.report.groups import SHARED, Arm, Group, settings
from asr.report.pairs import CONTRARY, errors, layer_times
from asr.report.probes import Probes, rows_of
from asr.report.runs import differing, part, read_run

THOUSANDS = 1_000  # steps: what the claim says an LSTM does not reach
TEN_THOUSAND = 10_000  # steps: what the claim says the hierarchy reaches
SEEDS = 3  # fewer have no median to speak of
# Tasks that ask for distance alone, recall asks for capacity as well; by what they are trained at.
DISTANCE = {"latch": "the lag asked for", "latch-mixed": "lags drawn up to the one asked for"}
NEAR = 0.05  # shares stored that are called equal
STORED = 0.9  # a gate that stores more has left nothing out
TRAINED_AT = "the lags of training"
FORGET_GATE = "the initialisation of the forget gate"


def _reach(attempts: Sequence[Attempt], arm: str, axis: str) -> int:
    """Horizon of an arm in one task; 0 when it answers no lag."""
    return horizon([row for row in attempts if row.arm == arm], axis) or 0


def _reached(
    attempts: Sequence[Attempt], arm: str, axis: str, wanted: int
) -> tuple[bool | None, str]:
    """Whether an arm answers a lag of ``wanted`` or more in one task, and the figures in words.

    No is believed only where some other arm did under the same budget: otherwise the budget may be
    too small for anything to be learnt at that lag.
    """
    attempts = _with_median(attempts)
    tried = [row.lag for row in attempts if row.arm == arm]
    if not tried:
        return None, f"no lag with {SEEDS} seeds."
    found = _reach(attempts, arm, axis)
    words = f"longest lag answered {_format_lag(found)}"
    if found >= wanted:
        return True, f"{words}."
    if found == max(tried):
        return None, f"{words}; no longer lag than {found:,} was tried."
    others = {row.arm for row in attempts} - {arm}
    if not any(_reach(attempts, other, axis) >= wanted for other in others):
        why = f"no arm answered a lag of {wanted:,}, so the budget may be too small"
        return None, f"{words}; {why}."
    return False, f"{words}."


def _with_median(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Those at lags that enough seeds of their arm were tried at."""
    seeds: dict[tuple[str, int], set[int]] = {}
    for row in attempts:
        seeds.setdefault((row.arm, row.lag), set()).add(row.seed)
    return [row for row in attempts if len(seeds[row.arm, row.lag]) >= SEEDS]


def _reach_findings(
    attempts: Sequence[Attempt], arms: Iterable[str], wanted: int, reached: Sign
) -> tuple[list[Finding], list[str]]:
    """Whether arms answer a lag of ``wanted`` or more, by the lags of training and both budgets.

    ``reached`` is what it says of the claim when they do; when they do not, it is the opposite.

    Returns:
        The findings of those lags of training that decided anything, and what is said of the
        others: attempts that decide nothing, as where they were ended early, do not undo what
        others decided.
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
    return counted, [f"Not counted, since not yet decided: {words}" for words in rest]


def _format_lag(lag: int) -> str:
    return "none" if not lag else f"{lag:,} steps"


def lstm_memory(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C3, see ``LSTM_MEMORY``; trained arms have no say."""
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
    """A sentence per task and arm: of the lags trained at, the one that it goes farthest beyond."""
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
                f"Beside the verdict, {arm}, trained at {upto}{lag:,} steps, answers "
                f"{_format_lag(beyond[lag])} without further training."
            )
    return told


def _trained_memory(runs: Sequence[Effective]) -> list[str]:
    """A sentence per encoder: effective contexts and half-lives of its runs, least to greatest."""
    told = []
    for encoder in dict.fromkeys(one.encoder for one in runs):
        own = [one for one in runs if one.encoder == encoder]
        known = [one for one in own if one.context is not None]
        words = f"Beside the verdict, {encoder} trained on speech (runs: {len(own)}): "
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
    """``0.320 to 1.28``, or the one value there is."""
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
        layers, "hierarchical-full", TEN_THOUSAND, "for", lambda row: {MEASUREMENT: "cost"}
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
    """Runs of one gate at one setting: an arm, and the share of frames that it stored."""

    encoder: str
    gate: str
    kept: float
    arm: Arm


def stored(points: Sequence[StoredRun], split: str) -> list[Stored]:
    """The arms of the memory probe, read anew from their run folders."""
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
    reasons = [f"Run folders that are gone: {', '.join(gone)}."] if gone else []
    if not there:
        return unmeasured("C7", "the run folders are gone", command, reasons)
    arms = stored(there, split)
    evidence = weigh(Group([one.arm for one in arms]), [])
    findings, missing = [], set()
    for gate in (one for one in arms if one.gate not in (EVERYTHING, *CONTROLS)):
        if gate.kept > STORED:
            continue
        for control in (EVERYTHING, *CONTROLS):
            others = [o for o in arms if (o.encoder, o.gate) == (gate.encoder, control)]
            near = [o for o in others if control == EVERYTHING or abs(o.kept - gate.kept) <= NEAR]
            if not near:
                missing.add(
                    f"no run of {gate.encoder} with {control} at {percent(gate.kept)} stored"
                )
            findings += [_against(evidence, gate, other) for other in near]
    if not findings and not missing:
        why = f"no gate stores less than {percent(STORED)}"
        return unmeasured("C7", why, command, reasons)
    verdict = conclude("C7", findings, command, "; ".join(sorted(missing)))
    return replace(verdict, reasons=reasons + verdict.reasons)


def _against(evidence: Evidence, gate: Stored, other: Stored) -> Finding:
    facet = "what it is compared with"
    blind = f"storing as much blindly ({other.gate})"
    context = {facet: "storing everything" if other.gate == EVERYTHING else blind}
    context |= {"the encoder": gate.encoder, "the gate": gate.gate}
    pair, said = evidence.pair(gate.arm, other.arm), evidence.statement(gate.arm, other.arm)
    head = f"{gate.arm.label} ({percent(gate.kept)} stored) against {other.arm.label}"
    if pair.found is None or not pair.of_arms:
        why = pair.reason if pair.found is None else pair.undecidable
        return Finding("unknown", f"{head}: {why}.", context, pair.undecidable)
    if keys := _unlike(gate.arm, other.arm):
        return Finding("unknown", f"{head}: their runs differ in {listed(keys)}.", context)
    value = points_interval(pair.found.difference.value, pair.found.difference.interval)
    words = f"{head}: {evidence.told(gate.arm, other.arm)}; "
    words += f"{pair.b.label} less {pair.a.label}: {value}."
    if said == "not enough evidence":
        return Finding("unknown", words, context, pair.undecidable)
    good = ("better", "no difference") if other.gate == EVERYTHING else ("better",)
    return Finding("for" if said in good else "against", words, context)


def _unlike(a: Arm, b: Arm) -> list[str]:
    """Keys that make two arms, or the runs of one, incomparable; tuning may choose the others."""
    within = [key for arm in (a, b) for key in differing([settings(run) for run in arm.runs])]
    alike = ("budget", *(name for names in SHARED.values() for name in names))
    between = differing([part(run.recipe, alike) for run in [*a.runs, *b.runs]])
    return list(dict.fromkeys([*within, *between]))


LSTM_MEMORY = Rule(
    "C3",
    "An LSTM remembers 100s of steps, not 1,000s or 10,000s.",
    (
        "The horizon of the LSTM arms on the latch tasks, which ask for distance alone.",
        "For each choice of lags to train at, each initialisation of the forget gate and on both "
        "axes (equal updates, equal seconds): ‘against’ when it answers a lag of 1,000 or more in "
        "the median of at least 3 seeds; ‘for’ when it does not and another arm does under the "
        "same budget; undecided when no arm does, or when no longer lag was tried. A horizon that "
        "one initialisation or one choice of lags to train at has and another has not is no "
        "property of the architecture: the verdict is then that it depends on that. Lags of "
        "training that decide nothing do not count where others decide.",
        "Two kinds of measurement stand beside the verdict and decide nothing: the lags that arms "
        "answer untrained, and the effective context of trained models. An utterance is shorter "
        "than the lags in question, so how far back an encoder looked does not tell how far it "
        "can.",
    ),
    lstm_memory,
)
HIERARCHY = Rule(
    "C6",
    "A hierarchical attention encoder, 100 x 100, reaches 10,000 past vectors.",
    (
        "Reach, cost and errors of the hierarchical encoder; the reach must be known.",
        (
            "Reach: ‘for’ when it answers a lag of 10,000 or more (latch, 3 seeds, equal updates "
            "and equal seconds, for each choice of lags to train at); ‘against’ when it does not "
            "and another arm does.",
            "Cost: time of its layer over that of full causal attention at 10,000 frames or more: "
            "‘for’ below 1 / 1.25 in every repeat, ‘against’ when more than 1 / 1.25 in every "
            "repeat.",
            "Errors against full attention (Transformer, Conformer) on speech, at one budget: "
            "‘for’ when fewer or no different, ‘against’ when more. Utterances are too short to "
            "need the reach, so this only says what it costs there.",
        ),
        "The reach comes first: when it is there in no case, the claim is refuted, whatever its "
        "layer costs.",
    ),
    hierarchy,
)
STORING = Rule(
    "C7",
    "Near-duplicate frames need not be stored; what to store can be learnt.",
    (
        "Gates against storing everything, and against both controls at the same stored share.",
        "A gate counts where it stores at most 90 % of the frames. Against storing everything: "
        "‘for’ with no difference or fewer errors, ‘against’ with more. Against a control (uniform "
        "stride, random) within 0.05 of its stored share: ‘for’ only when the gate makes fewer "
        "errors; ‘against’ when there is no difference or it makes more, since then what to store "
        "need not be learnt. Both controls are needed. An arm of one seed decides nothing, nor do "
        "runs that differ in budget, data, features, tokenizer, decoder or search, or within an "
        "arm in more than the seed.",
    ),
    storing,
)
