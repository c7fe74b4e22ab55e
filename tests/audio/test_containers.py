import io
import logging
import os
import struct
import threading

import av
import numpy as np
import pytest
import soundfile

from asr.audio import audio_file
from tests.sound_files import KINDS, file, samples, speech

RATE = 16000
FRAME = 2048  # samples of the longest packet at 16 kHz: AAC with its delay, MP3, Opus, Vorbis

IDS = [f"{container}-{codec}" for container, codec, _ in KINDS]
TAG = b"TAG" + b"\0" * 125  # ID3v1


def read(data):
    """Samples at the file's own rate, and the rate."""
    wave, rate, _ = audio_file.decode_native(data)
    return wave, rate


def agree(count, expected, rate):
    return abs(count - expected) <= FRAME * rate / RATE


@pytest.mark.parametrize(("container", "codec", "counted"), KINDS, ids=IDS)
def test_every_kind_of_file_gives_the_samples_that_were_written(container, codec, counted):
    wave = speech(2.5)
    data = file(wave, RATE, container, codec)
    found, rate = read(data)
    assert agree(len(found), samples(data), rate)
    found = audio_file.decode(data, RATE)
    assert 0 <= len(found) - len(wave) + 256 <= FRAME + 256
    shifts = [np.dot(found[s : s + 32000], wave[:32000]) for s in range(len(found) - 32000)]
    scale = np.linalg.norm(found[:32000]) * np.linalg.norm(wave[:32000])
    assert max(shifts) / scale > 0.8


@pytest.mark.parametrize(("container", "codec", "counted"), KINDS, ids=IDS)
@pytest.mark.parametrize("damage", ["half", "hole", "garbage", "tag"])
def test_a_damaged_file_gives_the_samples_that_ffmpeg_reads_or_is_reported_as_cut(
    container, codec, counted, damage, tmp_path
):
    # A page of Vorbis holds some seconds.
    whole = file(speech(15 if codec == "vorbis" else 5), RATE, container, codec)
    middle = len(whole) // 2
    data = {
        "half": whole[:middle],
        "hole": whole[:middle] + bytes(60) + whole[middle + 60 :],
        "garbage": whole + np.random.default_rng(1).bytes(999),
        "tag": whole + TAG,
    }[damage]
    path = tmp_path / "damaged"
    path.write_bytes(data)
    if damage == "half" and counted:
        for source in (data, path):
            with pytest.raises(audio_file.AudioError, match=r"truncated \(\d+ of \d+ ") as error:
                audio_file.decode(source, RATE)
            assert error.value.reason == "truncated"
        return
    if damage == "hole" and container in ("flac", "tta"):  # what is lost there is counted
        with pytest.raises(audio_file.AudioError, match="is truncated"):
            audio_file.decode(data, RATE)
        return
    found, rate = read(data)
    assert agree(len(found), samples(data), rate)
    assert np.array_equal(found, read(path)[0])
    assert np.array_equal(np.concatenate(list(audio_file.pieces(path, rate))), found)


PIPED = [kind[:2] for kind in KINDS if kind[0] not in ("w64", "aiff", "ipod", "mp4", "mov")]


@pytest.mark.parametrize(("container", "codec"), PIPED)
def test_a_file_written_to_a_pipe_is_read_to_its_end(container, codec):
    data = file(speech(2.5), RATE, container, codec, piped=True)
    found, rate = read(data)
    assert agree(len(found), samples(data), rate)
    assert len(found) >= 2.5 * rate - 256


def wav(size, samples, magic=b"RIFF", extra=b"", after=b""):
    """A WAV whose header gives this size of its samples, whatever their number."""
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    pcm = (np.arange(samples) % 999).astype("<i2").tobytes()
    head = magic + struct.pack("<I", 0xFFFFFFFF) + b"WAVE" + extra + layout
    return head + b"data" + struct.pack("<I", size) + pcm + after


def ds64(size):
    return struct.pack("<4sIqqqI", b"ds64", 28, size, size, size // 2, 0)


# Nothing, SoX, arecord, FFmpeg, and what others leave.
@pytest.mark.parametrize(
    "size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFDB, 0x7FFFFFDB]
)
def test_a_wav_with_the_size_of_a_pipe_is_read_to_the_end_of_the_file(size):
    found, _ = read(wav(size, 40000))
    assert np.array_equal(found, (np.arange(40000) % 999).astype(np.float32) / 32768)


@pytest.mark.parametrize("magic", [b"RF64", b"BW64"])
@pytest.mark.parametrize("size", [-1, 0, 80000, 2**63 - 1])
def test_a_wav_with_a_64_bit_size_is_read_to_its_end_even_if_the_size_is_unknown(magic, size):
    found, _ = read(wav(0xFFFFFFFF, 40000, magic, ds64(size)))
    assert np.array_equal(found, (np.arange(40000) % 999).astype(np.float32) / 32768)


@pytest.mark.parametrize("size", [-1, 2**63 - 1])
def test_a_w64_without_its_size_is_read_whole(size):
    data = bytearray(file(speech(1), RATE, "w64"))
    expected, _ = read(bytes(data))
    place = data.index(b"data\xf3\xac") + 16
    data[16:24] = data[place : place + 8] = struct.pack("<q", size)
    assert np.array_equal(read(bytes(data))[0], expected)


def test_a_cut_wav_with_a_64_bit_size_is_reported():
    with pytest.raises(audio_file.AudioError, match="80000 of 160000 bytes .* 2.50 of 5.00 s"):
        read(wav(0xFFFFFFFF, 40000, b"RF64", ds64(160000)))


@pytest.mark.parametrize("size", [80000, 79999, 79000])
def test_bytes_after_the_samples_of_a_wav_are_not_decoded(size):
    data = wav(
        size, size // 2, after=bytes(size % 2) + b"LIST" + struct.pack("<I", 400) + b"x" * 400
    )
    assert len(read(data)[0]) == size // 2


def test_a_wav_whose_size_counts_its_header_is_whole():
    assert len(read(wav(80044, 40000))[0]) == 40000


def chain(container, codec, rates):
    return b"".join(
        file(speech(2, rate, seed), rate, container, codec) for seed, rate in enumerate(rates)
    )


@pytest.mark.parametrize(
    ("container", "codec", "rates"),
    [
        ("ogg", "vorbis", (16000, 16000, 16000)),
        ("ogg", "vorbis", (16000, 8000)),
        ("ogg", "vorbis", (8000, 44100)),
        ("ogg", "libopus", (48000, 16000)),
        ("ogg", "flac", (16000, 44100)),
        ("flac", "flac", (16000, 16000)),
        ("flac", "flac", (16000, 44100)),
        ("mp3", "libmp3lame", (16000, 16000)),
        ("mp3", "libmp3lame", (16000, 24000)),
        ("adts", "aac", (16000, 16000)),
    ],
)
def test_every_part_of_joined_files_is_decoded_at_the_rate_of_the_first(container, codec, rates):
    data = chain(container, codec, rates)
    found = audio_file.decode(data, RATE)
    assert abs(len(found) - 2 * RATE * len(rates)) <= FRAME * len(rates)
    last = speech(2, RATE, len(rates) - 1)[8000:24000]  # well within the last part
    place = 2 * RATE * (len(rates) - 1) + 8000
    near = [found[place + s : place + s + 16000] for s in range(-FRAME, 2 * FRAME, 4)]
    near = [part for part in near if len(part) == 16000]
    likeness = max(np.dot(part, last) / np.linalg.norm(part) for part in near)
    assert likeness / np.linalg.norm(last) > 0.8


def test_parts_with_different_numbers_of_channels_are_decoded():
    stereo = np.stack([speech(2), speech(2)])
    for container, codec in (("ogg", "libopus"), ("flac", "flac"), ("mp3", "libmp3lame")):
        mono, two = file(speech(2), RATE, container, codec), file(stereo, RATE, container, codec)
        for data in (mono + two, two + mono):
            assert abs(len(audio_file.decode(data, RATE)) - 4 * RATE) <= 2 * FRAME


def test_the_length_of_an_mp3_is_not_estimated_from_its_first_bit_rate():
    first = file(speech(2), RATE, "mp3", "libmp3lame", bits=160000, write_xing="0")
    then = file(speech(30), RATE, "mp3", "libmp3lame", bits=16000, write_xing="0")
    data = first + then
    assert soundfile.info(io.BytesIO(data)).frames < 10 * RATE  # what others believe
    assert agree(len(audio_file.decode(data, RATE)), samples(data), RATE)
    assert abs(len(audio_file.decode(data, RATE)) - 32 * RATE) < 2 * FRAME


def pcm(container, codec):
    return file(speech(1), RATE, container, codec)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("flac", "flac"),
        ("ipod", "alac"),
        ("matroska", "pcm_s24le"),
        ("mov", "pcm_u8"),
        ("tta", "tta"),
        ("matroska", "pcm_f32le"),
        ("matroska", "pcm_s32le"),
        ("matroska", "pcm_s16le"),
    ],
)
def test_lossless_samples_are_the_same_in_every_container(container, codec):
    subtype = {"flac": "s16le", "alac": "s24le", "tta": "u8"}.get(codec, codec.removeprefix("pcm_"))
    reference = file(speech(1), RATE, "wav", f"pcm_{subtype}")
    expected = soundfile.read(io.BytesIO(reference), dtype="float32")[0]
    assert np.array_equal(audio_file.decode(pcm(container, codec), RATE), expected)


def video(with_sound=True):
    """A film of a second, its sound second among the streams."""
    data = io.BytesIO()
    with av.open(data, "w", format="matroska") as target:
        picture = target.add_stream("mpeg4", rate=10)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        sound = target.add_stream("pcm_s16le", rate=RATE, layout="mono") if with_sound else None
        for number in range(10):
            image = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * number, np.uint8), "rgb24")
            target.mux(picture.encode(image))
        if sound:
            wave = np.round(speech(1) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave[None], "s16", "mono")
            frame.sample_rate = RATE
            target.mux(sound.encode(frame))
        target.mux(picture.encode(None))
    return data.getvalue()


def test_the_sound_of_a_film_is_read():
    assert np.abs(audio_file.decode(video(), RATE) - speech(1)).max() < 1e-4


def test_a_film_without_sound_is_refused_in_one_line():
    with pytest.raises(audio_file.AudioError, match="has no audio") as error:
        audio_file.decode(video(with_sound=False), RATE)
    assert "\n" not in str(error.value)


def test_tags_that_are_not_unicode_and_pictures_do_no_harm():
    sound = file(speech(1), RATE, "mp3", "libmp3lame")
    sound = sound[sound.index(b"\xff\xf3") :]
    name = b"TIT2" + struct.pack(">IH", 5, 0) + b"\x03\xe9t\xe9!"  # said to be UTF-8, and is not
    picture = b"\0image/png\0\x03\0" + b"\x89PNG\r\n\x1a\n" + bytes(500)
    frames = name + b"APIC" + struct.pack(">IH", len(picture), 0) + picture
    size = bytes(len(frames) >> 7 * shift & 127 for shift in (3, 2, 1, 0))
    assert abs(len(audio_file.decode(b"ID3\x03\0\0" + size + frames + sound, RATE)) - RATE) <= FRAME


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:{0}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {0}\n",
    ],
)
def test_a_playlist_does_not_open_other_files(tmp_path, playlist, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.ts").write_bytes(file(speech(1), RATE, "mpegts", "aac"))
    lists = tmp_path / "list.m3u8"
    for name in ("other.ts", str(tmp_path / "other.ts")):
        lists.write_text(playlist.format(name))
        with pytest.raises(audio_file.AudioError):
            audio_file.decode(lists, RATE)


def test_a_named_pipe_is_read(tmp_path):
    data, path = file(speech(1)), tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(data,))
    writer.start()
    found = audio_file.decode(path, RATE)
    writer.join()
    assert np.array_equal(found, audio_file.decode(data, RATE))


def test_a_cut_ogg_is_used_as_far_as_it_goes_and_the_log_says_so(caplog):
    data = file(speech(6), RATE, "ogg", "libopus")
    with caplog.at_level(logging.WARNING):
        found = audio_file.decode(data[: len(data) // 2], RATE)
    assert RATE < len(found) < 5 * RATE
    [record] = caplog.records
    assert "cut within a page of Ogg" in record.getMessage()


def test_an_mp3_without_its_last_frames_is_cut_only_if_its_header_counts_them():
    counted = file(speech(6), RATE, "mp3", "libmp3lame")
    with pytest.raises(audio_file.AudioError, match="truncated"):
        audio_file.decode(counted[: len(counted) // 2], RATE)
    unknown = file(speech(6), RATE, "mp3", "libmp3lame", write_xing="0")
    cut = unknown[: len(unknown) // 2]
    assert agree(len(audio_file.decode(cut, RATE)), samples(cut), RATE)
    assert abs(len(audio_file.decode(cut, RATE)) - 3 * RATE) < FRAME


def test_a_lost_page_of_ogg_is_reported(caplog):
    data = file(speech(10), RATE, "ogg", "libopus")
    middle = len(data) // 2
    with caplog.at_level(logging.WARNING):
        found = audio_file.decode(data[:middle] + b"x" * 9 + data[middle + 9 :], RATE)
    assert len(found) < 9.5 * RATE
    [record] = caplog.records
    missing = float(record.getMessage().rsplit(" ", 1)[1])
    assert abs(missing - (10 - len(found) / RATE)) < 0.1


def test_a_name_with_a_new_line_stays_on_one_line(tmp_path):
    path = tmp_path / "a\nb\udcff.wav"
    path.write_bytes(b"no audio")
    with pytest.raises(audio_file.AudioError) as error:
        audio_file.decode(path, RATE)
    assert "\n" not in str(error.value)
    assert str(error.value).isprintable()
