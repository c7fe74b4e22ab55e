"""Packs n-grams into small tables: ids of the smallest integer type, 16-bit logarithms.

The tables hold no contexts. The n-grams are sorted by context, so the number of n-grams that
continue each context is enough to find the context of every n-gram.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from asr.language_models.backoff import Grams


def pack(orders: Sequence[Grams]) -> dict[str, Tensor]:
    """Packs the A n-grams of orders 1 to n into tables, in ascending order.

    Returns:
        The tables by name. ``sizes`` (n,) holds the number of n-grams of each order. ``tokens``
        (A,) and ``probabilities`` (A,) have an entry for each n-gram. ``backoffs`` and
        ``followers`` have an entry for each n-gram of orders 1 to n - 1; ``followers`` counts the
        longer n-grams that continue it.
    """
    sizes = np.array([len(grams.token) for grams in orders])
    followers = [
        np.bincount(longer.context, minlength=size)
        for longer, size in zip(orders[1:], sizes, strict=False)
    ]
    tables = {
        "sizes": sizes,
        "tokens": _joined([grams.token for grams in orders]),
        "followers": _joined([np.zeros(0, np.int64), *followers]),
        "probabilities": np.concatenate([grams.log_prob for grams in orders]),
        "backoffs": np.concatenate([np.zeros(0), *(grams.log_backoff for grams in orders[:-1])]),
    }
    return {
        name: torch.from_numpy(values.astype(np.float16) if values.dtype == float else values)
        for name, values in tables.items()
    }


def unpack(tables: Mapping[str, Tensor]) -> list[Grams]:
    """Restores the n-grams from the tables of ``pack``; logarithms are rounded to 16 bits."""
    sizes, tokens, followers = (
        tables[name].cpu().numpy().astype(np.int64) for name in ("sizes", "tokens", "followers")
    )
    log_probs, backoffs = (
        tables[name].cpu().double().numpy() for name in ("probabilities", "backoffs")
    )
    ends = np.cumsum(sizes)
    row = np.repeat(np.arange(len(followers)), followers)  # of the context, from order 2
    context = np.concatenate([np.zeros(sizes[0], np.int64), row])
    context -= np.repeat([0, 0, *ends][: len(sizes)], sizes)  # row within its order
    log_backoffs = np.concatenate([backoffs, np.zeros(sizes[-1])])
    columns = (np.split(column, ends[:-1]) for column in (context, tokens, log_probs, log_backoffs))
    return [Grams(*parts) for parts in zip(*columns, strict=True)]


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Joins arrays of integers of 0 or more, in the smallest integer type that holds them all."""
    joined = np.concatenate(arrays)
    return joined.astype(np.min_scalar_type(int(joined.max(initial=0))))
