"""Measures how the level of a sound varies, to tell speech from steady noise."""

from typing import Literal

import numpy as np

FRAME_SECONDS, HOP_SECONDS = 0.1, 0.05  # shorter than a syllable, longer than a period of a hum
TREND_FRAMES = 21  # a second: longer than a syllable, shorter than what fades or steps
BANDS = (0, 100, 400, 1000, 2500)  # Hz, from; the first one holds the tone of a hum, and no speech
DEPTH = 50.0  # dB below the loudest band: there are the errors of codecs
SHORTEST_SECONDS = 1.0  # of noise: the end of a word may be as steady for less
MIN_FRAMES = 3

# In dB, measured on windows of 0.3 to 30 s. NOISE is a limit of the whole range of the level: hum,
# white, pink and brown noise have 0 to 10; speech (LibriSpeech, CMU Arctic, German, learners of
# English) has 22 and more, with noise at an SNR of 5 dB 14 and more, at 0 dB 12 and more.
# DOUBTFUL is a limit of the range of nine tenths of the level beside its trend, which clicks,
# fades and steps do not widen: the same noises have 0 to 4 (below 1 s: 6), and speech has 17 and
# more, at 5 dB 8.6 and more, at 0 dB 7.3 and more.
NOISE = 10.0
DOUBTFUL = 6.0

Kind = Literal["noise", "doubtful", "speech"]


def kind_of(wave: np.ndarray, sample_rate: int, silence: float) -> Kind:
    """Whether (N,) samples may hold speech, by the band in which their level varies most.

    In bands, since a loud hum hides the modulation of the speech above it in the level of the
    whole. Frames of digital silence and beside it are left out: a noise that begins is steady.

    Args:
        wave: samples.
        sample_rate: Hz.
        silence: peak of a frame below which it is silent.

    Returns:
        "noise" where the level never varies; "doubtful" where it hardly varies but at clicks, fades
        and steps, or in less than SHORTEST_SECONDS; otherwise "speech".
    """
    size, hop = round(FRAME_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)
    if len(wave) < size + 4 * hop:  # the frames beside silence are left out
        return "speech"
    frames = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]  # (T, size)
    silent = np.abs(frames).max(axis=1) < silence
    sounding = frames[np.convolve(silent, np.ones(5), "same") < 1]
    if len(sounding) < MIN_FRAMES:
        return "speech"
    power = np.abs(np.fft.rfft(sounding * np.hanning(size), axis=1)) ** 2
    edges = [edge for edge in BANDS if edge < sample_rate / 2]
    starts = np.searchsorted(np.fft.rfftfreq(size, 1 / sample_rate), edges)
    bands = np.add.reduceat(power, starts, axis=1)  # (T, 5); the last one is up to half the rate
    levels = 10 * np.log10(np.maximum(bands, 1e-20))
    levels = np.maximum(levels, np.median(levels, axis=0).max() - DEPTH)[:, 1:]
    long_enough = len(sounding) * HOP_SECONDS >= SHORTEST_SECONDS - FRAME_SECONDS
    if long_enough and np.ptp(levels, axis=0).max() < NOISE:
        return "noise"
    low, high = np.percentile(levels - _trend(levels), (10, 90), axis=0)
    return "doubtful" if (high - low).max() < DOUBTFUL else "speech"


def _trend(levels: np.ndarray) -> np.ndarray:
    """(T, bands) -> the running median over TREND_FRAMES, or zeros if T is smaller."""
    if len(levels) < TREND_FRAMES:
        return np.zeros_like(levels)
    half = TREND_FRAMES // 2
    padded = np.pad(levels, ((half, half), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, TREND_FRAMES, axis=0)
    return np.median(windows, axis=-1)
