"""Run folders -> report.html, report.md, report.csv and PNG figures, all from the same blocks."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from asr.files import new_folder, write_all
from asr.report import costs, plots, verdict
from asr.report.blocks import Block, Picture, Section, Table, Text, to_markdown, to_page
from asr.report.costs import arm_mean, cost_to, hours_unit
from asr.report.quantities import (
    NONE,
    digits,
    hours,
    listed,
    mebibytes,
    percent,
    percent_interval,
    points_interval,
    prefixed,
)
from asr.report.runs import UNKNOWN, Arm, Group, Run, part, read_groups
from asr.report.sheet import to_csv

SYNTHETIC = (
    "SYNTHETIC SPEECH: the utterances were spoken by a computer. The figures compare encoders on "
    "this task; they say nothing about word error rates on people's speech."
)
ENVIRONMENT = {
    "platform": "system",
    "cpu": "processor",
    "cores": "processor cores",
    "python": "Python",
    "torch": "torch",
    "lightning": "lightning",
    "asr": "asr",
    "git_commit": "commit",
}


def compare(
    runs: Sequence[Path],
    output: Path,
    *,
    targets: Sequence[float] | None = None,
    split: str = "test",
) -> dict[str, Any]:
    """Writes the comparison of run folders into ``output``.

    Args:
        runs: folders that ``asr train`` wrote; those that are not comparable form groups.
        output: folder for report.html, report.md, report.csv and the PNG figures.
        targets: validation WERs whose cost is wanted, as fractions; by default 1.5, 1.15 and 1
            times the best of the weaker arm.
        split: the evaluated split.

    Returns:
        answer: a list of lines per group; groups: a list of arms' labels per group; separation:
        why groups stand apart; files: what was written.

    Raises:
        ValueError: a folder is not a run or given twice, or a target is not a rate.
        OSError: the output cannot be written.
    """
    for target in targets or ():
        if not 0 < target < 1:
            raise ValueError(
                f"target WER {100 * target:g} % is not between 0 and 100 %; give another"
            )
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; give a folder for the report")
    groups = read_groups([Path(run) for run in runs], split)
    wanted = [
        sorted(targets, reverse=True) if targets else costs.default_targets(g) for g in groups
    ]
    answers = [verdict.answer(g, t) for g, t in zip(groups, wanted, strict=True)]
    sections = _sections(groups, wanted, answers)
    contents: dict[str, bytes] = {
        f"{block.name}.png": png
        for _, blocks in sections
        for block in blocks
        if isinstance(block, Picture) and (png := plots.to_png(block.draw)) is not None
    }
    title = "Word error rate against cost: " + listed(
        list(dict.fromkeys(arm.label for g in groups for arm in g.arms))
    )
    contents["report.csv"] = to_csv(groups, wanted).encode()
    contents["report.md"] = to_markdown(title, sections).encode()
    contents["report.html"] = to_page(title, sections).encode()
    return {
        "answer": answers,
        "groups": [[arm.label for arm in group.arms] for group in groups],
        "separation": [group.separation for group in groups],
        "files": _write(output, contents),
    }


def _write(output: Path, contents: dict[str, bytes]) -> list[Path]:
    """All files or none."""
    files = {output / name: content for name, content in contents.items()}
    with new_folder(output):
        write_all(files)
    return list(files)


def _sections(
    groups: Sequence[Group], wanted: Sequence[list[float]], answers: Sequence[list[str]]
) -> list[Section]:
    sections: list[Section] = []
    if len(groups) > 1:
        sections.append(
            ("These runs must not be compared all with each other", _separations(groups))
        )
    for number, (group, targets, lines) in enumerate(zip(groups, wanted, answers, strict=True), 1):
        suffix = f"-group{number}" if len(groups) > 1 else ""
        head = f"Group {number}: " if len(groups) > 1 else ""
        sections += [
            (head + title, blocks) for title, blocks in _group(group, targets, lines, suffix)
        ]
    return sections


def _separations(groups: Sequence[Group]) -> list[Block]:
    lines = []
    for number, group in enumerate(groups, 1):
        names = listed([arm.label for arm in group.arms])
        why = f" Differs from group 1 in {'; '.join(group.separation)}." if group.separation else ""
        lines.append(f"Group {number}: {names} (runs: {len(group.runs)}).{why}")
    return [Text(lines, "list")]


def _group(group: Group, targets: list[float], lines: list[str], suffix: str) -> list[Section]:
    unit = hours_unit(group)
    target = costs.common_target(group, targets)
    answer: list[Block] = [Text(lines, "answer")]
    stale = [f"{run.path}: {run.stale}." for run in group.runs if run.stale]
    synthetic = [SYNTHETIC] if any(run.synthetic for run in group.runs) else []
    answer += [Text([line], "warning") for line in [*stale, *synthetic]]
    curves: list[Block] = []
    if any(run.points for run in group.runs):
        words = f"Validation WER against training cost in {unit}: lower and further left is better."
        words += _bands(group)
        curves.append(
            Picture(
                f"wer_against_device_hours{suffix}",
                lambda: plots.wer_against_hours(group, target),
                words,
            )
        )
        curves.append(
            Picture(
                f"wer_against_costs{suffix}",
                lambda: plots.wer_against_costs(group),
                "The same runs against the other costs.",
            )
        )
    else:
        curves.append(Text(["No run has a validation yet, so there is no curve."]))
    curves += [Text([line]) for line in _energy(group)]
    spent: list[Block] = [Text(["No entry in any ledger yet."])]
    if any(run.totals.get("wall_seconds") for run in group.runs):
        spent = [Table(*_phases(group))]
        words = "Where the time went, mean over seeds; the percentages are shares of an arm's cost."
        spent.insert(0, Picture(f"time_spent{suffix}", lambda: plots.time_spent(group), words))
    found: list[Section] = [
        ("The answer", answer),
        ("Errors against training cost", curves),
        ("Each arm in figures", [Table(*_figures(group)), *_differences(group), *_unequal(group)]),
        ("Cost to reach a WER", _costs(group, targets)),
        ("Where the time went", spent),
        ("Best trade-offs", _trade_offs(group, suffix)),
        ("How it was measured", _measured(group)),
    ]
    return found


def _bands(group: Group) -> str:
    if any(len(arm.runs) > 1 for arm in group.arms):
        return " Lines are means over seeds, bands reach from the lowest to the highest seed."
    return ""


def _energy(group: Group) -> list[str]:
    notes = {
        run.totals.get("energy_note")
        for run in group.runs
        if run.totals.get("energy_joules") is None
    }
    if not any(run.totals.get("energy_joules") is None for run in group.runs):
        return []
    why = listed(sorted(str(note) for note in notes - {None}))
    return [f"Joules are not shown: energy was not metered{f' ({why})' if why else ''}."]


def _figures(group: Group) -> tuple[list[str], list[list[str]]]:
    """One row per quantity, one column per arm, means over seeds."""
    unit = hours_unit(group)
    kind = {"cuda": "allocated on the device", "cpu": "of the process"}.get(
        str(group.runs[0].device_kind), ""
    )

    def metric(arm: Arm, *keys: str) -> float | None:
        return costs.mean([run.metric(*keys) for run in arm.runs])

    def total(field: str) -> Callable[[Arm], float | None]:
        return lambda arm: arm_mean(arm, field)

    front = costs.pareto(group)
    rows: list[tuple[str, Callable[[Arm], str]]] = [
        ("seeds", lambda a: ", ".join(NONE if r.seed is None else str(r.seed) for r in a.runs)),
        ("parameters of the encoder", lambda a: _count(arm_mean(a, "encoder_parameters"))),
        ("parameters of the model", lambda a: _count(arm_mean(a, "parameters"))),
        (
            f"{group.runs[0].split} WER [95 % interval]",
            lambda a: percent_interval(costs.arm_wer(a), verdict.arm_interval(a)),
        ),
        ("character error rate (CER)", lambda a: percent(metric(a, "cer", "rate"))),
        ("best validation WER", lambda a: percent(costs.arm_best(a))),
        (f"training cost, {unit}", lambda a: hours(arm_mean(a, "device_hours"))),
        (
            f"of that lost to crashes, {unit}",
            lambda a: digits(costs.mean([r.wasted_hours for r in a.runs])),
        ),
        ("training compute", lambda a: prefixed(arm_mean(a, "train_flops"), "FLOP")),
        (
            "audio trained on, hours",
            lambda a: digits(costs.mean([r.audio_hours for r in a.runs])),
        ),
        (
            f"throughput, audio hours per {unit.replace('hours', 'hour')}",
            lambda a: digits(costs.mean([r.throughput for r in a.runs])),
        ),
        (
            "share of the device's peak FLOP/s used (MFU)",
            lambda a: percent(arm_mean(a, "model_flops_utilisation")),
        ),
        (f"peak memory {kind}".strip(), lambda a: mebibytes(arm_mean(a, "peak_memory_bytes"))),
        ("energy", lambda a: prefixed(total("energy_joules")(a), "J")),
        (
            "running cost, seconds per second of audio (real-time factor)",
            lambda a: digits(costs.real_time_factor(a), 2),
        ),
        ("updates", lambda a: _count(arm_mean(a, "updates"))),
        *_infeasible(group),
        ("stopped because", lambda a: "; ".join(dict.fromkeys(_stopped(r) for r in a.runs))),
        ("a best trade-off (Pareto front)", lambda a: "yes" if a in front else "no"),
    ]
    header = ["", *[arm.label for arm in group.arms]]
    return header, [[words, *[show(arm) for arm in group.arms]] for words, show in rows]


def _infeasible(group: Group) -> list[tuple[str, Callable[[Arm], str]]]:
    """A row only where there is something to say."""
    if not any(run.totals.get("infeasible_utterances") for run in group.runs):
        return []
    words = "utterances too short for their text, left out of the CTC term (repetitions counted)"
    return [(words, lambda arm: _count(arm_mean(arm, "infeasible_utterances")))]


def _stopped(run: Run) -> str:
    if run.totals.get("finished"):
        return str(run.totals.get("reason") or "finished")
    return "not finished" if "updates" in run.totals else "nothing in the ledger"


def _differences(group: Group) -> list[Block]:
    """The paired differences from the best arm, with what they rest on."""
    if len(group.arms) < 2:
        return []
    found = verdict.comparisons(group)
    pairs = math.comb(len(group.arms), 2)
    level = f"{100 * found[0].level:.3g}"
    words = {"win": "significant", "tie": "no difference shown", "unknown": "not enough evidence"}
    rows = [
        [
            f"{c.b.label} less {c.a.label}",
            NONE if c.interval is None else points_interval(c.difference or 0.0, c.interval),
            NONE if c.detectable is None else f"{100 * c.detectable:.2f} points",
            words[c.kind] + (f": {c.reason}" if c.reason else ""),
        ]
        for c in found
    ]
    header = [
        "difference in WER",
        f"value [{level} % interval]",
        "smallest difference found 4 times in 5",
        "verdict",
    ]
    methods = listed(sorted({c.method for c in found if c.method}))
    why = (
        f" The level is corrected for all {pairs} pairs of arms (Bonferroni), as the same errors "
        "say which arm is best."
        if pairs > 1
        else ""
    )
    said = [f"How the interval was made: {methods}, 10,000 times.{why}"] if methods else []
    return [Table(header, rows), *[Text([line]) for line in said]]


def _unequal(group: Group) -> list[Block]:
    lines = [sentence for _, sentence in verdict.inequalities(group)]
    if not lines:
        return []
    return [Text(["What differs between the arms besides the encoder:"]), Text(lines, "list")]


def _costs(group: Group, targets: Sequence[float]) -> list[Block]:
    if not targets:
        return [Text(["No target below 100 % WER can be set: no arm has learnt enough."])]
    axes: list[tuple[str, str, Callable[[float | None], str]]] = [
        ("device_hours", hours_unit(group), hours),
        ("train_flops", "training compute", lambda v: prefixed(v, "FLOP")),
        ("audio_hours", "audio hours", digits),
    ]
    rows = []
    for target in targets:
        for field, words, show in axes:
            cells = [_cost(cost_to(arm, target, field), show) for arm in group.arms]
            rows.append([f"{percent(target)}: {words}", *cells])
    note = (
        "Cost at the first validation whose WER is at or below the target, nothing interpolated. "
        "A run that stopped above the target counts as not reached (censored), not as missing."
    )
    if any(len(arm.runs) > 1 for arm in group.arms):
        note += " Several seeds: the median, and the range of those that reached it."
    return [Table(["validation WER", *[arm.label for arm in group.arms]], rows), Text([note])]


def _cost(cost: costs.Cost, show: Callable[[float | None], str]) -> str:
    if cost.value is None:
        return NONE
    if math.isinf(cost.value):
        text = f"not reached within {show(cost.limit)}"
    else:
        text = show(cost.value)
    if cost.seeds > 1:
        text += f" [{show(cost.low)} to {show(cost.high)}]" if cost.reached > 1 else ""
        text += f", {cost.reached} of {cost.seeds} seeds"
    return text


def _phases(group: Group) -> tuple[list[str], list[list[str]]]:
    spent = [plots.phase_hours(arm) for arm in group.arms]
    rows = [
        [words, *[digits(60 * row[phase]) for row in spent]]
        for phase, (words, *_) in plots.PHASES.items()
        if any(row[phase] for row in spent)
    ]
    unit = hours_unit(group).replace("hours", "minutes")
    return [unit, *[arm.label for arm in group.arms]], rows


def _trade_offs(group: Group, suffix: str) -> list[Block]:
    front = [arm.label for arm in costs.pareto(group)]
    if not front:
        return [
            Text(
                ["No arm has a WER, a training cost and a real-time factor, so there is no front."]
            )
        ]
    note = (
        f"On the front: {listed(front)}. No other arm is as good in WER, {hours_unit(group)} and "
        "real-time factor at once; differences below 1 % count as equal."
    )
    words = (
        "WER against training and running cost. Whiskers: 95 % intervals; rings: best trade-offs."
    )
    return [Text([note]), Picture(f"trade_offs{suffix}", lambda: plots.pareto_front(group), words)]


def _measured(group: Group) -> list[Block]:
    first = group.runs[0]
    shared = [
        ["machine", _shared(group, lambda r: r.device_name)],
        ["devices", _shared(group, lambda r: r.totals.get("num_devices"))],
        ["threads", _shared(group, lambda r: r.num_threads)],
        *[[words, _environment(group, name)] for name, words in ENVIRONMENT.items()],
        ["corpus", _corpus(first)],
        [
            "evaluated split",
            f"{first.split}: {_count(first.metric('utterances'))} utterances, "
            f"{_count(first.metric('wer', 'words'))} words"
            if first.metrics
            else f"{first.split}: not evaluated yet",
        ],
        ["checksum of its rows", first.checksum or UNKNOWN],
        ["trained on", _shared(group, lambda r: r.trained_on)],
        ["evaluated on", _shared(group, lambda r: r.metric("device_name"))],
        ["normaliser", _shared(group, lambda r: r.metric("normaliser"))],
        ["decoder", _component(first, "decoder")],
        ["search", _shared(group, lambda r: r.metric("search"))],
        ["budget", verdict.budget(group)],
    ]
    rows = [
        [
            arm.label,
            str(run.seed),
            str(run.path),
            str(run.environment.get("command") or UNKNOWN),
            "; ".join(run.notes) or "complete",
        ]
        for arm in group.arms
        for run in arm.runs
    ]
    return [
        Table(["", "value"], shared),
        Table(["arm", "seed", "run folder", "command", "state"], rows),
    ]


def _shared(group: Group, value: Callable[[Run], Any]) -> str:
    """A fact of all runs; where they differ, which run has which."""
    values: dict[str, list[str]] = {}
    for run in group.runs:
        found = value(run)
        values.setdefault(UNKNOWN if found is None else str(found), []).append(run.path.name)
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{text} ({listed(names)})" for text, names in values.items())


def _count(number: float | None) -> str:
    return NONE if number is None else f"{number:,.0f}"


def _environment(group: Group, name: str) -> str:
    return _shared(group, lambda run: run.environment.get(name))


def _component(run: Run, name: str) -> str:
    options = part(run.recipe, (name,))
    kind = str(options.pop(name, UNKNOWN))
    told = ", ".join(f"{key.split('.', 1)[1]}={value}" for key, value in options.items())
    return f"{kind} ({told})" if told else kind


def _corpus(run: Run) -> str:
    told = (run.metrics or {}).get("corpus") or run.corpus or {}
    text = str(told.get("name") or UNKNOWN)
    if path := run.recipe.get("data.corpus"):
        text += f", {path}"
    for name, split in ((run.corpus or {}).get("splits") or {}).items():
        text += f"; {name}: {split.get('utterances')} utterances, {digits(split.get('hours'))} h, "
        text += f"{split.get('speakers')} speakers"
    return text + ("; SYNTHETIC" if run.synthetic else "")
