"""A training run: joins a recipe, a run folder and Lightning's Trainer."""

import contextlib
import functools
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from asr.kernels.allocator import keep_freed_memory
from asr.metering.device_memory import enough_memory
from asr.metering.meter import Ledger
from asr.recipe.schema import Recipe
from asr.training import launch
from asr.training.average import LastAverage, MovingAverage
from asr.training.checkpoint import CheckpointCallback, read_checkpoint
from asr.training.compiled import metered
from asr.training.data import SpeechDataModule, StreamDataModule, TextDataModule
from asr.training.ending import BudgetCallback, SignalCallback
from asr.training.ledger import LedgerCallback
from asr.training.machine import (
    Interruption,
    is_first_process,
    kernel_precision,
    leave_group,
    make_trainer,
    quiet_lightning,
)
from asr.training.ranks import summed_all
from asr.training.run_folder import AnyRecipe, claimed, finished
from asr.training.speech import SpeechModule
from asr.training.task import Task
from asr.training.text import CountingModule, TextModule

TOKENS = 8  # of a vocabulary with which any decoder can be built


def train(recipe: AnyRecipe, folder: Path) -> dict[str, Any]:
    """Trains in a run folder, or resumes its run; returns the last line of the ledger.

    Raises:
        ValueError: the folder holds another run or is in use, the data do not fit, memory runs
            out, or training diverges.
        SystemExit: the process got SIGINT or SIGTERM; all work is saved.
    """
    if (line := finished(recipe, folder)) is not None:
        return line
    if isinstance(recipe, Recipe):  # sizes that do not fit are refused before audio is decoded
        # A class of one's own that cannot be built without memory is built later.
        with torch.device("meta"), contextlib.suppress(NotImplementedError, RuntimeError):
            recipe.decoder(recipe.encoder(recipe.features.num_mels).dim, TOKENS)
    # The other processes use the folder of the first process.
    first = is_first_process(recipe.trainer)
    with claimed(recipe, folder) if first else contextlib.nullcontext():
        number, threads = launch.processes_and_threads(recipe)
        return launch.run(number, threads, functools.partial(_fit, recipe, folder))


def _fit(recipe: AnyRecipe, folder: Path, place: launch.Place) -> dict[str, Any]:
    """Trains in one of the processes of a run; returns the last line of the ledger."""
    first = place.rank == 0 and is_first_process(recipe.trainer)
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet_lightning())
        interruption = Interruption()
        if place.rank == 0:
            stack.enter_context(interruption)
        saved = read_checkpoint(folder / "last.ckpt")
        task, data, remedy = _parts(recipe, saved)
        trainer = make_trainer(recipe, folder, place)
        device = trainer.strategy.root_device
        if device.type == "cpu":
            keep_freed_memory()
        ledger = Ledger(
            folder,
            device,
            trainer.world_size,
            kernel_precision(recipe.trainer, device),
            functools.partial(summed_all, trainer),
            writes=first,
        )
        stack.enter_context(contextlib.closing(ledger))
        if recipe.trainer.compile is not None:
            stack.enter_context(metered(ledger))
        account = LedgerCallback(ledger)
        checkpoints = CheckpointCallback(account, saved)
        # These run in this order after each batch; the callbacks of the recipe follow.
        averages: list[L.Callback] = [MovingAverage()]
        if recipe.optimizer.average_last:
            averages.append(LastAverage(recipe.optimizer.average_last))
        callbacks: list[L.Callback] = [
            *([] if isinstance(task, CountingModule) else averages),
            account,
            SignalCallback(interruption, checkpoints, account),
            checkpoints,
            BudgetCallback(account),
        ]
        trainer.callbacks[:0] = callbacks  # type: ignore[attr-defined]
        stack.enter_context(enough_memory(device, remedy))
        if place.number == 1:
            stack.callback(leave_group)
        trainer.fit(task, datamodule=data)
        return account.line


def _parts(recipe: AnyRecipe, saved: dict[str, Any] | None) -> tuple[Task, StreamDataModule, str]:
    """Returns the model in training, its data, and the key to lower when memory runs out."""
    if isinstance(recipe, Recipe):
        remedy = f"lower data.max_batch_seconds, which is {recipe.data.max_batch_seconds}"
        data = SpeechDataModule(recipe, saved and saved["tokenizer"])
        data.resumed = saved is not None
        return SpeechModule(recipe), data, remedy
    task = CountingModule(recipe) if recipe.counts else TextModule(recipe)
    remedy = f"lower text.max_batch_tokens, which is {recipe.text.max_batch_tokens:g}"
    return task, TextDataModule(recipe), remedy
