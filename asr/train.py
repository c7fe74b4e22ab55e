"""The training run: one loop that reads top to bottom, resumable at any moment.

The loop runs on Lightning Fabric (devices, precision, strategies). Every random number is a
function of (seed, update), every batch of (seed, batches taken), so that a run killed at any moment
and started again ends with the weights of a run that was not.
"""

import copy
import ctypes
import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.loggers import TensorBoardLogger
from torch import Tensor
from tqdm import tqdm

from asr import config
from asr.batch import Batch
from asr.data import SpeechData, read_corpus
from asr.decoders.decoder import Loss
from asr.files import append_csv, remove_stale, write
from asr.meter import Ledger
from asr.model import SpeechModel, build_model, save_model
from asr.recipe import OptimizerOptions, Recipe, TrainerOptions, claimed, finished
from asr.scoring import align, characters, pooled

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
NONFINITE_PATIENCE = 10  # updates in a row without a finite gradient before a run gives up


def train(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Trains into a run folder, from where it stands; returns the last line of the ledger.

    Raises:
        ValueError: the folder holds another run, the data do not fit, or training diverges.
    """
    if (line := finished(recipe, folder)) is not None:
        return line
    keep_freed_memory()
    fabric = make_fabric(recipe.trainer, folder)
    fabric.launch()
    with claimed(recipe, folder):
        ledger = Ledger(
            folder,
            fabric.device,
            fabric.world_size,
            recipe.trainer.precision,
            writes=fabric.is_global_zero,
        )
        try:
            run = Run(recipe, folder, fabric, ledger)
            run.resume()
            return run.fit()
        finally:
            ledger.close()


def make_fabric(options: TrainerOptions, folder: Path) -> L.Fabric:
    """The devices of a run.

    Raises:
        ValueError: they are not there, or do not support the precision.
    """
    if options.precision == "16-mixed" and not torch.cuda.is_available():
        raise ValueError("trainer.precision 16-mixed needs a GPU; use bf16-mixed or 32-true")
    try:
        return L.Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            precision=options.precision,
            loggers=TensorBoardLogger(folder, name="logs", version=""),
        )
    except Exception as error:  # Lightning's, of many kinds
        raise ValueError(
            f"trainer: {error}; check accelerator ({options.accelerator}) and devices "
            f"({options.devices}), or use --trainer.accelerator cpu"
        ) from None


def keep_freed_memory() -> None:
    """Glibc's allocator keeps what a step frees, for the next one to use.

    By default it returns large blocks to the system and takes them back page by page: a quarter of
    the time of a training step on a CPU. Elsewhere than on glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class Run:
    """The state of a training run and the loop over it."""

    def __init__(self, recipe: Recipe, folder: Path, fabric: L.Fabric, ledger: Ledger):
        self.recipe, self.folder, self.fabric, self.ledger = recipe, folder, fabric, ledger
        self.corpus = read_corpus(recipe.data.corpus)
        torch.manual_seed(recipe.seed)
        texts = SpeechData.texts(recipe.data)
        tokenizer = recipe.tokenizer(texts)
        self.data = SpeechData(recipe.data, tokenizer, recipe.features.sample_rate, recipe.seed)
        model = build_model(
            recipe.features,
            recipe.encoder,
            recipe.decoder,
            recipe.search,
            tokenizer,
            self.corpus["normaliser"],
        )
        model.features.fit(self.data.sample(500))
        self.average = copy.deepcopy(model).to(fabric.device).eval().requires_grad_(False)
        self.search = recipe.validation.search()
        self.model, self.optimizer = fabric.setup(model, make_optimizer(model, recipe.optimizer))
        self.parameters = model.num_parameters()
        self.updates = self.nonfinite = self.nonfinite_in_a_row = 0
        self.best_wer = math.inf
        self.validated_at = -1
        self.validation_seconds = 0.0
        self.terms: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}
        self.saved_at = time.monotonic()

    # --- the loop ---

    def fit(self) -> dict[str, Any]:
        """Trains until the budget is reached, then validates and saves a last time."""
        ledger, recipe = self.ledger, self.recipe
        if self.fabric.is_global_zero:
            ledger.open(self.updates)
            self.write_environment()
        batches = self.batches()
        self.try_longest_batch()
        total = recipe.budget.updates
        with tqdm(total=total, initial=self.updates, unit="update", disable=None) as bar:
            while (reason := self.budget_reached()) is None:
                ledger.enter("data_wait")
                batch = next(batches)
                ledger.enter("step")
                self.step(batch)
                bar.update()
                if self.updates % recipe.trainer.log_every_n_steps == 0:
                    self.write("step", bar)
                if self.updates % recipe.validation.every_updates == 0:
                    self.validate(bar)
                    self.save()
                elif time.monotonic() - self.saved_at > recipe.trainer.checkpoint_every_seconds:
                    self.save()
            if self.validated_at != self.updates:
                self.validate(bar)
            self.save()
            line = self.write("end", bar, finished=True, reason=reason)
        return line

    def batches(self) -> Iterator[Batch]:
        """The endless training batches, from where the run stands, on the device."""
        loader = self.data.train_batches(self.fabric.global_rank, self.fabric.world_size)
        for batch in loader:
            yield batch.to(self.fabric.device, non_blocking=True)

    def step(self, batch: Batch) -> None:
        """One update; without a finite gradient the weights stay and the batch is counted."""
        loss, frames = self.forward(batch, self.updates)
        self.fabric.backward(self.total(loss))
        norm = self.fabric.clip_gradients(
            self.model,
            self.optimizer,
            max_norm=self.recipe.optimizer.clip_norm,
            error_if_nonfinite=False,
        )
        assert norm is not None
        finite = bool(norm.isfinite())
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.optimizer.rate(self.updates + 1)
            self.optimizer.step()
            self.update_average()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        self.data.batches_taken += 1
        self.count_nonfinite(finite, batch)
        self.remember(loss)
        self.count(batch, frames)

    def forward(self, batch: Batch, number: int) -> tuple[Loss, Tensor]:
        """The loss of a batch, with the augmentation and dropout of update ``number``."""
        augmentation = self.recipe.augmentation
        seed = self.random_seed(number)
        torch.manual_seed(seed)
        waves, lengths = augmentation.perturb(
            batch.waves, batch.wave_lengths, self.recipe.features.sample_rate, seed
        )
        loss, frames = self.model(
            waves,
            lengths,
            batch.tokens,
            batch.token_lengths,
            lambda x, frames: augmentation.cover(x, frames, seed + 1),
        )
        self.weights = {name: term.weight for name, term in loss.terms.items()}
        return loss, frames

    def random_seed(self, number: int) -> int:
        """One for every update and rank, so that resuming needs no generator's state."""
        rank = number * self.fabric.world_size + self.fabric.global_rank
        return (self.recipe.seed * 1_000_003 + rank) * 2

    def total(self, loss: Loss) -> Tensor:
        """The weighted sum of the terms' means over all ranks' tokens.

        Ranks average their gradients, so each divides by the mean count, not by its own.
        """
        if self.fabric.world_size == 1:
            return loss.total()
        means = [
            t.weight * t.sum / self.reduce(t.count.float(), "mean") for t in loss.terms.values()
        ]
        return torch.stack(means).sum()

    def reduce(self, value: Tensor, how: str) -> Tensor:
        """A tensor over all ranks."""
        reduced = self.fabric.all_reduce(value, reduce_op=how)
        assert isinstance(reduced, Tensor)
        return reduced

    @torch.no_grad()
    def update_average(self) -> None:
        """Exponential moving average, its decay rising with the updates so that it starts well."""
        decay = min(self.recipe.optimizer.ema_decay, (1 + self.updates) / (10 + self.updates))
        average: list[Tensor] = list(self.average.parameters())
        current: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(average, current, 1 - decay)

    def count_nonfinite(self, finite: bool, batch: Batch) -> None:
        """Counts updates without a finite gradient and gives up when they repeat."""
        self.nonfinite_in_a_row = 0 if finite else self.nonfinite_in_a_row + 1
        if finite:
            return
        self.nonfinite += 1
        log.warning("update %d: gradient not finite, batch skipped: %s", self.updates, batch.ids)
        if self.nonfinite_in_a_row >= NONFINITE_PATIENCE:
            raise ValueError(
                f"no finite gradient in {NONFINITE_PATIENCE} updates in a row, the last at update "
                f"{self.updates}: lower optimizer.lr ({self.recipe.optimizer.lr}) or raise "
                f"optimizer.warmup_updates; {self.folder}/last.ckpt holds the state before"
            )

    def remember(self, loss: Loss) -> None:
        """Keeps the sums for the next line of the log, on the device, without waiting for it."""
        for name, term in loss.terms.items():
            pair = torch.stack([term.sum.detach(), term.count.to(term.sum.dtype)])
            self.terms[name] = self.terms.get(name, torch.zeros_like(pair)) + pair
        self.terms["infeasible"] = self.terms.get("infeasible", 0) + loss.infeasible

    def count(self, batch: Batch, frames: Tensor) -> None:
        """Tells the ledger what the update held."""
        rate = self.recipe.features.sample_rate
        sizes, tokens = frames.tolist(), batch.token_lengths.tolist()
        model: SpeechModel = self.model.module
        padded = model.flops([max(sizes)] * len(sizes), [max(tokens)] * len(tokens))
        self.ledger.count(
            audio_seconds=int(batch.wave_lengths.sum()) / rate,
            padded_seconds=batch.waves.numel() / rate,
            train_flops=3 * model.flops(sizes, tokens),  # backward costs twice the forward pass
            padded_train_flops=3 * padded,
        )

    def try_longest_batch(self) -> None:
        """Running out of memory happens now or never; changes no weight."""
        batch = self.data.longest_batch().to(self.fabric.device)
        try:
            loss, _ = self.forward(batch, 0)
            self.fabric.backward(self.total(loss))
        except torch.OutOfMemoryError:
            longest = max(batch.wave_lengths.tolist()) / self.recipe.features.sample_rate
            raise ValueError(
                f"out of memory on the longest batch ({len(batch.ids)} x {longest:.1f} s); lower "
                f"data.max_batch_seconds ({self.recipe.data.max_batch_seconds})"
            ) from None
        self.optimizer.zero_grad(set_to_none=True)

    def budget_reached(self) -> str | None:
        """Why training ends now; the final validation has its share of the budget."""
        budget, ledger = self.recipe.budget, self.ledger
        if budget.updates is not None and self.updates >= budget.updates:
            return f"budget.updates {budget.updates} reached"
        if budget.audio_hours is not None:
            heard = ledger.totals(self.sum)["audio_seconds"] / 3600
            if heard >= budget.audio_hours:
                return f"budget.audio_hours {budget.audio_hours} reached"
        if budget.device_hours is not None:
            pending = self.validation_seconds if self.validated_at != self.updates else 0.0
            spent = ledger.device_hours + pending * ledger.num_devices / 3600
            # Ranks read different clocks: the first one's decides for all.
            if self.fabric.broadcast(spent >= budget.device_hours):
                return f"budget.device_hours {budget.device_hours} reached"
        return None

    # --- validation ---

    def validate(self, bar: Any) -> None:
        """Loss, WER and CER of the moving average; the best model so far is saved."""
        began = time.monotonic()
        with self.ledger.during("validation"):
            metrics = self.measure()
            line = self.write("validation", bar, validation=metrics)
            if metrics["wer"] < self.best_wer:
                self.best_wer = metrics["wer"]
                self.save_to("best", line)
        self.validated_at = self.updates
        self.validation_seconds = time.monotonic() - began

    @torch.inference_mode()
    def measure(self) -> dict[str, Any]:
        """The average model on the validation split, pooled over ranks."""
        model = self.average
        pairs: list[tuple[str, str]] = []
        # A rank without a batch takes part in the sums with zeros.
        sums = {f"{name}_{part}": 0.0 for name in self.weights for part in ("sum", "count")}
        unfinished = 0
        for batch in self.data.validation_batches(self.fabric.global_rank, self.fabric.world_size):
            batch = batch.to(self.fabric.device)
            with self.fabric.autocast():
                encoded, lengths = model.encode(batch.waves, batch.wave_lengths)
                loss = model.decoder.loss(encoded, lengths, batch.tokens, batch.token_lengths)
                found = self.search(model.decoder, encoded, lengths)
            best = [hypotheses[0] for hypotheses in found]
            unfinished += sum(not hypothesis.finished for hypothesis in best)
            texts = [model.text(hypothesis) for hypothesis in best]
            pairs += zip(batch.texts, texts, strict=True)
            for name, term in loss.terms.items():
                sums[f"{name}_sum"] += float(term.sum)
                sums[f"{name}_count"] += float(term.count)
        references, hypotheses = [r for r, _ in pairs], [h for _, h in pairs]
        words = pooled(align(references, hypotheses)[0])
        letters = characters(references, hypotheses)
        sums |= {"word_errors": words.errors, "words": words.words}
        sums |= {"character_errors": letters.errors, "characters": letters.words}
        totals = {name: self.sum(value) for name, value in sums.items()}
        losses = {
            name: totals[f"{name}_sum"] / max(1.0, totals[f"{name}_count"]) for name in self.weights
        }
        return {
            "wer": totals["word_errors"] / max(1.0, totals["words"]),
            "cer": totals["character_errors"] / max(1.0, totals["characters"]),
            "loss": sum(weight * losses[name] for name, weight in self.weights.items()),
            **{f"{name}_loss": value for name, value in losses.items()},
            "utterances": int(self.sum(len(pairs))),
            "words": int(totals["words"]),
            "unfinished": int(self.sum(unfinished)),
        }

    def sum(self, value: float) -> float:
        """One number summed over all ranks."""
        if self.fabric.world_size == 1:
            return value
        number = torch.tensor(value, dtype=torch.float64, device=self.fabric.device)
        return float(self.reduce(number, "sum"))

    # --- what is written ---

    def write(self, event: str, bar: Any, **facts: Any) -> dict[str, Any]:
        """One line into ledger, CSV, TensorBoard, log and progress bar."""
        losses = {n: p.tolist() for n, p in self.terms.items() if n != "infeasible"}
        means = {name: total / max(1.0, count) for name, (total, count) in losses.items()}
        self.terms = {}
        line = self.ledger.line(
            event,
            self.sum,
            updates=self.updates,
            epoch=self.data.epoch(self.fabric.world_size),
            train_loss=means,
            learning_rate=self.recipe.optimizer.rate(self.updates),
            nonfinite_updates=self.nonfinite,
            **{"validation": None, **facts},
        )
        if self.fabric.is_global_zero:
            self.ledger.write(
                line,
                **{"finished": False, "reason": None, **facts},
                parameters=self.parameters,
                seed=self.recipe.seed,
            )
            self.log(line, bar)
        return line

    def log(self, line: dict[str, Any], bar: Any) -> None:
        """The human side of a ledger line."""
        step_seconds = line["seconds"]["step"] + line["seconds"]["data_wait"]
        row: dict[str, float] = {
            "updates": line["updates"],
            "device_hours": line["device_hours"],
            "audio_seconds_per_second": line["audio_seconds"] / max(1e-9, step_seconds),
            "learning_rate": line["learning_rate"],
            **{f"train_{name}": value for name, value in line["train_loss"].items()},
            **{f"validation_{k}": v for k, v in (line["validation"] or {}).items()},
        }
        self.fabric.log_dict(row, step=self.updates)
        append_csv(self.folder / "logs" / f"{line['event']}.csv", row)
        shown = []
        if line["train_loss"]:
            shown.append(f"loss {sum(line['train_loss'].values()):.3f}")
        if line["validation"]:
            shown.append(f"WER {100 * line['validation']['wer']:.1f} %")
        elif math.isfinite(self.best_wer):
            shown.append(f"best WER {100 * self.best_wer:.1f} %")
        shown.append(f"{row['audio_seconds_per_second']:.0f} audio-s/s")
        shown.append(f"{line['device_hours']:.4f} device-h")
        if bar.disable:
            log.info("%s %d: %s", line["event"], self.updates, "  ".join(shown))
        else:
            bar.set_postfix_str("  ".join(shown))

    def write_environment(self) -> None:
        """What the run was made with, of its latest session."""
        facts = {**config.environment(), "device_name": self.ledger.device_name}
        write(self.folder / "environment.json", json.dumps(facts, indent=1))

    # --- saving ---

    def save(self) -> None:
        """The state to resume from, whole or not at all, and the latest model."""
        with self.ledger.during("checkpoint"):
            self.fabric.barrier()
            account = {"ledger": self.ledger.line("checkpoint", self.sum)}
            if self.fabric.is_global_zero:
                state = {**self.state(), **account}
                write(self.folder / "last.ckpt", lambda file: torch.save(state, file))
                self.save_to("last", account["ledger"])
            self.fabric.barrier()
        self.saved_at = time.monotonic()

    def save_to(self, name: str, line: dict[str, Any]) -> None:
        """The moving average as a model folder."""
        if not self.fabric.is_global_zero:
            return
        summary = {
            "corpus": {k: self.corpus[k] for k in ("name", "synthetic", "normaliser")},
            "longest_utterance_seconds": max(self.data.train.seconds),
            "updates": self.updates,
            "audio_hours": line["audio_seconds"] / 3600,
            "device_hours": line["device_hours"],
            "device_name": self.ledger.device_name,
            "validation": line.get("validation"),
            "seed": self.recipe.seed,
            "recipe": config.tree_of(self.recipe),
        }
        save_model(self.average, self.folder / name, summary)

    def state(self) -> dict[str, Any]:
        """Plain values and tensors: loads with ``weights_only=True``."""
        return {
            "model": self.model.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "data": self.data.state_dict(),
            **{name: getattr(self, name) for name in COUNTS},
        }

    def resume(self) -> None:
        """Takes up the run at its last checkpoint, when there is one.

        Raises:
            ValueError: the checkpoint is damaged.
        """
        if self.fabric.is_global_zero:
            remove_stale(self.folder)
        path = self.folder / "last.ckpt"
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.fabric.device, weights_only=True)
            self.model.module.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.data.load_state_dict(state["data"])
            for name in COUNTS:
                setattr(self, name, state[name])
            self.ledger.restore(state["ledger"])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # unpickling raises anything
            reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
            raise ValueError(
                f"{path} is damaged ({reason:.200}); remove it to begin again from update 0"
            ) from None
        log.info("resumed %s at update %d", self.folder, self.updates)


COUNTS = (
    "updates",
    "nonfinite",
    "nonfinite_in_a_row",
    "best_wer",
    "validated_at",
    "validation_seconds",
)


def make_optimizer(model: SpeechModel, options: OptimizerOptions) -> torch.optim.Optimizer:
    """AdamW; biases, gains and other vectors are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas)
