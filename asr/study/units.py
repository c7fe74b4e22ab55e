"""Runs one unit of work: trains, evaluates, and records the result and its cost."""

import contextlib
import json
import logging
import math
import re
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asr.config import strict_yaml
from asr.files import read_json, read_json_lines, remove_stale, write
from asr.items import reason as reason_of
from asr.metering.ledger_format import FORMAT, read_heartbeat, read_ledger
from asr.recipe.schema import Budget
from asr.report.costs import NEAR
from asr.report.runs import Point, Run, read_run
from asr.study.devices import processes
from asr.study.plan import Plan, Unit
from asr.study.processes import Children
from asr.study.schema import Study
from asr.text.scoring import ranked

log = logging.getLogger(__name__)

ATTEMPTS = 3  # number of times that a run is started if a signal kills it; it resumes
COSTS = ("device_hours", "cpu_hours", "train_flops", "audio_hours", "updates", "energy_joules")
KILLED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit statuses of runs that were stopped


def perform(
    unit: Unit,
    study: Study,
    folder: Path,
    registered: dict[str, Any],
    runner: Children,
    **options: Any,
) -> list[dict[str, Any]] | None:
    """Trains the unit and, if it is a final run, evaluates it once.

    A failure is also a result, with a reason and a cost; it is not repeated automatically.

    Args:
        unit: the trial or final run.
        study: the study.
        folder: folder of the study.
        registered: content of ``study.json``.
        runner: runs ``asr train`` and ``asr evaluate``.
        options: environment and locks of the processes, see ``Children``.

    Returns:
        The rows of ``result.json``; None if the unit was stopped.
    """
    place = folder / unit.folder
    place.mkdir(parents=True, exist_ok=True)
    remove_stale(place)
    strict_yaml.dump(unit.recipe, place / "recipe.yaml")
    on_cpu, trainer = registered["device_kind"] == "cpu", unit.recipe["trainer"]
    train = ["train", str(place / "recipe.yaml"), "--run", str(place / "run")]
    if on_cpu:
        number = processes(trainer["devices"], registered["threads"])
        train += ["--trainer.devices", str(number)]
    verbs = [train]
    metrics = place / "run" / "evaluations" / study.split / "metrics.json"
    if unit.role == "final" and not metrics.is_file():
        # A class of one's own is allowed because the study file names it.
        evaluated = ["evaluate", str(place / "run"), "--split", study.split, "--allow-code"]
        verbs.append(evaluated)
    reason = ""
    for arguments in verbs:
        try:
            status = _until_it_ends(arguments, place, runner, options)
            if status is None:
                return None
            reason = _reason(place / "log.txt", status) if status else ""
        except Exception as error:  # a process or its files can cause errors of many types
            reason = reason_of(error)
        if reason:
            break
    gpus = 1 if trainer["devices"] == "auto" else trainer["devices"]
    held = registered["threads"] if on_cpu else gpus
    rows = _rows(unit, study, place, registered, reason, held)
    write(place / "result.json", json.dumps(rows, indent=1))
    return rows


def read_result(folder: Path, unit: Unit) -> list[dict[str, Any]] | None:
    """The rows of a unit that is done or failed, its own row first; None if there is no result.

    A damaged file is renamed. The unit then counts as missing; its run folder gives the rows again.
    """
    path = folder / unit.folder / "result.json"
    if not path.is_file():
        return None
    try:
        rows: list[dict[str, Any]] = read_json(path)
        if rows[0]["status"] and all(rows):
            return rows
        raise ValueError(f"{path} holds no result")
    except (ValueError, TypeError, LookupError) as error:
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            path.rename(path.with_suffix(".damaged"))
            log.warning("%s: the result is made again from the run folder", reason_of(error))
        return None


def chosen(plan: Plan, folder: Path, arm: str) -> dict[str, int | float] | None:
    """Returns the settings of an arm's best trial; None if trials still run or all failed."""
    if not plan.study.tuning.trials:
        return {}
    best = best_trials(plan, folder, arm)
    return best[0].settings if best else None


def best_trials(plan: Plan, folder: Path, arm: str) -> list[Unit]:
    """The trials of an arm, best first, without those that failed; empty if one has not ended.

    The best trial has the lowest validation WER or CER, whichever selected the best model. Ties are
    decided by the other rate, then by the validation loss.
    """
    trials = [unit for unit in plan.trials if unit.arm == arm]
    ended = [(unit, found[0]) for unit in trials if (found := read_result(folder, unit))]
    if len(ended) < len(trials):
        return []

    def worth(one: tuple[Unit, dict[str, Any]]) -> tuple[float, ...]:
        row = one[1]
        rates = {name: row.get(f"validation_{name}") for name in ("wer", "cer")}
        return _worth(rates, row.get("validation_metric") or "wer", row["validation_loss"])

    done = [one for one in ended if one[1]["status"] != "failed"]
    return [unit for unit, _ in sorted(done, key=worth)]


def _worth(rates: Mapping[str, Any], metric: str, loss: float | None) -> tuple[float, ...]:
    """The sort key of a model; lower is better."""
    return *ranked(rates, metric), math.inf if loss is None else loss


def _until_it_ends(
    arguments: list[str], place: Path, runner: Children, options: dict[str, Any]
) -> int | None:
    """The exit status of a verb; None if the verb was stopped together with the study."""
    for attempt in range(1, ATTEMPTS + 1):
        began, sessions = time.monotonic(), _sessions(place)
        status = runner(arguments, log=place / "log.txt", **options)
        killed = status < 0 or status in KILLED
        line = {"verb": arguments[0], "status": status, "seconds": time.monotonic() - began}
        # False if the process ended before it wrote to the ledger, or if the ledger was lost.
        known = status == 0 or arguments[0] != "train" or _sessions(place) > sessions
        line["metered"] = known
        with (place / "attempts.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if killed and runner.stopped:
            return None
        if not killed or attempt == ATTEMPTS:
            break
    return status


def _sessions(place: Path) -> int:
    """The number of processes of the run that are in its ledger or its heartbeat file.

    A process that ended before its first update has no line in the ledger, but the next process
    reads its cost from the heartbeat file.
    """
    begun = sum(line["event"] == "start" for line in read_ledger(place / "run"))
    return max(begun, read_heartbeat(place / "run").get("session", 0))


def _reason(log: Path, status: int) -> str:
    """The last line that the failed process wrote, or the signal that killed it."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name} {ATTEMPTS} times; see {log}"
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    said = [line.strip() for line in lines if line.strip()]
    return re.sub(r"^asr \w+: ", "", said[-1]) if said else f"exit status {status}; see {log}"


def _rows(
    unit: Unit, study: Study, place: Path, registered: dict[str, Any], reason: str, held: int
) -> list[dict[str, Any]]:
    """The row of the unit's rates and costs, then a row for each smaller budget of its curve."""
    run = loss = None
    try:
        if (place / "run" / "recipe.yaml").exists():
            run = read_run(place / "run", study.split)
            metric = run.validation_metric
            best = min(run.points, key=lambda p: _worth(vars(p), metric, p.loss), default=None)
            loss = best and best.loss
    except Exception as error:  # a damaged run folder
        reason = reason or reason_of(error)
    totals = run.totals if run else {}
    if (run is None or not run.points) and not reason:
        reason = "no validation was measured"
    row = {
        "study": study.name,
        "study_sha256": registered["study_sha256"],
        "format": FORMAT,
        "arm": unit.arm,
        "role": unit.role,
        "number" if unit.role == "trial" else "seed": unit.number,
        "budget": unit.budget,
        "budget_unit": " or ".join(k for k, v in unit.recipe["budget"].items() if v is not None),
        "settings": unit.settings,
        "status": "failed" if reason else "done",
        "reason": reason or None,
        "validation_metric": run.validation_metric if run else None,
        **_lowest(run.points if run else []),
        "validation_loss": loss,
        "test_wer": run.wer if run and unit.role == "final" and not reason else None,
        "device_hours": totals.get("device_hours", 0.0) + held * _unmetered_hours(place),
        "cpu_hours": run.cpu_hours if run else None,
        "train_flops": totals.get("train_flops"),
        "audio_hours": run.audio_hours if run else None,
        "updates": totals.get("updates"),
        "energy_joules": totals.get("energy_joules"),
        "real_time_factor": run.real_time_factor if run else None,
        "device_kind": registered["device_kind"],
        "device_name": run.device_name if run else None,
        "num_threads": run.num_threads if run else None,
        "run": str(place / "run"),
    }
    if unit.role == "trial" or study.separate_budgets or reason or run is None:
        return [row]
    smaller = {name: b for name, b in study.budgets.items() if name != unit.budget}
    return [row, *(_point(row, run, name, budget) for name, budget in smaller.items())]


def _point(row: dict[str, Any], run: Run, name: str, budget: Budget) -> dict[str, Any]:
    """The row of a smaller budget of a final run, with the costs at the validation there.

    The rates are the best ones so far, because the best model is kept. There are none if no
    validation lies within 2 % of the budget.
    """
    ((key, limit),) = ((k, v) for k, v in vars(budget).items() if v is not None)
    within = [p for p in run.points if (getattr(p, key) or 0.0) <= NEAR * limit]
    last = within[-1] if within and (getattr(within[-1], key) or 0.0) * NEAR >= limit else None
    return row | {
        "role": "point",
        "budget": name,
        "reason": None if last else "no validation within 2 % of this budget",
        **_lowest(within if last else []),
        **dict.fromkeys(("validation_loss", "test_wer", "real_time_factor")),
        **{name: last and getattr(last, name) for name in COSTS},
    }


def _lowest(points: Sequence[Point]) -> dict[str, float | None]:
    """The lowest WER and CER; None if a rate was never measured."""
    return {
        f"validation_{name}": min(
            (rate for point in points if (rate := getattr(point, name)) is not None), default=None
        )
        for name in ("wer", "cer")
    }


def _unmetered_hours(place: Path) -> float:
    """Hours of the attempts that are not in the ledger."""
    lines, _ = read_json_lines(place / "attempts.jsonl")
    return sum(line["seconds"] for line in lines if not line["metered"]) / 3600
