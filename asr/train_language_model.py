"""The training run of a language model: as of a speech model, with the same ledger and resume.

A neural model takes gradient steps; an n-gram model counts the text once. Perplexities are those of
the validation text: per token (exp of the mean negative log-likelihood over tokens and ends of
sentences) and per word (the same sum over words and ends), which does not depend on the tokens.
"""

import contextlib
import copy
import functools
import logging
import math
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from asr import checkpoint, config, session
from asr.device_memory import enough_memory
from asr.journal import Journal
from asr.language_models import NGram
from asr.language_models.folder import TrainedLanguageModel, save_language_model
from asr.machine import Interruption
from asr.meter import Ledger
from asr.model import find_model
from asr.recipe import LanguageModelRecipe
from asr.run_folder import finished
from asr.text import normaliser, restore
from asr.text_data import TextData, tokens_of

log = logging.getLogger(__name__)


def train_language_model(recipe: LanguageModelRecipe, folder: Path) -> dict[str, Any]:
    """Trains into a run folder, from where it stands; returns the last line of the ledger.

    Raises:
        ValueError: the folder holds another run or is in use, the text or the speech model cannot
            be read, memory runs out, or training diverges.
        SystemExit: it was told to end (SIGINT, SIGTERM); all work is saved.
    """
    if (line := finished(recipe, folder)) is not None:
        return line
    with session.opened(recipe, folder) as (fabric, ledger, interruption):
        longest = recipe.text.max_batch_tokens
        with enough_memory(fabric.device, f"lower text.max_batch_tokens, which is {longest:g}"):
            run = TextRun(recipe, folder, fabric, ledger)
            return run.count_text() if run.counts else run.fit(interruption)


class TextRun:
    """The state of a run and the loop over it."""

    def __init__(
        self, recipe: LanguageModelRecipe, folder: Path, fabric: L.Fabric, ledger: Ledger
    ) -> None:
        self.recipe, self.folder, self.fabric, self.ledger = recipe, folder, fabric, ledger
        self.first = functools.partial(session.first, fabric)
        self.sum = functools.partial(session.summed, fabric)
        torch.manual_seed(recipe.seed)
        state, name = tokens_of(find_model(recipe.tokenizer_of))
        tokenizer = restore(state)
        self.data = TextData(recipe.text, tokenizer, normaliser(name), recipe.seed)
        model = recipe.language_model(tokenizer.vocabulary_size)
        self.counts = isinstance(model, NGram)
        average = copy.deepcopy(model).to(fabric.device).eval().requires_grad_(False)
        self.trained = TrainedLanguageModel(average, recipe.language_model, tokenizer, name)
        self.parameters = {"language_model": sum(p.numel() for p in model.parameters())}
        self.updates = self.tokens = 0
        self.loss_sum, self.loss_count = 0.0, 0
        self.best, self.validated_at = math.inf, -1
        self.validation_seconds = 0.0
        if self.counts:
            return
        self.flops = functools.cache(lambda length: model.flops([length]))
        self.model, self.optimizer = fabric.setup(
            model, recipe.optimizer.build(model, fabric.device)
        )
        self.model.mark_forward_method("log_probs")
        self.try_longest_batch()
        saved = checkpoint.read(folder / "last.ckpt", self.same())
        if saved is not None:
            self.resume(saved)
        self.saved_at = time.monotonic()

    def try_longest_batch(self) -> None:
        """Running out of memory happens now; changes no weight."""
        self.backward(*self.data.longest_batch())
        session.rehearse(self.optimizer)

    # --- an n-gram ---

    def count_text(self) -> dict[str, Any]:
        """Counts the text, validates and saves."""
        self.start()
        model = self.trained.model
        assert isinstance(model, NGram)
        self.ledger.enter("step")
        model.fit(self.data.train.ids, self.trained.tokenizer.pieces())
        self.updates = 1
        if model.arpa is None:
            self.tokens = sum(len(ids) + 1 for ids in self.data.train.ids)
        reason = "all text counted" if model.arpa is None else f"{model.arpa} read"
        with contextlib.closing(self.journal):
            self.validate()
            return self.write("end", finished=True, reason=reason)

    # --- a neural model ---

    def fit(self, interruption: Interruption) -> dict[str, Any]:
        """Trains until the budget is reached, then validates and saves a last time."""
        recipe, ledger = self.recipe, self.ledger
        self.start()
        batches = self.data.train_batches(self.fabric.global_rank, self.fabric.world_size)
        with contextlib.closing(self.journal):
            while (reason := self.budget_reached()) is None:
                ledger.enter("data_wait")
                tokens, lengths = next(batches)
                ledger.enter("step")
                self.step(tokens, lengths)
                if self.updates % recipe.trainer.log_every_n_steps == 0:
                    self.write("step")
                told = self.first(interruption.signal)
                waited = time.monotonic() - self.saved_at
                if self.updates % recipe.validation.every_updates == 0 and not told:
                    self.validate()
                    self.save()
                elif told or self.first(waited > recipe.trainer.checkpoint_every_seconds):
                    self.save()
                if told:
                    self.write("end", reason=f"told to end by {signal.Signals(told).name}")
                    session.leave(signal.Signals(told), self.updates)
            if self.validated_at != self.updates:
                self.validate()
            self.save()
            return self.write("end", finished=True, reason=reason)

    def start(self) -> None:
        """Writes what the run is made with; opens its ledger and journal."""
        session.begin(self.folder, self.fabric, self.ledger, self.updates)
        total = None if self.counts else self.recipe.budget.updates
        self.journal = Journal(self.folder, self.fabric, total, self.updates)

    def backward(self, tokens: Tensor, lengths: Tensor) -> float:
        """Gradients of the mean over all ranks' tokens; the sum over this rank's."""
        # The stream's position numbers batches over all ranks: resuming needs no generator's state.
        number = self.data.position + self.fabric.global_rank
        torch.manual_seed(self.recipe.seed * 1_000_003 + number)
        device = self.fabric.device
        total = -self.model.log_probs(tokens.to(device), lengths.to(device)).sum()
        count = self.sum(float((lengths + 1).sum())) / self.fabric.world_size
        self.fabric.backward(total / count)
        return float(total.detach())

    def step(self, tokens: Tensor, lengths: Tensor) -> None:
        """One update."""
        total = self.backward(tokens, lengths)
        norm = self.fabric.clip_gradients(
            self.model,
            self.optimizer,
            max_norm=self.recipe.optimizer.clip_norm,
            error_if_nonfinite=False,
        )
        if norm is None or not bool(norm.isfinite()):
            raise ValueError(
                f"no finite gradient at update {self.updates + 1}: lower optimizer.lr "
                f"({self.recipe.optimizer.lr}) or raise optimizer.warmup_updates"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.optimizer.rate(self.updates + 1)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.recipe.optimizer.ema_decay, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            average: list[Tensor] = list(self.trained.model.parameters())
            torch._foreach_lerp_(average, list(self.model.parameters()), 1 - decay)
        self.updates += 1
        self.data.position += self.fabric.world_size
        self.journal.bar.update()
        sizes = (lengths + 1).tolist()
        self.tokens += round(self.sum(float(sum(sizes))))
        self.loss_sum, self.loss_count = self.loss_sum + total, self.loss_count + sum(sizes)
        self.ledger.count(
            train_flops=3 * sum(map(self.flops, sizes)),
            padded_train_flops=3 * len(sizes) * self.flops(max(sizes)),
        )

    def budget_reached(self) -> str | None:
        """Why training ends now; the final validation has its share of the budget."""
        budget, ledger = self.recipe.budget, self.ledger
        if budget.updates is not None and self.updates >= budget.updates:
            return f"budget.updates {budget.updates} reached"
        if budget.device_hours is not None:
            pending = self.validation_seconds if self.validated_at != self.updates else 0.0
            spent = ledger.device_hours + pending * ledger.num_devices / 3600
            if self.first(spent >= budget.device_hours):
                return f"budget.device_hours {budget.device_hours} reached"
        return None

    def validate(self) -> None:
        """Perplexity of the moving average; the best model so far is saved.

        Raises:
            ValueError: there is none, since a token of the text has no probability.
        """
        began = time.monotonic()
        with self.ledger.during("validation"):
            metrics = self.measure()
            self.check(metrics["loss"])
            line = self.write("validation", validation=metrics)
        if metrics["loss"] < self.best:
            self.best = metrics["loss"]
            with self.ledger.during("checkpoint"):
                self.save_to("best", line)
        self.validated_at = self.updates
        self.validation_seconds = time.monotonic() - began

    def check(self, loss: float) -> None:
        """Refuses a model that cannot be compared with others, nor be the best."""
        if math.isfinite(loss):
            return
        source = self.recipe.text.validation
        if self.counts:
            raise ValueError(
                f"text.validation: {source} has a token to which the n-grams give no probability; "
                "estimate the ARPA file with <unk>, or validate on text that it knows"
            )
        raise ValueError(
            f"the loss of {source} is {loss} at update {self.updates}: lower optimizer.lr "
            f"({self.recipe.optimizer.lr})"
        )

    @torch.inference_mode()
    def measure(self) -> dict[str, Any]:
        """Over the validation text, shared by the ranks."""
        text, device, total = self.data.validation, self.fabric.device, 0.0
        batches = text.batches(self.recipe.text.max_batch_tokens)
        for indices in batches[self.fabric.global_rank :: self.fabric.world_size]:
            tokens, lengths = text.batch(indices)
            scores = self.trained.model.log_probs(tokens.to(device), lengths.to(device))
            total -= float(scores.double().sum())
        total = self.sum(total)
        sentences, tokens_said = len(text.ids), sum(map(len, text.ids))
        return {
            "loss": total / (tokens_said + sentences),
            "perplexity": math.exp(min(700.0, total / (tokens_said + sentences))),
            "word_perplexity": math.exp(min(700.0, total / (text.words + sentences))),
            "sentences": sentences,
            "words": text.words,
            "tokens": tokens_said,
        }

    # --- what is written ---

    def write(self, event: str, **facts: Any) -> dict[str, Any]:
        """One line into the ledger and the journal; call it on every rank."""
        count = self.sum(float(self.loss_count))
        loss = self.sum(self.loss_sum) / count if count else None
        self.loss_sum, self.loss_count = 0.0, 0
        line = self.ledger.line(
            event,
            self.sum,
            updates=self.updates,
            epoch=self.data.epoch,
            tokens=self.tokens,
            train_loss=loss,
            train_terms={},
            learning_rate=self.recipe.optimizer.rate(max(1, self.updates)),
            **{"validation": None, **facts},
        )
        if self.fabric.is_global_zero:
            self.ledger.write(
                line,
                **{"finished": False, "reason": None, **facts},
                parameters=self.parameters,
                seed=self.recipe.seed,
                num_threads=torch.get_num_threads(),
            )
            self.journal.show(line)
        return line

    def save(self) -> None:
        """The state to resume from, whole or not at all, and the latest model."""
        session.save(self.folder, self.fabric, self.ledger, self.state, self.save_to)
        self.saved_at = time.monotonic()

    def save_to(self, name: str, line: dict[str, Any]) -> None:
        """The moving average as a language model's folder."""
        if not self.fabric.is_global_zero:
            return
        self.trained.summary = {
            "updates": self.updates,
            "tokens": self.tokens,
            "device_hours": line["device_hours"],
            "device_name": self.ledger.device_name,
            "validation": line.get("validation"),
            "seed": self.recipe.seed,
            "recipe": config.tree_of(self.recipe),
        }
        save_language_model(self.trained, self.folder / name)

    def same(self) -> dict[str, Any]:
        """What may not change between the sessions of a run."""
        return {
            "tokenizer": dict(self.trained.tokenizer.state()),
            "text": self.data.sha256(),
            "device": self.fabric.device.type,
        }

    def state(self) -> dict[str, Any]:
        """Plain values and tensors: loads with ``weights_only=True``."""
        return {
            "model": self.model.module.state_dict(),
            "average": self.trained.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "position": self.data.position,
            "same": self.same(),
            **{name: getattr(self, name) for name in COUNTS},
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Takes up the run at a checkpoint.

        Raises:
            ValueError: the checkpoint is damaged.
        """
        try:
            self.model.module.load_state_dict(state["model"])
            self.trained.model.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.data.position = state["position"]
            for name in COUNTS:
                setattr(self, name, state[name])
            self.ledger.restore(state["ledger"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise checkpoint.damaged(self.folder / "last.ckpt", error) from None
        log.info("resumed %s at update %d", self.folder, self.updates)


COUNTS = ("updates", "tokens", "best", "validated_at", "validation_seconds")
