"""One row per run with every number, for a spreadsheet: the unit is in a column's name."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from asr.report import costs
from asr.report.claims import RULES
from asr.report.findings import Verdict
from asr.report.groups import Arm, Group
from asr.report.runs import Run
from asr.report.study import Row, Study

PHASES = ("startup", "compilation", "step", "data_wait", "validation", "checkpoint")


def to_csv(
    groups: Sequence[Group], wanted: Sequence[list[float]], study: Study | None = None
) -> str:
    """One row per run; the unit is in the name of the column, empty means not measured.

    Of a study also its trials and the final runs that failed, which are in no group: ``status`` and
    ``reason`` say what became of each. The device-hours of its rows add up to those of the study.
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
    buffer = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def verdicts_csv(verdicts: Sequence[Verdict]) -> str:
    """A line per claim: its verdict, in words, and the reasons."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["claim", "text", "verdict", "words", "reasons"])
    for v in verdicts:
        writer.writerow(
            [v.claim, RULES[v.claim].statement, v.kind, v.words, " ".join([*v.reasons, *v.beside])]
        )
    return buffer.getvalue()


def _row(number: int, group: Group, arm: Arm, run: Run, targets: Sequence[float]) -> dict[str, Any]:
    def rate(*keys: str) -> float | None:
        value = run.metric(*keys)
        return None if value is None else 100 * value

    interval = run.metric("wer", "interval") or (None, None)
    totals = run.totals
    row: dict[str, Any] = {
        "run": str(run.path),
        "group": number,
        "arm": arm.label,
        "encoder": run.encoder,
        "seed": run.seed,
        "split": run.split,
        "encoder_parameters": totals.get("encoder_parameters"),
        "parameters": totals.get("parameters"),
        "wer_percent": rate("wer", "rate"),
        "wer_low_percent": None if interval[0] is None else 100 * interval[0],
        "wer_high_percent": None if interval[1] is None else 100 * interval[1],
        "cer_percent": rate("cer", "rate"),
        "best_validation_wer_percent": None
        if run.best_validation_wer is None
        else 100 * run.best_validation_wer,
        "device_name": run.device_name,
        "device_kind": run.device_kind,
        "num_devices": totals.get("num_devices"),
        "num_threads": run.num_threads,
        "device_hours": totals.get("device_hours"),
        "wasted_device_hours": run.wasted_hours,
        "wall_seconds": totals.get("wall_seconds"),
    }
    row |= {f"{phase}_seconds": (totals.get("seconds") or {}).get(phase) for phase in PHASES}
    row |= {
        "updates": totals.get("updates"),
        "train_flop": totals.get("train_flops"),
        "padded_train_flop": totals.get("padded_train_flops"),
        "audio_hours": run.audio_hours,
        "audio_hours_per_device_hour": run.throughput,
        "model_flops_utilisation_percent": None
        if (u := totals.get("model_flops_utilisation")) is None
        else 100 * u,
        "infeasible_utterances": totals.get("infeasible_utterances"),
        "peak_memory_bytes": totals.get("peak_memory_bytes"),
        "energy_joules": totals.get("energy_joules"),
        "real_time_factor_seconds_per_second": run.metric("real_time_factor"),
        "encoder_seconds_per_second": run.encoder_factor,
        "sessions": totals.get("sessions"),
        "finished": totals.get("finished"),
        "pareto_front": arm in costs.pareto(group),
    }
    for index, target in enumerate(targets, 1):
        point = costs.first_at(run, target)
        row |= {
            f"target_{index}_wer_percent": 100 * target,
            f"target_{index}_device_hours": point and point.device_hours,
            f"target_{index}_train_flop": point and point.train_flops,
            f"target_{index}_audio_hours": point and point.audio_hours,
            f"target_{index}_energy_joules": point and point.energy_joules,
        }
    return row | {"notes": "; ".join(run.notes)}


def _ended(run: Run, row: Row | None) -> dict[str, Any]:
    """What became of a run: as its study says, or as its ledger does."""
    done = "done" if run.totals.get("finished") else "not finished"
    return {
        "role": None if row is None else row["role"],
        "study_arm": None if row is None else row["arm"],
        "status": done if row is None else row["status"],
        "reason": (None if row is None else row["reason"]) or run.totals.get("reason"),
    }


def _of_study(study: Study, row: Row) -> dict[str, Any]:
    """A trial, or a final run that failed: what the study's file of results says of it."""
    wer = row["validation_wer"]
    return {
        "run": str(study.run_folder(row)),
        "encoder": study.encoder(row["arm"]),
        "seed": study.seed(row),
        "trial": row.get("number"),
        "best_validation_wer_percent": None if wer is None else 100 * wer,
        "device_name": row.get("device_name"),
        "num_threads": row.get("num_threads"),
        "device_hours": row["device_hours"],
        "updates": row.get("updates"),
        "train_flop": row.get("train_flops"),
        "audio_hours": row.get("audio_hours"),
        "energy_joules": row.get("energy_joules"),
        "role": row["role"],
        "study_arm": row["arm"],
        "status": row["status"],
        "reason": row["reason"],
    }
