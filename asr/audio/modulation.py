"""Measures how the level of a sound varies, to tell speech from steady noise."""

from typing import Literal

import numpy as np

FRAME_SECONDS, HOP_SECONDS = 0.1, 0.05  # shorter than a syllable, longer than a period of a hum
TREND_FRAMES = 21  # about 1 s, which is longer than a syllable and shorter than a fade
BANDS = (0, 100, 400, 1000, 2500)  # lower limits in Hz; the first band has hum, but no speech
DEPTH = 50.0  # dB below the loudest band; levels are cut off there, where codec errors begin
SHORTEST_SECONDS = 1.0  # shorter sounds are never "noise": the end of a word may be as steady
MIN_FRAMES = 3

# Limits in dB, measured on windows of 0.3 to 30 s. NOISE limits the whole range of the level. Hum,
# white, pink and brown noise reach 10; speech (LibriSpeech, CMU Arctic, German, learners of
# English) has at least 22, or 14 at an SNR of 5 dB and 12 at 0 dB. DOUBTFUL limits the range of
# 90 % of the level without its trend, which clicks, fades and steps do not widen. The same noises
# reach 4 (below 1 s: 6); speech has at least 17, or 8.6 at an SNR of 5 dB and 7.3 at 0 dB.
NOISE = 10.0
DOUBTFUL = 6.0

Kind = Literal["noise", "doubtful", "speech"]


def kind_of(wave: np.ndarray, sample_rate: int, silence: float) -> Kind:
    """Classifies (N,) samples by how much the level of their most variable band varies.

    A loud hum hides the modulation of speech in the total level, so bands are measured one by one.
    Frames of digital silence, and the frames next to them, are left out, so that the onset of a
    noise does not count as variation.

    Args:
        wave: samples.
        sample_rate: sample rate in Hz.
        silence: a frame is silent if its peak is below this value.

    Returns:
        "noise" if the level hardly varies; "doubtful" if it varies only at clicks, fades and steps,
        or if the noise is shorter than SHORTEST_SECONDS; otherwise "speech".
    """
    size, hop = round(FRAME_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)
    if len(wave) < size + 4 * hop:  # frames beside silence are left out
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
    """The running median of (T, bands) over TREND_FRAMES frames, or zeros if T is smaller."""
    if len(levels) < TREND_FRAMES:
        return np.zeros_like(levels)
    half = TREND_FRAMES // 2
    padded = np.pad(levels, ((half, half), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, TREND_FRAMES, axis=0)
    return np.median(windows, axis=-1)
