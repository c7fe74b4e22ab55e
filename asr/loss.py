"""Named terms of a training loss, and how an inner module adds a term."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Term(NamedTuple):
    """One term of a loss: a sum over tokens or frames, and their number."""

    sum: Tensor  # () float32
    count: Tensor  # type: ignore[assignment]  # () int64; hides tuple.count
    weight: float  # weight in the loss; with 0 the term is only recorded


@dataclass
class Loss:
    """Named terms; sums and counts are separate, so that averages over batches are exact.

    Attributes:
        terms: the terms by name, for instance ``attention`` and ``ctc``.
        infeasible: () int64, utterances with fewer encoder frames than CTC needs (labels plus
            repeated labels); they are left out of the CTC term.
    """

    terms: dict[str, Term]
    infeasible: Tensor

    def total(self) -> Tensor:
        """Returns the weighted sum of the terms' means, ()."""
        return weighted(self.terms)


def weighted(terms: dict[str, Term]) -> Tensor:
    """Returns the weighted sum of the terms' means, ()."""
    return torch.stack([t.weight * t.sum / t.count.clamp(min=1) for t in terms.values()]).sum()


_collected: ContextVar[dict[str, Term] | None] = ContextVar("collected", default=None)


@contextmanager
def collected() -> Iterator[dict[str, Term]]:
    """Collects the terms that modules add within this block, such as the ponder cost."""
    terms: dict[str, Term] = {}
    token = _collected.set(terms)
    try:
        yield terms
    finally:
        _collected.reset(token)


def collecting() -> bool:
    """Returns whether terms are collected; if not, a module can skip their computation."""
    return _collected.get() is not None


def add_term(name: str, sum: Tensor, count: Tensor, weight: float = 0.0) -> None:
    """Adds a term if terms are collected; terms of the same name are summed.

    Args:
        name: name of the term in the ledger.
        sum: () sum over valid frames or tokens.
        count: () number of valid frames or tokens.
        weight: weight of the mean in the loss; with 0 the term is only recorded.
    """
    terms = _collected.get()
    if terms is None:
        return
    sum = sum.float() if weight else sum.detach().float()
    if name in terms:
        before = terms[name]
        if before.weight != weight:
            raise ValueError(f"{name} has weights {before.weight} and {weight}; give one")
        sum, count = sum + before.sum, count + before.count
    terms[name] = Term(sum, count, weight)
