"""Writes the ledger of a run: the seconds spent in each phase, and one line per event."""

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from tqdm import tqdm

from asr.files import append_csv, write
from asr.metering.disturbance import Pace, disturbances
from asr.metering.environment import environment
from asr.metering.ledger_format import FORMAT
from asr.metering.meter import BUSY, Ledger

log = logging.getLogger(__name__)


class LedgerCallback(L.Callback):
    """Keeps the ledger, and shows its lines in the log or a progress bar and in loggers.

    Attributes:
        ledger: the cost of the run.
        line: the last line of the ledger.
        validation_began: start of the validation on the monotonic clock, in seconds.
        validation_cpu: CPU seconds of the last validation in this process.
        pace: the speed of the batches; rank 0 compares them.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.folder = ledger, ledger.folder
        self.line: dict[str, Any] = {}
        self.validation_began = self.validation_cpu = self._cpu_before = 0.0
        self.best = math.inf  # error rate in this session
        self.pace = Pace()
        self._told: set[str] = set()  # kinds of disturbances in the log
        self._busy = 0.0  # busy seconds at the end of the last batch
        self._line_before = (0.0, 0.0)  # audio-seconds or tokens, and busy seconds
        self._before = "step"
        self._bar = tqdm(disable=True)

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Times the data, and passes the lines of the ledger to the loggers."""
        module.data.enter, module.logs = self.ledger.enter, False

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        """Opens the ledger, and writes the environment of this session to ``environment.json``."""
        self._busy = self.ledger.busy_seconds
        heard = module.progress.tokens or self.ledger.counters["audio_seconds"]
        self._line_before = (heard, self._busy)
        if not trainer.is_global_zero:
            return
        if trainer.world_size > 1:
            threads = self.ledger.num_threads
            log.info("training in %d processes, threads of each: %d", trainer.world_size, threads)
        updates, total = module.progress.updates, module.recipe.budget.updates
        # disable=None: the bar is shown only on a terminal.
        self._bar = tqdm(total=total, initial=updates, unit="update", disable=None)
        self.ledger.open(updates)
        facts = {
            **environment(),
            "format": FORMAT,
            "working_directory": str(Path.cwd()),  # the recipe's paths are relative to it
            "device_name": self.ledger.device_name,
            "threads": self.ledger.num_threads,
            "kernel_precision": self.ledger.precision,
        }
        write(self.folder / "environment.json", json.dumps(facts, indent=1))

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the content of the batch, and writes a line at regular intervals."""
        self.ledger.count(**module.amounts(batch))
        rows, length = (batch[0] if isinstance(batch, tuple) else batch.waves).shape
        before, self._busy = self._busy, self.ledger.busy_seconds
        self.pace.add(rows, length, self._busy - before)
        if not module.update_ended:
            return
        self._bar.update()
        due = module.progress.updates % module.recipe.trainer.log_every_n_steps == 0
        if due and module.exhausted is None:  # otherwise a validation writes its line now
            self.write(trainer, module, "step")

    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        """Starts to count time as validation."""
        self.validation_began, self._cpu_before = time.monotonic(), self.ledger.cpu_seconds
        self._before = self.ledger.enter("validation")

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """Writes the line of a validation, and shows examples."""
        self.validation_cpu = self.ledger.cpu_seconds - self._cpu_before
        self.write(trainer, module, "validation", validation=module.metrics)
        if trainer.is_global_zero:
            for reference, hypothesis in module.examples():
                self._bar.clear()
                log.info("  reference  %s\n  hypothesis %s", reference, hypothesis)
        self.ledger.enter(self._before)

    def teardown(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Leaves the terminal in order."""
        self._bar.close()

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        """Leaves the terminal in order."""
        self._bar.close()

    def write(self, trainer: L.Trainer, module: Any, event: str, **facts: Any) -> None:
        """Writes one line to the ledger and to every channel; call it on every rank."""
        self.line = self.ledger.line(
            event, **module.facts(module.means()), **{"validation": None, **facts}
        )
        heard = self.line["tokens" if "tokens" in self.line else "audio_seconds"]
        heard_before, busy_before = self._line_before
        busy = sum(self.line["seconds"][phase] for phase in BUSY)
        self._line_before = (heard, busy)
        trained = heard > heard_before
        self.line["speed"] = (heard - heard_before) / (busy - busy_before) if trained else None
        gpus = 0 if self.ledger.device.type == "cpu" else self.ledger.num_devices
        self.line["disturbances"] = disturbances(self.line, self.pace, gpus)
        if trainer.is_global_zero:
            self.ledger.write(
                self.line,
                **{"finished": False, "reason": None, **facts},
                seed=module.recipe.seed,
                **module.about(),
            )
            self._show(self.line, trainer.loggers, module.progress.metric)
            self._tell_disturbances()

    def _tell_disturbances(self) -> None:
        """Warns once of each kind of disturbance; the first minute of a run tells too little."""
        found = self.line["disturbances"] or []
        for one in found if self.line["wall_seconds"] > 60 else []:
            if one["kind"] not in self._told:
                self._told.add(one["kind"])
                self._bar.clear()
                log.warning("%s; its cost in time does not compare with other runs", one["text"])

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs."""
        state = {"told": sorted(self._told), "validation_cpu": self.validation_cpu}
        return {**state, "pace": self.pace.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the record of an earlier session."""
        self._told, self.validation_cpu = set(state["told"]), state["validation_cpu"]
        self.pace.load_state_dict(state["pace"])

    def _show(self, line: dict[str, Any], loggers: list[Any], metric: str) -> None:
        """Shows a line to Lightning's loggers, in CSV files, and in the log or the bar."""
        busy = max(1e-9, line["seconds"]["step"] + line["seconds"]["data_wait"])
        heard, unit = ("tokens", "tokens/s") if "tokens" in line else ("audio_seconds", "audio-s/s")
        validation = line["validation"] or {}
        row: dict[str, float] = {
            "updates": line["updates"],
            "device_hours": line["device_hours"],
            f"{heard}_per_second": line[heard] / busy,
            "learning_rate": line["learning_rate"],
            **{f"train_{name}": value for name, value in line["train_terms"].items()},
            **{f"validation_{name}": value for name, value in validation.items()},
        }
        for logger in loggers:
            logger.log_metrics(row, step=line["updates"])
        append_csv(self.folder / "logs" / f"{line['event']}.csv", row)
        shown = [] if line["train_loss"] is None else [f"loss {line['train_loss']:.3f}"]
        if "perplexity" in validation:
            shown.append(f"perplexity {validation['perplexity']:.2f}")
        elif validation:
            self.best = min(self.best, validation[metric])
            shown.append(f"{metric.upper()} {100 * validation[metric]:.1f} %")
        elif math.isfinite(self.best):
            shown.append(f"best {metric.upper()} {100 * self.best:.1f} %")
        shown.append(f"{line['speed'] or row[f'{heard}_per_second']:.0f} {unit}")
        hours = "core-h" if self.ledger.device.type == "cpu" else "GPU-h"
        shown.append(f"{line['device_hours']:.4f} {hours}")
        if self._bar.disable:
            log.info("%s %d: %s", line["event"], line["updates"], "  ".join(shown))
        else:
            self._bar.set_postfix_str("  ".join(shown))
