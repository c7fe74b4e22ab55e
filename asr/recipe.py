"""The schema of a recipe, everything that a published number depends on; and its run folder."""

import contextlib
import json
import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from asr import config
from asr.config import Component, component
from asr.data import DataOptions
from asr.decoders import DECODERS
from asr.encoders import ENCODERS
from asr.features import Augmentation, FeatureOptions
from asr.files import new_folder, write
from asr.search import SEARCHES
from asr.text import TOKENIZERS

log = logging.getLogger(__name__)

BEGINNINGS = ("recipe.yaml", "heartbeat.json", "environment.json", "ledger.jsonl")
RESULTS = ("ledger.json", "last.ckpt")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """AdamW with an anytime schedule: no point of the curve depends on where the run will end.

    Args:
        lr: highest learning rate.
        warmup_updates: updates over which the rate rises linearly from 0.
        decay: afterwards, with the inverse square root of the update, or not at all.
        weight_decay: decoupled; on matrices and filters only.
        betas: decay rates of the moments.
        clip_norm: gradients with a larger norm are scaled down to it.
        ema_decay: of the moving average of the weights that is validated and saved.
    """

    lr: float = 1e-3
    warmup_updates: int = 500
    decay: Literal["inverse_sqrt", "constant"] = "inverse_sqrt"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    ema_decay: float = 0.999

    def rate(self, update: int) -> float:
        """The learning rate of an update, counted from 1."""
        warmup = max(1, self.warmup_updates)
        if update < warmup:
            return self.lr * update / warmup
        return self.lr * (math.sqrt(warmup / update) if self.decay == "inverse_sqrt" else 1.0)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A run stops at the first of these that is set and reached.

    Args:
        device_hours: devices times hours held, from process start, everything included.
        updates: optimiser steps.
        audio_hours: hours of speech seen, repetitions counted.
    """

    device_hours: float | None = None
    updates: int | None = None
    audio_hours: float | None = None

    def __post_init__(self) -> None:
        if self.device_hours is self.updates is self.audio_hours is None:
            raise ValueError("budget: set device_hours, updates or audio_hours")


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """When and how the moving average is validated.

    Args:
        every_updates: updates from one validation to the next.
        search: how hypotheses are found while training.
    """

    every_updates: int = 500
    search: Component = component(SEARCHES, default="Greedy")


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """Lightning's names for where and how the loop runs.

    Args:
        accelerator: auto, cpu or gpu.
        devices: how many.
        num_nodes: machines.
        strategy: auto or ddp.
        precision: 32-true, bf16-mixed or 16-mixed.
        log_every_n_steps: updates between two lines of the ledger and the logs.
        checkpoint_every_seconds: seconds of training that a crash may cost.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    log_every_n_steps: int = 50
    checkpoint_every_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a published number depends on.

    Args:
        seed: of weights, batches, augmentation and dropout.
    """

    data: DataOptions
    budget: Budget
    encoder: Component = component(ENCODERS, positional=1)
    decoder: Component = component(DECODERS, positional=2)
    search: Component = component(SEARCHES, default="Beam")
    tokenizer: Component = component(TOKENIZERS, positional=1, default="Characters")
    features: FeatureOptions = field(default_factory=FeatureOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    validation: ValidationOptions = field(default_factory=ValidationOptions)
    trainer: TrainerOptions = field(default_factory=TrainerOptions)
    seed: int = 1


def run_name(recipe_file: Path, overrides: list[str], recipe: Recipe) -> str:
    """Recipe, encoder and seed: the default name of a run folder."""
    if recipe_file.name == "recipe.yaml":  # of a run that is repeated
        name = re.sub(r"-seed\d+$", "", recipe_file.resolve().parent.name)
        return f"{name}-repeated-seed{recipe.seed}"
    encoder = recipe.encoder.kind.__name__.lower()
    if "--encoder" in overrides:
        encoder = Path(overrides[overrides.index("--encoder") + 1]).stem
    return f"{recipe_file.stem}-{encoder}-seed{recipe.seed}"


@contextlib.contextmanager
def claimed(recipe: Recipe, folder: Path) -> Iterator[None]:
    """The folder belongs to this recipe; a session that fails without a result leaves it as it was.

    If a new folder stayed, the recipe once corrected would be refused as another one.
    """
    path = folder / "recipe.yaml"
    earlier = path.read_text(encoding="utf-8") if path.exists() else None
    results = _results(folder)
    with new_folder(folder):
        try:
            check_folder(recipe, folder)
            yield
        except BaseException:
            if _results(folder) == results:
                with contextlib.suppress(OSError):
                    if earlier is not None:
                        write(path, earlier)
                    else:
                        for name in BEGINNINGS:
                            (folder / name).unlink(missing_ok=True)
            raise


def _results(folder: Path) -> list[int | None]:
    """When each of them changed."""
    paths = [folder / name for name in RESULTS]
    return [path.stat().st_mtime_ns if path.exists() else None for path in paths]


def check_folder(recipe: Recipe, folder: Path) -> None:
    """A run folder belongs to one recipe; budget and trainer may change when it goes on.

    Raises:
        ValueError: the folder holds a run of another recipe, or something else.
        OSError: the recipe cannot be written into it.
    """
    path = folder / "recipe.yaml"
    tree = config.tree_of(recipe)
    if not path.exists() and folder.is_dir():
        others = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        if others:
            raise ValueError(
                f"{folder} holds {others[0]} and no recipe.yaml, so it is not a run folder; "
                "choose another --run"
            )
    if path.exists():
        free = ("budget", "trainer")
        old, new = (
            {k: v for k, v in t.items() if k not in free} for t in (config.load_file(path), tree)
        )
        differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if differing:
            raise ValueError(
                f"{folder} holds a run of another recipe (they differ in {', '.join(differing)}); "
                "choose another --run or remove the folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    config.dump(tree, path)


def finished(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """The last line of the ledger of a run that has spent this very budget."""
    try:
        line = json.loads((folder / "ledger.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None
    same = config.load_file(folder / "recipe.yaml")["budget"] == config.tree_of(recipe.budget)
    if not (line["finished"] and same):
        return None
    check_folder(recipe, folder)
    log.info("%s is finished (%s); raise the budget to go on", folder, line["reason"])
    return line
