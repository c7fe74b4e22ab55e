"""Ends a run: when its budget is spent, at a signal, or when a callback stops it."""

import logging
import math
import signal
from typing import Any

import lightning.pytorch as L

from asr.training.checkpoint import CheckpointCallback
from asr.training.ledger import LedgerCallback
from asr.training.machine import Interruption
from asr.training.ranks import from_rank_zero, summed

log = logging.getLogger(__name__)


class SignalCallback(L.Callback):
    """Saves and ends the run after the current update if it got SIGINT or SIGTERM.

    Lightning's own handler saves nothing and ends with status 0.
    """

    def __init__(
        self, interruption: Interruption, checkpoints: CheckpointCallback, account: LedgerCallback
    ) -> None:
        self.interruption, self.checkpoints, self.account = interruption, checkpoints, account

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *batch: Any) -> None:
        """Saves and ends the process if rank 0 got a signal.

        Raises:
            SystemExit: 128 plus the signal on rank 0. Other ranks exit with 0, because the launcher
                would otherwise kill rank 0.
        """
        if not module.update_ended:
            return
        if not (number := from_rank_zero(trainer, self.interruption.signal)):
            return
        self.checkpoints.save(trainer, module)
        name = signal.Signals(number).name
        self.account.write(trainer, module, "end", reason=f"told to end by {name}")
        updates = module.progress.updates
        log.info("%s: saved at update %d; the same command continues from there", name, updates)
        raise SystemExit(128 + number if trainer.is_global_zero else 0)

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        """Ends the process at a second Ctrl-C; Lightning would exit with status 1."""
        if isinstance(exception, KeyboardInterrupt):
            raise exception


class BudgetCallback(L.Callback):
    """Validates at shares of the budget, and ends a run when it is spent.

    The budget includes the last validation.
    """

    def __init__(self, account: LedgerCallback) -> None:
        self.account, self.reason = account, "a callback stopped the run"
        self._interval: float | None = None  # of validations, while one at a share is due

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Tells the module that the share of the budget will be known."""
        module.budgeted = True

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        """Ends the run before the first update if the budget is already spent.

        Raises:
            ValueError: the budget is in CPU-hours, and an earlier session did not measure them.
        """
        budget, earlier = module.recipe.budget, self.account.ledger.earlier["cpu_seconds"]
        if budget.cpu_hours is not None and math.isnan(earlier):
            raise ValueError(
                f"budget.cpu_hours {budget.cpu_hours}: an earlier session of this run did not "
                "measure CPU time; use budget.device_hours or updates"
            )
        self._check(trainer, module)
        if trainer.should_stop and module.progress.updates:
            log.warning(
                "%s before: nothing is left to train; raise the budget to continue", self.reason
            )

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *batch: Any) -> None:
        """Checks the budget after each update; Lightning validates before it stops."""
        if not module.update_ended:
            return
        self._check(trainer, module)
        progress, budget = module.progress, module.recipe.budget
        shares = module.recipe.validation.at_shares
        if shares and progress.validated_at < 0 and (budget.cpu_hours or budget.device_hours):
            # A share of time includes its validation, whose duration must be measured before.
            shares = [min(shares) / 4]
        if any(progress.validated_share < share <= module.spent for share in shares):
            self._interval, trainer.val_check_batch = trainer.val_check_batch, 1  # validates now

    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        """Remembers the share of the budget at which the model is validated."""
        module.progress.validated_share = module.spent
        if self._interval is not None:
            self._interval, trainer.val_check_batch = None, self._interval

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """Checks the budget after each validation, which counts as well."""
        self._check(trainer, module)

    def _check(self, trainer: L.Trainer, module: Any) -> None:
        """Ends the run if a limit is reached, and tells the module the shares that are spent."""
        if trainer.should_stop:
            return
        spent, progress = self._spent(trainer, module), module.progress
        limits = {name: getattr(module.recipe.budget, name) for name in spent}
        if not progress.updates:
            progress.spent_before = spent
        module.spent, module.begun = (
            max(of.get(name, 0.0) / limits[name] if limits[name] else 1.0 for name in limits)
            for of in (spent, progress.spent_before)
        )
        reached = [f"budget.{name} {limits[name]} reached" for name in spent
                   if spent[name] >= limits[name]]  # fmt: skip
        if (reason := module.exhausted or next(iter(reached), None)) is not None:
            self.reason, trainer.should_stop = reason, True

    def _spent(self, trainer: L.Trainer, module: Any) -> dict[str, float]:
        """Returns what is spent of each limit of the budget, the same on every rank."""
        budget, ledger, progress = module.recipe.budget, self.account.ledger, module.progress
        spent: dict[str, float] = {}
        if budget.updates is not None:
            spent["updates"] = progress.updates
        if budget.audio_hours is not None:
            spent["audio_hours"] = summed(trainer, ledger.counters["audio_seconds"]) / 3600
        # The last validation is still to come. An average of the last validations has its own.
        pending = int(progress.validated_at != progress.updates)
        if module.average and module.recipe.optimizer.average_last:
            due = progress.updates % module.recipe.validation.every_updates == 0
            pending = 1 + pending * due
        if budget.cpu_hours is not None:
            seconds = ledger.cpu_seconds + pending * self.account.validation_cpu
            spent["cpu_hours"] = summed(trainer, seconds) / 3600
        if budget.device_hours is not None:
            validation = pending * progress.validation_seconds * ledger.num_devices / 3600
            spent["device_hours"] = from_rank_zero(trainer, ledger.device_hours + validation)
        return spent

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        """Validates if the last model has not been validated, and writes the last line."""
        averages = module.recipe.optimizer.average_last and module.average and not module.final
        if averages or module.progress.validated_at != module.progress.updates:
            # Lightning validates only after an update, and this session may have had none.
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True
        self.account.write(trainer, module, "end", finished=True, reason=self.reason)
