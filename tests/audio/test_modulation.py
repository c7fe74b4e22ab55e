import numpy as np
import pytest

from asr.audio.modulation import kind_of
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
    assert kind_of(level * noise(seconds, rate, power, rng), rate, SILENCE) == "noise"


@pytest.mark.parametrize("mains", [50, 60])
@pytest.mark.parametrize("kind", ["", "MP3"])
def test_a_hum_with_its_harmonics_is_steady_also_after_a_codec(mains, kind):
    import io

    import soundfile

    t = np.arange(6 * 16000) / 16000
    wave = sum(0.1 / k * np.sin(2 * np.pi * mains * k * t + k) for k in range(1, 20))
    if kind:
        wave, _ = soundfile.read(io.BytesIO(audio_bytes(wave, 16000, kind)))
    assert kind_of(wave, 16000, SILENCE) == "noise"


@pytest.mark.parametrize("depth", [20, 30])
@pytest.mark.parametrize("snr", [np.inf, 10])
def test_a_level_that_varies_like_speech_is_not_steady(depth, snr):
    rng = np.random.default_rng(1)
    speech = syllables(5, 16000, depth) * noise(5, 16000, 1, rng)
    speech /= speech.std()
    other = noise(5, 16000, 1, rng) * 10 ** (-snr / 20)
    assert kind_of(0.05 * (speech + other), 16000, SILENCE) == "speech"


def test_a_loud_hum_does_not_hide_speech_above_it():
    rng = np.random.default_rng(1)
    t = np.arange(5 * 16000) / 16000
    speech = 0.01 * syllables(5, 16000, 25) * noise(5, 16000, 0, rng)
    assert kind_of(speech + np.sin(2 * np.pi * 50 * t), 16000, SILENCE) == "speech"


def test_one_syllable_in_half_a_minute_of_noise_is_kept_and_marked_doubtful():
    rng = np.random.default_rng(2)
    wave = 0.01 * noise(30, 16000, 0, rng)
    wave[100_000:104_800] *= 10  # 0.3 s at 20 dB
    assert kind_of(wave, 16000, SILENCE) == "doubtful"


CHANGES = {
    "clicks": lambda t: np.where(np.mod(t, 3) < 2e-4, 90, 1),
    "a fade": lambda t: np.minimum(1, t / 10),
    "a step": lambda t: np.where(t > 10, 6, 1),
}


@pytest.mark.parametrize("power", [0, 1])
@pytest.mark.parametrize("change", CHANGES)
def test_noise_with_clicks_fades_or_steps_is_marked_doubtful(change, power):
    t = np.arange(30 * 16000) / 16000
    wave = 0.01 * noise(30, 16000, power, np.random.default_rng(3)) * CHANGES[change](t)
    assert kind_of(wave, 16000, SILENCE) == "doubtful"


def test_digital_silence_before_and_after_a_noise_does_not_count():
    rng = np.random.default_rng(2)
    wave = np.concatenate([np.zeros(20_000), 0.01 * noise(4, 16000, 0, rng), np.zeros(9_999)])
    assert kind_of(wave, 16000, SILENCE) == "noise"


def test_less_than_a_second_of_noise_is_marked_doubtful_and_not_left_out():
    rng = np.random.default_rng(2)
    for seconds in (0.4, 0.9):
        assert kind_of(0.1 * noise(seconds, 16000, 0, rng), 16000, SILENCE) == "doubtful"
    assert kind_of(np.zeros(32_000), 16000, SILENCE) == "speech"  # silence is told elsewhere
