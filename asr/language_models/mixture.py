"""Several language models as one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from asr.batch import Cache
from asr.language_models.language_model import LanguageModel
from asr.layers import modules


class Mixture(LanguageModel):
    """A log-linear mixture: its scores are weighted means of log-probabilities (Klakow 1998).

    The probabilities do not sum to 1, which a search does not need. No recipe names this class: it
    mixes models that have been trained with the same tokens.

    Args:
        models: the language models.
        weights: weight of each model, above 0; their sum does not matter. None: equal weights.
    """

    def __init__(self, models: Sequence[LanguageModel], weights: Sequence[float] | None = None):
        super().__init__()
        self.models, self.vocabulary = modules(models), models[0].vocabulary
        weights = weights or [1.0] * len(models)
        self.shares = [weight / sum(weights) for weight in weights]

    def start(self, rows: int) -> Cache:
        """Returns the states of all models; the position of its model precedes each name."""
        caches = enumerate(model.start(rows) for model in self.models)
        return {f"{i}.{name}": value for i, cache in caches for name, value in cache.items()}

    def step(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """See ``LanguageModel.step``."""
        scores, after = [], {}
        for i, model in enumerate(self.models):
            own = {n.removeprefix(f"{i}."): v for n, v in cache.items() if n.startswith(f"{i}.")}
            log_probs, own = model.step(tokens, own)
            scores.append(self.shares[i] * log_probs)
            after.update({f"{i}.{name}": value for name, value in own.items()})
        return torch.stack(scores).sum(0), after

    def flops(self, lengths: list[int]) -> int:
        """See ``LanguageModel.flops``."""
        return sum(model.flops(lengths) for model in self.models)
