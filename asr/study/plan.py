"""The plan of a study: every unit of work with its settings and its resolved recipe."""

import copy
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from asr.config import shipped, strict_yaml
from asr.config.strict_yaml import Tree
from asr.recipe.schema import Budget, Recipe
from asr.study.devices import visible_gpus
from asr.study.schema import Range, Study

TUNING = "tuning"  # the name of the trials' budget in results


@dataclass(frozen=True)
class Unit:
    """One run: a trial that tunes an arm, or a final run, which is evaluated as well.

    Attributes:
        number: number of the trial, from 1, or seed of the final run.
        budget: name of the budget; "tuning" for a trial.
        settings: settings that tuning drew or chose, by dotted key.
        recipe: the complete recipe.
    """

    arm: str
    role: Literal["trial", "final"]
    number: int
    budget: str
    settings: dict[str, int | float]
    recipe: Tree

    @property
    def folder(self) -> Path:
        """The folder of the unit, relative to the folder of the study."""
        last = f"{self.number:02}" if self.role == "trial" else f"{self.budget}-seed{self.number}"
        return Path(f"{self.role}s") / self.arm / last

    @property
    def title(self) -> str:
        """The name of the unit in progress and error messages."""
        if self.role == "trial":
            return f"{self.arm} trial {self.number}"
        return f"{self.arm} {self.budget} seed {self.number}"


class Plan:
    """All units of a study; resolves every recipe, so that mistakes show before anything runs."""

    def __init__(self, study: Study):
        """Resolves every recipe.

        Raises:
            ValueError: a recipe or a key of an arm is invalid; names the arm.
        """
        self.study = study
        self.arms = study.arms_and_decoders
        self._finals: dict[str, list[Unit]] = {}  # a cache, as resolving is slow
        self.recipes = {name: self._resolved(name, {}) for name in self.arms}
        self.trials = [
            unit
            for number in range(1, study.tuning.trials + 1)
            for unit in (self._trial(arm, number) for arm in self.arms)
        ]

    def finals(self, arm: str, settings: dict[str, int | float]) -> list[Unit]:
        """The final runs of an arm with the tuned settings, in the order of budget, then seed."""
        key = json.dumps([arm, settings])
        if key not in self._finals:
            study, tree = self.study, self._resolved(arm, settings)
            names = list(study.budgets) if study.separate_budgets else [study.largest()]
            self._finals[key] = [
                Unit(arm, "final", seed, name, settings, _with(tree, seed, study.budgets[name]))
                for name in names
                for seed in study.seeds
            ]
        return self._finals[key]

    def any_recipe(self) -> Recipe:
        """One recipe of the study; all recipes share its corpus, features and trainer."""
        return strict_yaml.read(Recipe, next(iter(self.recipes.values())))

    @property
    def kind_of_device(self) -> str:
        """``cuda`` or ``cpu``: the kind of device that trains the runs on this machine."""
        return "cuda" if visible_gpus(self.any_recipe().trainer.accelerator) else "cpu"

    @property
    def unit(self) -> str:
        """``cpu_hours`` if a budget limits CPU time, otherwise ``device_hours``."""
        budgets = [*self.study.budgets.values(), self.study.tuning.budget]
        return "cpu_hours" if any(b.cpu_hours is not None for b in budgets) else "device_hours"

    def _trial(self, arm: str, number: int) -> Unit:
        tuning = self.study.tuning
        settings = draw({**tuning.ranges, **self.arms[arm].ranges}, tuning.seed, number)
        tree = _with(self._resolved(arm, settings), tuning.seed, tuning.budget)
        return Unit(arm, "trial", number, TUNING, settings, tree)

    def _resolved(self, name: str, settings: dict[str, int | float]) -> Tree:
        """The complete recipe of an arm: task, encoder, decoder, overrides, then settings."""
        arm = self.arms[name]
        words = ["--encoder", arm.encoder]
        words += ["--decoder", arm.decoder] if arm.decoder else []
        words += [*self.study.overrides, *arm.overrides]
        words += [part for key, v in settings.items() for part in (f"--{key}", json.dumps(v))]
        try:
            task = strict_yaml.load_file(shipped.find(self.study.recipe, "tasks"))
            tree = strict_yaml.override(task, words, Recipe)
            return strict_yaml.tree_of(strict_yaml.read(Recipe, tree))
        except ValueError as error:
            raise ValueError(f"arm {name}: {error}") from None


def draw(ranges: dict[str, Range], seed: int, number: int) -> dict[str, int | float]:
    """The settings of a trial, independent of other trials.

    The draw of a key depends only on seed, trial and key. Arms thus get the same draws for the
    keys that they share (common random numbers), and chance favours no arm.
    """
    return {
        key: limits.at(np.random.default_rng([seed, number, zlib.crc32(key.encode())]).random())
        for key, limits in ranges.items()
    }


def _with(tree: Tree, seed: int, budget: Budget) -> Tree:
    return {**copy.deepcopy(tree), "seed": seed, "budget": strict_yaml.tree_of(budget)}
