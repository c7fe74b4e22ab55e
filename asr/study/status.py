"""How far a study has come, and what it says so far."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.study import results
from asr.study.locks import is_claimed
from asr.study.plan import Plan, Unit
from asr.study.registration import differences, listed, read_registration
from asr.study.schema import Study
from asr.study.units import chosen, read_result


def summary(plan: Plan, folder: Path, registered: dict[str, Any]) -> dict[str, Any]:
    """What a study has come to: rows, table, remarks, blocked and failed of ``run_study``."""
    rows = results.collect(plan, folder)
    ended = all(read_result(folder, unit) for unit in plan.trials)
    blocked = [arm for arm in plan.arms if ended and chosen(plan, folder, arm) is None]
    remarks = [f"{arm}: no final run, since all its trials failed" for arm in blocked]
    return {
        "rows": rows,
        "table": results.table(plan, rows),
        "remarks": remarks + results.remarks(registered, rows),
        "blocked": blocked,
        "failed": bool(blocked) or any(row["status"] == "failed" for row in rows),
    }


def status(study: Study, folder: Path) -> list[str]:
    """What is done, failed, being worked on and missing; runs and writes nothing."""
    plan = Plan(study)
    registered = read_registration(folder)
    lines = []
    if registered is None:
        lines.append(f"{folder}: not started")
    elif changed := differences(plan, registered):
        lines.append(f"{folder}: the file has changed since it was registered ({listed(changed)})")
    known = results.units(plan, folder)
    for arm in plan.arms:
        states = [(unit, _state(folder, unit)) for unit in known if unit.arm == arm]
        parts = [_counted("trials", [s for unit, s in states if unit.role == "trial"])]
        finals = [s for unit, s in states if unit.role == "final"]
        finals += ["missing"] * (len(plan.finals(arm, {})) - len(finals))
        lines.append(f"{arm}: {'; '.join([*parts, _counted('final runs', finals)])}")
    return lines


def _state(folder: Path, unit: Unit) -> str:
    if (found := read_result(folder, unit)) is not None:
        return str(found[0]["status"])
    return "running" if is_claimed(folder / unit.folder / ".claim") else "missing"


def _counted(words: str, states: Sequence[str]) -> str:
    names = [n for n in ("done", "failed", "running", "missing") if n in states]
    return f"{len(states)} {words}" + "".join(f", {states.count(name)} {name}" for name in names)
