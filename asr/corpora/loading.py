"""Decodes and checks the audio of rows in threads, in order and in bounded memory."""

import contextlib
import hashlib
import io
import itertools
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import soundfile

from asr import items
from asr.audio import audio_file
from asr.corpora.corpus import DroppedError, Row

READ_AHEAD = 8  # recordings loaded ahead per thread
READY_BYTES = 64_000_000  # loaded audio per thread that waits to be written; about an hour
SILENCE_PEAK = 1e-4  # -80 dB of full scale
CLIPPED_SHARE = 0.001  # share of samples at full scale above which an utterance is clipped


@dataclass(frozen=True)
class Utterance:
    """The audio of a row, decoded, checked and brought to the sample rate of the corpus."""

    row: Row
    audio: bytes  # a mono audio file at the sample rate of the corpus
    path: str  # a file name that fits the bytes
    seconds: float  # duration
    audio_hash: str  # hash of the published samples
    resampled: bool  # whether the published sample rate differs
    mixed: bool  # whether the published audio has several channels
    clipped: bool  # whether many samples are at full scale


Loaded = Utterance | DroppedError
Results = SimpleQueue[Loaded | BaseException]  # an exception ends the loading


def load_ahead(rows: Iterable[Row], sample_rate: int, workers: int) -> Iterator[tuple[Row, Loaded]]:
    """Loads rows in threads (decoders and torch release the lock), and yields them in their order.

    Consecutive rows of one channel of a file are one recording: one thread decodes it, once.
    """
    pending: deque[tuple[list[Row], Results]] = deque()
    ready = _Ready(READY_BYTES * workers)
    with ThreadPoolExecutor(workers) as pool:
        try:
            # Bytes and samples are each a recording, so their key is an object equal to no other.
            for _, group in itertools.groupby(
                rows,
                lambda row: (row.audio, row.channel) if isinstance(row.audio, Path) else object(),
            ):
                pending.append((list(group), SimpleQueue()))
                pool.submit(ready.load, *pending[-1], sample_rate)
                if len(pending) > READ_AHEAD * workers:
                    yield from ready.take(*pending.popleft())
            while pending:
                yield from ready.take(*pending.popleft())
        finally:  # the caller may stop early, for instance because the disk is full
            ready.ask(None)
            pool.shutdown(cancel_futures=True)


class _Ready:
    """The results not yet taken: at most ``limit`` bytes, or else only the requested one."""

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
                    self.bytes += len(getattr(result, "audio", b""))
                results.put(result)
        except BaseException as error:
            results.put(error)

    def take(self, rows: list[Row], results: Results) -> Iterator[tuple[Row, Loaded]]:
        """Yields each row of a recording with its result as soon as it is loaded."""
        for row in rows:
            self.ask(results)
            result = results.get()
            if not isinstance(result, Loaded):
                raise result
            with self.changed:
                self.bytes -= len(getattr(result, "audio", b""))
            yield row, result

    def ask(self, results: Results | None) -> None:
        """Requests the next of these results; None ends all loading."""
        with self.changed:
            self.wanted, self.stopped = results, results is None
            self.changed.notify_all()


def load(rows: Sequence[Row], sample_rate: int) -> Iterator[Loaded]:
    """Decodes the audio that some rows share once, and checks the part of each row.

    The bytes of a file are kept if nothing has to change. The results have the order of the rows;
    each is yielded as soon as the ones before it. Memory holds the audio of the rows that have
    begun and not ended, and of finished rows that wait for an earlier row. An error becomes the
    result of each row that it concerns.
    """
    found: dict[int, Future[Loaded]] = {}
    given = 0
    # A thread encodes each part while the audio after it is decoded.
    with ThreadPoolExecutor(1) as beside:
        try:
            with _open(rows[0]) as sound:
                latest: Future[Loaded] | None = None
                for cut in _cuts(rows, sound):
                    if latest is not None:
                        latest.result()  # at most one part waits to be encoded
                    latest = beside.submit(_attempt, rows[cut.index], cut, sound, sample_rate)
                    found[cut.index] = latest
                    while given in found and found[given].done():
                        yield found.pop(given).result()
                        given += 1
        except Exception as error:
            for index in {*range(given, len(rows))} - found.keys():
                found[index] = beside.submit(_dropped, rows[index], error)
        for index in range(given, len(rows)):
            yield found.pop(index).result()


@dataclass(eq=False)
class _Cut:
    """The part of some audio that is one utterance; positions are counted in samples."""

    index: int  # position of the row
    start: int
    end: int  # sys.maxsize for the end of the audio
    pieces: list[np.ndarray] = field(default_factory=list)  # (N,) float32 each, read so far
    length: int | None = None  # length of all the audio; None if audio follows this part


def _cuts(rows: Sequence[Row], sound: audio_file.Sound) -> Iterator[_Cut]:
    """Yields the part of each row, in the order in which the rows end."""
    rate = sound.sample_rate
    cuts = []
    for index, row in enumerate(rows):
        start = round(row.start_seconds * rate)
        end = sys.maxsize if row.seconds is None else start + round(row.seconds * rate)
        cuts.append(_Cut(index, start, end))
    coming = deque(sorted(cuts, key=lambda cut: cut.start))
    current: list[_Cut] = []
    position = 0
    for piece in sound.pieces:
        behind = position + len(piece)
        while coming and coming[0].start < behind:
            current.append(coming.popleft())
        for cut in current:
            cut.pieces.append(piece[max(0, cut.start - position) : cut.end - position])
        position = behind
        # A part that ends exactly here may be all of the audio; only the next piece shows that.
        yield from (cut for cut in current if cut.end < position)
        current = [cut for cut in current if cut.end >= position]
        if not current and not coming:
            return
    for cut in [*current, *coming]:
        cut.length = position
        yield cut


def _attempt(row: Row, cut: _Cut, sound: audio_file.Sound, sample_rate: int) -> Loaded:
    try:
        return _utterance(row, cut, sound, sample_rate)
    except Exception as error:
        return _dropped(row, error)


def _utterance(row: Row, cut: _Cut, sound: audio_file.Sound, sample_rate: int) -> Utterance:
    wave = np.concatenate([np.zeros(0, np.float32), *cut.pieces])
    cut.pieces.clear()  # otherwise memory would hold a long recording twice
    rate = sound.sample_rate
    # Manifests round durations, so a difference of 0.1 s is accepted.
    if cut.length is not None and row.seconds is not None and cut.end > cut.length + rate // 10:
        raise DroppedError(
            "truncated_audio",
            f"{row.id}: ends at {cut.end / rate:.2f} s, the audio at {cut.length / rate:.2f} s",
        )
    if len(wave) <= 1:
        raise DroppedError("too_short", f"{row.id}: {len(wave)} samples of audio")
    peak = float(max(wave.max(), -wave.min()))
    if peak < SILENCE_PEAK:
        raise DroppedError("silence", f"{row.id}: no sample exceeds {peak:.1g} of full scale")
    full = np.count_nonzero(wave >= 32767 / 32768) + np.count_nonzero(wave <= -32767 / 32768)
    kept = None
    if (rate, sound.channels, len(wave)) == (sample_rate, 1, cut.length):
        kept = _published(row, len(wave))
    encoded, suffix = kept or (
        audio_file.encode_flac(audio_file.resample(wave, rate, sample_rate), sample_rate),
        ".flac",
    )
    return Utterance(
        row=row,
        audio=encoded,
        path=f"{Path(row.id).name}{suffix}",
        seconds=len(wave) / rate,
        audio_hash=hashlib.sha256(wave.data).hexdigest()[:24],
        resampled=rate != sample_rate,
        mixed=sound.channels > 1 and row.channel is None,
        clipped=bool(full > CLIPPED_SHARE * len(wave)),
    )


def _dropped(row: Row, error: Exception) -> DroppedError:
    """Turns any exception into the DroppedError of a row."""
    if isinstance(error, DroppedError):
        return error
    if isinstance(error, audio_file.AudioError):
        reasons = {"no samples": "too_short", "not finite": "not_finite"}
        reason = reasons.get(error.reason, f"{error.reason}_audio")
    elif isinstance(error, FileNotFoundError):
        reason = "missing_audio"
    else:
        reason = "unreadable_audio" if isinstance(error, OSError) else "error"
    return DroppedError(reason, f"{row.id}: {items.reason(error)}")


def _open(row: Row) -> contextlib.AbstractContextManager[audio_file.Sound]:
    """Opens the audio of a row at its own sample rate."""
    if isinstance(row.audio, Path) and row.audio.exists() and not row.audio.is_file():
        raise audio_file.AudioError(f"{row.audio} is a folder, a pipe or a device; give a file")
    if not isinstance(row.audio, np.ndarray):
        return audio_file.open_sound(row.audio, row.channel)
    assert row.sample_rate is not None, "samples need their rate"
    wave = row.audio
    wave = wave.astype(np.float32, copy=False) / (32768 if wave.dtype == np.int16 else 1)
    if not np.isfinite(wave).all():
        raise audio_file.AudioError("the samples hold NaN or infinity", "not finite")
    return contextlib.nullcontext(audio_file.Sound(row.sample_rate, 1, iter([wave])))


def _published(row: Row, samples: int) -> tuple[bytes, str] | None:
    """Returns the file's bytes and its suffix; None if libsndfile reads another length.

    The library ``datasets`` reads a prepared corpus with libsndfile.
    """
    if isinstance(row.audio, np.ndarray):
        return None
    if isinstance(row.audio, Path):
        data, suffix = row.audio.read_bytes(), row.audio.suffix
    else:
        data, suffix = row.audio, ""
    with contextlib.suppress(soundfile.LibsndfileError):
        if soundfile.info(io.BytesIO(data)).frames == samples:
            return data, suffix
    return None
