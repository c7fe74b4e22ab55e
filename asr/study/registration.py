"""Registers the plan of a study before its first run, and refuses unrecorded changes."""

import datetime
import json
from pathlib import Path
from typing import Any

from asr.config import strict_yaml
from asr.config.strict_yaml import Tree
from asr.files import write
from asr.metering.environment import environment
from asr.metering.ledger_format import FORMAT
from asr.recipe.schema import Recipe
from asr.report.study import StudyRecord, checksum, cores_per_device, read_registered
from asr.study.plan import Plan
from asr.study.units import chosen

DECODING = "decoding_seconds"  # key of the time that decoding took before the runs
ADDED: Tree = {"contrasts": [], "descriptive": False}  # keys that earlier versions did not have
RECIPES = "*s/*/*/recipe.yaml"  # of each trial and run that has begun, in a study's folder
NAMED = 3  # number of differing keys that an error names


def resolved(plan: Plan) -> Tree:
    """The study file with every default, and the complete recipe of each arm; plain values."""
    tree = {"study": strict_yaml.tree_of(plan.study), "recipes": plan.recipes}
    return json.loads(json.dumps(tree, default=str))


def read_registration(folder: Path) -> dict[str, Any] | None:
    """The content of ``study.json``; None before the first start."""
    return read_registered(folder) if (folder / "study.json").is_file() else None


def differences(plan: Plan, registered: dict[str, Any]) -> list[str]:
    """Dotted keys in which the study file differs from the registered one.

    For an arm that was added or removed, the keys of its recipe are not listed as well.
    """
    record = StudyRecord(Path(), registered, [], 0)
    # A key that was added to studies or recipes since the registration counts as its default.
    study = ADDED | record.plan
    old, new = _compared(registered["resolved"] | {"study": study}), _compared(resolved(plan))
    old["recipes"] = {
        n: strict_yaml.tree_of(strict_yaml.read(Recipe, r)) for n, r in old["recipes"].items()
    }
    found = _different(old, new)
    both = set(old["recipes"]) & set(new["recipes"])
    other = {f"recipes.{name}" for name in {*old["recipes"], *new["recipes"]} - both}
    return [key for key in found if key not in other] or found


def _compared(tree: Tree) -> Tree:
    """The part of a study that is compared: all but the names of recipes, plus their content.

    A recipe can be given in several ways: by name, by its path from the working directory or from
    the study's folder, or by a file and overrides. Only the content of the recipe counts.
    """
    arms = {name: {"ranges": arm["ranges"]} for name, arm in tree["study"]["arms"].items()}
    spelt = ("recipe", "decoders", "overrides")
    study = {key: value for key, value in tree["study"].items() if key not in spelt}
    study["contrasts"] = [{"planned_after": "", **contrast} for contrast in study["contrasts"]]
    return {"study": {**study, "arms": arms}, "recipes": tree["recipes"]}


def _different(old: Any, new: Any, key: str = "") -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [key]
    here = f"{key}." if key else ""
    pairs = [(here + name, old.get(name, ...), new.get(name, ...)) for name in {**old, **new}]
    return [own for name, a, b in pairs for own in _different(a, b, name)]


def register(
    plan: Plan, folder: Path, threads: int, rows_sha256: dict[str, str], amend: bool
) -> dict[str, Any]:
    """Writes ``study.json`` at the first start and checks it at every later one.

    Args:
        plan: the study as its file is now.
        folder: folder of the study.
        threads: number of CPU cores of every run, or on a GPU of threads of each of its processes;
            used only at the first start.
        rows_sha256: checksums of the prepared corpus by split.
        amend: whether to accept and record a change that leaves existing runs as they are.

    Raises:
        ValueError: the file or the corpus differs from the registered one.
    """
    tree = resolved(plan)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    registered = read_registration(folder)
    if registered is None:
        registered = {
            "format": FORMAT,
            "name": plan.study.name,
            "study_sha256": checksum(tree),
            "registered": now,
            "threads": threads,
            "device_kind": plan.kind_of_device,
            "budget_unit": plan.unit,
            "rows_sha256": rows_sha256,
            "environment": environment(),
            "amendments": [],
            "resolved": tree,
        }
    else:
        if other := [k for k, v in registered["rows_sha256"].items() if rows_sha256.get(k) != v]:
            raise ValueError(
                f"{plan.any_recipe().data.corpus} is not the corpus that the study began with "
                f"(the rows of {', '.join(other)} differ); prepare that corpus again or give the "
                "study another name"
            )
        if registered["device_kind"] is None:
            registered["device_kind"] = plan.kind_of_device
            write(folder / "study.json", json.dumps(registered, indent=1))
        changed = differences(plan, registered)
        if not changed:
            return registered
        if amend and cores_per_device(registered) > 1:
            raise ValueError(
                f"--amend: {folder} was registered by a version that counted a run of "
                f"{registered['threads']} threads as one device; give the study another name"
            )
        if not amend:
            raise ValueError(
                f"{folder} was registered with another file (they differ in "
                f"{first_keys(changed)}); give the study another name, or give --amend to record "
                "the change"
            )
        _check_units(plan, folder, changed)
        earlier = registered["study_sha256"]
        begun = sum(1 for _ in folder.glob(RECIPES))
        registered["amendments"].append(
            {"time": now, "from_sha256": earlier, "changed": changed, "begun": begun}
        )
        registered |= {"study_sha256": checksum(tree), "resolved": tree}
    write(folder / "study.json", json.dumps(registered, indent=1))
    return registered


def first_keys(keys: list[str]) -> str:
    """The first keys, and the number of the others."""
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more


def _check_units(plan: Plan, folder: Path, changed: list[str]) -> None:
    """Checks that every existing run belongs to the amended study, with the same recipe.

    Raises:
        ValueError: the amendment would change an existing run, or the budgets of its curve.
    """
    points = not plan.study.separate_budgets and any(folder.glob("finals/*/*/recipe.yaml"))
    if points and any(key.startswith("study.budgets") for key in changed):
        raise ValueError(
            f"budgets: {folder} has final runs that were measured at the earlier budgets; give "
            "the study another name"
        )
    kept = {unit.folder: unit for unit in plan.trials}
    for arm in plan.arms:
        if (settings := chosen(plan, folder, arm)) is not None:
            kept |= {unit.folder: unit for unit in plan.finals(arm, settings)}
    for path in sorted(folder.glob(RECIPES)):
        unit = kept.get(path.parent.relative_to(folder))
        if unit is None or strict_yaml.load_file(path) != unit.recipe:
            raise ValueError(
                f"{path.parent} was trained with other settings than the amended file has; "
                "--amend can only add to a study; give the changed study another name"
            )
