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
from asr.formatting import listed
from asr.report.groups import Group
from asr.report.runs import Run, flatten, read_run

Row = dict[str, Any]  # of results.jsonl

FAILED, DONE = "failed", "done"  # status of a row
FAILED_WER = 1.0  # of a trial that failed: that of empty output
KEYS = ("name", "study_sha256", "registered", "amendments", "resolved")


def checksum(resolved: Any) -> str:
    """SHA-256 of the JSON with sorted keys: comments and order of the file do not count."""
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()


def hours_of(rows: Sequence[Row]) -> float:
    """Device-hours of all rows, failures included."""
    return sum((row["device_hours"] or 0.0 for row in rows), 0.0)


def title_of(row: Row) -> str:
    """``trial 3`` or ``seed 2``."""
    return f"trial {row['number']}" if row["role"] == "trial" else f"seed {row['seed']}"


@dataclass(frozen=True)
class Account:
    """The rows of one arm: trials and final runs that ended, failures among them."""

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
    """What a study's folder says.

    Attributes:
        registered: ``study.json``.
        rows: of ``results.jsonl``; a ``point`` is a part of a final run, and no cost of its own.
        torn: lines of it that cannot be read.
    """

    folder: Path
    registered: dict[str, Any]
    rows: list[Row]
    torn: int

    @property
    def plan(self) -> dict[str, Any]:
        """The study's file with every default."""
        return self.registered["resolved"]["study"]

    @property
    def recipes(self) -> dict[str, Any]:
        """The resolved recipe of each arm, in the order of the file."""
        return self.registered["resolved"]["recipes"]

    @property
    def targets(self) -> list[float]:
        """Registered validation WERs whose cost is wanted, as fractions; empty without any."""
        return [target / 100 for target in self.plan.get("targets", [])]

    @property
    def by_budget(self) -> bool:
        """Whether each budget has runs of its own: comparisons at equal cost are of one budget."""
        return bool(self.plan.get("separate_budgets"))

    @property
    def ended(self) -> list[Row]:
        """Trials and final runs, failed ones among them."""
        return [row for row in self.rows if row["role"] != "point"]

    @property
    def accounts(self) -> list[Account]:
        """The rows of each arm of the file."""
        return [
            Account(arm, *([r for r in own if r["role"] == role] for role in ("trial", "final")))
            for arm in self.recipes
            for own in [[row for row in self.rows if row["arm"] == arm]]
        ]

    @property
    def final_runs(self) -> list[Path]:
        """Run folders of the final runs that ended well."""
        done = (r for r in self.rows if r["role"] == "final" and r["status"] == DONE)
        return [self.run_folder(row) for row in done]

    @property
    def lost(self) -> list[str]:
        """Final runs that failed: counted in the cost of the study, and in no other figure."""
        return [
            f"{row['arm']} {row['budget']} {title_of(row)} ({row['reason']})"
            for account in self.accounts
            for row in account.finals
            if row["status"] == FAILED
        ]

    def run_folder(self, row: Row) -> Path:
        """Where the run of a row is: below the study, wherever that was moved to."""
        return self.folder.joinpath(*Path(row["run"]).parts[-4:])  # role, arm, number, run

    def encoder(self, arm: str) -> str | None:
        """The class of an arm's encoder; None for an arm that is not in the file."""
        return flatten(self.recipes[arm]).get("encoder") if arm in self.recipes else None

    def seed(self, row: Row) -> int | None:
        """The seed of a final run; all trials have that of the tuning."""
        return self.plan["tuning"]["seed"] if row["role"] == "trial" else row["seed"]

    def expected(self, row: Row) -> dict[str, Any]:
        """The flat recipe that the run of a row should have: its arm's, settings, seed, budget."""
        if row["role"] == "trial":
            budget = self.plan["tuning"]["budget"]
        else:
            budget = self.plan["budgets"].get(row["budget"], {})
        own = {**row["settings"], "seed": self.seed(row), **flatten({"budget": budget})}
        return flatten(self.recipes[row["arm"]]) | own

    def late_seeds(self) -> str:
        """Says that seeds were amended when final runs had ended already; empty where none were.

        Who adds seeds until a difference is significant finds one by chance more often than the
        level says (optional stopping: Armitage, McPherson and Rowe, J. R. Stat. Soc. A 132, 1969).
        """
        earlier, late = set(), []
        for amendment in self.registered["amendments"]:
            earlier.add(amendment["from_sha256"])
            finals = [row for row in self.rows if row["role"] == "final"]
            known = sum(row["study_sha256"] in earlier for row in finals)
            if known and "study.seeds" in amendment["changed"]:
                late.append(f"{amendment['time']}, after {known} final runs")
        if not late:
            return ""
        return (
            f"The seeds were amended when results could be seen ({listed(late)}): if that is why, "
            "differences are found by chance more often than the level and p say (optional "
            "stopping)."
        )

    def remarks(self) -> list[str]:
        """What is no contradiction and must be known: amendments, failures, what is missing."""
        registered, plan = self.registered, self.plan
        found = [
            f"Amended {amendment['time']}: {listed(amendment['changed'])}."
            for amendment in registered["amendments"]
        ]
        if late := self.late_seeds():
            found.append(late)
        earlier = sum(row["study_sha256"] != registered["study_sha256"] for row in self.rows)
        if earlier:
            found.append(f"Results made under an earlier version of the file: {earlier}.")
        if self.torn:
            found.append(f"Lines of results.jsonl that cannot be read: {self.torn}.")
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
                f"device-hours: {row['reason']}."
                for row in account.failed
            ]
        return found


def read_record(folder: Path) -> StudyRecord:
    """Reads a folder that ``asr study`` wrote.

    Raises:
        ValueError: it is none, or a file is damaged.
    """
    path = folder / "study.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no folder of a study (no study.json); check the path")
    registered = read_json(path)
    for key in KEYS:
        if key not in registered:
            raise ValueError(f"{path} has no {key}; it was written by another version of asr")
    results = folder / "results.jsonl"
    rows, torn = read_json_lines(results) if results.is_file() else ([], 0)
    return StudyRecord(folder, registered, rows, torn)


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
            if own is None:  # a run of elsewhere
                arms.append(arm)
                continue
            label = f"{encoder} {own[0]}" if encoders.count(encoder) > 1 else arm.label
            arms.append(replace(arm, label=label, failed=failed.pop(own, [])))
        known.append(replace(group, arms=arms))
    return known


def _failure(study: StudyRecord, row: Row) -> Run:
    """What a failed run left, at the cost that the study counted."""
    place, split = study.run_folder(row), study.plan.get("split", "test")
    if (place / "recipe.yaml").is_file():
        run = read_run(place, split)
    else:
        run = Run(place, split, study.expected(row), {}, {}, [], None, None, None, [])
    counted = {"seed": row["seed"], "device_hours": row["device_hours"]}
    return replace(run, totals=run.totals | counted)
