"""One section per claim: the claim, the verdict, its reasons, the figure and the table."""

import os
import re
from collections.abc import Sequence
from inspect import cleandoc
from pathlib import Path

from asr.document.blocks import Block, Folded, Picture, Section, Table, Text
from asr.formatting import NONE, digits, listed, percent, percent_interval, prefixed
from asr.probes.context_table import exactness, remarks, told_context, told_half_life, told_law
from asr.probes.horizon_summary import (
    AXES,
    EXTRAPOLATED,
    NOTES,
    Attempt,
    extrapolations,
    median_accuracy,
    told_horizon,
    tried,
)
from asr.probes.output import threads
from asr.report import probe_plots as plots
from asr.report.arms import curves
from asr.report.claims import RULES
from asr.report.evidence import Evidence
from asr.report.findings import CLAIMS, Verdict
from asr.report.probes import COMMANDS, Probes
from asr.report.verdict import group_name

SHOWN = 12  # reasons of a claim in its section
BELOW = "Below the dotted line the one named first takes less time than the one it is divided by."
SEVERAL = (
    "Whiskers: of one run the interval over speakers; of several of an encoder and decoder, whose "
    "mean is drawn, the least and the greatest."
)


def overview(verdicts: Sequence[Verdict]) -> list[Block]:
    """The claims and their verdicts at a glance."""
    rows = [[f"{v.claim}: {CLAIMS[v.claim]}", v.words] for v in verdicts]
    note = (
        'The claims are those of "The fall of RNN / LSTM" (E. Culurciello, 2018), split into parts '
        "that can be measured. Verdicts hold for the machine, corpus and sizes of this page alone."
    )
    return [Table(["claim", "verdict"], rows), Text([note])]


def claim_sections(
    verdicts: Sequence[Verdict], found: Sequence[Evidence], probes: Probes
) -> list[Section]:
    """C1 to C7, then what no claim alone rests on: errors against length, cost against length.

    The curves of a single group stand in C1, which they decide; of several, with each group.
    """
    shown: dict[str, list[Block]] = {
        "C1": [*(curves(found[0], "") if len(found) == 1 else []), *_targets(found)],
        "C2": [*_streams(probes), *_look_ahead(probes)],
        "C3": [*_horizons(probes), *_contexts(probes)],
        "C4": _ratios(probes, plots.ONE_BY_ONE, "scan", f"Two ways of computing. {BELOW}"),
        "C5": _roofline(probes),
        "C6": _ratios(probes, plots.HIERARCHICAL, "hierarchy", f"Layers of attention. {BELOW}"),
        "C7": _stored(probes),
    }
    sections = [(_title(v), [*_words(v), *shown[v.claim]]) for v in verdicts]
    longer = ("Longer recordings than in training", _lengths(probes))
    return [*sections, longer, _scaling(probes, found)]


def _title(verdict: Verdict) -> str:
    return f"{verdict.claim}. {CLAIMS[verdict.claim]}"


def _words(verdict: Verdict) -> list[Block]:
    blocks: list[Block] = [Text([f"Verdict: {verdict.words}."], "verdict")]
    reasons = verdict.reasons[:SHOWN]
    if len(verdict.reasons) > SHOWN:
        reasons.append(f"... and {len(verdict.reasons) - SHOWN} more of the same kind.")
    if reasons or verdict.beside:
        blocks.append(Text([*reasons, *verdict.beside], "list"))
    if verdict.commands:
        blocks.append(Text([f"To measure what is missing: {'; '.join(verdict.commands)}"]))
    return [*blocks, *_rule(verdict.claim)]


def _rule(claim: str) -> list[Block]:
    """The docstring of the rule's function: paragraphs and lists."""
    doc = cleandoc(RULES[claim].__doc__ or "").replace("``", "")
    blocks: list[Text] = []
    for paragraph in doc.split("\n\n"):
        kind = "rules" if paragraph.startswith("* ") else "rule"
        items = paragraph.removeprefix("* ").split("\n* ") if kind == "rules" else [paragraph]
        lines = [re.sub(r"\*(.+?)\*", r"‘\1’", " ".join(item.split())) for item in items]
        blocks.append(Text(lines, kind))
    return [Folded("How it is decided", blocks)]


def _below(folders: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The folder that holds all of these, and each of them as it is called from there.

    Where some are absolute and some relative, none is known to hold them all, and they stay whole.
    """
    parents = {Path(folder).parent for folder in folders}
    if len({parent.is_absolute() for parent in parents}) > 1:
        return "", {folder: folder for folder in folders}
    shared = Path(os.path.commonpath(parents))
    return str(shared), {folder: str(Path(folder).relative_to(shared)) for folder in folders}


def _source(probes: Probes, name: str, below: str = "") -> Text:
    """The file that the figures come from, what it was measured on, and where its runs are."""
    probe = probes.found[name]
    about = probe.machine
    told = [str(about.get("device_name") or "device unknown")]
    told += [threads(about)] if "threads" in about else []
    told += [f"torch {about['torch']}"] if "torch" in about else []
    told += [f"commit {about['git_commit']}"] if "git_commit" in about else []
    told += [str(about["command"])] if "command" in about else []
    where = f" Run folders are below {below}." if below not in ("", ".") else ""
    return Text([f"From {probe.path}: {'; '.join(told)}.{where}"], "rule")


def _targets(found: Sequence[Evidence]) -> list[Block]:
    blocks: list[Block] = []
    for number, evidence in enumerate(found, 1):
        suffix = f"-group{number}" if len(found) > 1 else ""
        head = f"{group_name(evidence.group, number)}: device" if len(found) > 1 else "Device"
        words = (
            f"{head}-hours to a validation WER; bars: percentiles over resampled seeds, which hold "
            "the true median less often than in 95 % of cases (below); arrows: censored."
        )
        blocks.append(
            Picture(
                f"cost_to_target{suffix}",
                lambda evidence=evidence: plots.costs_to_targets(evidence),  # type: ignore[misc]
                words,
            )
        )
    return blocks


def _streams(probes: Probes) -> list[Block]:
    rows = probes.rows("streaming")
    if not rows:
        return []
    positions = sorted({row["position"] for row in rows})
    last = {row["encoder"]: row for row in sorted(rows, key=lambda row: row["position"])}
    table = [
        [
            name,
            f"{10 * row['chunk']} ms",
            f"{row['position']:,}",
            digits(row["milliseconds"]),
            digits(row["slowest"]),
            prefixed(row["state_bytes"], "B"),
        ]
        for name, row in last.items()
    ]
    header = ["causal encoder", "answers after", "at frame", "ms per frame", "slowest, ms", "state"]
    words = (
        f"Streams at frames {', '.join(f'{p:,}' for p in positions)}: time and state per stream."
    )
    return [
        Picture("streaming", lambda: plots.streams(rows), words),
        Table(header, table),
        _source(probes, "streaming"),
    ]


def _look_ahead(probes: Probes) -> list[Block]:
    rows = probes.rows("lookahead")
    if not rows:
        command = COMMANDS["lookahead"]
        return [Text([f"Errors against look-ahead: not measured. To measure it: {command}"])]
    together: dict[tuple[str, str, float | None], list[float]] = {}
    for row in rows:
        together.setdefault((row["encoder"], row["decoder"], row["most"]), []).append(row["wer"])
    table = [
        [
            encoder,
            decoder,
            "the utterance" if most is None else f"{most:.2f} s",
            str(len(wers)),
            _span(wers),
        ]
        for (encoder, decoder, most), wers in together.items()
    ]
    header = ["trained model: encoder", "decoder", "look-ahead, at most", "runs", "WER"]
    return [Table(header, table), _source(probes, "lookahead")]


def _span(wers: list[float]) -> str:
    """Their mean, and the lowest and the highest."""
    mean = percent(sum(wers) / len(wers))
    return mean if len(wers) == 1 else f"{mean}, {percent(min(wers))} to {percent(max(wers))}"


def _horizons(probes: Probes) -> list[Block]:
    attempts = probes.attempts
    if not attempts:
        return []
    lags = sorted({row.lag for row in attempts})
    table = []
    for task in dict.fromkeys(row.task for row in attempts):
        for arm in dict.fromkeys(row.arm for row in attempts):
            own = [row for row in attempts if (row.task, row.arm) == (task, arm)]
            if not own:
                continue
            cells = [told_horizon(own, axis) for axis in AXES]
            for lag in lags:
                here = [row for row in own if row.lag == lag]
                cells.append(
                    " / ".join(f"{median_accuracy(here, axis):z.2f}" for axis in AXES)
                    if here
                    else "not tried"
                )
            table.append([f"{task}: {arm}", f"{own[0].parameters:,}", *tried(own), *cells])
    header = [
        "task: arm",
        "parameters",
        "seeds",
        "learning rates",
        "horizon in steps, equal updates",
        "horizon in steps, equal seconds",
    ]
    header += [f"lag {lag:,}" for lag in lags]
    first = attempts[0]
    note = (
        f"Trained at each lag with {first.budget_updates} updates, and with "
        f"{first.budget_seconds:g} s. Accuracies, at equal updates / at equal seconds: 0 is "
        "chance, 1 is all; a lag is answered from 0.9 on, in the median of the seeds. An arm that "
        "misses two lags in a row is not tried at longer ones, nor at lags that its attempts were "
        "not asked for."
    )
    words = (
        "Longest lag answered. Hollow: not even the shortest. Arrow: the longest that was tried."
    )
    return [
        Picture("horizon", lambda: plots.horizons(attempts), words),
        Table(header, table),
        Text([note, NOTES]),
        *_extrapolations(attempts),
        _source(probes, "horizon"),
    ]


def _extrapolations(attempts: Sequence[Attempt]) -> list[Block]:
    """Lags that arms answer without having been trained at them."""
    header, *rows = extrapolations(attempts) or [[]]
    return [Table(header, rows), Text([EXTRAPOLATED])] if rows else []


def _contexts(probes: Probes) -> list[Block]:
    runs, points = probes.trained, probes.rows("context")
    if not runs:
        command = COMMANDS["context"]
        return [Text([f"Trained models: effective context not measured. To measure it: {command}"])]
    below, short = _below([one.run for one in runs])
    table = [
        [
            short[one.run],
            f"{one.encoder} + {one.decoder}",
            told_context(one),
            told_half_life(one),
            NONE if one.exponent is None else digits(one.exponent),
            told_law(one),
        ]
        for one in runs
    ]
    header = ["run folder", "encoder + decoder", "effective context [95 % interval]"]
    header += ["half-life of gradients", "exponent", "law (difference of AIC, agreement)"]
    drawn = sorted({f"{one.utterances} of {one.utterances_of}" for one in runs})
    note = (
        f"Utterances: {listed(drawn)}. "
        "Effective context of trained models: the shortest past that an encoder frame may hear "
        "with a loss of at most 1.01 times that of the whole past. Gradients of a frame by the "
        "features k frames before: fitted by an exponential (half-life) and by a power of k "
        "(exponent); the law that AIC prefers, and by how much, or neither where fewer than 19 of "
        "20 resamples of the utterances agree. Utterances are short, so this is what was used, "
        "not what could be remembered: it stands beside the verdict and decides nothing."
    )
    words = (
        "Left: WER of greedy search when a frame hears no more of the past, itself included. "
        f"Right: gradient against distance, relative to that of the frame's own features. {SEVERAL}"
    )
    return [
        Picture("context", lambda: plots.contexts(points, runs), words),
        Table(header, table),
        Text([note, exactness(probes.found["context"].rest["plan"]), *remarks(runs)], "list"),
        _source(probes, "context", below),
    ]


def _ratios(probes: Probes, names: Sequence[str], name: str, words: str) -> list[Block]:
    rows = [row for row in probes.rows("scaling") if row["name"] in names]
    if not rows:
        return []
    table = [
        [
            f"{row['subject']} / {row['reference']}",
            f"{row['time']:,}",
            str(row["batch"]),
            f"{digits(row['ratio'])} [{digits(row['ratio_min'])} to {digits(row['ratio_max'])}]"
            if not row["error"]
            else row["error"],
            digits(row.get("peak_ratio"), 2),
        ]
        for row in rows
    ]
    header = [
        "time of / over that of",
        "frames",
        "batch",
        "ratio [least to greatest]",
        "ratio of peak memory",
    ]
    return [
        Picture(f"ratios_{name}", lambda: plots.ratios(rows, names), words),
        Table(header, table),
        _source(probes, "scaling"),
    ]


def _roofline(probes: Probes) -> list[Block]:
    if "roofline" not in probes.found:
        return []
    probe = probes.found["roofline"]
    table = [
        [
            f"{s['width']} x {s['batch']}",
            digits(1e6 * s["seconds"]),
            prefixed(s["flops"] / s["seconds"], "FLOP/s"),
            digits(s["intensity"]),
            percent(s.get("latency_share")),
            s["bound"],
        ]
        for s in probe.rows
    ]
    header = [
        "width x batch",
        "µs a step",
        "speed",
        "FLOP per byte",
        "share of latency",
        "bound by",
    ]
    return [
        Picture("roofline", lambda: plots.roofline(probe), plots.told_roof(probe)),
        Table(header, table),
        _source(probes, "roofline"),
    ]


def _stored(probes: Probes) -> list[Block]:
    rows = probes.rows("memory")
    if not rows:
        return []
    below, short = _below([str(row["run"]) for row in rows])
    table = [
        [
            short[str(row["run"])],
            row["encoder"],
            "everything stored" if row["gate"] == "none" else f"{row['gate']} {row['setting']:g}",
            str(row["seed"]),
            percent(row["kept"]),
            percent_interval(row["wer"], (row["low"], row["high"]) if row["wer"] else None),
        ]
        for row in rows
    ]
    header = ["run folder", "encoder", "gate and setting", "seed", "stored", "WER [95 % interval]"]
    words = "WER against the share of frames stored, one mark per run; whiskers over speakers."
    return [
        Picture("stored", lambda: plots.kept(rows), words),
        Table(header, table),
        _source(probes, "memory", below),
    ]


def _lengths(probes: Probes) -> list[Block]:
    rows = probes.rows("length")
    if not rows:
        return [Text([f"Not measured. To measure it: {COMMANDS['length']}"])]
    below, short = _below([str(row["run"]) for row in rows])
    table = [
        [
            short[str(row["run"])],
            f"{row['encoder']} + {row['decoder']}",
            str(row["seed"]),
            f"{digits(row['mean_seconds'])} s",
            f"{row['mean_words']:.1f}",
            percent_interval(row["wer"], (row["low"], row["high"])),
            percent(row["deletions"]),
            str(row["unfinished"]),
        ]
        for row in rows
    ]
    header = ["run folder", "encoder + decoder", "seed", "mean length", "mean words"]
    header += ["WER [95 % interval]"]
    header += ["deleted words", "did not end"]
    words = f"The same audio heard in longer and longer pieces. {SEVERAL}"
    return [
        Picture("length", lambda: plots.lengths(rows), words),
        Table(header, table),
        _source(probes, "length", below),
    ]


def _scaling(probes: Probes, found: Sequence[Evidence]) -> Section:
    title = "Cost against length"
    rows = [row for row in probes.rows("scaling") if not row["reference"]]
    if not rows:
        return title, [Text([f"Not measured. To measure it: {COMMANDS['scaling']}"])]
    exponents = probes.found["scaling"].rest.get("exponents", [])
    fitted = {(e["name"], e["subject"]): e for e in exponents}
    table = []
    for row in rows:
        power = fitted.get((row["name"], row["subject"]))
        table.append(
            [
                f"{row['name']}, {row['subject']}",
                f"{row['time']:,}",
                digits(None if row["seconds"] is None else 1e3 * row["seconds"]),
                prefixed(row.get("peak_bytes"), "B"),
                prefixed(row.get("flops"), "FLOP"),
                prefixed(row.get("flops_per_second"), "FLOP/s"),
                NONE if power is None else f"{power['seconds']:.2f} ± {power['seconds_error']:.2f}",
            ]
        )
    header = ["encoder, pass", "feature frames", "ms", "peak memory", "FLOP", "speed"]
    header += ["exponent of the time"]
    first = [arm.runs[0].encoder for arm in found[0].group.arms]
    words = "Time of a training pass against length; T^p: fitted exponent with its standard error."
    return title, [
        Picture("scaling", lambda: plots.scaling(rows, exponents, first), words),
        Table(header, table),
        _source(probes, "scaling"),
    ]
