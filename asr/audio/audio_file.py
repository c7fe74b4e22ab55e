"""Decodes any audio file to mono float32 at a sample rate, as a whole or in pieces."""

import contextlib
import io
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from asr.audio.containers import AudioError, Block, blocks
from asr.items import printable

Source = Path | bytes

# Files in a folder count as audio if they have one of these endings; those of video are included.
_SUFFIXES = """
wav flac mp3 ogg oga opus aif aiff aifc au snd w64 rf64 caf sph m4a m4b mp4 m4v aac webm wma mkv mka
mov amr 3gp 3g2 mp2 mpga spx wv ape tta ac3 avi flv wmv mpg mpeg ogv weba
"""
SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
PIECE_SECONDS = 10
GUARD_SECONDS = 1  # audio on both sides of a piece, so that the filter sees no edge


@dataclass(frozen=True)
class Sound:
    """The sound of a file, read once and in order."""

    sample_rate: int  # Hz
    channels: int  # number of channels in the file
    pieces: Iterator[np.ndarray]  # consecutive (N,) float32, of a few seconds at most


def name(source: Source) -> str:
    """Returns the name of a source for error messages."""
    if isinstance(source, bytes):
        return f"audio of {len(source)} bytes"
    return printable(str(source))


@contextlib.contextmanager
def open_sound(source: Source, channel: int | None = None) -> Iterator[Sound]:
    """Opens a file to be read once, in order, in bounded memory.

    The sound is one channel, counted from 0, or the average of all channels if ``channel`` is None.
    Raises the errors of ``decode``, some of them only when a later piece is read.
    """
    if isinstance(source, bytes):
        file: BinaryIO = io.BytesIO(source)
    elif source.is_dir():
        raise IsADirectoryError(f"{source} is a folder, not an audio file")
    elif not source.exists():
        raise FileNotFoundError(f"{source}: no such file; check the path")
    else:
        file = source.open("rb")
    with file:
        stream = file if file.seekable() else io.BytesIO(file.read())  # a pipe is read into memory
        found = blocks(stream, name(source))
        rate, samples = next(found)
        pieces = _at_one_rate(itertools.chain([(rate, samples)], found), rate, source, channel)
        yield Sound(rate, samples.shape[1], pieces)


def decode(source: Source, sample_rate: int) -> np.ndarray:
    """Decodes a whole file, with averaged channels, at ``sample_rate``: (N,) float32, N >= 1.

    If the parts of a chained file differ in rate, they are resampled to the rate of the first part.

    Raises:
        AudioError: the file is not audio, is truncated, has no samples, or has NaN or infinity.
        OSError: there is no such file.
    """
    return np.concatenate(list(pieces(source, sample_rate)))


def decode_native(source: Source) -> tuple[np.ndarray, int, int]:
    """Decodes at the file's own rate: (N,) float32, rate in Hz, number of channels in the file."""
    with open_sound(source) as sound:
        return np.concatenate(list(sound.pieces)), sound.sample_rate, sound.channels


def resample(wave: np.ndarray, rate: int, to_rate: int) -> np.ndarray:
    """Resamples (N,) float32 at ``rate`` Hz -> (ceil(N * to_rate / rate),) at ``to_rate`` Hz."""
    return wave if rate == to_rate else np.concatenate(list(_resampled([wave], rate, to_rate)))


def encode_flac(wave: np.ndarray, sample_rate: int) -> bytes:
    """Encodes (N,) float samples as a 16-bit FLAC file; clips samples outside of [-1, 1]."""
    # libsndfile's conversion would wrap around above 1; this rounding is the same on all machines.
    samples = np.round(np.clip(wave, -1.0, 32767 / 32768) * 32768).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def pieces(source: Source, sample_rate: int) -> Iterator[np.ndarray]:
    """Yields the result of ``decode`` in consecutive pieces of about ten seconds.

    Raises the errors of ``decode`` when it reaches the faulty piece.
    """
    with open_sound(source) as sound:
        yield from _resampled(sound.pieces, sound.sample_rate, sample_rate)


def _resampled(waves: Iterable[np.ndarray], rate: int, to_rate: int) -> Iterator[np.ndarray]:
    """Yields ``resample`` of the joined waves in consecutive pieces of about ten seconds."""
    chunks = _chunks(waves, PIECE_SECONDS * rate)
    if rate == to_rate:
        yield from chunks
        return
    # Imported here: torch takes seconds to load, and files at the right rate do not need it.
    import torch

    from asr.kernels.torchaudio_functional import resample as windowed_sinc

    guard = GUARD_SECONDS * rate
    held, passed = np.zeros(0, np.float32), 0  # samples in memory; number of them already yielded
    for chunk, ahead in itertools.pairwise(itertools.chain(chunks, [None])):
        held = np.concatenate([held, chunk])
        # Cuts are at whole seconds of the file, where samples of both rates coincide.
        end = len(held) if ahead is None else (len(held) - guard) // rate * rate
        first, last = passed // rate * to_rate, math.ceil(end * to_rate / rate)
        yield windowed_sinc(torch.from_numpy(held), rate, to_rate).numpy()[first:last]
        passed = min(end, guard)
        held = held[end - passed :]


def _chunks(waves: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Turns waves of any lengths into waves of ``length``; the last one may be shorter."""
    held: list[np.ndarray] = []
    count = 0
    for wave in waves:
        held.append(wave)
        count += len(wave)
        if count >= length:
            joined = np.concatenate(held)
            count %= length
            whole = len(joined) - count
            yield from joined[:whole].reshape(-1, length)
            held = [joined[whole:].copy()]
    if count:
        yield np.concatenate(held)


def _at_one_rate(
    found: Iterable[Block], rate: int, source: Source, channel: int | None
) -> Iterator[np.ndarray]:
    """Turns (N, channels) float32 blocks into (N,), see ``_mono``, and resamples to ``rate``."""
    for block_rate, group in itertools.groupby(found, key=lambda block: block[0]):
        waves = (_mono(samples, source, channel) for _, samples in group)
        yield from waves if block_rate == rate else _resampled(waves, block_rate, rate)


def _mono(samples: np.ndarray, source: Source, channel: int | None) -> np.ndarray:
    """Takes a channel of (N, channels) samples, or averages them if ``channel`` is None.

    Raises:
        AudioError: there is no such channel, or a sample is NaN or infinite.
    """
    count = samples.shape[1]
    if channel is not None and channel >= count:
        raise AudioError(f"{name(source)} has no channel {channel}; it has {count}, counted from 0")
    if channel is None and count > 1:
        wave = samples.mean(axis=1)
    else:
        wave = samples[:, channel or 0]
    if np.isfinite(wave).all():
        return np.ascontiguousarray(wave)
    raise AudioError(f"{name(source)} holds NaN or infinite samples; export it again", "not finite")
