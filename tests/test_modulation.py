import numpy as np
import pytest

from asr.modulation import DOUBTFUL, STEADY, level_range
from tests.coded_speech import audio_bytes

SILENCE = 1e-4


def noise(seconds, rate, power, rng):
    """Noise whose power falls with the frequency to this power: 0 white, 1 pink, 2 brown."""
    size = round(seconds * rate)
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / rate), 20)
    spectrum = np.fft.rfft(rng.standard_normal(size)) * frequencies ** (-power / 2)
    wave = np.fft.irfft(spectrum, size)
    return wave / wave.std()


def syllables(seconds, rate, depth_db):
    """A level that moves sinusoidally four times a second, as that of speech."""
    t = np.arange(round(seconds * rate)) / rate
    return 10 ** (depth_db / 40 * np.sin(2 * np.pi * 4 * t))


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("seconds", [1, 3, 30])
@pytest.mark.parametrize("level", [0.0005, 0.2])
@pytest.mark.parametrize("power", [0, 1, 2])
def test_noise_of_any_colour_and_level_is_steady(rate, seconds, level, power):
    rng = np.random.default_rng(power)
    found = level_range(level * noise(seconds, rate, power, rng), rate, SILENCE)
    assert 0 < found < STEADY


@pytest.mark.parametrize("mains", [50, 60])
@pytest.mark.parametrize("kind", ["", "MP3"])
def test_a_hum_with_its_harmonics_is_steady_also_after_a_codec(mains, kind):
    import io

    import soundfile

    t = np.arange(6 * 16000) / 16000
    wave = sum(0.1 / k * np.sin(2 * np.pi * mains * k * t + k) for k in range(1, 20))
    if kind:
        wave, _ = soundfile.read(io.BytesIO(audio_bytes(wave, 16000, kind)))
    assert level_range(wave, 16000, SILENCE) < STEADY


@pytest.mark.parametrize("depth", [20, 30])
@pytest.mark.parametrize("snr", [np.inf, 10])
def test_a_level_that_moves_as_that_of_speech_is_not(depth, snr):
    rng = np.random.default_rng(1)
    speech = syllables(5, 16000, depth) * noise(5, 16000, 1, rng)
    speech /= speech.std()
    other = noise(5, 16000, 1, rng) * 10 ** (-snr / 20)
    found = level_range(0.05 * (speech + other), 16000, SILENCE)
    assert found > DOUBTFUL
    if snr == np.inf:
        assert found > depth - 4  # frames of 0.1 s smooth it


def test_a_loud_hum_does_not_hide_speech_above_it():
    rng = np.random.default_rng(1)
    t = np.arange(5 * 16000) / 16000
    speech = 0.01 * syllables(5, 16000, 25) * noise(5, 16000, 0, rng)
    found = level_range(speech + np.sin(2 * np.pi * 50 * t), 16000, SILENCE)
    assert found > DOUBTFUL


def test_one_syllable_in_half_a_minute_of_noise_is_enough():
    rng = np.random.default_rng(2)
    wave = 0.01 * noise(30, 16000, 0, rng)
    wave[100_000:104_800] *= 10  # 0.3 s at 20 dB
    assert level_range(wave, 16000, SILENCE) > DOUBTFUL


def test_digital_silence_before_and_after_a_noise_does_not_count():
    rng = np.random.default_rng(2)
    wave = np.concatenate([np.zeros(20_000), 0.01 * noise(4, 16000, 0, rng), np.zeros(9_999)])
    assert level_range(wave, 16000, SILENCE) < STEADY


def test_less_than_a_second_is_not_judged():
    rng = np.random.default_rng(2)
    assert level_range(noise(0.9, 16000, 0, rng), 16000, SILENCE) is None
    assert level_range(np.zeros(32_000), 16000, SILENCE) is None
