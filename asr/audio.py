"""Any audio file to mono float32 at a rate, by soundfile; windows over long audio."""

import contextlib
import io
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import soundfile

Source = Path | bytes
Reason = Literal["unreadable", "truncated", "no samples", "not finite"]

FOREIGN = (".m4a", ".mp4", ".aac", ".webm", ".wma", ".mkv", ".mov", ".amr", ".3gp")
GUARD_SECONDS = 1  # read beside a window and cut off again, so that resampling sees no edge
STREAMED = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # sizes in the header of a wav written to a pipe


class AudioError(ValueError):
    """A file that is there and is not usable; the message is one line with a remedy."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


@dataclass(frozen=True)
class Info:
    """What a file's header says.

    Attributes:
        seconds: duration.
        sample_rate: Hz.
        channels: 1 is mono.
        frames: samples per channel.
    """

    seconds: float
    sample_rate: int
    channels: int
    frames: int


def name(source: Source) -> str:
    """How an error message calls the source."""
    return str(source) if isinstance(source, Path) else f"audio of {len(source)} bytes"


def info(source: Source) -> Info:
    """Duration, rate and channels, from the header.

    Raises:
        AudioError: not an audio file, or shorter than its header says.
        OSError: no such file.
    """
    with _opened(source) as file:
        return Info(file.frames / file.samplerate, file.samplerate, file.channels, file.frames)


def decode(source: Source, sample_rate: int) -> np.ndarray:
    """The whole of a file, its channels averaged, at ``sample_rate``: (N,) float32, N >= 1.

    Raises:
        AudioError: not an audio file, truncated, without samples, or with NaN or infinity.
        OSError: no such file.
    """
    wave, rate, _ = decode_native(source)
    return resample(wave, rate, sample_rate)


def decode_native(source: Source) -> tuple[np.ndarray, int, int]:
    """As ``decode`` at the file's own rate: (N,) float32, rate in Hz, channels it had."""
    with _opened(source) as file:
        frames = _read(file, -1, source)
        if len(frames) != file.frames:
            raise _truncated(source, f"{len(frames)} of {file.frames} samples are there")
        return _mono(frames, source), file.samplerate, file.channels


def resample(wave: np.ndarray, rate: int, to_rate: int) -> np.ndarray:
    """(N,) float32 at ``rate`` Hz -> (ceil(N * to_rate / rate),) at ``to_rate`` Hz."""
    if rate == to_rate:
        return wave
    # Imported here: torch takes seconds to load, and files at the right rate do not need it.
    import torch
    from torchaudio.functional import resample as windowed_sinc

    return windowed_sinc(torch.from_numpy(wave), rate, to_rate).numpy()


def encode_flac(wave: np.ndarray, sample_rate: int) -> bytes:
    """(N,) float in [-1, 1] -> a 16-bit FLAC file; what exceeds the range is clipped."""
    # libsndfile's own conversion wraps around above 1; rounding here is the same on every machine.
    samples = np.round(np.clip(wave, -1.0, 32767 / 32768) * 32768).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def windows(
    num_samples: int, sample_rate: int, window_seconds: float, overlap_seconds: float
) -> list[tuple[int, int]]:
    """(start, end) in samples of windows that cover the audio, neighbours overlapping.

    The last window is moved back so that it is as long as the others: no window is a stub. Audio
    no longer than a window gives one window.

    Raises:
        ValueError: the overlap is negative or not less than the window.
    """
    if not 0 <= overlap_seconds < window_seconds:
        raise ValueError(
            f"overlap of {overlap_seconds} s: it must be at least 0 and less than the window"
            f" of {window_seconds} s"
        )
    length = round(window_seconds * sample_rate)
    step = length - round(overlap_seconds * sample_rate)
    if num_samples <= length:
        return [(0, num_samples)] if num_samples else []
    count = math.ceil((num_samples - length) / step) + 1
    starts = [min(i * step, num_samples - length) for i in range(count)]
    return [(start, start + length) for start in starts]


def blocks(
    source: Source, sample_rate: int, window_seconds: float, overlap_seconds: float
) -> Iterator[tuple[int, np.ndarray]]:
    """The windows of a file, one at a time and never the whole of it: (start, (n,) float32).

    Starts are in samples at ``sample_rate``. Each window is resampled with its neighbourhood, so
    that it equals the same window of ``decode`` up to the rounding of its start to a sample.

    Raises:
        AudioError, OSError: as ``decode``, when the window concerned is reached.
    """
    with _opened(source) as file:
        rate, total = file.samplerate, file.frames
        guard = GUARD_SECONDS * rate
        for start, end in windows(total, rate, window_seconds, overlap_seconds):
            first, last = max(0, start - guard), min(total, end + guard)
            file.seek(first)
            frames = _read(file, last - first, source)
            if len(frames) != last - first:
                raise _truncated(source, f"{first + len(frames)} of {total} samples are there")
            wave = resample(_mono(frames, source), rate, sample_rate)
            skip = round((start - first) * sample_rate / rate)
            count = math.ceil((end - start) * sample_rate / rate)
            yield round(start * sample_rate / rate), wave[skip : skip + count]


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[soundfile.SoundFile]:
    with contextlib.ExitStack() as stack:
        if isinstance(source, bytes):
            stream: BinaryIO = io.BytesIO(source)
        else:
            if source.is_dir():
                raise IsADirectoryError(f"{source} is a folder, not an audio file")
            if not source.exists():
                raise FileNotFoundError(f"{source}: no such file; check the path")
            stream = stack.enter_context(source.open("rb"))
        size = stream.seek(0, io.SEEK_END)
        if size == 0:
            raise AudioError("unreadable", f"{name(source)} is empty (0 bytes); record it again")
        stream.seek(0)
        _check_complete(stream, size, source)
        stream.seek(0)
        try:
            file = soundfile.SoundFile(stream)
        except soundfile.LibsndfileError as error:
            raise _unreadable(source, error) from None
        with file:
            if file.frames == 0:
                raise AudioError("no samples", f"{name(source)} holds no samples; record it again")
            yield file


def _read(file: soundfile.SoundFile, frames: int, source: Source) -> np.ndarray:
    """(N, channels) float32."""
    try:
        return file.read(frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise _truncated(source, str(error).strip()) from None


def _mono(frames: np.ndarray, source: Source) -> np.ndarray:
    """(N, channels) -> (N,), checked."""
    wave = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)
    if not np.isfinite(wave).all():
        raise AudioError(
            "not finite", f"{name(source)} holds NaN or infinite samples; export it again"
        )
    return np.ascontiguousarray(wave)


def _unreadable(source: Source, error: Exception) -> AudioError:
    remedy = "convert it to wav or flac first"
    if isinstance(source, Path) and source.suffix.lower() in FOREIGN:
        message = f"{source}: {source.suffix} is not supported; {remedy}"
    else:
        detail = str(error).rsplit(": ", 1)[-1].strip().rstrip(".") or "unknown format"
        message = f"{name(source)} is not a readable audio file ({detail}); {remedy}"
    return AudioError("unreadable", message)


def _truncated(source: Source, detail: str) -> AudioError:
    return AudioError(
        "truncated", f"{name(source)} is truncated ({detail}); copy or download it again"
    )


def _check_complete(stream: BinaryIO, size: int, source: Source) -> None:
    """Raises where a container promises more bytes than there are; libsndfile reads on silently.

    FLAC and MP3 are caught while decoding, where the header's count of samples is not reached.
    """
    head = stream.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        _check_wav(stream, size, source)
    elif head[:4] == b"OggS":
        _check_ogg(stream, size, source)


def _check_wav(stream: BinaryIO, size: int, source: Source) -> None:
    while len(header := stream.read(8)) == 8:
        chunk, length = struct.unpack("<4sI", header)
        left = size - stream.tell()
        if chunk == b"data":
            if length not in STREAMED and length > left:
                raise _truncated(source, f"{left} of {length} bytes of samples are there")
            return
        stream.seek(length + length % 2, io.SEEK_CUR)


def _check_ogg(stream: BinaryIO, size: int, source: Source) -> None:
    """The last page of an Ogg file (RFC 3533) must be whole; a page is at most 65,307 bytes."""
    stream.seek(max(0, size - 65307))
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    segments = page[26] if len(page) > 26 else 255
    expected = 27 + segments + sum(page[27 : 27 + segments])
    if len(page) < max(expected, 27 + segments):
        raise _truncated(source, "its last page is not complete")
