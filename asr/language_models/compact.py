"""N-grams in few bytes: ids of the smallest type, logarithms of 16 bits, contexts as counts."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from asr.language_models.backoff import Grams


def pack(orders: Sequence[Grams]) -> dict[str, Tensor]:
    """Packs the A n-grams of orders 1 to n, order by order.

    Returns:
        ``sizes`` (n,), the number of n-grams of each order; ``tokens`` (A,) and ``probabilities``
        (A,); and for all but the longest n-grams ``backoffs`` and ``followers``, the number of
        n-grams that continue each. The n-grams are sorted by context, so these numbers tell it.
    """
    sizes = np.array([len(grams.token) for grams in orders])
    follower_counts = [
        np.bincount(longer.context, minlength=size)
        for longer, size in zip(orders[1:], sizes, strict=False)
    ]
    log_probs = np.concatenate([grams.log_prob for grams in orders])
    backoffs = np.concatenate([np.zeros(0), *(grams.log_backoff for grams in orders[:-1])])
    return {
        "sizes": torch.from_numpy(sizes),
        "tokens": packed_ids([grams.token for grams in orders]),
        "followers": packed_ids(follower_counts),
        "probabilities": torch.from_numpy(log_probs.astype(np.float16)),
        "backoffs": torch.from_numpy(backoffs.astype(np.float16)),
    }


def unpack(tables: Mapping[str, Tensor]) -> list[Grams]:
    """Returns the n-grams of tables from ``pack``, with logarithms rounded to 16 bits."""
    sizes, tokens, followers = (
        tables[name].cpu().numpy().astype(np.int64) for name in ("sizes", "tokens", "followers")
    )
    log_probs, backoffs = (
        tables[name].cpu().double().numpy() for name in ("probabilities", "backoffs")
    )
    ends = np.cumsum(sizes)
    row = np.repeat(np.arange(len(followers)), followers)  # of the contexts of orders 2 and up
    context = np.concatenate([np.zeros(sizes[0], np.int64), row])
    context -= np.repeat([0, 0, *ends][: len(sizes)], sizes)  # the row in its own order
    log_backoffs = np.concatenate([backoffs, np.zeros(sizes[-1])])
    columns = (np.split(x, ends[:-1]) for x in (context, tokens, log_probs, log_backoffs))
    return [Grams(*parts) for parts in zip(*columns, strict=True)]


def packed_ids(rows: Sequence[Sequence[int] | np.ndarray]) -> Tensor:
    """Joins rows of numbers of 0 or more, in as few bytes each as the largest needs."""
    joined = np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int64)
    return torch.from_numpy(joined.astype(np.min_scalar_type(int(joined.max(initial=0)))))
