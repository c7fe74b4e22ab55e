"""Prunes back-off n-gram models by relative entropy.

Stolcke (1998), "Entropy-based pruning of backoff language models". A model without the n-gram hw
gives w the probability backoff'(h) p(w | h'), in which h' is the context h without its first token,
and backoff'(h) makes all probabilities after h sum to 1 again. This costs

    p(h) (p(w | h) log(p(w | h) / (backoff'(h) p(w | h'))) + freed log(backoff(h) / backoff'(h)))

nats per token, in which ``freed`` is 1 minus the probabilities of all n-grams after h.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from asr.batch import EOS
from asr.language_models.backoff import START, Grams, automaton
from asr.language_models.lookup import Lookup

SMALLEST = 1e-9  # the least probability that a context leaves for other tokens


def prune(orders: Sequence[Grams], size: int) -> list[Grams]:
    """Leaves out the n-grams that cost least, until at most ``size`` of all orders are left.

    Unigrams stay, and so do n-grams that are the context of others. Probabilities sum to 1.
    """
    costs = _costs(orders)
    longer = np.sort(np.concatenate(costs))[::-1]  # (A,) unigrams come first
    least = longer[size] if size < len(longer) else -np.inf
    kept, rows = [orders[0]], np.arange(len(orders[0].token))
    for grams, cost in zip(orders[1:], costs[1:], strict=True):
        stay = cost > least
        some = Grams(*(values[stay] for values in vars(grams).values()))
        kept.append(replace(some, context=rows[some.context]))
        rows = np.cumsum(stay) - 1
        p, q, contexts = _chances(kept)
        backoff = _left(kept[-1], p, contexts) / _left(kept[-1], q, contexts)
        kept[-2] = replace(kept[-2], log_backoff=np.log(backoff))
    return kept


def _costs(orders: Sequence[Grams]) -> list[np.ndarray]:
    """Returns the cost of leaving out each n-gram and those that continue it, order by order.

    It is infinite for unigrams.
    """
    history = orders[0].log_prob.copy()
    history[START] = history[EOS]  # as many sentences begin as end
    costs = [np.full(len(history), np.inf)]
    for n, grams in enumerate(orders[1:], 2):
        p, q, contexts = _chances(orders[:n])
        freed, below = (_left(grams, each, contexts)[grams.context] for each in (p, q))
        without = np.log((freed + p) / (below + q))  # log backoff'(h)
        change = p * (np.log(p / q) - without) + freed * (np.log(freed / below) - without)
        costs.append(np.exp(history[grams.context]) * change)
        history = history[grams.context] + grams.log_prob
    for n in range(len(orders) - 1, 0, -1):
        np.maximum.at(costs[n - 1], orders[n].context, costs[n])
    return costs


def _chances(orders: Sequence[Grams]) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns p(w | h) and p(w | h') of the last order's n-grams hw, and the number of contexts."""
    table, grams = automaton(orders), orders[-1]
    lookup = Lookup(table, len(orders))
    context, token = np.divmod(table.keys[len(table.keys) - len(grams.token) :], lookup.vocabulary)
    shorter = torch.from_numpy(table.suffixes[context]).long()
    q = lookup.read(torch.from_numpy(token), shorter)[0].double().exp().numpy()
    return np.exp(grams.log_prob), q, len(orders[-2].token)


def _left(grams: Grams, chances: np.ndarray, contexts: int) -> np.ndarray:
    """Returns 1 - the sum of the probabilities (G,) after each context, (contexts,)."""
    return np.maximum(1 - np.bincount(grams.context, chances, contexts), SMALLEST)
