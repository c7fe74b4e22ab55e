"""The results of a study's units: rows of a file, a summary, and what is missing."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.files import write
from asr.formatting import digits, hours_of, percent
from asr.locks import is_taken, waiting_for
from asr.report.study import FAILED, Row, read_record, title_of, upgraded_row
from asr.study.budgets import plan_of_runs
from asr.study.plan import TUNING, Plan, Unit
from asr.study.registration import DECODING, differences, first_keys, read_registration
from asr.study.schema import Study
from asr.study.units import chosen, read_result


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
        ValueError: another process has amended the study, so this plan lacks some units.
    """
    with waiting_for(folder / ".results.lock"):
        registered = read_registration(folder)
        if registered is None or differences(plan, registered):
            raise ValueError(
                f"another process amended {folder} after this one had started; start again with "
                "the present file; all results are kept"
            )
        found = [read_result(folder, unit) for unit in units(plan, folder)]
        rows = [upgraded_row(row, registered) for result in found for row in result or ()]
        write(folder / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def summary(plan: Plan, folder: Path) -> dict[str, Any]:
    """The results of a study: rows, table, remarks, blocked and failed of ``run_study``."""
    rows = collect(plan, folder)
    record = read_record(folder)
    ended = all(read_result(folder, unit) for unit in plan.trials)
    blocked = [arm for arm in plan.arms if ended and chosen(plan, folder, arm) is None]
    remarks = [f"{arm}: no final run, since all its trials failed." for arm in blocked]
    remarks += record.remarks()
    for key, words in (("device_name", "devices"), ("num_threads", "numbers of threads")):
        values = sorted({str(row[key]) for row in rows if row[key] is not None})
        if len(values) > 1:
            different = ", ".join(values)
            remarks.append(
                f"Runs had different {words}, so {record.unit} do not compare: {different}."
            )
    spent = sum(row["device_hours"] for row in record.ended)
    remarks.append(f"Cost of all training: {digits(spent)} {record.unit}, failures included.")
    if seconds := record.registered.get(DECODING):
        remarks.append(
            f"Audio was decoded in {seconds:.1f} s before the runs, which do not pay it."
        )
    return {
        "rows": rows,
        "table": table(plan, rows),
        "remarks": remarks,
        "blocked": blocked,
        "failed": bool(blocked) or any(row["status"] == FAILED for row in rows),
    }


def progress(row: Row) -> str:
    """One line for a unit that ended."""
    head = f"{row['arm']} {row['budget']} {title_of(row)}: "
    cost = f"{row['device_hours']:.4f} {hours_of([row.get('device_kind')])}"
    if row["status"] == FAILED:
        return f"{head}failed after {cost}: {row['reason']}"
    metric = row.get("validation_metric") or "wer"
    rate = f"validation {metric.upper()} {percent(row[f'validation_{metric}'])}"
    if row["test_wer"] is not None:
        rate = f"test WER {percent(row['test_wer'])}, {rate}"
    settings = ", ".join(f"{key} {value:g}" for key, value in row["settings"].items())
    return f"{head}{rate}, {cost}" + (f" ({settings})" if settings else "")


def table(plan: Plan, rows: Sequence[Row]) -> str:
    """A table with a line per arm and budget: WERs, hours of devices and number of failures.

    ``over seeds`` is the range from the lowest to the highest test WER. A mean needs a value of
    each run of the arm: those of the other runs alone would be a biased sample.
    """
    alone = plan.study.separate_budgets
    metric = "cer" if any(row.get("validation_metric") == "cer" for row in rows) else "wer"
    validation = "validation" + " CER" * (metric == "cer")
    header = ["arm", "budget", "test WER", "over seeds", validation, "runs", "h final", "h tuning"]
    cells = [[*header, "failed"]]
    for arm in plan.arms:
        own = [row for row in rows if row["arm"] == arm]
        tuning = sum(row["device_hours"] for row in own if row["role"] == "trial")
        for budget in plan.study.budgets:
            of_budget = [row for row in own if row["budget"] == budget]
            ran = [r for r in own if r["role"] == "final" and (r["budget"] == budget or not alone)]
            failed = [r for r in own if r["status"] == FAILED and r["budget"] in (budget, TUNING)]
            done = [row for row in of_budget if row["status"] == "done"]
            tested, validated = (
                values if len(values := _values(done, key)) == len(ran) else []
                for key in ("test_wer", f"validation_{metric}")
            )
            over_seeds = f"{percent(min(tested))} to {percent(max(tested))}" if tested else "-"
            rates = [_mean(tested), over_seeds, _mean(validated)]
            hours = [f"{sum(_values(of_budget, 'device_hours')):.3f}", f"{tuning:.3f}"]
            number = f"{len(done)}/{len(plan.study.seeds)}"
            cells.append([arm, budget, *rates, number, *hours, str(len(failed))])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return [row[key] for row in rows if row[key] is not None]


def _mean(rates: Sequence[float]) -> str:
    return percent(statistics.fmean(rates)) if rates else "-"


def status(study: Study, folder: Path) -> list[str]:
    """A line per arm: numbers of done, failed, running and missing units; changes no results."""
    registered = read_registration(folder)
    plan = plan_of_runs(study, None, registered)
    lines = []
    if registered is None:
        lines.append(f"{folder}: not started")
    elif changed := differences(plan, registered):
        keys = first_keys(changed)
        lines.append(f"{folder}: the file has changed since it was registered ({keys})")
    known = units(plan, folder)
    for arm in plan.arms:
        states = [(unit, _state(folder, unit)) for unit in known if unit.arm == arm]
        trials = [state for unit, state in states if unit.role == "trial"]
        finals = [state for unit, state in states if unit.role == "final"]
        finals += ["missing"] * (len(plan.finals(arm, {})) - len(finals))
        lines.append(f"{arm}: {_counted('trials', trials)}; {_counted('final runs', finals)}")
    return lines


def _state(folder: Path, unit: Unit) -> str:
    if (found := read_result(folder, unit)) is not None:
        return str(found[0]["status"])
    return "running" if is_taken(folder / unit.folder / ".claim") else "missing"


def _counted(words: str, states: Sequence[str]) -> str:
    names = [n for n in ("done", FAILED, "running", "missing") if n in states]
    return f"{len(states)} {words}" + "".join(f", {states.count(name)} {name}" for name in names)
