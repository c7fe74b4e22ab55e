"""Splits a long recording, at pauses, into windows that a model can recognise."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

CUT_SHARE = 3  # a window is cut at the quietest point of its last third
SMOOTH_SECONDS = 0.2  # longer than the closure of a plosive, which is not a pause
MIN_WINDOW_SECONDS = 3.0  # the last third of a window must contain a pause between words
MAX_WINDOW_SECONDS = 30.0  # the memory of attention grows with the square of the length


def natural_window(summary: Mapping[str, Any]) -> float:
    """Returns the seconds of audio to recognise at once, from the summary of a model's training.

    Attention decoders fail on audio much longer than any that they were trained on (Chorowski et
    al. 2015, "Attention-based models for speech recognition").
    """
    longest = summary.get("longest_utterance_seconds", MAX_WINDOW_SECONDS)
    return min(max(longest, MIN_WINDOW_SECONDS), MAX_WINDOW_SECONDS)


def cut(
    stream: Iterable[np.ndarray], sample_rate: int, window_seconds: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Cuts pieces (n,) of any length into consecutive windows that do not overlap.

    Yields the position of the first sample of each window, and the window (N,). Every window but
    the last ends at the quietest point of its last third. If that is a pause, no word is halved or
    recognised twice, and no texts need to be merged. Memory holds one window and one piece.
    """
    length, smooth = round(window_seconds * sample_rate), round(SMOOTH_SECONDS * sample_rate)
    stream = iter(stream)
    held, start = np.zeros(0, np.float32), 0
    while True:
        parts, count = [held], len(held)
        # One more sample shows that this is not the last window; half a pause more shows its end.
        while count <= length + smooth and (piece := next(stream, None)) is not None:
            parts.append(piece)
            count += len(piece)
        held = np.concatenate(parts)
        if len(held) <= length:
            break
        end = _pause(held, length - length // CUT_SHARE, length, smooth)
        yield start, held[:end].copy()  # a view would keep the later samples in memory
        held, start = held[end:], start + end
    if len(held):
        yield start, held


def _pause(wave: np.ndarray, low: int, high: int, smooth: int) -> int:
    """Returns the position from low to high around which ``smooth`` samples are the quietest."""
    around = wave[low - smooth // 2 : high + smooth // 2].astype(np.float64)
    energy = np.cumsum(np.square(around))
    quiet = energy[smooth:] - energy[:-smooth]  # energy around each sample from low to high
    # Digital silence gives runs of equal minima, of which the middle of the last run is taken.
    minima = np.flatnonzero(quiet <= quiet.min() + 1e-9)
    runs = np.flatnonzero(np.diff(minima, prepend=minima[0] - 2) > 1)
    pause = minima[runs[-1] :]
    return low + int(pause[len(pause) // 2])
