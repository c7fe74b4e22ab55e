"""A study's folder as its files tell it: what was registered, what came of it, whether they agree.

Only ``study.json``, ``results.jsonl`` and the run folders are read, not the code that made them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from asr.files import read_json, read_json_lines
from asr.formatting import listed, percent
from asr.report.groups import Group
from asr.report.runs import Run, differing, flatten, read_run

Row = dict[str, Any]

FAILED_WER = 1.0  # of a trial that failed: that of empty output
STATED = 3  # differing keys named in a sentence
SLACK = 1e-9  # of a rate that was written and read again
NONE = ("", "")  # arm and budget of a run that is not of the study
KEYS = ("name", "study_sha256", "registered", "amendments", "resolved")


@dataclass(frozen=True)
class Account:
    """What one arm was given and what it cost.

    Attributes:
        trials, finals: rows that ended, failures among them.
    """

    arm: str
    trials: list[Row]
    finals: list[Row]

    @property
    def tuning_hours(self) -> float:
        """Device-hours of all trials, failed ones included."""
        return sum(row["device_hours"] or 0.0 for row in self.trials)

    @property
    def final_hours(self) -> float:
        """Device-hours of all final runs, failed ones included."""
        return sum(row["device_hours"] or 0.0 for row in self.finals)

    @property
    def failed(self) -> list[Row]:
        """Trials and final runs that failed."""
        return [row for row in [*self.trials, *self.finals] if row["status"] == "failed"]

    @property
    def trial_wers(self) -> list[float]:
        """Validation WER of each trial; a failed one found nothing: 1."""
        bad = [row["status"] == "failed" or row["validation_wer"] is None for row in self.trials]
        return [
            FAILED_WER if b else row["validation_wer"]
            for b, row in zip(bad, self.trials, strict=True)
        ]


@dataclass(frozen=True)
class Study:
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
    def arms(self) -> list[str]:
        """In the order of the file."""
        return list(self.registered["resolved"]["recipes"])

    @property
    def targets(self) -> list[float]:
        """Registered validation WERs whose cost is wanted, as fractions; empty without any."""
        return [target / 100 for target in self.plan.get("targets", [])]

    @property
    def accounts(self) -> list[Account]:
        """One per arm."""
        return [
            Account(
                arm,
                [r for r in self.rows if r["arm"] == arm and r["role"] == "trial"],
                [r for r in self.rows if r["arm"] == arm and r["role"] == "final"],
            )
            for arm in self.arms
        ]

    @property
    def ended(self) -> list[Row]:
        """Trials and final runs, failed ones among them; a ``point`` is a part of one of them."""
        return [row for row in self.rows if row["role"] != "point"]

    def encoder(self, arm: str) -> str | None:
        """The class of an arm's encoder; None for an arm that is not in the file."""
        recipe = self.registered["resolved"]["recipes"].get(arm)
        return None if recipe is None else flatten(recipe).get("encoder")

    def seed(self, row: Row) -> int | None:
        """Of a final run its own, of a trial that of all trials."""
        return self.plan["tuning"]["seed"] if row["role"] == "trial" else row["seed"]

    @property
    def by_budget(self) -> bool:
        """Whether each budget has runs of its own: comparisons at equal cost are of one budget."""
        return bool(self.plan.get("separate_budgets"))

    def run_folder(self, row: Row) -> Path:
        """Where the run of a row is: below the study, wherever that was moved to."""
        return self.folder.joinpath(*Path(row["run"]).parts[-4:])  # role, arm, number, run

    @property
    def lost(self) -> list[str]:
        """Final runs that failed: counted in the cost of the study, and in no other figure."""
        return [
            f"{account.arm} {row['budget']} seed {row['seed']} ({row['reason']})"
            for account in self.accounts
            for row in account.finals
            if row["status"] == "failed"
        ]

    @property
    def finals(self) -> list[Path]:
        """Run folders of the final runs that ended well."""
        return [
            self.run_folder(row)
            for row in self.rows
            if row["role"] == "final" and row["status"] == "done"
        ]


def read_study(folder: Path) -> Study:
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
    return Study(folder, registered, rows, torn)


def known_by_study(groups: Sequence[Group], study: Study) -> list[Group]:
    """Groups whose arms know of their final runs that failed, and are called as the study does.

    Its names stand beside those of encoders that several arms share.

    A failure may have left nothing to tell its arm by, so that it goes with the study's other runs
    of that arm and budget; where there are none, there is no arm.
    """
    finals = [row for row in study.rows if row["role"] == "final"]
    of_run = {study.run_folder(row).resolve(): (row["arm"], row["budget"]) for row in finals}
    failed: dict[tuple[str, str], list[Run]] = {}
    for row in finals:
        if row["status"] == "failed":
            split = study.plan.get("split", "test")
            failed.setdefault((row["arm"], row["budget"]), []).append(_failure(study, row, split))
    known = []
    for group in groups:
        encoders, arms = [arm.runs[0].encoder for arm in group.arms], []
        for arm, encoder in zip(group.arms, encoders, strict=True):
            own = of_run.get(arm.runs[0].path.resolve(), NONE)
            shared = encoders.count(encoder) > 1 and own is not NONE
            label = f"{encoder} {own[0]}" if shared else arm.label
            arms.append(replace(arm, label=label, failed=failed.pop(own, [])))
        known.append(replace(group, arms=arms))
    return known


def _failure(study: Study, row: Row, split: str) -> Run:
    """What a failed run left, at the cost that the study counted."""
    place = study.run_folder(row)
    if (place / "recipe.yaml").is_file():
        run = read_run(place, split)
    else:
        run = Run(place, split, _expected(study, row), {}, {}, [], None, None, None, [])
    return replace(
        run, totals=run.totals | {"seed": row["seed"], "device_hours": row["device_hours"]}
    )


def late_seeds(registered: dict[str, Any], rows: Sequence[Row]) -> str:
    """Says that seeds were amended when final runs had ended already; empty where none were.

    Who adds seeds until a difference is significant finds one by chance more often than the level
    says (optional stopping: Armitage, McPherson and Rowe, J. R. Stat. Soc. A 132, 1969).
    """
    earlier, told = set(), []
    for amendment in registered["amendments"]:
        earlier.add(amendment["from_sha256"])
        known = sum(row["role"] == "final" and row["study_sha256"] in earlier for row in rows)
        if known and "study.seeds" in amendment["changed"]:
            told.append(f"{amendment['time']}, after {known} final runs")
    if not told:
        return ""
    return (
        f"The seeds were amended when results could be seen ({listed(told)}): if that is why, "
        "differences are found by chance more often than the level and p say (optional stopping)."
    )


def disagreements(
    study: Study, runs: Sequence[Run], split: str, targets: Sequence[float]
) -> list[str]:
    """What results, runs and the registered file contradict each other in; empty when they agree.

    Checked: the file against its own hash; the hash under which every row was made; each run's
    recipe against what the file says for its arm, settings, seed and budget; the settings of final
    runs against the best trial; the checksums of its data; each row's test WER against the
    evaluation that is in the run folder now; the runs of this page against those of the study;
    split and targets.
    """
    return [
        *_hashes(study),
        *(line for row in study.ended for line in _recipe(study, row)),
        *(line for account in study.accounts for line in _chosen(account)),
        *_compared(study, runs),
        *_asked(study, split, targets),
    ]


def _hashes(study: Study) -> list[str]:
    registered, found = study.registered, []
    text = json.dumps(registered["resolved"], sort_keys=True)
    now = hashlib.sha256(text.encode()).hexdigest()
    if now != registered["study_sha256"]:
        found.append(
            f"study.json was changed after it was registered: its content has the hash {now[:12]}, "
            f"it was registered as {registered['study_sha256'][:12]}."
        )
    earlier = {amendment["from_sha256"] for amendment in registered["amendments"]}
    known = earlier | {registered["study_sha256"]}
    alien = [row for row in study.rows if row["study_sha256"] not in known]
    if alien:
        hashes = sorted({str(row["study_sha256"])[:12] for row in alien})
        found.append(
            f"{len(alien)} of {len(study.rows)} results were made under another file than the "
            f"registered one: hash {listed(hashes)} instead of {registered['study_sha256'][:12]}."
        )
    return found


def _recipe(study: Study, row: Row) -> list[str]:
    """Whether the run of a row was trained with what the file says."""
    place = study.run_folder(row)
    if not (place / "recipe.yaml").is_file():
        return [] if row["status"] == "failed" else [f"{place} is gone: its result has no run."]
    if row["arm"] not in study.arms:
        return [f"{place}: the registered file has no arm {row['arm']}."]
    expected = _expected(study, row)
    trained = flatten(yaml.safe_load((place / "recipe.yaml").read_text(encoding="utf-8")))
    keys = differing([expected, trained])
    if not keys:
        return []
    values = [f"{k} is {trained.get(k)} instead of {expected.get(k)}" for k in keys[:STATED]]
    more = [f"{len(keys) - STATED} more"] if len(keys) > STATED else []
    return [f"{place} was not trained as registered: {listed([*values, *more])}."]


def _expected(study: Study, row: Row) -> dict[str, Any]:
    """The flat recipe of a row: that of its arm with settings, seed and budget."""
    plan = study.plan
    trial = row["role"] == "trial"
    budget = plan["tuning"]["budget"] if trial else plan["budgets"].get(row["budget"], {})
    recipe = flatten(study.registered["resolved"]["recipes"][row["arm"]])
    return {**recipe, **row["settings"], "seed": study.seed(row), **flatten({"budget": budget})}


def _chosen(account: Account) -> list[str]:
    """Whether the final runs of an arm have the settings of its best trial, or of one as good."""
    done = [row for row in account.trials if row["status"] == "done"]
    rates = [row[f"validation_{row.get('validation_metric', 'wer')}"] for row in done]
    lowest = min(rates, default=None)
    best = [row["settings"] for row, rate in zip(done, rates, strict=True) if rate == lowest]
    other = [_title(row) for row in account.finals if best and row["settings"] not in best]
    words = "final runs with other settings than those of the best trial"
    return [f"{account.arm}: {words}: {listed(other)}."] if other else []


def _compared(study: Study, runs: Sequence[Run]) -> list[str]:
    rows = {study.run_folder(r).resolve(): r for r in study.rows if r["role"] == "final"}
    here = {run.path.resolve(): run for run in runs}
    strangers = [str(run.path) for path, run in here.items() if path not in rows]
    absent = [
        str(study.run_folder(r))
        for path, r in rows.items()
        if path not in here and r["status"] == "done"
    ]
    found = []
    if strangers:
        found.append(f"Runs on this page that are not of the study: {listed(strangers)}.")
    if absent:
        found.append(f"Final runs of the study that are not on this page: {listed(absent)}.")
    registered = study.registered.get("rows_sha256", {})
    for path, run in here.items():
        trained = (run.totals.get("corpus") or {}).get("rows_sha256") or {}
        here_rows = trained | ({run.split: run.checksum} if run.metrics else {})
        other = [k for k, v in here_rows.items() if v and registered.get(k, v) != v]
        if other:
            found.append(f"{run.path}: other rows than the registered ones in {listed(other)}.")
        told, measured = rows.get(path, {}).get("test_wer"), run.wer
        if told is not None and (measured is None or abs(told - measured) > SLACK):
            found.append(
                f"{run.path}: the study's result is a WER of {percent(told)}, the run folder now "
                f"says {'nothing' if measured is None else percent(measured)}."
            )
    return found


def _asked(study: Study, split: str, targets: Sequence[float]) -> list[str]:
    """Whether the page asks what was registered."""
    planned, found = study.plan.get("split", split), []
    if planned != split:
        found.append(f"The registered split is {planned}; this page shows {split}.")
    wanted = sorted(study.targets, reverse=True)
    if wanted and {round(t, 9) for t in targets} != {round(t, 9) for t in wanted}:
        told = [listed([percent(t) for t in some]) or "none" for some in (wanted, targets)]
        found.append(f"The registered targets are {told[0]}; this page shows {told[1]}.")
    return found


def _title(row: Row) -> str:
    return f"trial {row['number']}" if row["role"] == "trial" else f"seed {row['seed']}"


def remarks(study: Study) -> list[str]:
    """What is no contradiction and must be known: amendments, failures, what is missing."""
    plan = study.plan
    found = [
        f"Amended {amendment['time']}: {listed(amendment['changed'])}."
        for amendment in study.registered["amendments"]
    ]
    if late := late_seeds(study.registered, study.rows):
        found.append(late)
    current = study.registered["study_sha256"]
    earlier = sum(row["study_sha256"] != current for row in study.rows)
    if earlier:
        found.append(f"Results made under an earlier version of the file: {earlier}.")
    if study.torn:
        found.append(f"Lines of results.jsonl that cannot be read: {study.torn}.")
    budgets = len(plan["budgets"]) if plan.get("separate_budgets") else 1
    for account in study.accounts:
        for words, rows, wanted in (
            ("trials", account.trials, plan["tuning"]["trials"]),
            ("final runs", account.finals, len(plan["seeds"]) * budgets),
        ):
            if len(rows) < wanted:
                found.append(f"{account.arm}: {len(rows)} of {wanted} {words} have ended.")
        found += [
            f"{account.arm}: {_title(row)} failed after {row['device_hours']:.3g} device-hours: "
            f"{row['reason']}."
            for row in account.failed
        ]
    return found
