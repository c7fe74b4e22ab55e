"""What a person sees of a run while it trains: log lines or a progress bar, TensorBoard, CSV."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from asr.files import append_csv

log = logging.getLogger(__name__)


class Journal:
    """Shows the lines of a ledger."""

    def __init__(
        self, folder: Path, loggers: Sequence[Any], total: int | None, done: int, shown: bool
    ) -> None:
        """Begins a progress bar.

        Args:
            folder: of the run.
            loggers: of Lightning's.
            total: updates of the run, where they are known.
            done: updates until now.
            shown: whether this process shows anything.
        """
        self.folder, self.loggers = folder, loggers
        self.metric, self.best = "wer", math.inf
        self.shown = shown
        silent = None if shown else True  # None: only on a terminal
        self.bar = tqdm(total=total, initial=done, unit="update", disable=silent)

    def show(self, line: dict[str, Any]) -> None:
        """One line of the ledger, on every channel."""
        busy = max(1e-9, line["seconds"]["step"] + line["seconds"]["data_wait"])
        heard, unit = ("tokens", "tokens/s") if "tokens" in line else ("audio_seconds", "audio-s/s")
        row: dict[str, float] = {
            "updates": line["updates"],
            "device_hours": line["device_hours"],
            f"{heard}_per_second": line[heard] / busy,
            "learning_rate": line["learning_rate"],
            **{f"train_{name}": value for name, value in line["train_terms"].items()},
            **{f"validation_{k}": v for k, v in (line["validation"] or {}).items()},
        }
        for logger in self.loggers:
            logger.log_metrics(row, step=line["updates"])
        append_csv(self.folder / "logs" / f"{line['event']}.csv", row)
        shown = [] if line["train_loss"] is None else [f"loss {line['train_loss']:.3f}"]
        if line["validation"] and "perplexity" in line["validation"]:
            shown.append(f"perplexity {line['validation']['perplexity']:.2f}")
        elif line["validation"]:
            rate = line["validation"][self.metric]
            self.best = min(self.best, rate)
            shown.append(f"{self.metric.upper()} {100 * rate:.1f} %")
        elif math.isfinite(self.best):
            shown.append(f"best {self.metric.upper()} {100 * self.best:.1f} %")
        speed = f"{row[f'{heard}_per_second']:.0f} {unit}"
        shown += [speed, f"{line['device_hours']:.4f} device-h"]
        if self.bar.disable:
            log.info("%s %d: %s", line["event"], line["updates"], "  ".join(shown))
        else:
            self.bar.set_postfix_str("  ".join(shown))

    def compare(self, examples: Sequence[tuple[str, str]]) -> None:
        """Shows references beside the hypotheses of the model."""
        if self.shown:
            for reference, hypothesis in examples:
                self.bar.clear()
                log.info("  reference  %s\n  hypothesis %s", reference, hypothesis)

    def close(self) -> None:
        """Leaves the terminal in order."""
        self.bar.close()
