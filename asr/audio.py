"""Any audio file to mono float32 at a rate, by soundfile; whole, or piece by piece."""

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

# What is read here, and what a user is told to convert.
SUFFIXES = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".w64", ".caf"}
)
FOREIGN = frozenset({".m4a", ".mp4", ".aac", ".webm", ".wma", ".mkv", ".mov", ".amr", ".3gp"})
PIECE_SECONDS = 10
GUARD_SECONDS = 1  # resampled beside a piece and cut off again: the filter must see no edge
STREAMED = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # sizes in the header of a wav written to a pipe


class AudioError(ValueError):
    """A file that is there and is not usable; the message is one line with a remedy.

    The message alone makes one too: so pickle and the workers of torch's loader pass it on.
    """

    def __init__(self, message: str, reason: Reason = "unreadable") -> None:
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
        frames = _read(file, file.frames, source)
        if len(frames) != file.frames:
            raise _truncated(source, f"{len(frames)} of {file.frames} samples are there")
        return _mono(frames, source), file.samplerate, file.channels


def resample(wave: np.ndarray, rate: int, to_rate: int) -> np.ndarray:
    """(N,) float32 at ``rate`` Hz -> (ceil(N * to_rate / rate),) at ``to_rate`` Hz."""
    if rate == to_rate:
        return wave
    # Imported here: torch takes seconds to load, and files at the right rate do not need it.
    import torch

    from asr.torchaudio_functional import resample as windowed_sinc

    return windowed_sinc(torch.from_numpy(wave), rate, to_rate).numpy()


def encode_flac(wave: np.ndarray, sample_rate: int) -> bytes:
    """(N,) float in [-1, 1] -> a 16-bit FLAC file; what exceeds the range is clipped."""
    # libsndfile's own conversion wraps around above 1; rounding here is the same on every machine.
    samples = np.round(np.clip(wave, -1.0, 32767 / 32768) * 32768).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def pieces(source: Source, sample_rate: int) -> Iterator[np.ndarray]:
    """What ``decode`` gives, in consecutive pieces of about ten seconds; never the whole of it.

    Raises:
        AudioError, OSError: as ``decode``, when the piece concerned is reached.
    """
    with _opened(source) as file:
        rate, left = file.samplerate, file.frames
        guard = 0 if rate == sample_rate else GUARD_SECONDS * rate
        held, passed = np.zeros(0, np.float32), 0  # read and kept; how much of it was passed on
        while left:
            count = min(left, PIECE_SECONDS * rate)
            frames = _read(file, count, source)
            if len(frames) != count:
                there = file.frames - left + len(frames)
                raise _truncated(source, f"{there} of {file.frames} samples are there")
            left -= count
            held = np.concatenate([held, _mono(frames, source)])
            # Cut at whole seconds of the file, where samples of both rates coincide.
            end = (len(held) - guard) // rate * rate if left else len(held)
            first = passed // rate * sample_rate
            last = math.ceil(end * sample_rate / rate)
            yield resample(held, rate, sample_rate)[first:last]
            passed = min(end, guard)
            held = held[end - passed :]


class _Forwards(soundfile.SoundFile):
    """Read in order: soundfile would seek after every read, and in MP3 that misses the place."""

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[_Forwards]:
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
            raise AudioError(f"{name(source)} is empty (0 bytes); record it again")
        stream.seek(0)
        _check_complete(stream, size, source)
        stream.seek(0)
        try:
            file = _Forwards(stream)
        except soundfile.LibsndfileError as error:
            raise _unreadable(source, error) from None
        with file:
            if file.frames == 0:
                raise AudioError(f"{name(source)} holds no samples; record it again", "no samples")
            yield file


def _read(file: _Forwards, frames: int, source: Source) -> np.ndarray:
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
            f"{name(source)} holds NaN or infinite samples; export it again", "not finite"
        )
    return np.ascontiguousarray(wave)


def _unreadable(source: Source, error: Exception) -> AudioError:
    remedy = "convert it to wav or flac first"
    if isinstance(source, Path) and source.suffix.lower() in FOREIGN:
        message = f"{source}: {source.suffix} is not supported; {remedy}"
    else:
        detail = str(error).rsplit(": ", 1)[-1].strip().rstrip(".") or "unknown format"
        message = f"{name(source)} is not a readable audio file ({detail}); {remedy}"
    return AudioError(message)


def _truncated(source: Source, detail: str) -> AudioError:
    return AudioError(
        f"{name(source)} is truncated ({detail}); copy or download it again", "truncated"
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
