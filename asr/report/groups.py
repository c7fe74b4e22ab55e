"""Groups comparable runs, and finds the runs that are seeds of one arm."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr.report.runs import UNKNOWN, Run, differing, part, read_run

# Parts of a recipe that must agree in all runs of a group, by their names on the page.
SHARED = {
    "training splits": ("data.train", "data.validation"),
    "features": ("features",),
    "tokenizer": ("tokenizer",),
    "decoder": ("decoder",),
    "search": ("search",),
}
# Keys that may differ between the seeds of one arm.
INCIDENTAL = ("seed", "data.corpus")
STATED = 3  # largest number of differing keys that a sentence names

Identities = dict[Path, dict[str, Any]]


def identity(run: Run, checksums: dict[Any, str], by_budget: bool) -> dict[str, Any]:
    """The values that must agree for a comparison, by their names; None (unknown) agrees with all.

    ``checksums`` gives the checksum of the test ids by the path of the corpus, from any run that
    has it.
    """
    path = run.recipe.get("data.corpus")
    metrics = run.metrics or {}
    found: dict[str, Any] = {"corpus": run.checksum or checksums.get(path, path)}
    found["training data"] = run.trained_on
    found |= {word: part(run.recipe, names) for word, names in SHARED.items()}
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
    """Runs that differ in their seed only.

    Attributes:
        failed: runs of further seeds that failed; they have a cost, but no error rate.

    Raises:
        ValueError: two runs have the same seed; they would count as two seeds.
    """

    label: str
    runs: list[Run]
    failed: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        paths: dict[Any, Path] = {}
        for run in self.runs:
            if run.seed is not None and run.seed in paths:
                raise ValueError(
                    f"{paths[run.seed]} and {run.path} both have seed {run.seed} of {self.label} "
                    "and would count as two seeds; give one of them"
                )
            paths[run.seed] = run.path


@dataclass(frozen=True)
class Group:
    """Runs that may be compared, as arms in the order given.

    Attributes:
        separation: reasons why these runs are not compared with the first group; empty for it.
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
    """Groups of comparable runs, the largest first; each other group has its differences.

    With ``by_budget``, only runs with the same budget are comparable.
    """
    # The checksums are for runs that were not evaluated, if their corpus no longer exists.
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
    """Names of the values of ``identity`` that are known for both runs and differ."""
    left, right = identities[a.path], identities[b.path]
    return [w for w in left if None not in (left[w], right[w]) and left[w] != right[w]]


def _separation(first: list[Run], group: list[Run], identities: Identities) -> list[str]:
    """One line per difference, with the key and both values."""
    pairs = ((a, b) for a in first for b in group)
    a, b = max(pairs, key=lambda pair: len(_conflicts(pair[0], pair[1], identities)))
    left, right = identities[a.path], identities[b.path]
    found = []
    for word in _conflicts(a, b, identities):
        ours, theirs = left[word], right[word]
        if isinstance(ours, dict):
            keys = differing([ours, theirs])
            values = [f"{k} is {theirs.get(k)} instead of {ours.get(k)}" for k in keys[:STATED]]
            more = [f"and {len(keys) - STATED} more keys"] if len(keys) > STATED else []
            found.append(f"{word}: {', '.join(values + more)}")
        elif word == "corpus":
            names = [r.recipe.get("data.corpus") for r in (b, a)]
            same = " with other utterances" if names[0] == names[1] else f" instead of {names[1]}"
            found.append(f"corpus: {names[0]}{same}")
        else:
            found.append(f"{word}: {theirs} instead of {ours}")
    return found


def settings(run: Run) -> dict[str, Any]:
    """The flat recipe without the keys ``INCIDENTAL``, and the checksum of the training data.

    The settings are equal for runs that differ only in their seed.
    """
    incidental = part(run.recipe, INCIDENTAL)
    own = {k: v for k, v in run.recipe.items() if k not in incidental}
    return own | {"data.rows": run.trained_on or UNKNOWN}


def _arms(runs: list[Run]) -> list[Arm]:
    """Arms of runs with equal settings, with the shortest labels that distinguish the arms."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        together.setdefault(json.dumps(settings(run), sort_keys=True, default=str), []).append(run)
    arms = list(together.values())
    labels = []
    for arm in arms:
        name = arm[0].encoder
        same = [settings(other[0]) for other in arms if other[0].encoder == name]
        own = settings(arm[0])
        options = [f"{key.rsplit('.', 1)[-1]}={own.get(key)}" for key in differing(same)]
        labels.append(" ".join([name, *options[:STATED]]))
    alike = list(labels)
    for index, label in enumerate(alike):
        if alike.count(label) > 1:  # they differ in a key beyond the first few
            labels[index] = f"{label} ({place(arms[index][0], runs)})"
    return [
        Arm(label, sorted(arm, key=lambda run: (str(run.seed).zfill(12), run.path.name)))
        for label, arm in zip(labels, arms, strict=True)
    ]


def place(run: Run, runs: Sequence[Run]) -> str:
    """The shortest end of a run's path that is unique; in a study, all folders are named run."""
    paths = [other.path.parts for other in runs]
    ends = (run.path.parts[-number:] for number in range(1, len(run.path.parts)))
    unique = (end for end in ends if sum(parts[-len(end) :] == end for parts in paths) == 1)
    return str(Path(*next(unique, run.path.parts)))


def read_groups(folders: Sequence[Path], split: str, by_budget: bool = False) -> list[Group]:
    """Run folders -> groups of comparable runs.

    Raises:
        ValueError: there is no folder, a folder or seed is given twice, or one is not a run.
    """
    if not folders:
        raise ValueError("no run to compare; give at least one folder that asr train wrote")
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise ValueError(f"{folder} is given twice; give each run once")
        seen.add(folder.resolve())
    return group_runs([read_run(folder, split) for folder in folders], by_budget)
