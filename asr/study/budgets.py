"""Gives the budgets of a study the unit in which its runs count."""

import dataclasses
from typing import Any

from asr.formatting import hours_of
from asr.metering.ledger_format import FORMAT
from asr.recipe.schema import Budget
from asr.report.study import cores_per_device, in_cores
from asr.study.plan import Plan
from asr.study.schema import Study, amount


def plan_of_runs(study: Study, workers: int | None, registered: dict[str, Any] | None) -> Plan:
    """The plan of a study with the budgets of its runs.

    With ``workers`` on a CPU, a budget of device-hours becomes as many CPU-hours, because runs at
    the same time can take core-hours from each other, but hardly CPU time. A registered study keeps
    the unit of its first start. Its runs are validated at the smaller budgets, unless an earlier
    version registered it. If a version registered it that counted a process with any number of
    threads as one device, its budgets are converted, and its runs keep their number of processes.

    Raises:
        ValueError: a recipe is wrong, or the study has runs on another kind of device.
    """
    plan = Plan(study)
    kind = plan.kind_of_device
    unit, factor = "cpu_hours" if workers and kind == "cpu" else "device_hours", 1
    overrides, validates = study.overrides, not study.separate_budgets
    if registered is not None:
        first = next(iter(registered["resolved"]["recipes"].values()))
        validates = validates and "at_shares" in first["validation"]
        known = registered["device_kind"] or kind  # None if no run has begun
        if known != kind:
            raise ValueError(
                f"{study.name} has runs that cost {hours_of([known])}, and here they would cost "
                f"{hours_of([kind])}, which cannot be compared; use the same kind of device, or "
                "give the study another name"
            )
        unit = registered.get("budget_unit", "device_hours")
        factor = cores_per_device(registered | {"device_kind": known})
        if registered.get("format", 1) < FORMAT:
            overrides = [f"--trainer.devices={first['trainer']['devices']}", *overrides]

    amounts = [amount(budget) for budget in study.budgets.values()] if validates else []
    if shares := [float(f"{n / max(amounts):.6g}") for n in amounts if n < max(amounts)]:
        overrides = [f"--validation.at_shares={shares}", *overrides]

    def counted(budget: Budget) -> Budget:
        return Budget(**in_cores(vars(budget), factor, unit))

    converted = dataclasses.replace(
        study,
        budgets={name: counted(budget) for name, budget in study.budgets.items()},
        tuning=dataclasses.replace(study.tuning, budget=counted(study.tuning.budget)),
        overrides=overrides,
    )
    return plan if converted == study else Plan(converted)
