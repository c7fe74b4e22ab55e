"""Rows loaded by threads ahead of who writes them: in their order, in bounded memory."""

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from asr.corpora.corpus import Row
from asr.corpora.preflight import DroppedError, Utterance, load

READ_AHEAD = 8  # recordings loaded ahead per thread
READY_BYTES = 64_000_000  # of audio ready to be written per thread: an hour of speech or two
Loaded = Utterance | DroppedError


def load_ahead(rows: Iterable[Row], sample_rate: int, workers: int) -> Iterator[tuple[Row, Loaded]]:
    """Loads rows in threads (decoders and torch release the lock), and yields them in their order.

    Consecutive rows of one file are one recording: a single thread decodes it, once.
    """
    pending: deque[_Recording] = deque()
    ready = _Ready(READY_BYTES * workers)
    with ThreadPoolExecutor(workers) as pool:
        try:
            for _, group in itertools.groupby(rows, _audio_of):
                recording = _Recording(list(group))
                recording.loading = pool.submit(ready.load, recording, sample_rate)
                pending.append(recording)
                if len(pending) > READ_AHEAD * workers:
                    yield from ready.take(pending.popleft())
            while pending:
                yield from ready.take(pending.popleft())
        finally:  # who writes may stop early, as where the disk is full
            ready.stop()
            pool.shutdown(cancel_futures=True)


def _audio_of(row: Row) -> object:
    return row.audio if isinstance(row.audio, Path) else object()  # equal to nothing else


@dataclass(eq=False)
class _Recording:
    """Rows that share their audio, and their results as far as they are there."""

    rows: list[Row]
    results: deque[Loaded] = field(default_factory=deque)
    loading: "Future[None] | None" = None
    ended: bool = False


class _Ready:
    """What is loaded and not yet taken: at most ``limit`` bytes, or else what is asked for next."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes, self.stopped = limit, 0, False
        self.wanted: _Recording | None = None
        self.changed = threading.Condition()

    def load(self, recording: _Recording, sample_rate: int) -> None:
        """Loads the rows of a recording, waiting while there is no room for a result."""

        def room() -> bool:
            wanted = recording is self.wanted and not recording.results
            return wanted or self.stopped or self.bytes < self.limit

        try:
            for result in load(recording.rows, sample_rate):
                with self.changed:
                    self.changed.wait_for(room)
                    if self.stopped:
                        return
                    recording.results.append(result)
                    self.bytes += _bytes(result)
                    self.changed.notify_all()
        finally:
            with self.changed:
                recording.ended = True
                self.changed.notify_all()

    def take(self, recording: _Recording) -> Iterator[tuple[Row, Loaded]]:
        """The rows of a recording with their results, as they come."""
        for row in recording.rows:
            with self.changed:
                self.wanted = recording
                self.changed.notify_all()
                self.changed.wait_for(lambda: recording.results or recording.ended)
                if not recording.results and recording.loading is not None:
                    recording.loading.result()  # raises what ended the loading
                result = recording.results.popleft()
                self.bytes -= _bytes(result)
            yield row, result

    def stop(self) -> None:
        """Nothing more will be taken."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()


def _bytes(result: Loaded) -> int:
    return len(result.audio) if isinstance(result, Utterance) else 0
