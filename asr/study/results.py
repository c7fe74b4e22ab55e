"""The rows of a study's units in one file, and what they say in a few lines."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.files import write
from asr.report.study import late_seeds
from asr.study.locks import waiting_for
from asr.study.plan import TUNING, Plan, Unit
from asr.study.registration import differences, read_registration
from asr.study.units import chosen, read_result
from asr.text.scoring import percent

Row = dict[str, Any]


def units(plan: Plan, folder: Path) -> list[Unit]:
    """All units that are known: trials by number, then final runs by budget, seed and arm."""
    finals: list[Unit] = []
    for arm in plan.arms:
        if (settings := chosen(plan, folder, arm)) is not None:
            finals += plan.finals(arm, settings)
    budgets, seeds = list(plan.study.budgets), plan.study.seeds
    finals.sort(key=lambda unit: (budgets.index(unit.budget), seeds.index(unit.number)))
    return [*plan.trials, *finals]


def collect(plan: Plan, folder: Path) -> list[Row]:
    """Writes ``results.jsonl`` from the results of all units, each once; returns the rows.

    Raises:
        ValueError: another process has amended the study, so that this plan knows not all units.
    """
    with waiting_for(folder / ".results.lock"):
        registered = read_registration(folder)
        if registered is None or differences(plan, registered):
            raise ValueError(
                f"{folder} is registered with another file since this process began (an amendment "
                "in another shell); start again with the file as it is now: what was run is kept"
            )
        found = [read_result(folder, unit) for unit in units(plan, folder)]
        rows = [row for result in found for row in result or ()]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write(folder / "results.jsonl", text)
    return rows


def progress(row: Row) -> str:
    """One line for a unit that ended."""
    name = f"trial {row['number']}" if row["role"] == "trial" else f"seed {row['seed']}"
    head = f"{row['arm']} {row['budget']} {name}: "
    cost = f"{row['device_hours']:.4f} device-hours"
    if row["status"] == "failed":
        return f"{head}failed after {cost}: {row['reason']}"
    metric = row.get("validation_metric") or "wer"
    wer = f"validation {metric.upper()} {percent(row[f'validation_{metric}'])}"
    if row["test_wer"] is not None:
        wer = f"test WER {percent(row['test_wer'])}, {wer}"
    settings = ", ".join(f"{key} {value:g}" for key, value in row["settings"].items())
    return f"{head}{wer}, {cost}" + (f" ({settings})" if settings else "")


def table(plan: Plan, rows: Sequence[Row]) -> str:
    """A line per arm and budget: WERs, device-hours (tuning apart, once per arm), failures.

    ``over seeds`` is the range from the lowest to the highest test WER.
    """
    metric = "cer" if any(row.get("validation_metric") == "cer" for row in rows) else "wer"
    lines = []
    for arm in plan.arms:
        own = [row for row in rows if row["arm"] == arm]
        tuning = sum(row["device_hours"] for row in own if row["role"] == "trial")
        for budget in plan.study.budgets:
            of_budget = [row for row in own if row["budget"] == budget]
            failed = [r for r in own if r["status"] == "failed" and r["budget"] in (budget, TUNING)]
            done = [row for row in of_budget if row["status"] == "done"]
            tested = _values(done, "test_wer")
            spread = f"{percent(min(tested))} to {percent(max(tested))}" if tested else "-"
            validation = _mean(_values(done, f"validation_{metric}"))
            line = {
                "arm": arm,
                "budget": budget,
                "test WER": percent(_mean(tested)),
                "over seeds": spread,
                "validation" + " CER" * (metric == "cer"): percent(validation),
                "runs": f"{len(done)}/{len(plan.study.seeds)}",
                "h final": f"{sum(_values(of_budget, 'device_hours')):.3f}",
                "h tuning": f"{tuning:.3f}",
                "failed": str(len(failed)),
            }
            lines.append(line)
    cells = [list(lines[0]), *(list(line.values()) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def remarks(registered: Row, rows: Sequence[Row]) -> list[str]:
    """What a reader must know beside the table: amendments, unlike machines, failures, the cost."""
    found = [
        f"amended {amendment['time']}: {', '.join(amendment['changed'])}"
        for amendment in registered["amendments"]
    ]
    if late := late_seeds(registered, rows):
        found.append(late)
    earlier = [row for row in rows if row["study_sha256"] != registered["study_sha256"]]
    if earlier:
        found.append(f"rows made under an earlier version of the file: {len(earlier)}")
    for key, words in (("device_name", "devices"), ("num_threads", "numbers of threads")):
        values = sorted({str(row[key]) for row in rows if row[key] is not None})
        if len(values) > 1:
            listed = ", ".join(values)
            found.append(f"runs had different {words}, so device-hours do not compare: {listed}")
    counted = [row for row in rows if row["role"] != "point"]  # a part of a run that is counted
    spent = sum(row["device_hours"] for row in counted)
    failed = [row for row in counted if row["status"] == "failed"]
    cost = f"cost of all: {spent:.3f} device-hours of training, trials and failures included"
    return [*found, *(f"failed: {progress(row)}" for row in failed), cost]


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return [row[key] for row in rows if row[key] is not None]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
