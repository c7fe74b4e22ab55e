"""Reads the folder of a study: the registered plan and the results.

It reads only ``study.json``, ``results.jsonl`` and the run folders, and does not import
``asr.study``.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asr.files import read_json, read_json_lines
from asr.formatting import hours_of, listed
from asr.metering.ledger_format import upgraded
from asr.report.groups import Group
from asr.report.runs import Run, differing, flatten, part, read_run
from asr.statistics.contrast import Contrast
from asr.statistics.tuning import edge

Row = dict[str, Any]  # a line of results.jsonl

FAILED, DONE = "failed", "done"  # status of a row
FAILED_WER = 1.0  # WER of a failed trial: the WER of empty output
DECIDING = ("contrasts", "targets", "seeds", "split", "budgets")  # keys that a verdict rests on
KEYS = ("name", "study_sha256", "registered", "amendments", "resolved")


def checksum(resolved: Any) -> str:
    """SHA-256 of the JSON with sorted keys, so comments and the order of keys have no effect."""
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()


def read_registered(folder: Path) -> dict[str, Any]:
    """The content of ``study.json``, with the kind of device that the runs used; None if unknown.

    Raises:
        ValueError: the folder is not the folder of a study, or the file is damaged.
    """
    path = folder / "study.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not the folder of a study (no study.json); check the path")
    registered = read_json(path)
    for key in KEYS:
        if key not in registered:
            raise ValueError(f"{path} has no {key}; it was written by another version of asr")
    if "device_kind" not in registered:  # an earlier version
        ledgers = sorted(folder.glob("*s/*/*/run/ledger.json"))
        registered["device_kind"] = read_json(ledgers[0]).get("device_kind") if ledgers else None
    return registered


def cores_per_device(registered: dict[str, Any]) -> int:
    """Number of core-hours in a device-hour of the registered budgets."""
    return int(upgraded({"device_hours": 1}, registered)["device_hours"])


def in_cores(budget: dict[str, Any], cores: int, unit: str = "device_hours") -> dict[str, Any]:
    """A budget with ``cores`` times its device-hours, as a limit of ``unit``."""
    spent = budget.get("device_hours")
    return budget if spent is None else budget | {"device_hours": None, unit: cores * spent}


def upgraded_row(row: Row, registered: dict[str, Any]) -> Row:
    """A row of results in the units of this version."""
    return upgraded(row, registered) | {"device_kind": registered["device_kind"]}


def sum_hours(rows: Sequence[Row]) -> float:
    """Core-hours or GPU-hours of all rows, including failed ones."""
    return sum((row["device_hours"] or 0.0 for row in rows), 0.0)


def title_of(row: Row) -> str:
    """``trial 3`` or ``seed 2``."""
    return f"trial {row['number']}" if row["role"] == "trial" else f"seed {row['seed']}"


@dataclass(frozen=True)
class Account:
    """The rows of one arm: trials and final runs that ended, including failed ones."""

    arm: str
    trials: list[Row]
    finals: list[Row]

    @property
    def ended(self) -> list[Row]:
        """Trials, then final runs."""
        return [*self.trials, *self.finals]

    @property
    def failed(self) -> list[Row]:
        """Trials and final runs that failed."""
        return [row for row in self.ended if row["status"] == FAILED]

    @property
    def trial_wers(self) -> list[float]:
        """Validation WER of each trial; 1 for one that failed."""
        found = [None if r["status"] == FAILED else r["validation_wer"] for r in self.trials]
        return [FAILED_WER if wer is None else wer for wer in found]


@dataclass(frozen=True)
class StudyRecord:
    """The contents of the folder of a study.

    Attributes:
        folder: the folder.
        registered: the tree of ``study.json``.
        rows: the rows of ``results.jsonl``. The cost of a row with the role ``point`` is part of
            the cost of its final run.
        torn: number of lines of ``results.jsonl`` that cannot be read.
    """

    folder: Path
    registered: dict[str, Any]
    rows: list[Row]
    torn: int

    @property
    def plan(self) -> dict[str, Any]:
        """The settings of the study, including defaults; budgets in the units of this version."""
        plan, cores = self.registered["resolved"]["study"], cores_per_device(self.registered)
        budgets = {name: in_cores(budget, cores) for name, budget in plan["budgets"].items()}
        tuning = plan["tuning"] | {"budget": in_cores(plan["tuning"]["budget"], cores)}
        return plan | {"budgets": budgets, "tuning": tuning}

    @property
    def unit(self) -> str:
        """``core-hours`` or ``GPU-hours``."""
        return hours_of([self.registered["device_kind"]])

    @property
    def recipes(self) -> dict[str, Any]:
        """The resolved recipe of each arm, in the order of the study's file."""
        return self.registered["resolved"]["recipes"]

    @property
    def targets(self) -> list[float]:
        """The registered target WERs on the validation split, as fractions."""
        return [target / 100 for target in self.plan.get("targets", [])]

    def registered_targets(self, targets: Sequence[float]) -> bool:
        """Returns whether the targets were registered before the first run began."""
        own = sorted(self.targets, reverse=True)
        return bool(own) and list(targets) == own and not self.late("study.targets")

    @property
    def contrasts(self) -> list[Contrast] | None:
        """Returns the planned contrasts; None if there are none, or if the runs came first."""
        planned = [Contrast(**c) for c in self.plan.get("contrasts", [])]
        return planned if planned and not self.late("study.contrasts") else None

    def planned_for(self, group: Group) -> list[Contrast] | None:
        """The contrasts of a group of runs: none if another group has the largest budget."""
        budgets = [flatten({"budget": budget}) for budget in self.plan["budgets"].values()]
        largest = max(budgets, key=lambda b: max(v for v in b.values() if v is not None))
        here = part(group.runs[0].recipe, ("budget",))
        return [] if self.contrasts and differing([here, largest]) else self.contrasts

    @property
    def by_budget(self) -> bool:
        """Whether each budget has its own runs, so that each comparison is within one budget."""
        return bool(self.plan.get("separate_budgets"))

    @property
    def ended(self) -> list[Row]:
        """Trials and final runs, including failed ones."""
        return [row for row in self.rows if row["role"] != "point"]

    @property
    def accounts(self) -> list[Account]:
        """The rows of each arm."""
        return [
            Account(arm, *([r for r in own if r["role"] == role] for role in ("trial", "final")))
            for arm in self.recipes
            for own in [[row for row in self.rows if row["arm"] == arm]]
        ]

    @property
    def final_runs(self) -> list[Path]:
        """Run folders of the final runs that did not fail."""
        done = (r for r in self.rows if r["role"] == "final" and r["status"] == DONE)
        return [self.run_folder(row) for row in done]

    @property
    def lost(self) -> list[str]:
        """Failed final runs in words; of all figures, only the cost of the study includes them."""
        return [
            f"{row['arm']} {row['budget']} {title_of(row)} ({row['reason']})"
            for account in self.accounts
            for row in account.finals
            if row["status"] == FAILED
        ]

    def run_folder(self, row: Row) -> Path:
        """The run folder of a row, also if the folder of the study was moved."""
        return self.folder.joinpath(*Path(row["run"]).parts[-4:])  # role, arm, number, run

    def encoder(self, arm: str) -> str | None:
        """The class of an arm's encoder; None if the study has no such arm."""
        return flatten(self.recipes[arm]).get("encoder") if arm in self.recipes else None

    def seed(self, row: Row) -> int | None:
        """The seed of a run; all trials have the seed of the tuning."""
        return self.plan["tuning"]["seed"] if row["role"] == "trial" else row["seed"]

    def expected(self, row: Row) -> dict[str, Any]:
        """The flat recipe of a row's run: that of its arm, with its settings, seed and budget."""
        if row["role"] == "trial":
            budget = self.plan["tuning"]["budget"]
        else:
            budget = self.plan["budgets"].get(row["budget"], {})
        own = {**row["settings"], "seed": self.seed(row), **flatten({"budget": budget})}
        return flatten(self.recipes[row["arm"]]) | own

    def late(self, *keys: str) -> str:
        """When keys of the file were amended after a trial or a run had begun; empty if never."""
        earlier, late = set(), []
        for amendment in self.registered["amendments"]:
            earlier.add(amendment["from_sha256"])
            ended = sum(row["study_sha256"] in earlier for row in self.ended)
            known = max(ended, amendment.get("begun", 0))  # earlier versions did not count these
            changed = any(f"{c}.".startswith(f"{k}.") for c in amendment["changed"] for k in keys)
            if known and changed:
                what = "1 trial or run" if known == 1 else f"{known} trials and runs"
                late.append(f"{amendment['time']}, after {what}")
        return listed(late)

    def late_plan(self) -> str:
        """Returns a warning if the plan was amended after a run had begun; otherwise empty.

        Adding seeds until a difference is significant raises the rate of false findings above the
        level (optional stopping: Armitage, McPherson and Rowe, J. R. Stat. Soc. A 132, 1969).
        """
        names = [name for name in DECIDING if self.late(f"study.{name}")]
        if not names:
            return ""
        late = self.late(*(f"study.{name}" for name in names))
        return (
            f"The {listed(names)} {'was' if names == ['split'] else 'were'} amended when results "
            f"could be seen ({late}). If the results were the reason, false differences are more "
            f"frequent than the level and p say{' (optional stopping)' * ('seeds' in names)}."
        )

    def remarks(self) -> list[str]:
        """Sentences on amendments, failures and missing runs."""
        registered, plan = self.registered, self.plan
        found = [
            f"Amended {amendment['time']}: {listed(amendment['changed'])}."
            for amendment in registered["amendments"]
        ]
        if late := self.late_plan():
            found.append(late)
        earlier = sum(row["study_sha256"] != registered["study_sha256"] for row in self.rows)
        if earlier:
            found.append(f"Results made under an earlier version of the file: {earlier}.")
        if self.torn:
            found.append(f"Lines of results.jsonl that cannot be read: {self.torn}.")
        found += [line for account in self.accounts for line in self._edges(account)]
        budgets = len(plan["budgets"]) if self.by_budget else 1
        for account in self.accounts:
            for words, rows, wanted in (
                ("trials", account.trials, plan["tuning"]["trials"]),
                ("final runs", account.finals, len(plan["seeds"]) * budgets),
            ):
                if len(rows) < wanted:
                    found.append(f"{account.arm}: {len(rows)} of {wanted} {words} have ended.")
            found += [
                f"{account.arm}: {title_of(row)} failed after {row['device_hours']:.3g} "
                f"{self.unit}: {row['reason']}."
                for row in account.failed
            ]
        return found

    def _edges(self, account: Account) -> list[str]:
        """Returns a sentence for each tuned setting that lies at an edge of its range."""
        arms = self.plan["arms"]
        # With several decoders, the name of an arm is followed by + and the decoder.
        own = arms.get(account.arm) or arms.get(account.arm.rpartition("+")[0]) or {}
        ranges = {**self.plan["tuning"].get("ranges", {}), **own.get("ranges", {})}
        found = []
        for key, value in (account.finals[0]["settings"] if account.finals else {}).items():
            if (limits := ranges.get(key)) is None:
                continue
            low, high = limits["low"], limits["high"]
            if side := edge(value, low, high, limits["scale"] == "log"):
                found.append(
                    f"{account.arm}: the best {key}, {value:g}, lies at the {side} edge of its "
                    f"range from {low:g} to {high:g}; a wider range may have a better one."
                )
        return found


def read_record(folder: Path) -> StudyRecord:
    """Reads a folder that ``asr study`` wrote.

    Raises:
        ValueError: the folder is not the folder of a study, or a file is damaged.
    """
    registered, (rows, torn) = read_registered(folder), read_json_lines(folder / "results.jsonl")
    return StudyRecord(folder, registered, [upgraded_row(row, registered) for row in rows], torn)


def known_by_study(groups: Sequence[Group], study: StudyRecord) -> list[Group]:
    """Adds the failed final runs to the arms of the groups, and names the arms as the study does.

    If several arms share an encoder, the name of the arm follows the name of the encoder.

    A failed run may have no recipe, so it is added to the other runs of the same arm and budget. If
    there are none, it is added to no arm.
    """
    finals = [row for row in study.rows if row["role"] == "final"]
    of_run = {study.run_folder(row).resolve(): (row["arm"], row["budget"]) for row in finals}
    failed: dict[tuple[str, str], list[Run]] = {}
    for row in finals:
        if row["status"] == FAILED:
            failed.setdefault((row["arm"], row["budget"]), []).append(_failure(study, row))
    known = []
    for group in groups:
        encoders, arms = [arm.runs[0].encoder for arm in group.arms], []
        for arm, encoder in zip(group.arms, encoders, strict=True):
            own = of_run.get(arm.runs[0].path.resolve())
            if own is None:  # not a run of this study
                arms.append(arm)
                continue
            label = f"{encoder} {own[0]}" if encoders.count(encoder) > 1 else arm.label
            arms.append(replace(arm, label=label, name=own[0], failed=failed.pop(own, [])))
        known.append(replace(group, arms=arms))
    return known


def _failure(study: StudyRecord, row: Row) -> Run:
    """The failed run of a row, with the cost that the study counted."""
    place, split = study.run_folder(row), study.plan.get("split", "test")
    if (place / "recipe.yaml").is_file():
        run = read_run(place, split)
    else:
        run = Run(place, split, study.expected(row), {}, {}, [], None, None, None, [])
    counted = {"seed": row["seed"], "device_hours": row["device_hours"]}
    return replace(run, totals=run.totals | counted)
