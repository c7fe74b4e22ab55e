"""A search of a batch on a CPU: its utterances in as many parts as there are threads."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from asr.search.hypothesis import Hypothesis

Found = list[list[Hypothesis]]

SHARE = 4  # utterances that a part has, at least; fewer would make poor use of products
# Of the number of threads, which torch has for the whole process as well: one search at a time
# changes it, and reads what no other has changed.
LOCK = threading.Lock()


def side_by_side(
    search: Callable[[Tensor, Tensor], Found], encoded: Tensor, lengths: Tensor
) -> Found:
    """What ``search`` finds for (B, S, D) and (B,), whose utterances do not depend on each other.

    A step of a search is many small operations: two threads that share each of them spend much of
    their time waiting for one another, while two that have half of the utterances each do not.
    Parts have utterances of all lengths, so that they end together. Threads rather than processes:
    torch lets go of Python's lock in every operation.
    """
    alone = encoded.device.type != "cpu" or torch.is_autocast_enabled("cpu")
    if alone or not LOCK.acquire(blocking=False):
        return search(encoded, lengths)
    try:
        return _in_parts(search, encoded, lengths, torch.get_num_threads())
    finally:
        LOCK.release()


def _in_parts(
    search: Callable[[Tensor, Tensor], Found], encoded: Tensor, lengths: Tensor, threads: int
) -> Found:
    parts = min(threads, len(encoded) // SHARE)
    if parts < 2:
        return search(encoded, lengths)
    order = lengths.argsort(descending=True, stable=True)
    inference = torch.is_inference_mode_enabled()  # of this thread alone

    def part(rows: Tensor) -> Found:
        torch.set_num_threads(threads // parts)
        with torch.inference_mode(inference):
            longest = max(1, int(lengths[rows[0]]))
            return search(encoded[rows, :longest], lengths[rows])

    try:
        with ThreadPoolExecutor(parts) as pool:
            found = list(pool.map(part, [order[first::parts] for first in range(parts)]))
    except ValueError:
        # Of what a part refuses it does not know the place in the batch, which the whole names.
        search(encoded, lengths)
        raise
    finally:
        torch.set_num_threads(threads)
    results: Found = [[] for _ in range(len(encoded))]
    for first in range(parts):
        for row, hypotheses in zip(order[first::parts].tolist(), found[first], strict=True):
            results[row] = hypotheses
    return results
