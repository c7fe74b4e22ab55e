"""Orders training and validation batches by size; training can resume at any batch."""

import bisect
import itertools
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
    number of ranks, which share each batch. A window is what has to be read before its batches: an
    epoch, or, where items are read in groups, a number of groups drawn at random.
    """

    def __init__(
        self,
        sizes: Sequence[float],
        max_batch_size: float,
        seed: int,
        curriculum: Sequence[float] = (),
        groups: Sequence[int] | None = None,
        window_size: float = np.inf,
    ):
        """Prepares the order.

        Args:
            sizes: size of each item.
            max_batch_size: bound of the largest item times the number of items of a batch.
            seed: seed of the order.
            curriculum: largest size of the items of each of the first epochs.
            groups: the first item of each group that is read at once, and the number of items.
            window_size: size of a window, which is exceeded by less than a group.

        Raises:
            ValueError: no item is small enough for an epoch of the curriculum.
        """
        self.sizes, self.max_batch_size, self.seed = np.asarray(sizes), max_batch_size, seed
        self.curriculum, self.window_size = curriculum, window_size
        self._sizes: list[float] = self.sizes.tolist()
        groups = [0, len(self.sizes)] if groups is None else groups
        self._group = np.repeat(np.arange(len(groups) - 1), np.diff(groups))  # of each item
        self._ends: list[int] = []  # batches up to the end of each epoch
        smallest = min(self._sizes, default=np.inf)
        if short := [limit for limit in curriculum if limit < smallest]:
            raise ValueError(
                f"curriculum: nothing is as short as {short[0]:g} (the shortest is {smallest:g}); "
                "give larger numbers, or []"
            )

    def windows(self, epoch: int) -> list[list[list[int]]]:
        """Returns the batches of each window of an epoch in order."""
        draw = np.random.default_rng([self.seed, epoch])
        limits = self.curriculum
        allowed = np.flatnonzero(self.sizes <= (limits[epoch] if epoch < len(limits) else np.inf))
        windows = []
        for items in self._drawn(allowed, draw):
            # Noise on the sizes groups each item with different items in each epoch.
            noisy = self.sizes[items] * draw.uniform(0.95, 1.05, len(items))
            order = items[np.argsort(noisy, kind="stable")].tolist()
            batches = bucket(self._sizes, self.max_batch_size, order)
            windows.append([batches[i] for i in draw.permutation(len(batches))])
        return windows

    def _drawn(self, items: np.ndarray, draw: np.random.Generator) -> list[np.ndarray]:
        """Draws the order of the groups, and returns the items of each window."""
        if self.window_size == np.inf:
            return [items]
        group = self._group[items]
        sizes = np.bincount(group, weights=self.sizes[items])
        order = draw.permutation(np.flatnonzero(sizes))
        before = np.cumsum(sizes[order]) - sizes[order]
        window = np.zeros(len(sizes), dtype=np.int64)  # of each group
        window[order] = before // self.window_size
        return [items[window[group] == number] for number in np.unique(window[order])]

    def epoch(self, epoch: int) -> list[list[int]]:
        """Returns the batches of one epoch in order."""
        return list(itertools.chain(*self.windows(epoch)))

    def locate(self, position: int) -> tuple[int, int]:
        """Returns (epoch, number of earlier batches in this epoch) for the batch at a position."""
        while not self._ends or position >= self._ends[-1]:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + len(self.epoch(len(self._ends))))
        epoch = bisect.bisect_right(self._ends, position)
        return epoch, position - (self._ends[epoch - 1] if epoch else 0)

    def windows_from(self, position: int) -> Iterator[list[list[int]]]:
        """Yields the windows from a position on, without end; the first may have lost batches."""
        epoch, skip = self.locate(position)
        while True:
            for window in self.windows(epoch):
                if rest := window[skip:]:
                    yield rest
                skip = max(0, skip - len(window))
            epoch += 1

    def batches(self, position: int) -> Iterator[list[int]]:
        """Yields the batches from a position on, without end."""
        return itertools.chain.from_iterable(self.windows_from(position))


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
        self, train: Any, validation: Any, max_batch_size: float, stream: BatchStream
    ) -> None:
        self.train, self.validation, self.max_batch_size = train, validation, max_batch_size
        self.stream = stream

    def shares(self, position: int, rank: int, num_ranks: int) -> Iterator[list[Share]]:
        """Yields the rows of a rank by window; ``position`` is the number of earlier batches."""
        for window in self.stream.windows_from(position):
            yield [self.share(batch, rank, num_ranks) for batch in window]

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
        rows = self.validation_rows()[rank::num_ranks]
        return self.load_batches(self.validation, ([batch] for batch in rows))

    def validation_rows(self) -> list[list[int]]:
        """Returns the items of each validation batch."""
        return bucket(self.validation.sizes, self.max_batch_size)

    def load_batches(self, items: Any, windows: Iterable[list[list[int]]]) -> Iterable[Any]:
        """Yields the batches of these windows of items."""
        return map(items.batch, itertools.chain.from_iterable(windows))

    def longest_batch(self) -> list[int]:
        """Returns the items of the largest batch; those of an epoch are at most 5 % larger."""
        sizes = self.train.sizes
        batches = bucket(sizes, self.max_batch_size)
        return max(batches, key=lambda b: len(b) * max(sizes[i] for i in b))
