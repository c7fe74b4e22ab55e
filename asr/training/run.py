"""A training run: joins a recipe, a run folder and Lightning's Trainer."""

import contextlib
from pathlib import Path
from typing import Any

from asr.language_models import NGram
from asr.metering.device_memory import enough_memory
from asr.metering.meter import Ledger
from asr.recipe.schema import Recipe
from asr.training import checkpoint
from asr.training.account import Account
from asr.training.average import MovingAverage
from asr.training.compiled import metered
from asr.training.data import SpeechDataModule, StreamDataModule, TextDataModule
from asr.training.ending import Budget, Told
from asr.training.machine import (
    Interruption,
    is_first_process,
    keep_freed_memory,
    kernel_precision,
    leave_group,
    make_trainer,
    quiet_lightning,
)
from asr.training.run_folder import AnyRecipe, claimed, finished
from asr.training.speech import SpeechModule
from asr.training.state import State
from asr.training.task import Task
from asr.training.text import CountingModule, TextModule


def train(recipe: AnyRecipe, folder: Path) -> dict[str, Any]:
    """Trains into a run folder, from where it stands; returns the last line of the ledger.

    Raises:
        ValueError: the folder holds another run or is in use, the data do not fit, memory runs
            out, or training diverges.
        SystemExit: it was told to end (SIGINT, SIGTERM); all work is saved.
    """
    if (line := finished(recipe, folder)) is not None:
        return line
    keep_freed_memory()
    options = recipe.trainer
    first = is_first_process(options)
    with contextlib.ExitStack() as stack:
        # The other processes work in the folder of the first.
        stack.enter_context(claimed(recipe, folder) if first else contextlib.nullcontext())
        stack.enter_context(quiet_lightning())
        interruption = stack.enter_context(Interruption())
        saved = checkpoint.read(folder / "last.ckpt")
        task, data = _parts(recipe, saved)
        trainer = make_trainer(recipe, folder)
        device = trainer.strategy.root_device
        precision = kernel_precision(options, device)
        ledger = Ledger(folder, device, trainer.world_size, precision, writes=first)
        stack.enter_context(contextlib.closing(ledger))
        if options.compile is not None:
            stack.enter_context(metered(ledger))
        account = Account(folder, ledger)
        state = State(folder, account, saved)
        counted = isinstance(task, CountingModule)
        trainer.callbacks[:0] = [  # type: ignore[attr-defined]
            *([] if counted else [MovingAverage()]), account, Told(interruption, state, account),
            state, Budget(account),
        ]  # fmt: skip
        stack.enter_context(enough_memory(device, _remedy(recipe)))
        stack.callback(leave_group)
        trainer.fit(task, datamodule=data)
        return account.line


def _parts(recipe: AnyRecipe, saved: dict[str, Any] | None) -> tuple[Task, StreamDataModule]:
    """What is trained, and on what."""
    if isinstance(recipe, Recipe):
        data = SpeechDataModule(recipe, saved and saved["tokenizer"])
        data.resumed = saved is not None
        return SpeechModule(recipe), data
    counted = issubclass(recipe.language_model.kind, NGram)
    return (CountingModule if counted else TextModule)(recipe), TextDataModule(recipe)


def _remedy(recipe: AnyRecipe) -> str:
    """What to lower when memory runs out."""
    if isinstance(recipe, Recipe):
        return f"lower data.max_batch_seconds, which is {recipe.data.max_batch_seconds}"
    return f"lower text.max_batch_tokens, which is {recipe.text.max_batch_tokens:g}"
