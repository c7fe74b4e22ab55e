"""Saves the state of a run atomically, and resumes the run at its next batch."""

import logging
import math
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from asr.config import strict_yaml
from asr.data.utterances import CACHED_ORDER
from asr.files import check_format, write
from asr.training.ledger import LedgerCallback
from asr.training.ranks import from_rank_zero
from asr.training.task import ORDER, Progress

log = logging.getLogger(__name__)

# Version of ``last.ckpt``. Version 1 stored no number. In version 2 each process trained on other
# batches, and the position counted the batches of all processes. In version 3 all processes share
# each batch, and the position counts the shared batches.
FORMAT = 3
KEPT = "kept"  # folder of the states off which runs can branch
PREFIX = "model."  # prefix of the names of weights in a module


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Reads a checkpoint to the CPU without running code; returns None if there is no file.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        # Earlier versions had other names.
        if "data" not in state:
            state["data"] = {"position": state["position"]}
        if "best_wer" in state:  # the WER alone chose the best model then
            state["best"] = (state["best_wer"], math.inf)
        elif isinstance(state["best"], float):
            state["best"] = (state["best"],)
        if "data" in (same := state["same"]) and ORDER not in same:  # of a speech recogniser
            same[ORDER] = same["data"].pop("order", CACHED_ORDER)
    except Exception as error:  # unpickling may raise any error
        raise _damaged(path, error) from None
    check_format(path, FORMAT, state)
    return state


def kept_checkpoint(run: Path, update: int) -> Path:
    """Returns the path of the state that a run kept after an update.

    Raises:
        ValueError: the state was not kept; the message names the states that were.
    """
    path = run / KEPT / f"{update}.ckpt"
    if not path.is_file():
        kept = ", ".join(map(str, sorted(int(p.stem) for p in (run / KEPT).glob("*.ckpt"))))
        raise ValueError(
            f"{path} does not exist; " + (f"{run} kept the states after {kept} updates" if kept
            else "train with --trainer.keep_checkpoints_every N to keep states")
        )  # fmt: skip
    return path


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
    return ValueError(f"{path} is damaged ({reason:.200}); remove it to begin again from update 0")


class CheckpointCallback(L.Callback):
    """Saves and resumes a run, and saves its models.

    It replaces Lightning's own checkpoints, which have two faults. They store the counters of
    Lightning's loops, and some resumed runs then repeat batches and validations. A crash can also
    leave such a checkpoint incomplete. Here Lightning's counters are computed from the position in
    the data and the progress of the task.
    """

    def __init__(self, account: LedgerCallback, saved: dict[str, Any] | None) -> None:
        """Prepares to resume from a saved state.

        Args:
            account: callback that keeps the ledger of the run.
            saved: what ``read_checkpoint`` returned for the run; None: the run is new.
        """
        self.folder, self.account, self.saved = account.folder, account, saved
        self.path = self.folder / "last.ckpt"
        self._saved_at = time.monotonic()

    # --- resuming ---

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Checks that the data and the kind of device are those with which the run began.

        Raises:
            ValueError: the data or the kind of device changed; the message says which.
        """
        if self.saved is None:
            return
        before = self.saved["same"]
        for name, now in module.resume_invariants().items():
            if before.get(name) != now:
                keys = "data.cache_gib and data.shuffle_seconds" if name == ORDER else "it"
                raise ValueError(
                    f"{self.folder}: the {name} changed since the run began (was "
                    f"{before.get(name)}, is {now}); restore {keys}, or choose another --run"
                )

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        """Resumes the run from the saved state.

        Raises:
            ValueError: the checkpoint is damaged.
        """
        if (saved := self.saved) is None:
            return
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        names = [field.name for field in fields(Progress)]
        try:
            weights = {PREFIX + name: value for name, value in saved["model"].items()}
            trainer.strategy.load_model_state_dict({"state_dict": weights})
            (*module.average, module.model)[0].load_state_dict(saved["average"])
            trainer.strategy.load_optimizer_state_dict({"optimizer_states": [saved["optimizer"]]})
            module.data.load_state_dict(saved["data"])
            module.progress = Progress(**{name: saved[name] for name in names if name in saved})
            for callback in callbacks:
                if (state := saved.get("callbacks", {}).get(callback.state_key)) is not None:
                    callback.load_state_dict(state)
            self.account.ledger.restore(saved["ledger"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise _damaged(self.path, error) from None
        self.saved = None  # frees its memory
        updates = module.progress.updates
        log.info("resumed %s at update %d", self.folder, updates)
        processes = module.data.position / max(1, updates * trainer.accumulate_grad_batches)
        if saved.get("format", 1) < 3 and processes >= 2:
            log.warning(
                "this run began with a batch for each process; now all processes share one batch, "
                "so an update has 1/%d of the data; for updates of the old size, begin again with "
                "larger batches", processes
            )  # fmt: skip

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        """Sets Lightning's counters, which decide when validations, loggers and callbacks run."""
        updates, loop = module.progress.updates, trainer.fit_loop.epoch_loop
        loop.batch_progress.total.ready = updates * trainer.accumulate_grad_batches
        loop.automatic_optimization.optim_progress.optimizer.step.total.completed = updates
        loop._batches_that_stepped = updates
        self._saved_at = time.monotonic()

    # --- saving ---

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *batch: Any) -> None:
        """Saves the state if it is due; the validation after an update saves the state itself."""
        options, updates = module.recipe, module.progress.updates
        if not module.update_ended or updates % options.validation.every_updates == 0:
            return
        waited = time.monotonic() - self._saved_at  # the clock of this process
        due = from_rank_zero(trainer, waited > options.trainer.checkpoint_every_seconds)
        if due or _is_kept(module):
            self.save(trainer, module)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """Saves the state, and also the model if it is the best so far."""
        progress, score = module.progress, module.score()
        if score < progress.best:
            progress.best = score
            with self.account.ledger.during("checkpoint"):
                self.save_model(trainer, module, "best", self.account.line)
        progress.validated_at = progress.updates
        progress.validation_seconds = time.monotonic() - self.account.validation_began
        if trainer.optimizers and (module.update_ended or not module.progress.updates):
            self.save(trainer, module)  # a run cannot resume in the middle of an update

    def save(self, trainer: L.Trainer, module: Any) -> None:
        """Saves the state from which a run resumes, and the latest model; call it on every rank."""
        ledger, strategy = self.account.ledger, trainer.strategy
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        with ledger.during("checkpoint"):
            strategy.barrier()
            line = ledger.line("checkpoint")
            weights = strategy.lightning_module_state_dict()
            state = {
                "format": FORMAT,
                "model": {name.removeprefix(PREFIX): value for name, value in weights.items()},
                "average": (*module.average, module.model)[0].state_dict(),
                "optimizer": strategy.optimizer_state(trainer.optimizers[0]),
                "data": module.data.state_dict(),
                "tokenizer": dict(module.data.tokenizer.state()),
                "same": module.resume_invariants(),
                "callbacks": {c.state_key: s for c in callbacks if (s := c.state_dict())},
                **asdict(module.progress),
                "ledger": line,
            }
            if trainer.is_global_zero:
                write(self.path, lambda file: torch.save(state, file))
                if _is_kept(module):
                    path = self.folder / KEPT / f"{module.progress.updates}.ckpt"
                    path.parent.mkdir(exist_ok=True)
                    write(path, lambda file: torch.save(state, file))
            self.save_model(trainer, module, "last", line)
            strategy.barrier()
        self._saved_at = time.monotonic()

    def save_model(self, trainer: L.Trainer, module: Any, name: str, line: dict[str, Any]) -> None:
        """Saves the model that validations evaluate as the model folder ``name`` of the run."""
        if trainer.is_global_zero:
            summary = {
                "updates": module.progress.updates,
                "audio_hours": line["audio_seconds"] / 3600,
                "device_hours": line["device_hours"],
                "device_name": self.account.ledger.device_name,
                "validation": line.get("validation"),
                "seed": module.recipe.seed,
                "recipe": strict_yaml.tree_of(module.recipe),
            }
            module.save_model(self.folder / name, summary)


def _is_kept(module: Any) -> bool:
    """Returns whether the state after this update is kept, so that a run can branch off it."""
    every = module.recipe.trainer.keep_checkpoints_every
    return bool(every) and module.progress.updates % every == 0
