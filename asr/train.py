"""The training run: one loop that reads top to bottom, resumable at any moment.

The loop runs on Lightning Fabric (devices, precision, strategies). Every random number is a
function of (seed, update), every batch of (seed, batches taken), so that a run killed at any moment
and started again ends with the weights of a run that was not.
"""

import contextlib
import copy
import dataclasses
import functools
import logging
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from asr import checkpoint, config, session
from asr.batch import Batch
from asr.compiled import Shape, Shapes, begin_step, compile_regions, metered
from asr.data import SpeechData, read_corpus
from asr.device_memory import enough_memory
from asr.encoders.recurrent import recurrent_kernel, set_recurrent_precision
from asr.journal import Journal
from asr.loss import Loss
from asr.machine import Interruption
from asr.meter import Ledger
from asr.model import SpeechModel, build_model, save_model
from asr.recipe import Recipe
from asr.run_folder import finished
from asr.scoring import ranked
from asr.text import restore
from asr.validate import try_search, validate

log = logging.getLogger(__name__)

WHOLE_SECONDS = 0.64  # on a GPU batches are padded to a multiple of these
NONFINITE_PATIENCE = 10  # updates in a row without a finite gradient before a run gives up


def train(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Trains into a run folder, from where it stands; returns the last line of the ledger.

    Raises:
        ValueError: the folder holds another run or is in use, the data do not fit, memory runs
            out, or training diverges.
        SystemExit: it was told to end (SIGINT, SIGTERM); all work is saved.
    """
    if (line := finished(recipe, folder)) is not None:
        return line
    with contextlib.ExitStack() as stack:
        fabric, ledger, interruption = stack.enter_context(session.opened(recipe, folder))
        if recipe.trainer.compile is not None:
            stack.enter_context(metered(ledger))
        longest = recipe.data.max_batch_seconds
        with enough_memory(fabric.device, f"lower data.max_batch_seconds, which is {longest}"):
            return Run(recipe, folder, fabric, ledger).fit(interruption)


class Run:
    """The state of a training run and the loop over it."""

    def __init__(self, recipe: Recipe, folder: Path, fabric: L.Fabric, ledger: Ledger):
        self.recipe, self.folder, self.fabric, self.ledger = recipe, folder, fabric, ledger
        self.first = functools.partial(session.first, fabric)
        self.sum = functools.partial(session.summed, fabric)
        self.corpus = read_corpus(recipe.data.corpus)
        self.rows_sha256 = self.checked_corpus()
        torch.manual_seed(recipe.seed)
        state = checkpoint.read(folder / "last.ckpt", self.same())
        tokenizer = restore(state["tokenizer"] if state else self.trained_tokenizer())
        rate, device = recipe.features.sample_rate, fabric.device
        self.data = SpeechData(recipe.data, tokenizer, rate, recipe.seed, device)
        model = build_model(
            recipe.features,
            recipe.encoder,
            recipe.decoder,
            recipe.search,
            tokenizer,
            self.corpus["normaliser"],
        )
        set_recurrent_precision(model.modules(), recipe.trainer.recurrent_precision)
        if state is None:
            model.features.fit(self.data.sample(500))
        self.average = copy.deepcopy(model).to(device).eval().requires_grad_(False)
        self.search = recipe.validation.search()
        for search in (self.search, self.average.search):
            try_search(search, self.average)
        self.model, self.optimizer = fabric.setup(model, recipe.optimizer.build(model, device))
        # Listed once: to go through all modules takes 3 ms an update.
        self.averaged: list[Tensor] = list(self.average.parameters())
        self.trained: list[Tensor] = list(self.model.parameters())
        self.shapes = self.compiled(model) if recipe.trainer.compile is not None else None
        self.parameters = model.num_parameters()
        self.recurrent_kernel = recurrent_kernel(model.modules(), device)
        # A CPU in float32, the default, has one kernel and nothing to say.
        chosen = device.type == "cuda" or recipe.trainer.recurrent_precision != "float32"
        if self.recurrent_kernel is not None and chosen:
            log.info("recurrent kernel: %s", self.recurrent_kernel)
        self.encoder_flops = functools.cache(lambda frames: model.encoder.flops([frames]))
        self.decoder_flops = functools.cache(lambda s, u: model.decoder.flops([s], [u]))
        self.updates = self.nonfinite = self.nonfinite_in_a_row = 0
        self.infeasible = self.validation_seconds = 0.0
        self.metric = recipe.validation.metric_for(self.data.validation.texts)
        self.best, self.validated_at = (math.inf, math.inf), -1
        self.terms: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}
        self.try_longest_batch()
        if state is not None:
            self.resume(state)
        self.saved_at = time.monotonic()

    def checked_corpus(self) -> dict[str, str]:
        """The checksums of the splits that are used.

        Raises:
            ValueError: the corpus has a lower sample rate than the features.
        """
        rate, own = self.recipe.features.sample_rate, self.corpus["sample_rate"]
        if own < rate:
            raise ValueError(
                f"features.sample_rate {rate}: {self.recipe.data.corpus} has {own} Hz, so the "
                f"highest mel bins would be empty; use --features.sample_rate {own}"
            )
        if own > rate:
            log.info("%s is converted from %d to %d Hz", self.recipe.data.corpus, own, rate)
        splits = [*self.recipe.data.train, self.recipe.data.validation]
        facts = self.corpus["splits"]
        return {split: facts[split]["rows_sha256"] for split in splits if split in facts}

    def trained_tokenizer(self) -> dict[str, str]:
        """The state of a tokenizer made by the first process, for all."""
        texts = SpeechData.texts(self.recipe.data)
        made = self.recipe.tokenizer(texts).state() if self.fabric.is_global_zero else {}
        return self.fabric.broadcast(made)

    def compiled(self, model: SpeechModel) -> Shapes:
        """Compiles the model; the shapes that its batches are filled up to."""
        recipe, data = self.recipe, self.data.train
        shapes = Shapes(
            data.seconds,
            [len(data.tokenizer.encode(text)) for text in data.texts],
            recipe.data.max_batch_seconds,
            recipe.augmentation.speed,
            model.features.hop_seconds,
        )
        mode = recipe.trainer.compile
        assert mode is not None
        regions = compile_regions(model, mode, shapes.all)
        sizes = ", ".join("x".join(map(str, shape)) for shape in shapes.all)
        log.info("torch.compile, %s: %d regions, filled up to one of %s", mode, len(regions), sizes)
        return shapes

    def try_longest_batch(self) -> None:
        """Running out of memory happens now; changes no weight.

        The longest batch at the slowest speed, with the optimiser's moments.
        """
        batch = self.data.longest_batch().to(self.fabric.device)
        slowest = dataclasses.replace(
            self.recipe.augmentation, speed=[min(self.recipe.augmentation.speed)]
        )
        loss, _, _ = self.forward(batch, slowest)
        self.fabric.backward(self.total(loss))
        session.rehearse(self.optimizer)

    # --- the loop ---

    def fit(self, interruption: Interruption) -> dict[str, Any]:
        """Trains until the budget is reached, then validates and saves a last time."""
        ledger, recipe = self.ledger, self.recipe
        session.begin(self.folder, self.fabric, ledger, self.updates)
        batches = self.batches()
        self.journal = Journal(self.folder, self.fabric, recipe.budget.updates, self.updates)
        self.journal.metric = self.metric
        with contextlib.closing(self.journal):
            while (reason := self.budget_reached()) is None:
                ledger.enter("data_wait")
                batch = next(batches)
                ledger.enter("step")
                self.step(batch)
                if self.updates % recipe.trainer.log_every_n_steps == 0:
                    self.write("step")
                told = self.first(interruption.signal)
                if self.updates % recipe.validation.every_updates == 0 and not told:
                    self.validate()
                    self.save()
                elif told or self.first(self.is_time_to_save()):
                    self.save()
                if told:
                    self.write("end", reason=f"told to end by {signal.Signals(told).name}")
                    session.leave(signal.Signals(told), self.updates)
            if self.validated_at != self.updates:
                self.validate()
            self.save()
            return self.write("end", finished=True, reason=reason)

    def is_time_to_save(self) -> bool:
        """By this process' clock."""
        return time.monotonic() - self.saved_at > self.recipe.trainer.checkpoint_every_seconds

    def batches(self) -> Iterator[Batch]:
        """The endless training batches, from where the run stands, on the device."""
        for batch in self.data.train_batches(self.fabric.global_rank, self.fabric.world_size):
            yield batch.to(self.fabric.device, non_blocking=True)

    def step(self, batch: Batch) -> None:
        """One update; without a finite gradient the weights stay and the batch is counted."""
        loss, frames, filled = self.forward(batch)
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
        self.data.position += self.fabric.world_size
        self.journal.bar.update()
        self.count_nonfinite(finite, batch)
        self.remember(loss)
        self.count(batch, frames, filled)

    def forward(self, batch: Batch, augmentation: Any = None) -> tuple[Loss, Tensor, Shape]:
        """Loss, feature lengths and what was computed for them, padding included.

        With the augmentation and dropout of this update and rank.
        """
        augmentation = augmentation or self.recipe.augmentation
        # The stream's position numbers batches over all ranks: resuming needs no generator's state.
        number = self.data.position + self.fabric.global_rank
        seed = (self.recipe.seed * 1_000_003 + number) * 2
        torch.manual_seed(seed)
        waves, lengths = augmentation.perturb(
            self.whole(batch.waves), batch.wave_lengths, self.recipe.features.sample_rate, seed
        )
        waves = self.whole(waves)
        longest = int(self.average.features.num_frames(torch.tensor(waves.shape[1])))
        filled = Shape(len(waves), longest, batch.tokens.shape[1])
        if self.shapes is not None:
            filled = self.shapes.of(*filled)
            begin_step(self.recipe.trainer.compile)
        loss, frames = self.model(
            waves,
            lengths,
            batch.tokens,
            batch.token_lengths,
            lambda x, frames: augmentation.cover(x, frames, seed + 1),
            self.shapes.fill if self.shapes is not None else None,
        )
        self.weights = {name: term.weight for name, term in loss.terms.items()}
        return loss, frames, filled

    def whole(self, waves: Tensor) -> Tensor:
        """(B, N) -> (B, N'): on a GPU, of few lengths, as cuDNN plans its convolutions for each.

        Before the speed changes, which is a convolution itself, and after. Of a compiler's shapes
        there are few anyhow.
        """
        if not waves.is_cuda or self.shapes is not None:
            return waves
        step = round(WHOLE_SECONDS * self.recipe.features.sample_rate)
        return F.pad(waves, (0, -waves.shape[1] % step))

    def total(self, loss: Loss) -> Tensor:
        """The weighted sum of the terms' means over all ranks' tokens.

        Ranks average their gradients, so each divides by the mean count, not by its own.
        """
        if self.fabric.world_size == 1:
            return loss.total()
        means = [
            t.weight * t.sum / self.reduce(t.count.float(), "mean").clamp(min=1)
            for t in loss.terms.values()
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
        torch._foreach_lerp_(self.averaged, self.trained, 1 - decay)

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
        pairs = {n: torch.stack([t.sum.detach(), t.count.float()]) for n, t in loss.terms.items()}
        pairs["infeasible"] = loss.infeasible.float()
        for name, value in pairs.items():
            self.terms[name] = self.terms.get(name, torch.zeros_like(value)) + value

    def count(self, batch: Batch, frames: Tensor, filled: Shape) -> None:
        """Tells the ledger what the update held, and what was computed for it."""
        stride = self.average.encoder.stride

        def flops(t: int, u: int) -> int:
            return self.encoder_flops(t) + self.decoder_flops(-(-t // stride), u)

        self.ledger.count(
            audio_seconds=int(batch.wave_lengths.sum()) / self.recipe.features.sample_rate,
            padded_seconds=filled.rows * filled.frames * self.average.features.hop_seconds,
            # The backward pass costs twice the forward pass.
            train_flops=3 * sum(map(flops, frames.tolist(), batch.token_lengths.tolist())),
            padded_train_flops=3 * filled.rows * flops(filled.frames, filled.tokens),
        )

    def budget_reached(self) -> str | None:
        """Why training ends now; the final validation has its share of the budget."""
        budget, ledger = self.recipe.budget, self.ledger
        if budget.updates is not None and self.updates >= budget.updates:
            return f"budget.updates {budget.updates} reached"
        if budget.audio_hours is not None:
            heard = ledger.total("audio_seconds", self.sum) / 3600
            if heard >= budget.audio_hours:
                return f"budget.audio_hours {budget.audio_hours} reached"
        if budget.device_hours is not None:
            pending = self.validation_seconds if self.validated_at != self.updates else 0.0
            spent = ledger.device_hours + pending * ledger.num_devices / 3600
            if self.first(spent >= budget.device_hours):
                return f"budget.device_hours {budget.device_hours} reached"
        return None

    def validate(self) -> None:
        """Loss, WER and CER of the moving average; the best model so far is saved."""
        began = time.monotonic()
        with self.ledger.during("validation"):
            metrics = self.measure()
            line = self.write("validation", validation=metrics)
        if (found := ranked(metrics, self.metric)) < self.best:
            self.best = found
            with self.ledger.during("checkpoint"):
                self.save_to("best", line)
        self.validated_at = self.updates
        self.validation_seconds = time.monotonic() - began

    def measure(self) -> dict[str, Any]:
        """The average model on the validation split, pooled over ranks; as ``asr evaluate`` does.

        In float32 whatever the precision of training: autocast would cast all weights, which need
        no gradient, anew at every product, and a search makes one for each token.
        """
        batches = self.data.validation_batches(self.fabric.global_rank, self.fabric.world_size)
        on_device = (batch.to(self.fabric.device) for batch in batches)
        return validate(self.average, self.search, on_device, self.weights, self.sum)

    # --- what is written ---

    def write(self, event: str, **facts: Any) -> dict[str, Any]:
        """One line into the ledger and the journal; call it on every rank."""
        sums = {n: [self.sum(v) for v in p.flatten().tolist()] for n, p in self.terms.items()}
        self.terms = {}
        lost = sums.pop("infeasible", [0.0])[0]
        self.infeasible += lost
        terms = {name: total / max(1.0, count) for name, (total, count) in sums.items()}
        line = self.ledger.line(
            event,
            self.sum,
            updates=self.updates,
            epoch=self.data.epoch,
            train_loss=sum(self.weights[n] * v for n, v in terms.items()) if terms else None,
            train_terms=terms,
            learning_rate=self.recipe.optimizer.rate(self.updates),
            nonfinite_updates=self.nonfinite,
            infeasible_utterances=int(self.infeasible),
            **{"validation": None, **facts},
        )
        if self.fabric.is_global_zero:
            if lost:
                log.warning(
                    "update %d: %d utterances left out of the CTC loss since the last line: they "
                    "have more labels than encoder frames", self.updates, lost
                )  # fmt: skip
            self.ledger.write(
                line,
                **{"finished": False, "reason": None, **facts},
                parameters=self.parameters,
                seed=self.recipe.seed,
                num_threads=torch.get_num_threads(),
                recurrent_kernel=self.recurrent_kernel,
                validation_metric=self.metric,
                corpus={
                    "name": self.corpus["name"],
                    "path": self.recipe.data.corpus,
                    "rows_sha256": self.rows_sha256,
                    "utterances": {k: v["utterances"] for k, v in self.corpus["splits"].items()},
                },
            )
            self.journal.show(line)
        return line

    def save(self) -> None:
        """The state to resume from, whole or not at all, and the latest model."""
        session.save(self.folder, self.fabric, self.ledger, self.state, self.save_to)
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
            "tokenizer": self.data.train.tokenizer.state(),
            "same": self.same(),
            **{name: getattr(self, name) for name in COUNTS},
        }

    def same(self) -> dict[str, Any]:
        """What may not change between the sessions of a run."""
        recurrent = self.recipe.trainer.recurrent_precision
        return {
            "data": self.rows_sha256,
            "device": self.fabric.device.type,
            "precision": self.ledger.precision
            + (f", recurrent {recurrent}" if recurrent != "float32" else ""),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Takes up the run at a checkpoint. Without a metric in it, the WER alone chose until now.

        Raises:
            ValueError: the checkpoint is damaged.
        """
        state = {"metric": "wer", "best": (state.get("best_wer", math.inf), math.inf), **state}
        try:
            self.model.module.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.data.load_state_dict(state["data"])
            for name in COUNTS:
                setattr(self, name, state[name])
            self.ledger.restore(state["ledger"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise checkpoint.damaged(self.folder / "last.ckpt", error) from None
        log.info("resumed %s at update %d", self.folder, self.updates)
        if (why := self.budget_reached()) is not None:
            log.warning("%s before: nothing is left to train; raise the budget to go on", why)


COUNTS = (
    "updates",
    "nonfinite",
    "nonfinite_in_a_row",
    "infeasible",
    "metric",
    "best",
    "validated_at",
    "validation_seconds",
)
