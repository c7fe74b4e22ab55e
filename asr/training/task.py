"""The base of the LightningModules of speech models and language models."""

import logging
import math
from abc import abstractmethod
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from asr.loss import Loss, Term
from asr.training.ranks import summed

log = logging.getLogger(__name__)

ORDER = "order of batches"  # a key of ``Task.resume_invariants``
RANK_SEED = 500_000_003  # distance between the seeds of two ranks
NONFINITE_PATIENCE = 10  # a run stops after this number of updates without a finite gradient
WATCHED = {"loss", "wer", "cer", "perplexity", "word_perplexity"}  # for EarlyStopping and others


@dataclass
class Progress:
    """The progress of a run; plain numbers that are saved with its state.

    Attributes:
        updates: number of optimiser steps, including skipped ones.
        nonfinite: number of updates that were skipped because the gradient was not finite.
        nonfinite_in_a_row: number of skipped updates since the last update with a finite gradient.
        infeasible: number of utterances left out of the CTC loss.
        tokens: number of tokens that a language model has trained on.
        metric: error rate that chooses the best model of a recogniser, wer or cer.
        best: score of the best model; lower is better.
        validated_at: number of updates at the last validation.
        validation_seconds: duration of the last validation in seconds.
        validated_share: share of the budget that was spent at the last validation.
        spent_before: what was spent of each limit of the budget before the first update.
    """

    updates: int = 0
    nonfinite: int = 0
    nonfinite_in_a_row: int = 0
    infeasible: float = 0.0
    tokens: int = 0
    metric: str = "wer"
    best: tuple[float, ...] = (math.inf,)
    validated_at: int = -1
    validation_seconds: float = 0.0
    validated_share: float = 0.0
    spent_before: dict[str, float] = field(default_factory=dict)


SHARES = (  # keys whose values are shares of the budget
    ("optimizer", "warmup_share"),
    ("optimizer", "cooldown"),
    ("validation", "at_shares"),
    ("augmentation", "from_share"),
)


class Task(L.LightningModule):
    """A model, its loss and its update, for ``asr train`` or a Trainer of your own.

    One update takes ``accumulate_grad_batches`` batches, each of which all ranks share. The loss is
    averaged over all their tokens. An update without a finite gradient leaves the weights as they
    are. What is learnt does not depend on the number of ranks, except through dropout: each rank
    draws its own.

    Attributes:
        model: model to train.
        progress: progress of the training.
        update_ended: whether the last batch completed an update.
        finite: whether the last update changed the weights.
        weights: weights of the terms of the loss, by name.
        metrics: metrics of the last validation.
        logs: whether Lightning passes the metrics to its loggers.
        exhausted: reason to end the training before the budget is spent; None if there is none.
        average: (a moving average of ``model``,) or (). It is not trained itself.
        final: (an average of the last validations,) at the last validation, otherwise ().
        spent: share of the budget that is spent; it times the cooldown.
        begun: share that was spent before the first update; a warm-up by share begins there.
        budgeted: whether the Trainer ends the run with its budget, and so knows ``spent``.
    """

    model: nn.Module
    exhausted: str | None = None
    average: tuple[nn.Module, ...] = ()
    final: tuple[nn.Module, ...] = ()
    spent = begun = 0.0
    budgeted = False

    def __init__(self, recipe: Any) -> None:
        super().__init__()
        self.recipe = recipe
        self.progress = Progress()
        self.update_ended = self.finite = False
        self.weights: dict[str, float] = {}
        self.metrics: dict[str, Any] = {}
        self.logs = True
        self._terms: dict[str, Tensor] = {}
        self._loss: Loss | None = None
        self._ids: list[str] = []

    # --- methods of each task ---

    @abstractmethod
    def loss(self, batch: Any) -> Loss:
        """Computes the terms of the loss of a batch."""

    @abstractmethod
    def validate(self, batch: Any) -> None:
        """Adds a validation batch to the sums of ``validation_metrics``."""

    @abstractmethod
    def validation_metrics(self) -> dict[str, Any]:
        """Returns the metrics of a validation over all ranks; called on every rank."""

    @abstractmethod
    def amounts(self, batch: Any) -> dict[str, float]:
        """Returns the quantities that the ledger counts for the last training batch."""

    @abstractmethod
    def resume_invariants(self) -> dict[str, Any]:
        """Returns the values that must not change between the sessions of a run."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Returns the facts about the model and its data for ``ledger.json``."""

    @abstractmethod
    def score(self) -> tuple[float, ...]:
        """Returns the score of the last validation; the best model has the lowest score."""

    def examples(self) -> list[tuple[str, str]]:
        """Returns a few pairs (reference, hypothesis) of the last validation."""
        return []

    @abstractmethod
    def save_model(self, folder: Path, summary: dict[str, Any]) -> None:
        """Writes the validated model as a model folder."""

    def facts(self, terms: dict[str, float]) -> dict[str, Any]:
        """Returns the values of a ledger line, given the means of the terms since the last line."""
        loss = sum(self.weights[name] * value for name, value in terms.items()) if terms else None
        updates = self.progress.updates
        return {
            "updates": updates,
            "epoch": self.data.epoch,
            "train_loss": loss,
            "train_terms": terms,
            "learning_rate": self.recipe.optimizer.rate(updates, self.spent, self.begun),
            "nonfinite_updates": self.progress.nonfinite,
        }

    @property
    def data(self) -> Any:
        """The data module of the trainer."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def evaluated(self) -> Any:
        """The model to validate and save: an average of the weights if there is one."""
        return next(iter((*self.final, *self.average, self.model)))

    # --- an update ---

    def configure_optimizers(self) -> Any:
        """Returns the optimiser of the recipe; its learning rate is set at each update."""
        return self.recipe.optimizer.build(self.model, self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Computes the loss of a batch, ()."""
        self.update_ended = False
        loss, self._ids = self.loss(batch), getattr(batch, "ids", [])
        if self.data.share.idle:
            terms = {name: Term(0 * t.sum, 0 * t.count, t.weight) for name, t in loss.terms.items()}
            loss = Loss(terms, 0 * loss.infeasible)
        self._loss = loss
        self.weights = {name: term.weight for name, term in self._loss.terms.items()}
        return self.mean(self._loss)

    def mean(self, loss: Loss) -> Tensor:
        """Returns the weighted sum of the terms' means over all tokens of the update, ().

        Ranks average their gradients, so each divides by the mean count, not by its own. Lightning
        divides by the number of batches of an update, so each is given its share of the tokens.
        """
        ranks, batches = self.trainer.world_size, self.trainer.accumulate_grad_batches
        if ranks == batches == 1:
            return loss.total()
        means = []
        for term in loss.terms.values():
            count = term.count.float()
            if ranks > 1:
                count = self.trainer.strategy.reduce(count, reduce_op="sum")
            mean = ranks * term.weight * term.sum / count.clamp(min=1)
            if batches > 1:
                mean = mean * batches * self.data.share_of_update(count)
            means.append(mean)
        return torch.stack(means).sum()

    def on_after_backward(self) -> None:
        """Counts the batch."""
        assert self._loss is not None
        self.data.position += 1
        self._accumulate_terms(self._loss)
        self._loss = None

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Updates the weights unless a gradient is not finite, and keeps the gradient norm."""
        optimizer_closure()
        options, inner = self.recipe.optimizer, optimizer.optimizer
        norm = nn.utils.clip_grad_norm_(parameters_of(inner), options.clip_norm)
        self.finite = bool(norm.isfinite())
        if self.finite:
            for group in inner.param_groups:
                group["lr"] = options.rate(self.progress.updates + 1, self.spent, self.begun)
            optimizer.step()
        # Lightning would keep the gradients in memory until after the next forward pass.
        inner.zero_grad(set_to_none=True)
        self.data.update_start = self.data.position
        self.update_ended = True
        progress = self.progress
        progress.updates += 1
        progress.nonfinite_in_a_row = 0 if self.finite else progress.nonfinite_in_a_row + 1
        if self.finite:
            return
        progress.nonfinite += 1
        log.warning(
            "update %d: gradient not finite, batch skipped: %s", progress.updates, self._ids
        )
        if progress.nonfinite_in_a_row >= NONFINITE_PATIENCE:
            raise ValueError(
                f"no finite gradient in {NONFINITE_PATIENCE} updates in a row, the last at update "
                f"{progress.updates}: lower optimizer.lr ({self.recipe.optimizer.lr}) or raise "
                "the warm-up; last.ckpt holds the state before"
            )

    def _accumulate_terms(self, loss: Loss) -> None:
        """Adds the terms to the sums of the next line, on the device and without waiting."""
        pairs = {n: torch.stack([t.sum.detach(), t.count.float()]) for n, t in loss.terms.items()}
        pairs["infeasible"] = loss.infeasible.float()
        for name, value in pairs.items():
            self._terms[name] = self._terms.get(name, torch.zeros_like(value)) + value

    def means(self) -> dict[str, float]:
        """Returns means of the terms since the last call over all ranks; call it on every rank."""
        terms, self._terms = self._terms, {}
        sums = {
            name: [summed(self.trainer, value) for value in pair.flatten().tolist()]
            for name, pair in terms.items()
        }
        lost = sums.pop("infeasible", [0.0])[0]
        self.progress.infeasible += lost
        if lost and self.trainer.is_global_zero:
            log.warning(
                "update %d: %d utterances left out of the CTC loss since the last line: they have "
                "more labels than encoder frames", self.progress.updates, lost
            )  # fmt: skip
        return {name: total / max(1.0, count) for name, (total, count) in sums.items()}

    # --- validation ---

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Validates a batch in float32, at any precision of the training."""
        # Without gradients, autocast would cast all weights again for each token of a search.
        if batch is not None:  # otherwise this rank has one batch less than others
            with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
                self.validate(batch)

    def on_validation_epoch_end(self) -> None:
        """Sets the metrics; logs those in ``WATCHED`` under names such as ``validation_loss``."""
        self.metrics = self.validation_metrics()
        for name in WATCHED & self.metrics.keys():
            self.log(f"validation_{name}", self.metrics[name], logger=self.logs, sync_dist=True)

    # --- memory ---

    def on_fit_start(self) -> None:
        """Tries the longest batch first, so that a lack of memory shows at the start.

        Raises:
            ValueError: a Trainer of your own shall train by shares of a budget.
        """
        if not self.budgeted:
            self._refuse_shares()
        ranks = self.trainer.world_size
        if ranks > 1 and self.trainer.is_global_zero:
            rows = [len(batch) for batch in self.data.source.stream.epoch(0)]
            if few := sum(number < ranks for number in rows):
                log.info(
                    "%.0f %% of the batches have fewer rows than the %d processes, some of which "
                    "then wait; larger batches or fewer trainer.devices waste less",
                    100 * few / len(rows), ranks,
                )  # fmt: skip
        # From the second batch of an update on, gradients exist during the forward pass.
        strategy, optimizer = self.trainer.strategy, self.trainer.optimizers[0]
        for _ in range(min(2, self.trainer.accumulate_grad_batches)):
            batch = strategy.batch_to_device(self.data.longest_batch())
            strategy.training_step(batch, 0).backward()  # type: ignore[union-attr]
        rehearse(optimizer)

    def _refuse_shares(self) -> None:
        for section, key in SHARES:
            if share := getattr(getattr(self.recipe, section, None), key, None):
                raise ValueError(
                    f"{section}.{key} {share}: only asr train knows the share of the budget that "
                    "is spent; leave the key out with a Trainer of your own"
                )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the progress to a checkpoint of a Trainer of your own."""
        checkpoint["progress"] = asdict(self.progress)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the progress."""
        self.progress = Progress(**checkpoint["progress"])


def seed(number: int, device: torch.device, rank: int) -> None:
    """Seeds the generators of the CPU and of the device, differently on each rank.

    ``torch.manual_seed`` also formats the whole call stack for each kind of accelerator that is
    absent, which takes a millisecond inside a Trainer.
    """
    number += RANK_SEED * rank
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Returns the parameters that an optimiser changes."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def rehearse(optimizer: torch.optim.Optimizer) -> None:
    """Allocates the state of the optimiser after a backward pass; changes no weight."""
    if not optimizer.state:  # a resumed run has its state
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        for parameter in parameters_of(optimizer):
            if parameter.grad is not None:
                parameter.grad.zero_()  # 0 times infinity would make a weight NaN
        optimizer.step()
        optimizer.state.clear()
    optimizer.zero_grad(set_to_none=True)
