"""Rows loaded by threads ahead of who writes them: in their order, in bounded memory."""

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from asr.corpora.corpus import Row
from asr.corpora.preflight import Loaded, Utterance, load

READ_AHEAD = 8  # recordings loaded ahead per thread
READY_BYTES = 64_000_000  # of audio ready to be written per thread: an hour of speech or two
Results = SimpleQueue[Loaded | BaseException]  # an exception ended the loading


def load_ahead(rows: Iterable[Row], sample_rate: int, workers: int) -> Iterator[tuple[Row, Loaded]]:
    """Loads rows in threads (decoders and torch release the lock), and yields them in their order.

    Consecutive rows of one file are one recording: a single thread decodes it, once.
    """
    pending: deque[tuple[list[Row], Results]] = deque()
    ready = _Ready(READY_BYTES * workers)
    with ThreadPoolExecutor(workers) as pool:
        try:
            for _, group in itertools.groupby(rows, _audio_of):
                pending.append((list(group), SimpleQueue()))
                pool.submit(ready.load, *pending[-1], sample_rate)
                if len(pending) > READ_AHEAD * workers:
                    yield from ready.take(*pending.popleft())
            while pending:
                yield from ready.take(*pending.popleft())
        finally:  # who writes may stop early, as where the disk is full
            ready.ask(None)
            pool.shutdown(cancel_futures=True)


def _audio_of(row: Row) -> object:
    return row.audio if isinstance(row.audio, Path) else object()  # equal to nothing else


class _Ready:
    """What is loaded and not yet taken: at most ``limit`` bytes, or else what is asked for next."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes, self.stopped = limit, 0, False
        self.wanted: Results | None = None
        self.changed = threading.Condition()

    def load(self, rows: list[Row], results: Results, sample_rate: int) -> None:
        """Loads the rows of a recording, waiting while there is no room for a result."""

        def room() -> bool:
            wanted = results is self.wanted and results.empty()
            return wanted or self.stopped or self.bytes < self.limit

        try:
            for result in load(rows, sample_rate):
                with self.changed:
                    self.changed.wait_for(room)
                    if self.stopped:
                        return
                    self.bytes += _bytes(result)
                results.put(result)
        except BaseException as error:
            results.put(error)

    def take(self, rows: list[Row], results: Results) -> Iterator[tuple[Row, Loaded]]:
        """The rows of a recording with their results, as they come."""
        for row in rows:
            self.ask(results)
            result = results.get()
            if not isinstance(result, Loaded):
                raise result
            with self.changed:
                self.bytes -= _bytes(result)
            yield row, result

    def ask(self, results: Results | None) -> None:
        """Lets the next of these results be loaded; None ends all loading."""
        with self.changed:
            self.wanted, self.stopped = results, results is None
            self.changed.notify_all()


def _bytes(result: Loaded) -> int:
    return len(result.audio) if isinstance(result, Utterance) else 0
