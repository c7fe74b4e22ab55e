"""Writes one row per run with every number; column names include the unit."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from asr.report import costs
from asr.report.claims import rule
from asr.report.disturbed import no_front
from asr.report.findings import Verdict
from asr.report.groups import Arm, Group
from asr.report.quantities import COSTS, QUANTITIES
from asr.report.runs import Run
from asr.report.study import Row, StudyRecord


def to_csv(
    groups: Sequence[Group], wanted: Sequence[list[float]], study: StudyRecord | None = None
) -> str:
    """One row per run; a column's name has the unit, and an empty cell was not measured.

    With a study, there are also rows for its trials and for failed final runs, which are in no
    group; ``status`` and ``reason`` give the outcome. ``device_hours`` are core-hours on a CPU and
    GPU-hours on a GPU; their sum over all rows is that of the study.
    """
    of_run = {} if study is None else {study.run_folder(r).resolve(): r for r in study.ended}
    rows = [
        _row(number, group, arm, run, targets) | _ended(run, of_run.get(run.path.resolve()))
        for number, (group, targets) in enumerate(zip(groups, wanted, strict=True), 1)
        for arm in group.arms
        for run in arm.runs
    ]
    shown = {run.path.resolve() for group in groups for run in group.runs}
    if study is not None:
        rows += [_of_study(study, r) for path, r in of_run.items() if path not in shown]
    return _written(dict.fromkeys(key for row in rows for key in row), rows)


def verdicts_csv(verdicts: Sequence[Verdict]) -> str:
    """One row per claim, with the verdict in words and its reasons."""
    rows = [
        {
            "claim": v.claim,
            "text": rule(v.claim).statement,
            "verdict": v.kind,
            "words": v.words,
            "reasons": " ".join(v.reasons),
        }
        for v in verdicts
    ]
    return _written(("claim", "text", "verdict", "words", "reasons"), rows)


def _written(columns: Sequence[str] | dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _row(number: int, group: Group, arm: Arm, run: Run, targets: Sequence[float]) -> dict[str, Any]:
    low, high = run.wer_interval or (None, None)
    row: dict[str, Any] = {
        "run": str(run.path),
        "group": number,
        "arm": arm.label,
        "encoder": run.encoder,
        "seed": run.seed,
        "split": run.split,
        **{quantity.column: quantity.cell(run) for quantity in QUANTITIES},
        "wer_low_percent": None if low is None else 100 * low,
        "wer_high_percent": None if high is None else 100 * high,
        "pareto_front": None if no_front(group) else arm in costs.pareto(group),
    }
    for index, target in enumerate(targets, 1):
        row[f"target_{index}_wer_percent"] = 100 * target
        for cost in COSTS:
            spent = costs.spent_at(run, target, cost.key)
            row[f"target_{index}_{cost.column}"] = None if spent == math.inf else spent
    return row | {"notes": "; ".join(run.notes)}


def _ended(run: Run, row: Row | None) -> dict[str, Any]:
    """The outcome of a run, from its study or else from its ledger."""
    if row is None:
        status, reason = "done" if run.totals.get("finished") else "not finished", None
    else:
        status, reason = row["status"], row["reason"]
    return {
        "role": row and row["role"],
        "study_arm": row and row["arm"],
        "status": status,
        "reason": reason or run.totals.get("reason"),
    }


def _of_study(study: StudyRecord, row: Row) -> dict[str, Any]:
    """The row of a trial or of a failed final run, from the study's file of results."""
    wer = row["validation_wer"]
    return {
        "run": str(study.run_folder(row)),
        "encoder": study.encoder(row["arm"]),
        "seed": study.seed(row),
        "trial": row.get("number"),
        "best_validation_wer_percent": None if wer is None else 100 * wer,
        **{key: row.get(key) for key in ("device_name", "num_threads", "updates")},
        **{cost.column: row.get(cost.key) for cost in COSTS},
        **{key: row[key] for key in ("role", "status", "reason")},
        "study_arm": row["arm"],
    }
