"""Groups comparable runs, and joins the seeds of an arm."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr.report.runs import UNKNOWN, Run, differing, part, read_run

# Keys of a recipe in which all runs of a group must agree, by their name on the page.
SHARED = {
    "training splits": ("data.train", "data.validation"),
    "features": ("features",),
    "tokenizer": ("tokenizer",),
    "decoder": ("decoder",),
    "search": ("search",),
}
# Keys that may differ between the runs of one arm.
INCIDENTAL: tuple[str, ...] = ("seed", "data.corpus", "trainer.log_every_n_steps")
INCIDENTAL += ("trainer.checkpoint_every_seconds", "trainer.keep_checkpoints_every")
MOST_KEYS = 3  # largest number of differing keys that a sentence names

Identities = dict[Path, dict[str, Any]]


def identity(run: Run, checksums: dict[Any, str], by_budget: bool) -> dict[str, Any]:
    """Returns the values, by name, in which compared runs must agree.

    None stands for an unknown value, which agrees with every value.

    Args:
        run: the run that has the values.
        checksums: checksum of the test ids, by path of the corpus. It stands in for that of a run
            that was not evaluated.
        by_budget: whether the budgets must be equal too.
    """
    path = run.recipe.get("data.corpus")
    metrics = run.metrics or {}
    found: dict[str, Any] = {"corpus": run.checksum or checksums.get(path, path)}
    found["training data"] = run.trained_on
    found |= {name: part(run.recipe, keys) for name, keys in SHARED.items()}
    found["search of the evaluation"] = metrics.get("search")
    found["normaliser of the evaluation"] = metrics.get("normaliser")
    found["kind of device"] = run.device_kind
    found["device"] = run.device_name
    found["number of devices"] = run.totals.get("num_devices")
    found["number of threads"] = run.num_threads if run.device_kind == "cpu" else None
    found["budget"] = part(run.recipe, ("budget",)) if by_budget else None
    return found


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in their seed.

    Attributes:
        label: name of the arm on the page.
        runs: the runs, one for each seed.
        failed: failed runs of other seeds; they have a cost, but no error rate.
        name: name of the arm in its study; empty without a study.

    Raises:
        ValueError: two runs have the same seed, so that it would count twice.
    """

    label: str
    runs: list[Run]
    failed: list[Run] = field(default_factory=list)
    name: str = ""

    def __post_init__(self) -> None:
        paths: dict[Any, Path] = {}
        for run in self.runs:
            if run.seed is not None and run.seed in paths:
                raise ValueError(
                    f"{paths[run.seed]} and {run.path} both have seed {run.seed} of {self.label}, "
                    "which would count twice; give one of them"
                )
            paths[run.seed] = run.path


@dataclass(frozen=True)
class Group:
    """Holds arms whose runs agree in everything that a fair comparison needs.

    Attributes:
        arms: the arms, in the order in which their runs were given.
        separation: reasons why this group is not compared with the first; empty for the first.
        by_budget: whether runs with different budgets are in different groups.
    """

    arms: list[Arm]
    separation: list[str] = field(default_factory=list)
    by_budget: bool = False

    @property
    def runs(self) -> list[Run]:
        """The runs of all arms, in the order of the arms."""
        return [run for arm in self.arms for run in arm.runs]


def group_runs(runs: Sequence[Run], by_budget: bool = False) -> list[Group]:
    """Returns groups of comparable runs, the largest first.

    Each other group states how it differs from the first. With ``by_budget``, only runs with the
    same budget are comparable.
    """
    # A run has no checksum if it was not evaluated and its corpus no longer exists. Another run of
    # this corpus may have one.
    checksums = {run.recipe.get("data.corpus"): found for run in runs if (found := run.checksum)}
    identities = {run.path: identity(run, checksums, by_budget) for run in runs}
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if not any(_conflicts(run, other, identities) for other in group):
                group.append(run)
                break
        else:
            groups.append([run])
    groups.sort(key=len, reverse=True)
    first = groups[0]
    return [
        Group(_arms(g), [] if g is first else _separation(first, g, identities), by_budget)
        for g in groups
    ]


def _conflicts(a: Run, b: Run, identities: Identities) -> list[str]:
    """Returns the names of the values of ``identity`` that are known for both runs and differ."""
    left, right = identities[a.path], identities[b.path]
    return [
        name for name in left if None not in (left[name], right[name]) and left[name] != right[name]
    ]


def _separation(first: list[Run], group: list[Run], identities: Identities) -> list[str]:
    """Returns a line for each difference of a group from the first, with both values.

    The lines compare the two runs that differ most.
    """
    pairs = ((a, b) for a in first for b in group)
    a, b = max(pairs, key=lambda pair: len(_conflicts(pair[0], pair[1], identities)))
    left, right = identities[a.path], identities[b.path]
    found = []
    for name in _conflicts(a, b, identities):
        expected, actual = left[name], right[name]
        if isinstance(expected, dict):
            keys = differing([expected, actual])
            values = [f"{key} is {actual.get(key)} instead of {expected.get(key)}" for key in keys]
            more = [f"and {len(keys) - MOST_KEYS} more keys"] if len(keys) > MOST_KEYS else []
            found.append(f"{name}: {', '.join(values[:MOST_KEYS] + more)}")
        elif name == "corpus":
            expected, actual = (run.recipe.get("data.corpus") for run in (a, b))
            same = actual == expected
            difference = "with other utterances" if same else f"instead of {expected}"
            found.append(f"corpus: {actual} {difference}")
        else:
            found.append(f"{name}: {actual} instead of {expected}")
    return found


def settings(run: Run) -> dict[str, Any]:
    """Returns the settings that all runs of an arm share.

    They are the flat recipe without the keys in ``INCIDENTAL``, and the checksum of the training
    data.
    """
    incidental = part(run.recipe, INCIDENTAL)
    kept = {key: value for key, value in run.recipe.items() if key not in incidental}
    return kept | {"data.rows": run.trained_on or UNKNOWN}


def _arms(runs: list[Run]) -> list[Arm]:
    """Joins runs with equal settings to arms, and labels each arm by what distinguishes it."""
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps(settings(run), sort_keys=True, default=str)
        by_settings.setdefault(key, []).append(run)
    arms = list(by_settings.values())
    labels = []
    for arm in arms:
        name = arm[0].encoder
        same_encoder = [settings(other[0]) for other in arms if other[0].encoder == name]
        own = settings(arm[0])
        options = [f"{key.rsplit('.', 1)[-1]}={own.get(key)}" for key in differing(same_encoder)]
        labels.append(" ".join([name, *options[:MOST_KEYS]]))
    short = list(labels)
    for index, label in enumerate(short):
        if short.count(label) > 1:  # the arms differ in keys that the labels do not name
            labels[index] = f"{label} ({place(arms[index][0], runs)})"
    return [
        Arm(label, sorted(arm, key=lambda run: (str(run.seed).zfill(12), run.path.name)))
        for label, arm in zip(labels, arms, strict=True)
    ]


def place(run: Run, runs: Sequence[Run]) -> str:
    """Returns the shortest unique end of a run's path; in studies, all folders are named run."""
    paths = [other.path.parts for other in runs]
    ends = (run.path.parts[-number:] for number in range(1, len(run.path.parts)))
    unique = (end for end in ends if sum(parts[-len(end) :] == end for parts in paths) == 1)
    return str(Path(*next(unique, run.path.parts)))


def read_groups(folders: Sequence[Path], split: str, by_budget: bool = False) -> list[Group]:
    """Reads run folders, and returns groups of comparable runs; see ``group_runs``.

    Raises:
        ValueError: there is no folder, one is not a run, or a folder or seed is given twice.
    """
    if not folders:
        raise ValueError("no run to compare; give at least one folder that asr train wrote")
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise ValueError(f"{folder} is given twice; give each run once")
        seen.add(folder.resolve())
    return group_runs([read_run(folder, split) for folder in folders], by_budget)
