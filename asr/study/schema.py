"""Defines the schema of a study file, which is as strict as that of a recipe."""

import dataclasses
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from asr.config import strict_yaml
from asr.config.strict_yaml import Component
from asr.corpora import CORPORA
from asr.recipe.schema import Budget, check_bounds
from asr.statistics.contrast import Contrast

PROBED = ("C2", "C3", "C4", "C5", "C6")  # claims that probes decide
COSTS_OF_RUNS = ("device_hours", "cpu_hours")
NAME = re.compile(r"[\w.+-]*\w")


def listed(schema: type) -> Any:
    """A dataclass field that holds a list of sections of one schema; empty by default."""

    def read(tree: Any, path: str) -> list[Any]:
        if not isinstance(tree, list):
            raise ValueError(f"{path}: expects a list of sections, got {tree!r}")
        return [strict_yaml.read(schema, part, f"{path}.{n}") for n, part in enumerate(tree, 1)]

    return field(metadata={"read": read}, default_factory=list)


def named(schema: type, **default: Any) -> Any:
    """A dataclass field that holds sections of one schema by names that the user chooses."""

    def read(tree: Any, path: str) -> dict[str, Any]:
        if not isinstance(tree, dict):
            raise ValueError(f"{path}: expects a section for each name, got {tree!r}")
        return {
            str(n): strict_yaml.read(schema, section, f"{path}.{n}") for n, section in tree.items()
        }

    return field(metadata={"read": read}, **default)


@dataclass(frozen=True, kw_only=True)
class Range:
    """The range from which values of one key are drawn; whole numbers if both bounds are whole.

    Args:
        low: smallest value.
        high: largest value.
        scale: linear, or log: evenly distributed in the logarithm.
    """

    low: int | float
    high: int | float
    scale: Literal["linear", "log"] = "linear"

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"range from {self.low} to {self.high}: expects low below high")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"range from {self.low} on a log scale: expects low above 0")

    def at(self, share: float) -> int | float:
        """The value below which a share in [0, 1) of the range lies; three significant digits."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        low, high = float(self.low), float(self.high + whole)
        if self.scale == "log":
            value = low * (high / low) ** share
        else:
            value = low + (high - low) * share
        return math.floor(value) if whole else float(f"{value:.3g}")


@dataclass(frozen=True, kw_only=True)
class StudyArm:
    """An arm of a study: an encoder, a decoder, and settings that only this arm has.

    Args:
        encoder: name of a shipped recipe, path of a recipe file, or name of a class.
        decoder: name of a shipped recipe, path of a recipe file, or name of a class; by default the
            decoder of the task.
        overrides: changes of the recipe, written as options of ``asr train``: [--key.path=value].
        ranges: tuning ranges of keys that only this arm has, such as encoder.forget_bias.
    """

    encoder: str
    decoder: str | None = None
    overrides: list[str] = field(default_factory=list)
    ranges: dict[str, Range] = named(Range, default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The tuning of every arm: random search with an equal number of trials.

    Args:
        trials: number of trials of each arm; 0: every arm keeps the settings of its recipes.
        budget: budget of a trial.
        ranges: tuning ranges of the keys that all arms have.
        seed: random seed of the draws and of the training in trials; it must differ from the seeds
            of the final runs.
    """

    trials: int
    budget: Budget
    ranges: dict[str, Range] = named(Range, default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Study:
    """A matrix of runs: arms, budgets and seeds, after equal tuning of each arm on validation.

    Args:
        name: name of the study and of its folder in runs/studies.
        recipe: name of a shipped task, or path of a recipe file.
        prepare: corpus, with its options, to prepare if the corpus of the task does not exist.
        arms: arms by name.
        decoders: names or paths of decoder recipes; each arm is trained with each of them.
        overrides: overrides of the task for all arms, as on the command line: [--key.path=value].
        budgets: budgets by name. One run with the largest budget also gives the smaller ones, as
            points of its validation curve; only the largest budget is tested. With --workers on a
            CPU, device_hours count as cpu_hours, which other runs hardly change.
        separate_budgets: whether each budget is a run of its own, which is tested at its end. Arms
            are then compared within each budget.
        seeds: random seeds of the final runs.
        targets: target WERs on the validation split, in percent; the report gives their cost.
        contrasts: comparisons that decide the claims, see ``Contrast``; all others are description.
        descriptive: whether the study may run although a contrast could not decide anything.
        tuning: trials before the final runs.
        split: split on which each final run is evaluated once; tuning never uses it.
        threads: number of CPU cores of every run, each with one process of one thread; by default
            an equal share of the cores per worker. On a GPU: number of threads of a process.
    """

    name: str
    recipe: str
    arms: dict[str, StudyArm] = named(StudyArm)
    budgets: dict[str, Budget] = named(Budget)
    seeds: list[int]
    tuning: Tuning
    prepare: Component | None = dataclasses.field(
        default=None, metadata={"table": CORPORA, "positional": 0, "default": None}
    )
    decoders: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    separate_budgets: bool = False
    targets: list[float] = field(default_factory=list)
    contrasts: list[Contrast] = listed(Contrast)
    descriptive: bool = False
    split: str = "test"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in (self.name, *self.arms, *self.budgets):
            if not NAME.fullmatch(name):
                raise ValueError(f"name {name!r}: expects letters, digits and . + - _ only")
        for key in ("arms", "budgets", "seeds"):
            if not getattr(self, key):
                raise ValueError(f"{key}: is empty; give at least one")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds}: one seed is given twice; give it once")
        check_bounds("tuning", trials=(self.tuning.trials, 0, math.inf))
        check_bounds("study", threads=(self.threads, 1, math.inf))
        if self.tuning.trials and self.tuning.seed in self.seeds:
            raise ValueError(
                f"tuning.seed {self.tuning.seed}: is also the seed of a final run, which would "
                "then repeat the best trial; give another seed"
            )
        for target in self.targets:
            if not 0 < target < 100:
                raise ValueError(f"targets {target:g}: expects percent between 0 and 100")
        if any(arm.decoder for arm in self.arms.values()) and self.decoders:
            raise ValueError("decoders: an arm has its own decoder; give only one of the two")
        limits = [*self.budgets.values(), self.tuning.budget]
        if len({k for b in limits for k in COSTS_OF_RUNS if getattr(b, k) is not None}) > 1:
            raise ValueError(
                "budgets, tuning.budget: device_hours and cpu_hours in one study cannot be "
                "compared; use one of them"
            )
        if not self.separate_budgets or self.contrasts:
            self.largest()
        primary = Counter(contrast.claim for contrast in self.contrasts if contrast.primary)
        for position, contrast in enumerate(self.contrasts, 1):
            if (number := primary[contrast.claim]) != 1:
                raise ValueError(
                    f"contrasts: {contrast.claim} has {number} primary contrasts; set primary: "
                    "false in all but one of them"
                )
            if contrast.claim in PROBED:
                raise ValueError(
                    f"contrasts: asr claims decides {contrast.claim}; a study can decide C1, C7 "
                    "or a claim with another name"
                )
            if contrast.target is not None and contrast.target not in self.targets:
                raise ValueError(
                    f"contrasts: target {contrast.target:g} is not in targets; add it there"
                )
            for key in ("subject", "reference"):
                if (name := getattr(contrast, key)) not in self.arms_and_decoders:
                    raise ValueError(
                        f"contrasts.{position}.{key} {name}: no such arm; the study has "
                        f"{', '.join(self.arms_and_decoders)}"
                    )
        pairs = Counter(
            frozenset((contrast.subject, contrast.reference))
            for contrast in self.contrasts
            if contrast.estimator == "errors"
        )
        if twice := [sorted(pair) for pair, number in pairs.items() if number > 1]:
            raise ValueError(
                f"contrasts: {' and '.join(twice[0])} have two contrasts of errors; keep one"
            )

    @property
    def arms_and_decoders(self) -> dict[str, StudyArm]:
        """Returns the arms by name: every combination of an arm and a decoder of the study."""
        if not self.decoders:
            return self.arms
        return {
            f"{name}+{Path(decoder).stem}": dataclasses.replace(arm, decoder=decoder)
            for name, arm in self.arms.items()
            for decoder in self.decoders
        }

    def largest(self) -> str:
        """The name of the largest budget.

        Raises:
            ValueError: the budgets have different units.
        """
        units = {unit_of(budget) for budget in self.budgets.values()}
        if len(units) > 1 or None in units:
            raise ValueError(
                "budgets: budgets of one run must have the same unit; set "
                "separate_budgets: true, or set the same single key in all budgets"
            )
        return max(self.budgets, key=lambda name: amount(self.budgets[name]))


def unit_of(budget: Budget) -> str | None:
    """The key of a budget that is set; None if several keys are set."""
    keys = [key for key, value in vars(budget).items() if value is not None]
    return keys[0] if len(keys) == 1 else None


def amount(budget: Budget) -> float:
    """The value of a budget with one key."""
    return float(getattr(budget, unit_of(budget) or ""))


def read_study(path: Path) -> Study:
    """Reads a study file.

    Raises:
        ValueError: the file does not exist, or a key is unknown, missing or mistyped.
    """
    try:
        return strict_yaml.read(Study, strict_yaml.load_file(path))
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
