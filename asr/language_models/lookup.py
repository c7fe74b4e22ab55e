"""Looks up log-probabilities in a back-off automaton, for many rows at once."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from asr.language_models.backoff import Automaton


class Lookup(nn.Module):
    """Looks up tokens in the tables of an ``Automaton``, which are its buffers.

    Args:
        table: the automaton; its tables may be replaced by others of any size.
        order: length of the longest n-grams.
        dense: number of contexts, the first ones, that have an arc for each token; every chain of
            suffixes ends in one of them.
        persistent: whether the tables are part of ``state_dict``.
    """

    keys: Tensor
    log_probabilities: Tensor
    targets: Tensor
    starts: Tensor
    log_backoffs: Tensor
    suffixes: Tensor

    def __init__(self, table: Automaton, order: int, dense: int = 1, persistent: bool = True):
        super().__init__()
        self.vocabulary, self.order, self.dense = int(table.starts[1]), order, dense
        for name, values in vars(table).items():
            self.register_buffer(name, torch.from_numpy(values), persistent)

    def replace(self, table: Automaton) -> None:
        """Takes the tables of another automaton."""
        for name, values in vars(table).items():
            setattr(self, name, torch.from_numpy(values).to(self.keys.device))

    def chain(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Returns contexts (n, N) from the longest to a dense one, and summed back-offs (n, N).

        A shorter chain repeats the dense context at its end.
        """
        contexts = [context]
        for _ in range(self.order - 1):
            contexts.append(self.suffixes[contexts[-1]].long())
        chain = torch.stack(contexts)  # (n, N)
        paid = self.log_backoffs[chain[:-1]].cumsum(0)  # (n - 1, N)
        return chain, nn.functional.pad(paid, (0, 0, 1, 0))

    def read(self, tokens: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities (N,) of tokens after contexts, and the next contexts (N,)."""
        chain, paid = self.chain(context)  # (n, N)
        wanted = chain * self.vocabulary + tokens  # (n, N)
        arc = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)  # (n, N)
        found = self.keys[arc] == wanted
        level = found.byte().argmax(0, keepdim=True)  # (1, N) the longest n-gram
        arc, paid = arc.gather(0, level)[0], paid.gather(0, level)[0]  # (N,)
        return paid + self.log_probabilities[arc], self.targets[arc].long()

    def predict(self, context: Tensor) -> Tensor:
        """Returns log-probabilities (N, V) of the next token after (N,) contexts."""
        V = self.vocabulary
        chain, paid = self.chain(context)  # (n, N)
        base = self.log_probabilities[: self.dense * V].view(-1, V)
        log_probs = base[chain[-1]] + paid[-1, :, None]  # (N, V)
        flat = log_probs.view(-1)
        rows = torch.arange(len(context), device=context.device) * V  # (N,)
        # Goes from short to long contexts, so that longer n-grams overwrite shorter ones.
        for contexts, spent in zip(chain[:-1].flip(0), paid[:-1].flip(0), strict=True):
            begin = self.starts[contexts]  # (N,)
            size = (self.starts[contexts + 1] - begin).masked_fill(contexts < self.dense, 0)  # (N,)
            offset = size.cumsum(0) - size
            places = torch.stack([begin - offset, rows - contexts * V]).repeat_interleave(size, 1)
            arc = places[0] + torch.arange(places.shape[1], device=context.device)  # (R,)
            spent = spent.repeat_interleave(size)  # (R,)
            flat[self.keys[arc] + places[1]] = self.log_probabilities[arc] + spent
        return log_probs


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
