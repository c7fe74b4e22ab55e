"""Writes the section on how runs were measured: machine, versions, data, settings, folders."""

from collections.abc import Callable
from typing import Any

from asr.document.blocks import Block, Table, Text
from asr.formatting import count, digits, listed, numbered
from asr.report import verdict
from asr.report.groups import Group, place
from asr.report.runs import UNKNOWN, Run, part

SHOWN = 3  # largest number of runs that are named one by one
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


def measured(group: Group) -> list[Block]:
    """A table of the facts that all runs share, and a table with a row per run."""
    first = group.runs[0]
    shared = [
        ["machine", _shared(group, lambda r: r.device_name)],
        ["devices", _shared(group, lambda r: r.totals.get("num_devices"))],
        ["threads", _shared(group, lambda r: r.num_threads)],
        *[[words, _environment(group, name)] for name, words in ENVIRONMENT.items()],
        ["corpus", _corpus(first)],
        [
            "evaluated split",
            f"{first.split}: {count(first.metric('utterances'))} utterances, "
            f"{count(first.metric('wer', 'words'))} words"
            if first.metrics
            else f"{first.split}: not evaluated yet",
        ],
        ["checksum of this split", first.checksum or UNKNOWN],
        ["trained on", _shared(group, lambda r: r.trained_on)],
        ["evaluated on", _shared(group, lambda r: r.metric("device_name"))],
        ["threads of the evaluation", _shared(group, lambda r: r.metric("threads"))],
        ["commit of the evaluation", _shared(group, lambda r: r.metric("git_commit"))],
        ["normaliser", _shared(group, lambda r: r.metric("normaliser"))],
        ["decoder", _component(first, "decoder")],
        ["search", _shared(group, lambda r: r.metric("search"))],
        ["budget", verdict.budget(group)],
    ]
    if not any(run.device_kind == "cuda" for run in group.runs):
        shared.append(["on a GPU", "not measured: no run of this group used one"])
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
    unknown = sum(run.disturbances is None for run in group.runs)
    note = (
        f"{numbered(unknown, 'run')} of {len(group.runs)} did not record whether other programs "
        "disturbed it (an earlier version of asr); it is compared as if none did."
    )
    return [
        Table(["", "value"], shared),
        Table(["arm", "seed", "run folder", "command", "state"], rows),
        *([Text([note])] if unknown else []),
    ]


def _shared(group: Group, value: Callable[[Run], Any]) -> str:
    """A fact of all runs; if runs differ, each value with its runs."""
    values: dict[str, list[str]] = {}
    for run in group.runs:
        found = value(run)
        name = place(run, group.runs)
        values.setdefault(UNKNOWN if found is None else str(found), []).append(name)
    if len(values) == 1:
        return next(iter(values))
    most = max(values, key=lambda text: len(values[text]))
    if len(values[most]) > len(group.runs) / 2 and len(values[most]) > SHOWN:
        values[most] = ["all others"]
    return "; ".join(f"{text} ({listed(names)})" for text, names in values.items())


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
