"""LightningModules of language models, trained by gradients or by counting."""

import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.language_models import LanguageModel
from asr.language_models.folder import TrainedLanguageModel, save_language_model
from asr.language_models.language_model import CountedLanguageModel
from asr.loss import Loss, Term
from asr.recipe.schema import LanguageModelRecipe
from asr.training.ranks import summed
from asr.training.task import Task, seed

TextBatch = tuple[Tensor, Tensor]  # tokens (B, U), padded with BLANK; their lengths (B,)


class TextModule(Task):
    """A neural language model.

    Perplexities are measured on the validation text. The perplexity per token is exp of the
    negative log-likelihood divided by the number of tokens and sentence ends. The perplexity per
    word divides by the number of words and sentence ends, so it does not depend on the tokens.
    """

    model: LanguageModel

    def __init__(self, recipe: LanguageModelRecipe) -> None:
        super().__init__(recipe)
        self.recipe: LanguageModelRecipe = recipe

    def configure_model(self) -> None:
        """Builds the model, the same on every rank."""
        if "model" not in self._modules:
            torch.manual_seed(self.recipe.seed)
            self.model = self.recipe.language_model(self.data.tokenizer.vocabulary_size)
            self._flops = functools.cache(lambda length: self.model.flops([length]))

    # --- training ---

    def loss(self, batch: TextBatch) -> Loss:
        """Computes the negative log-likelihood of a batch, with the dropout of this batch."""
        tokens, lengths = batch
        number = self.recipe.seed * 1_000_003 + self.data.position
        seed(number, tokens.device, self.global_rank)
        total = -self.model.log_probs(tokens, lengths).sum()
        count = (lengths + 1).sum()
        return Loss({"cross_entropy": Term(total, count, 1.0)}, torch.zeros_like(count))

    def amounts(self, batch: TextBatch) -> dict[str, float]:
        """Returns the FLOPs of the last batch, without and with padding."""
        sizes = [] if self.data.share.idle else (batch[1] + 1).tolist()
        self.progress.tokens += round(summed(self.trainer, float(sum(sizes))))
        return {
            # The backward pass costs twice the forward pass.
            "train_flops": 3 * sum(map(self._flops, sizes)),
            "padded_train_flops": 3 * len(sizes) * self._flops(max(sizes, default=0)),
        }

    # --- validation ---

    def on_validation_epoch_start(self) -> None:
        """Begins the sum over the validation text."""
        self._log_likelihood = 0.0

    def validate(self, batch: TextBatch) -> None:
        """Adds the log-likelihood of a batch."""
        self._log_likelihood += float(self.evaluated.log_probs(*batch).double().sum())

    def validation_metrics(self) -> dict[str, Any]:
        """Returns loss and perplexities.

        Raises:
            ValueError: the loss is not finite, because the model gives a token probability 0.
        """
        total = -summed(self.trainer, self._log_likelihood)
        text = self.data.source.validation
        sentences, tokens = len(text.ids), sum(map(len, text.ids))
        loss = total / (tokens + sentences)
        if not math.isfinite(loss):
            raise ValueError(self._without_loss(loss))
        return {
            "loss": loss,
            "perplexity": math.exp(min(700.0, loss)),
            "word_perplexity": math.exp(min(700.0, total / (text.words + sentences))),
            "sentences": sentences,
            "words": text.words,
            "tokens": tokens,
        }

    def _without_loss(self, loss: float) -> str:
        """Says why a model without a finite loss cannot be compared with others."""
        return (
            f"the loss of {self.recipe.text.validation} is {loss} at update "
            f"{self.progress.updates}: lower optimizer.lr ({self.recipe.optimizer.lr})"
        )

    def score(self) -> tuple[float, ...]:
        """Returns the loss."""
        return (float(self.metrics["loss"]),)

    # --- what is written ---

    def facts(self, terms: dict[str, float]) -> dict[str, Any]:
        """See ``Task.facts``. The loss has one term."""
        return {**super().facts(terms), "tokens": self.progress.tokens, "train_terms": {}}

    def about(self) -> dict[str, Any]:
        """See ``Task.about``."""
        return {"parameters": {"language_model": sum(p.numel() for p in self.model.parameters())}}

    def resume_invariants(self) -> dict[str, Any]:
        """See ``Task.resume_invariants``."""
        return {
            "tokenizer": dict(self.data.tokenizer.state()),
            "text": self.data.source.sha256(),
            "device": self.trainer.strategy.root_device.type,
        }

    def save_model(self, folder: Path, summary: dict[str, Any]) -> None:
        """See ``Task.save_model``."""
        trained = TrainedLanguageModel(
            self.evaluated, self.recipe.language_model, self.data.tokenizer, self.data.normaliser,
            {"tokens": self.progress.tokens, **summary},
        )  # fmt: skip
        save_language_model(trained, folder)


class CountingModule(TextModule):
    """An n-gram model: one update counts the whole text."""

    model: CountedLanguageModel

    def __init__(self, recipe: LanguageModelRecipe) -> None:
        super().__init__(recipe)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        """Returns None, because an n-gram model is not trained by gradients."""
        return []

    def on_fit_start(self) -> None:
        """Tries no batch, because a batch takes no memory."""

    def training_step(self, batch: TextBatch, batch_idx: int) -> None:
        """Counts the text, or reads a model of another program."""
        ids = self.data.source.train.ids
        tokenizer = self.data.tokenizer
        self.model.fit(ids, tokenizer.pieces(), tokenizer.encode)
        if self.model.arpa is None:
            self.progress.tokens = sum(len(row) + 1 for row in ids)
        self.progress.updates, self.update_ended = 1, True
        self.exhausted = (
            "all text counted" if self.model.arpa is None else f"{self.model.arpa} read"
        )

    def amounts(self, batch: TextBatch) -> dict[str, float]:
        """Returns no FLOPs, because counting takes none."""
        return {}

    def _without_loss(self, loss: float) -> str:
        return (
            f"text.validation: {self.recipe.text.validation} has a token to which the n-grams give "
            "no probability; estimate the ARPA file with <unk>, or validate on text that it knows"
        )
