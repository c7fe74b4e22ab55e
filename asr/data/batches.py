"""Orders training and validation batches by size; training can resume at any batch."""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from asr.batch import Share


def bucket(
    sizes: Sequence[float], max_batch_size: float, order: Sequence[int] | None = None
) -> list[list[int]]:
    """Groups items of similar size into batches with a padded size of at most ``max_batch_size``.

    Args:
        sizes: size of each item, in any unit.
        max_batch_size: bound of largest size times number of items; a larger item is a batch.
        order: indices by (nearly) increasing size; None sorts the items by size.
    """
    batches: list[list[int]] = []
    longest = 0.0
    for index in np.argsort(sizes, kind="stable") if order is None else order:
        longest = max(longest, sizes[index])
        if not batches or longest * (len(batches[-1]) + 1) > max_batch_size:
            batches.append([])
            longest = sizes[index]
        batches[-1].append(int(index))
    return batches


class BatchStream:
    """The endless sequence of training batches, which can start anywhere and depends on the seed.

    The epochs follow one another, each in a new random order. The sequence does not depend on the
    number of ranks, which share each batch.
    """

    def __init__(
        self,
        sizes: Sequence[float],
        max_batch_size: float,
        seed: int,
        curriculum: Sequence[float] = (),
    ):
        """See ``BatchSource``; the first epochs use only items up to the sizes of a curriculum."""
        self.sizes, self.max_batch_size, self.seed = np.asarray(sizes), max_batch_size, seed
        self.curriculum = curriculum
        self._ends: list[int] = []  # batches up to the end of each epoch

    def epoch(self, epoch: int) -> list[list[int]]:
        """Returns the batches of one epoch in order."""
        draw = np.random.default_rng([self.seed, epoch])
        limits = self.curriculum
        limit = limits[epoch] if epoch < len(limits) else np.inf
        allowed = np.flatnonzero(self.sizes <= limit)
        if not len(allowed):
            raise ValueError(
                f"data.curriculum_seconds: no utterance is as short as {limit} s "
                f"(the shortest lasts {self.sizes.min():.2f} s); give longer ones, or []"
            )
        # Noise on the sizes groups each utterance with different utterances in each epoch.
        noisy = self.sizes[allowed] * draw.uniform(0.95, 1.05, len(allowed))
        order = allowed[np.argsort(noisy, kind="stable")].tolist()
        batches = bucket(self.sizes.tolist(), self.max_batch_size, order)
        return [batches[i] for i in draw.permutation(len(batches))]

    def locate(self, position: int) -> tuple[int, int]:
        """Returns (epoch, number of earlier batches in this epoch) for the batch at a position."""
        while not self._ends or position >= self._ends[-1]:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + len(self.epoch(len(self._ends))))
        epoch = bisect.bisect_right(self._ends, position)
        return epoch, position - (self._ends[epoch - 1] if epoch else 0)

    def batches(self, position: int) -> Iterator[list[int]]:
        """Yields the batches from a position on, without end."""
        epoch, skip = self.locate(position)
        while True:
            yield from self.epoch(epoch)[skip:]
            epoch, skip = epoch + 1, 0


def split(sizes: Sequence[float], number: int) -> list[list[int]]:
    """Splits the rows of a batch among ranks so that the largest padded size is smallest.

    A group holds rows of neighbouring sizes; its padded size is its largest size times its number
    of rows. No group is empty if there are enough rows.

    Args:
        sizes: size of each row.
        number: number of groups.

    Returns:
        The rows of each group in increasing order; the first group holds the largest row.
    """
    order = np.argsort(-np.asarray(sizes), kind="stable").tolist()
    bound = sum(sizes) / number  # no split is better
    while True:
        # Each group takes as many rows as the bound allows, and the next bound is the smallest
        # that lets one of the groups take another row.
        groups: list[list[int]] = []
        at, higher = 0, np.inf
        for later in reversed(range(number)):
            most, count = len(order) - at - later, 1
            while count < most and (count + 1) * sizes[order[at]] <= bound:
                count += 1
            if count < most:
                higher = min(higher, (count + 1) * sizes[order[at]])
            groups.append(sorted(order[at : at + count]))
            at += count
        if at >= len(order):
            return groups
        bound = higher


class BatchSource:
    """Training and validation batches for any number of ranks, from any position on.

    Attributes:
        train, validation: items with ``sizes`` (of each item, in the unit of ``max_batch_size``),
            ``tokens(index)`` and ``batch(indices)``.
        max_batch_size: bound of the largest item times the number of items of a batch.
        stream: the order of the training batches.
    """

    def __init__(
        self,
        train: Any,
        validation: Any,
        max_batch_size: float,
        seed: int,
        curriculum: Sequence[float] = (),
    ) -> None:
        self.train, self.validation, self.max_batch_size = train, validation, max_batch_size
        self.stream = BatchStream(train.sizes, max_batch_size, seed, curriculum)

    def train_batches(self, position: int = 0, rank: int = 0, num_ranks: int = 1) -> Iterable[Any]:
        """Yields a rank's shares of the batches without end; see ``shares``."""
        shares = self.shares(position, rank, num_ranks)
        return self.load_batches(self.train, (share.items for share in shares))

    def shares(self, position: int, rank: int, num_ranks: int) -> Iterator[Share]:
        """Yields the rows of a rank; ``position`` is the number of earlier batches."""
        return (self.share(batch, rank, num_ranks) for batch in self.stream.batches(position))

    def share(self, batch: list[int], rank: int, num_ranks: int) -> Share:
        """Returns the rows of a batch of items that a rank trains on; see ``split``."""
        if num_ranks == 1:
            return Share(batch, list(range(len(batch))), len(batch))
        sizes = [self.train.sizes[item] for item in batch]
        rows = split(sizes, num_ranks)[rank]
        idle = not rows
        if idle:
            rows = [int(np.argmin(sizes))]
        return Share([batch[row] for row in rows], rows, len(batch), idle)

    def validation_batches(self, rank: int = 0, num_ranks: int = 1) -> Iterable[Any]:
        """Yields every validation item once; a batch holds items of similar size."""
        return self.load_batches(self.validation, self.validation_rows()[rank::num_ranks])

    def validation_rows(self) -> list[list[int]]:
        """Returns the items of each validation batch."""
        return bucket(self.validation.sizes, self.max_batch_size)

    def load_batches(self, items: Any, rows: Iterable[list[int]]) -> Iterable[Any]:
        """Yields the batches of these items."""
        return map(items.batch, rows)

    def longest_batch(self) -> list[int]:
        """Returns the items of the largest batch; those of an epoch are at most 5 % larger."""
        sizes = self.train.sizes
        batches = bucket(sizes, self.max_batch_size)
        return max(batches, key=lambda b: len(b) * max(sizes[i] for i in b))
