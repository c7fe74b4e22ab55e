"""The ledger of a run on Lightning's Trainer: every second in its phase, and a line for events."""

import functools
import json
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from asr.files import write
from asr.metering.environment import environment
from asr.metering.meter import Ledger
from asr.training.journal import Journal
from asr.training.ranks import summed
from asr.training.run_folder import FORMAT


class Account(L.Callback):
    """Keeps the ledger and shows its lines.

    Attributes:
        line: the last one.
        validation_began: when, by the monotonic clock.
    """

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.folder, self.ledger = folder, ledger
        self.line: dict[str, Any] = {}
        self.validation_began = 0.0
        self._before = "step"
        self.journal: Journal | None = None

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Times the data. Loggers are given the lines of the ledger."""
        module.data.enter, module.logs = self.ledger.enter, False

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        """Opens the ledger, and writes what this session of the run is made with."""
        updates = module.progress.updates
        total, shown = module.recipe.budget.updates, trainer.is_global_zero
        self.journal = Journal(self.folder, trainer.loggers, total, updates, shown)
        self.journal.metric = module.progress.metric
        if trainer.is_global_zero:
            self.ledger.open(updates)
            facts = {
                **environment(),
                "format": FORMAT,
                "working_directory": str(Path.cwd()),  # from which the recipe's paths count
                "device_name": self.ledger.device_name,
                "threads": torch.get_num_threads(),
                "kernel_precision": self.ledger.precision,
            }
            write(self.folder / "environment.json", json.dumps(facts, indent=1))

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts what the batch held, and writes a line now and then."""
        self.ledger.count(**module.amounts(batch))
        if not module.update_ended:
            return
        assert self.journal is not None
        self.journal.bar.update()
        due = module.progress.updates % module.recipe.trainer.log_every_n_steps == 0
        if due and module.exhausted() is None:  # else the line of a validation comes at once
            self.write(trainer, module, "step")

    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        """From now on, time is validation's."""
        self.validation_began = time.monotonic()
        self._before = self.ledger.enter("validation")

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """Writes the line of a validation."""
        self.write(trainer, module, "validation", validation=module.metrics)
        assert self.journal is not None
        self.journal.compare(module.examples())
        self.ledger.enter(self._before)

    def teardown(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Leaves the terminal in order."""
        if self.journal is not None:
            self.journal.close()

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        """Leaves the terminal in order."""
        self.teardown(trainer, module, "fit")

    def write(self, trainer: L.Trainer, module: Any, event: str, **facts: Any) -> None:
        """One line into the ledger and the journal; call it on every rank."""
        total = functools.partial(summed, trainer)
        told = module.facts(module.means())
        self.line = self.ledger.line(event, total, **told, **{"validation": None, **facts})
        if trainer.is_global_zero:
            self.ledger.write(
                self.line,
                **{"finished": False, "reason": None, **facts},
                seed=module.recipe.seed,
                num_threads=torch.get_num_threads(),
                **module.about(),
            )
            assert self.journal is not None
            self.journal.show(self.line)
