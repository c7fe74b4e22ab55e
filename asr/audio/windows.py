"""Splits a long recording, at pauses, into windows that a model can recognise."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

CUT_SHARE = 3  # a window is cut at the quietest point of its last third
SMOOTH_SECONDS = 0.2  # a pause between words is longer than the closure of a plosive
MIN_WINDOW_SECONDS = 3.0  # its last third must hold a pause between words
MAX_WINDOW_SECONDS = 30.0  # a full window costs memory, with attention by its square


def natural_window(summary: Mapping[str, Any]) -> float:
    """Seconds of audio to recognise at once, from the summary of a model's training.

    Attention decoders fail on audio much longer than any that they were trained on (Chorowski et
    al. 2015, "Attention-based models for speech recognition").
    """
    longest = summary.get("longest_utterance_seconds", MAX_WINDOW_SECONDS)
    return min(max(longest, MIN_WINDOW_SECONDS), MAX_WINDOW_SECONDS)


def cut(
    stream: Iterable[np.ndarray], sample_rate: int, window_seconds: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces (n,) of any length -> consecutive windows that together are the whole, once.

    Yields the first sample of each window and the window (N,). Each but the last ends at the
    quietest point of its last third: in a pause, if there is one, so that no word is heard twice or
    halved and no overlapping texts need to be merged. No more is held than a window and a piece.
    """
    length, smooth = round(window_seconds * sample_rate), round(SMOOTH_SECONDS * sample_rate)
    stream = iter(stream)
    held, start = np.zeros(0, np.float32), 0
    while True:
        parts, count = [held], len(held)
        # One sample more tells that this is not the last window, half a pause more where it ends.
        while count <= length + smooth and (piece := next(stream, None)) is not None:
            parts.append(piece)
            count += len(piece)
        held = np.concatenate(parts)
        if len(held) <= length:
            break
        end = _pause(held, length - length // CUT_SHARE, length, smooth)
        yield start, held[:end].copy()  # a copy, lest it keep alive what comes after it
        held, start = held[end:], start + end
    if len(held):
        yield start, held


def _pause(wave: np.ndarray, low: int, high: int, smooth: int) -> int:
    """The place from low to high around which ``smooth`` samples are the quietest."""
    around = wave[low - smooth // 2 : high + smooth // 2].astype(np.float64)
    energy = np.cumsum(np.square(around))
    quiet = energy[smooth:] - energy[:-smooth]  # energy around each sample from low to high
    # Digital silence is one run of equal minima, or several: the middle of the last is taken.
    minima = np.flatnonzero(quiet <= quiet.min() + 1e-9)
    runs = np.flatnonzero(np.diff(minima, prepend=minima[0] - 2) > 1)
    pause = minima[runs[-1] :]
    return low + int(pause[len(pause) // 2])
