"""Shallow fusion: the scores and states of a language model for the hypotheses of a search."""

from dataclasses import dataclass

import torch
from torch import Tensor

from asr.batch import EOS, Cache
from asr.language_models.language_model import LanguageModel


@dataclass(frozen=True)
class Fusion:
    """A language model that has read N hypotheses, a row for each (Gulcehre et al. 2015).

    The object is immutable. Each method returns a new one, which shares the model.

    Attributes:
        language_model: the model that all rows share.
        log_probs: (N, V) float32 log-probabilities of the next token of each hypothesis. BLANK has
            -inf, and EOS has the probability that the hypothesis ends.
        cache: the states of the rows in the model.
    """

    language_model: LanguageModel
    log_probs: Tensor
    cache: Cache

    def select(self, rows: Tensor) -> "Fusion":
        """Takes rows (N',) in this order; a row may be repeated or left out."""
        log_probs = self.log_probs.index_select(0, rows)
        return Fusion(self.language_model, log_probs, take_rows(self.cache, rows))

    def follow(self, rows: Tensor, tokens: Tensor) -> "Fusion":
        """Takes rows (N',), and extends each by one of (N',) tokens."""
        log_probs, cache = self.language_model.step(tokens, take_rows(self.cache, rows))
        return Fusion(self.language_model, log_probs, cache)

    def grow(self, parents: Tensor, read: Tensor, tokens: Tensor) -> "Fusion":
        """Takes rows ``parents`` (N',), and extends those with ``read`` by their tokens."""
        rows, taken = read.nonzero()[:, 0], self.select(parents)
        if not len(rows):
            return taken
        before = take_rows(taken.cache, rows)
        log_probs, grown = self.language_model.step(tokens.index_select(0, rows), before)
        taken.log_probs.index_copy_(0, rows, log_probs)  # it is a copy
        return Fusion(self.language_model, taken.log_probs, put(taken.cache, rows, grown))


def begin(language_model: LanguageModel, rows: int, device: torch.device) -> Fusion:
    """Returns N rows with the empty hypothesis."""
    tokens = torch.full((rows,), EOS, device=device)
    log_probs, cache = language_model.step(tokens, language_model.start(rows))
    return Fusion(language_model, log_probs, cache)


def take_rows(cache: Cache, rows: Tensor) -> Cache:
    """Takes rows (N',) of a cache in this order; a row may be repeated or left out."""
    return {name: value.index_select(0, rows) for name, value in cache.items()}


def put(cache: Cache, rows: Tensor, grown: Cache) -> Cache:
    """Replaces (M,) distinct rows of a cache by the M rows of ``grown``.

    The narrower of the two caches is padded with zeros; see ``Cache``.
    """
    replaced = {}
    for name, values in cache.items():
        new = grown[name]
        if values.ndim > 1 and values.shape[1] != new.shape[1]:
            width = max(values.shape[1], new.shape[1])
            values, new = _widened(values, width), _widened(new, width)
        replaced[name] = values.index_copy(0, rows, new)
    return replaced


def _widened(values: Tensor, width: int) -> Tensor:
    """Pads (N, C, ...) with zeros to (N, width, ...)."""
    missing = width - values.shape[1]
    zeros = values.new_zeros(values.shape[0], missing, *values.shape[2:])
    return torch.cat([values, zeros], dim=1)
