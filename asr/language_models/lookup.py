"""Looks up log-probabilities in a back-off automaton, for many rows at once."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from asr.language_models.backoff import Automaton

LOWEST = -1000.0  # of the logarithm of a back-off weight: sums of float32 stay precise


class Lookup(nn.Module):
    """Looks up tokens in the tables of an ``Automaton``, which are its buffers.

    Args:
        table: the automaton; its tables may be replaced by others of any size.
        order: length of the longest n-grams.
        persistent: whether the tables are part of ``state_dict``.
    """

    keys: Tensor
    log_probabilities: Tensor
    targets: Tensor
    starts: Tensor
    log_backoffs: Tensor
    suffixes: Tensor
    chains: Tensor
    paid: Tensor
    shares: Tensor

    def __init__(self, table: Automaton, order: int, persistent: bool = True):
        super().__init__()
        self.vocabulary, self.order = int(table.starts[1]), order
        for name, values in vars(table).items():
            self.register_buffer(name, torch.from_numpy(values), persistent)
        for name in ("chains", "paid", "shares"):
            self.register_buffer(name, torch.zeros(0), persistent=False)
        self.register_load_state_dict_post_hook(_chained)
        _chained(self)

    def replace(self, table: Automaton) -> None:
        """Takes the tables of another automaton."""
        for name, values in vars(table).items():
            setattr(self, name, torch.from_numpy(values).to(self.keys.device))
        _chained(self)

    def read(self, tokens: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities (N,) of tokens after contexts, and the next contexts (N,)."""
        chain = self.chains.index_select(0, context).long()  # (N, n - 1)
        wanted = (chain * self.vocabulary).add_(tokens[:, None])
        arc = torch.searchsorted(self.keys, wanted, right=True).sub_(1)  # (N, n - 1)
        arc.mul_(self.keys.take(arc) == wanted)  # 0 if there is no such n-gram
        # An arc of the empty context has the number of its token; longer n-grams come later.
        arc = torch.maximum(arc.amax(1), tokens) if self.order > 1 else tokens
        log_probs = self.paid.take(context) + self.shares.take(arc)
        return log_probs, self.targets.take(arc).long()

    def predict(self, context: Tensor) -> Tensor:
        """Returns log-probabilities (N, V) of the next token after (N,) contexts."""
        V, N = self.vocabulary, len(context)
        arcs = torch.arange(V, device=context.device).repeat(N)  # (N * V,) of the empty context
        chain = self.chains.index_select(0, context).long()  # (N, n - 1)
        stops = self.starts.take(chain + 1)
        sizes = (stops - self.starts.take(chain)).masked_fill_(chain == 0, 0).flatten()
        rows = torch.arange(0, N * V, V, device=context.device)[:, None]  # (N, 1)
        places = torch.stack([stops.flatten() - sizes.cumsum(0), (rows - chain * V).flatten()])
        first, row = places.repeat_interleave(sizes, 1)  # (R,)
        arc = first + torch.arange(len(first), device=context.device)
        arcs.scatter_reduce_(0, self.keys.take(arc) + row, arc, "amax")  # longer n-grams come later
        return self.shares.take(arcs).view(N, V) + self.paid.take(context)[:, None]


def _chained(lookup: Lookup, incompatible: Any = None) -> None:
    """Makes the tables that a lookup takes less time with.

    ``chains`` (C, n - 1) int32 holds the suffixes of each context, itself the first; a short
    context is followed by empty ones. ``paid`` (C,) float32 sums the back-off weights from it to
    the empty context. ``shares`` (A,) float32 are log-probabilities less what is paid from the
    context of the arc, so that ``paid`` of any context and the share of the arc that is found sum
    to the log-probability.
    """
    contexts = [torch.arange(len(lookup.suffixes), device=lookup.suffixes.device).int()]
    for _ in range(lookup.order - 1):
        contexts.append(lookup.suffixes[contexts[-1]])
    lookup.chains = torch.stack(contexts, 1)[:, :-1].contiguous()
    log_backoffs = lookup.log_backoffs.double().clamp(min=LOWEST)
    paid = log_backoffs[lookup.chains].sum(1)
    lookup.paid = paid.float()
    spent = paid.repeat_interleave(lookup.starts.diff())
    lookup.shares = (lookup.log_probabilities - spent).float()


def make_room(
    module: nn.Module,
    state: Mapping[str, Any],
    prefix: str,
    metadata: object,
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Gives the buffers the sizes and types of the stored ones before these are loaded."""
    for name, buffer in list(module.named_buffers(recurse=False)):
        if prefix + name in state:
            stored = state[prefix + name]
            setattr(module, name, torch.empty_like(stored, device=buffer.device))
