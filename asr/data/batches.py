"""Orders training and validation batches by size; training can resume at any batch."""

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np


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
    number of ranks: rank r of R takes the batches r, r + R, r + 2R and so on.
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
        """Yields a rank's batches without end; ``position`` counts earlier batches of all ranks."""
        rows = itertools.islice(self.stream.batches(position), rank, None, num_ranks)
        return self.load_batches(self.train, rows)

    def validation_batches(self, rank: int = 0, num_ranks: int = 1) -> Iterable[Any]:
        """Yields every validation item once; a batch holds items of similar size."""
        return self.load_batches(self.validation, self.validation_rows()[rank::num_ranks])

    def validation_rows(self) -> list[list[int]]:
        """Returns the items of each validation batch."""
        return bucket(self.validation.sizes, self.max_batch_size)

    def load_batches(self, items: Any, rows: Iterable[list[int]]) -> Iterable[Any]:
        """Yields the batches of these items."""
        return map(items.batch, rows)

    def longest_batch(self) -> Any:
        """Returns the largest batch; the batches of an epoch are at most 5 % larger."""
        sizes = self.train.sizes
        batches = bucket(sizes, self.max_batch_size)
        return self.train.batch(max(batches, key=lambda b: len(b) * max(sizes[i] for i in b)))
