"""Rows loaded by threads ahead of who writes them: in their order, in bounded memory."""

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from asr.corpora.corpus import Row
from asr.corpora.preflight import DroppedError, Utterance, load

READ_AHEAD = 8  # recordings loaded ahead per thread
READY_BYTES = 64_000_000  # of audio ready to be written per thread: an hour of speech or two
Loaded = Utterance | DroppedError
Recording = list[tuple[Row, "Future[Loaded]"]]  # rows that share their audio, and their results


def load_ahead(rows: Iterable[Row], sample_rate: int, workers: int) -> Iterator[tuple[Row, Loaded]]:
    """Loads rows in threads (decoders and torch release the lock), and yields them in their order.

    Consecutive rows of one file are one recording: a single thread decodes it, once.
    """
    pending: deque[Recording] = deque()
    ready = _Ready(READY_BYTES * workers)
    with ThreadPoolExecutor(workers) as pool:
        try:
            for _, group in itertools.groupby(rows, _audio_of):
                pending.append([(row, Future()) for row in group])
                pool.submit(ready.load, pending[-1], sample_rate)
                if len(pending) > READ_AHEAD * workers:
                    yield from ready.take(pending.popleft())
            while pending:
                yield from ready.take(pending.popleft())
        finally:  # who writes may stop early, as where the disk is full
            ready.stop()
            pool.shutdown(cancel_futures=True)


def _audio_of(row: Row) -> object:
    return row.audio if isinstance(row.audio, Path) else object()  # equal to nothing else


class _Ready:
    """What is loaded and not yet taken: at most ``limit`` bytes, or else what is asked for next."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes, self.stopped = limit, 0, False
        self.wanted: Future[Loaded] | None = None
        self.changed = threading.Condition()

    def load(self, recording: Recording, sample_rate: int) -> None:
        """Loads the rows of a recording, waiting while there is no room for a result."""
        results = load([row for row, _ in recording], sample_rate)
        for _, future in recording:
            try:
                result = next(results)
            except BaseException as error:
                future.set_exception(error)
                continue
            with self.changed:
                while not (self.stopped or self.wanted is future or self.bytes < self.limit):
                    self.changed.wait()
                if self.stopped:
                    return
                self.bytes += _bytes(result)
            future.set_result(result)

    def take(self, recording: Recording) -> Iterator[tuple[Row, Loaded]]:
        """The rows of a recording with their results, as they come."""
        while recording:
            row, future = recording.pop(0)
            self._change(wanted=future)
