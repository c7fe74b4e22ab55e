"""Shallow fusion: the scores and states of a language model for the hypotheses of a search."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from asr.batch import EOS, Cache
from asr.language_models.language_model import LanguageModel


@dataclass(frozen=True)
class Fusion:
    """A language model that has read N hypotheses, a row for each (Gulcehre et al. 2015).

    Immutable, and without a copy of the model: every method returns the state that follows.

    Attributes:
        language_model: shared by all rows.
        log_probs: (N, V) float32, of the token that follows each hypothesis; BLANK has -inf, EOS
            the probability that it ends here.
        cache: the model's memory of the rows.
    """

    language_model: LanguageModel
    log_probs: Tensor
    cache: Cache

    def select(self, rows: Tensor) -> "Fusion":
        """Keeps these rows, (N',) positions: in their order, some repeatedly, some not at all."""
        return replace(self, log_probs=self.log_probs[rows], cache=take_rows(self.cache, rows))

    def follow(self, rows: Tensor, tokens: Tensor) -> "Fusion":
        """The hypotheses at these rows, (N',) positions, each grown by one of (N',) tokens."""
        log_probs, cache = self.language_model.step(tokens, take_rows(self.cache, rows))
        return replace(self, log_probs=log_probs, cache=cache)

    def advance(self, rows: Tensor, tokens: Tensor) -> "Fusion":
        """Lets these rows, (M,) different positions, read (M,) tokens; the others stay."""
        if not len(rows):
            return self
        grown = self.follow(rows, tokens)
        cache = put(self.cache, rows, grown.cache)
        log_probs = self.log_probs.index_copy(0, rows, grown.log_probs)
        return replace(self, log_probs=log_probs, cache=cache)

    def grow(self, parents: Tensor, read: Tensor, tokens: Tensor) -> "Fusion":
        """Those at rows ``parents`` read their tokens where ``read``; all three are (N',)."""
        rows = read.nonzero()[:, 0]
        return self.select(parents).advance(rows, tokens[rows])


def begin(language_model: LanguageModel, rows: int, device: torch.device) -> Fusion:
    """The empty hypothesis in N rows."""
    tokens = torch.full((rows,), EOS, device=device)
    log_probs, cache = language_model.step(tokens, language_model.start(rows))
    return Fusion(language_model, log_probs, cache)


def take_rows(cache: Cache, rows: Tensor) -> Cache:
    """These rows, (N',) positions: in their order, some repeatedly, some not at all."""
    return {name: value[rows] for name, value in cache.items()}


def put(cache: Cache, rows: Tensor, grown: Cache) -> Cache:
    """N rows, of which these (M,) different ones are replaced by the M of another.

    The narrower of the two gets zeros behind; see ``Cache``.
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
    """(N, C, ...) -> (N, width, ...)."""
    missing = width - values.shape[1]
    behind = values.new_zeros(values.shape[0], missing, *values.shape[2:])
    return torch.cat([values, behind], dim=1)
