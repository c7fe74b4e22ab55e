import io
import math
import pickle
import struct

import numpy as np
import pytest
import soundfile
import torch

from asr.audio import audio_file
from asr.kernels.torchaudio_functional import resample

RATE = 16000
FRAME = 2048  # samples of the longest packet of MP3, AAC, Vorbis and Opus at 16 kHz


def tone(seconds=1.0, rate=RATE, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def encoded(wave, rate=RATE, format="WAV", subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=format, subtype=subtype)
    return file.getvalue()


FORMATS = [
    ("WAV", "PCM_16", 1e-4),
    ("WAV", "FLOAT", 1e-7),
    ("WAV", "PCM_24", 1e-6),
    ("FLAC", "PCM_16", 1e-4),
    ("MP3", "MPEG_LAYER_III", 0.05),
    ("OGG", "VORBIS", 0.05),
    ("OGG", "OPUS", 0.05),
    ("AIFF", "PCM_16", 1e-4),
]


@pytest.mark.parametrize(("format", "subtype", "tolerance"), FORMATS)
def test_every_format_gives_the_samples_that_were_written(format, subtype, tolerance):
    wave = tone()
    decoded = audio_file.decode(encoded(wave, format=format, subtype=subtype), RATE)
    assert decoded.dtype == np.float32
    assert abs(len(decoded) - len(wave)) <= (0 if tolerance < 0.05 else FRAME)
    inner = slice(2000, -2000)  # lossy codecs fade in
    wave, decoded = wave[: len(decoded)], decoded[: len(wave)]
    assert np.abs(decoded[inner] - wave[inner]).max() < tolerance


def test_bytes_and_a_path_with_spaces_and_accents_give_the_same_samples(tmp_path):
    data = encoded(tone())
    path = tmp_path / "été à la mer.wav"
    path.write_bytes(data)
    assert np.array_equal(audio_file.decode(path, RATE), audio_file.decode(data, RATE))


def test_channels_are_averaged():
    stereo = np.stack([tone(), np.zeros(RATE, np.float32)], axis=1)
    data = encoded(stereo, subtype="FLOAT")
    assert np.allclose(audio_file.decode(data, RATE), tone() / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_a_tone_keeps_its_pitch_and_level_at_another_rate(rate):
    decoded = audio_file.decode(encoded(tone(rate=rate), rate), RATE)
    assert abs(len(decoded) - RATE) <= 1
    inner = slice(500, RATE - 500)
    assert np.abs(decoded[inner] - tone()[inner]).max() < 1e-3


def test_the_same_rate_needs_no_resampling():
    wave = tone()
    assert audio_file.resample(wave, RATE, RATE) is wave


def broken():
    wav, flac = encoded(tone()), encoded(tone(), format="FLAC")
    mp3 = encoded(tone(4), format="MP3", subtype="MPEG_LAYER_III")
    nan = tone()
    nan[7] = np.nan
    infinite = tone()
    infinite[7] = np.inf
    none = np.zeros(0, np.float32)
    yield "empty file", b"", "unreadable", "empty (0 bytes)"
    yield "junk", b"this is not audio" * 50, "unreadable", "convert it to wav or flac"
    yield "half a wav", wav[: len(wav) // 2], "truncated", "15978 of 32000 bytes"
    yield "wav header alone", wav[:44], "truncated", "0 of 32000 bytes"
    yield "half a flac", flac[: len(flac) // 2], "truncated", "copy or download it again"
    yield "half an mp3", mp3[: len(mp3) // 2], "truncated", "bytes of samples"
    yield "no samples", encoded(none), "no samples", "holds no samples"
    yield "NaN", encoded(nan, subtype="FLOAT"), "not finite", "NaN or infinite"
    yield "infinity", encoded(infinite, subtype="FLOAT"), "not finite", "NaN or infinite"


@pytest.mark.parametrize(
    ("data", "reason", "words"), [pytest.param(*b[1:], id=b[0]) for b in broken()]
)
def test_a_broken_file_is_named_in_one_line_with_the_reason(tmp_path, data, reason, words):
    path = tmp_path / "broken.wav"
    path.write_bytes(data)
    with pytest.raises(audio_file.AudioError) as error:
        audio_file.decode(path, RATE)
    message = str(error.value)
    assert error.value.reason == reason
    assert words in message
    assert str(path) in message
    assert "\n" not in message
    with pytest.raises(audio_file.AudioError, match="bytes"):
        audio_file.decode(data, RATE)


def test_a_missing_file_and_a_folder_are_operating_system_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file; check the path"):
        audio_file.decode(tmp_path / "none.wav", RATE)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        audio_file.decode(tmp_path, RATE)


def test_chunks_before_the_samples_of_a_wav_are_skipped():
    data = encoded(tone())
    extra = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # odd sizes are padded
    longer = data[:36] + extra + data[36:]
    assert np.array_equal(audio_file.decode(longer, RATE), audio_file.decode(data, RATE))


def test_flac_is_accurate_to_half_a_quantisation_step_and_clips_above_full_scale():
    wave = np.concatenate([tone(), np.float32([1.5, -1.5, 1.0, -1.0])])
    decoded = audio_file.decode(audio_file.encode_flac(wave, RATE), RATE)
    assert np.abs(decoded[:-4] - wave[:-4]).max() <= 0.5 / 32768 + 1e-7
    assert decoded[-4:].tolist() == pytest.approx([32767 / 32768, -1, 32767 / 32768, -1])


@pytest.mark.parametrize("rate", [16000, 8000, 11025, 44100, 48000])
@pytest.mark.parametrize("seconds", [0.3, 10.0, 10.5, 11.0, 20.0, 33.3])
def test_pieces_of_a_file_joined_equal_the_whole_file(rate, seconds):
    random = np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), 2))
    data = encoded(random.astype(np.float32), rate, subtype="FLOAT")
    found = list(audio_file.pieces(data, RATE))
    assert len(found) == math.ceil(seconds / 10)
    assert max(map(len, found)) <= 12 * RATE
    native, _, channels = audio_file.decode_native(data)
    assert channels == 2
    whole = resample(torch.from_numpy(native), rate, RATE).numpy()  # at once
    joined = np.concatenate(found)
    assert joined.shape == whole.shape
    assert np.abs(joined - whole).max() < 1e-6


@pytest.mark.parametrize(("format", "subtype"), [f[:2] for f in FORMATS])
def test_pieces_of_every_format_joined_equal_the_whole_file(format, subtype):
    data = encoded(tone(23.4, hertz=300), format=format, subtype=subtype)
    native, rate, _ = audio_file.decode_native(data)
    assert np.array_equal(np.concatenate(list(audio_file.pieces(data, rate))), native)


@pytest.mark.parametrize(("data", "reason"), [pytest.param(b[1], b[2], id=b[0]) for b in broken()])
def test_reading_in_pieces_names_a_broken_file_too(data, reason):
    with pytest.raises(audio_file.AudioError) as error:
        list(audio_file.pieces(data, RATE))
    assert error.value.reason == reason


class Broken(torch.utils.data.Dataset):
    """One file that cannot be decoded."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return audio_file.decode(self.path, RATE)


def test_an_error_keeps_its_reason_and_file_from_another_process(tmp_path):
    path = tmp_path / "broken.wav"
    path.write_bytes(encoded(tone())[:1000])
    with pytest.raises(audio_file.AudioError) as error:
        audio_file.decode(path, RATE)
    copy = pickle.loads(pickle.dumps(error.value))
    assert (str(copy), copy.reason) == (str(error.value), "truncated")
    loader = torch.utils.data.DataLoader(Broken(path), num_workers=1)
    with pytest.raises(audio_file.AudioError, match="broken.wav is truncated .*956 of 32000"):
        next(iter(loader))
