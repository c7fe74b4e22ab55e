"""How far the level of a sound varies: steady noise differs in that from speech."""

import numpy as np

FRAME_SECONDS, HOP_SECONDS = 0.1, 0.05  # shorter than a syllable, longer than a period of a hum
BANDS = (0, 100, 400, 1000, 2500)  # Hz, from; the first one holds the tone of a hum, and no speech
DEPTH = 50.0  # dB below the loudest band: there are the errors of codecs
SHORTEST_SECONDS = 1.0  # the end of a word may be as steady as a noise for less

# In dB, measured on windows of 1 to 30 s: a hum, and white, pink or brown noise have 0 to 10.
# Speech (LibriSpeech, CMU Arctic, German, learners of English) has 22 and more; in white or pink
# noise or sounds of ESC-10 it has 14 and more at an SNR of 5 dB, and 12 and more at 0 dB.
STEADY = 10.0
DOUBTFUL = 13.0


def level_range(wave: np.ndarray, sample_rate: int, silence: float) -> float | None:
    """(N,) -> dB from the lowest to the highest level of the band in which the level varies most.

    In bands, since a loud hum hides the modulation of the speech above it in the level of the
    whole. Frames of digital silence and beside it are left out: a noise that begins is steady.

    Args:
        wave: samples.
        sample_rate: Hz.
        silence: peak of a frame below which it is silent.

    Returns:
        None where less than SHORTEST_SECONDS are not silent.
    """
    size, hop = round(FRAME_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)
    if len(wave) < SHORTEST_SECONDS * sample_rate:
        return None
    frames = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]  # (T, size)
    silent = np.abs(frames).max(axis=1) < silence
    sounding = frames[np.convolve(silent, np.ones(5), "same") < 1]
    if len(sounding) * HOP_SECONDS < SHORTEST_SECONDS - FRAME_SECONDS:
        return None
    power = np.abs(np.fft.rfft(sounding * np.hanning(size), axis=1)) ** 2
    edges = [edge for edge in BANDS if edge < sample_rate / 2]
    starts = np.searchsorted(np.fft.rfftfreq(size, 1 / sample_rate), edges)
    bands = np.add.reduceat(power, starts, axis=1)  # (T, 5); the last one is up to half the rate
    levels = 10 * np.log10(np.maximum(bands, 1e-20))
    levels = np.maximum(levels, np.median(levels, axis=0).max() - DEPTH)[:, 1:]
    return float(np.ptp(levels, axis=0).max())
