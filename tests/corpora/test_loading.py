"""Many rows of one recording: it is decoded once, and each row is cut out of it exactly."""

import contextlib
import hashlib
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

from asr.audio import audio_file
from asr.corpora import loading
from asr.corpora.corpus import DroppedError, Row
from asr.corpora.folder import Folder
from asr.corpora.loading import load, load_ahead
from tests.sound_files import file, speech

RATE = 16000
SECONDS = 30


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("recordings") / "talk.flac"
    path.write_bytes(file(speech(SECONDS), RATE, "flac", "flac"))
    return path


@pytest.fixture
def opened(monkeypatch):
    """The sources that are opened."""
    sources = []
    original = audio_file.open_sound

    def noted(source, channel=None):
        sources.append(source)
        return original(source)

    monkeypatch.setattr(audio_file, "open_sound", noted)
    return sources


def row(path, start, seconds, name=None):
    return Row(name or f"{start}-{seconds}", path, "a", start_seconds=start, seconds=seconds)


PARTS = {
    "in order": [(2 * i, 1.5) for i in range(15)],
    "unsorted": [(20, 1), (3, 2), (29, 1), (0, 0.5), (10, 5)],
    "overlapping and nested": [(0, 10), (1, 2), (1, 2.5), (5, 10), (0, 25), (24.9, 2)],
    "to the end": [(5, None), (29, None), (0, None), (10, 20)],
    "within a sample": [(1.00001, 1.00003), (1.00004, 0.99999)],
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_each_row_is_its_part_of_the_recording(recording, opened, parts):
    whole, _, _ = audio_file.decode_native(recording)
    opened.clear()
    results = list(load([row(recording, *part) for part in parts], RATE))
    assert opened == [recording]
    for result, (start, seconds) in zip(results, parts, strict=True):
        begin = round(start * RATE)
        end = None if seconds is None else begin + round(seconds * RATE)
        expected = whole[begin:end]
        assert (result.row.start_seconds, result.row.seconds) == (start, seconds)
        assert result.audio_hash == hashlib.sha256(expected.tobytes()).hexdigest()[:24]
        assert np.abs(audio_file.decode(result.audio, RATE) - expected).max() <= 0.5 / 32768 + 1e-7


def test_rows_beyond_the_end_are_dropped_unless_by_rounding(recording):
    parts = [(31, None), (29, 5), (29, 1.09), (29, 1.11), (31, 1), (0, 1)]
    results = list(load([row(recording, *part) for part in parts], RATE))
    reasons = [getattr(result, "reason", None) for result in results]
    cut = "truncated_audio"
    assert reasons == ["too_short", cut, None, cut, cut, None]
    assert str(results[4]) == "31-1: ends at 32.00 s, the audio at 30.00 s"
    assert results[2].seconds == 1.0


def test_another_rate_is_resampled_row_by_row(tmp_path):
    path = tmp_path / "talk.wav"
    path.write_bytes(file(np.stack([speech(9, 44100)] * 2), 44100))
    whole, rate, _ = audio_file.decode_native(path)
    [first, second] = load([row(path, 1, 2), row(path, 4.5, 3)], RATE)
    for result, start, seconds in ((first, 1, 2), (second, 4.5, 3)):
        part = whole[round(start * rate) :][: round(seconds * rate)]
        expected = audio_file.resample(part, rate, RATE)
        assert np.abs(audio_file.decode(result.audio, RATE) - expected).max() <= 0.5 / 32768 + 1e-6
        assert result.resampled
        assert result.mixed


def test_a_cut_recording_gives_the_rows_before_the_cut(recording, tmp_path):
    data = recording.read_bytes()
    path = tmp_path / "cut.flac"
    path.write_bytes(data[: len(data) // 2])
    results = list(load([row(path, i, 1) for i in range(30)], RATE))
    kept = [not isinstance(result, DroppedError) for result in results]
    assert 5 < sum(kept) < 25
    assert kept == sorted(kept, reverse=True)
    assert all(result.reason == "truncated_audio" for result in results[sum(kept) :])
    assert all(result.row.id in result.path for result in results[: sum(kept)])


def test_reading_ends_with_the_last_row(recording, monkeypatch):
    read = []
    original = audio_file.open_sound

    @contextlib.contextmanager
    def counted(source, channel=None):
        with original(source) as sound:
            pieces = (read.append(len(piece)) or piece for piece in sound.pieces)
            yield audio_file.Sound(sound.sample_rate, sound.channels, pieces)

    monkeypatch.setattr(audio_file, "open_sound", counted)
    assert len(list(load([row(recording, 1, 1), row(recording, 2, 2)], RATE))) == 2
    assert sum(read) < 5 * RATE


def test_memory_holds_only_pieces_of_rows_that_have_not_ended(monkeypatch):
    alive, most = weakref.WeakSet(), 0

    class Piece(np.ndarray):
        """An array that can be watched."""

    def pieces():
        nonlocal most
        for number in range(2000):
            piece = np.full(1000, 0.1 + number / 10000, np.float32).view(Piece)
            alive_pieces.append(weakref.ref(piece))
            yield piece
            del piece
            most = max(most, sum(ref() is not None for ref in alive_pieces))

    alive_pieces = []
    sound = audio_file.Sound(1000, 1, pieces())
    monkeypatch.setattr(audio_file, "open_sound", lambda *_: contextlib.nullcontext(sound))
    rows = [row(Path("x"), 4 * i, 3) for i in range(499)]
    results = list(load(rows, 1000))
    assert not any(isinstance(result, DroppedError) for result in results)
    assert most <= 8
    assert not alive


def test_rows_of_one_file_stand_together_in_a_folder(tmp_path):
    lines = []
    for number in range(6):
        name = "ab"[number % 2]
        lines.append(f'{{"audio_filepath": "{name}.wav", "text": "x", "id": "{number}"}}\n')
    (tmp_path / "train.jsonl").write_text("".join(lines))
    rows = Folder(path=tmp_path).splits()["train"].read()
    assert [row.id for row in rows] == ["0", "2", "4", "1", "3", "5"]


def test_kaldi_s_end_of_minus_one_and_no_end_are_the_end_of_the_recording(tmp_path, recording):
    (tmp_path / "wav.scp").write_text(f"talk {recording}\n")
    (tmp_path / "text").write_text("a yes\nb no\nc so\n")
    (tmp_path / "segments").write_text("a talk 1 2.5\nb talk 28.0 -1\nc talk 27.5\n")
    rows = list(Folder(path=tmp_path, validation_share=0, test_share=0).splits()["train"].read())
    assert [row.seconds for row in rows] == [1.5, None, None]
    assert [result.seconds for result in load(rows, RATE)] == [1.5, 2.0, 2.5]


def names(rows, workers=2):
    return [
        (row.id, result.reason if isinstance(result, DroppedError) else round(result.seconds, 3))
        for row, result in load_ahead(rows, RATE, workers)
    ]


@pytest.mark.parametrize("limit", [1, 100_000, 10**9])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_rows_come_in_order_whichever_thread_loads_them(
    tmp_path, opened, monkeypatch, limit, workers
):
    monkeypatch.setattr(loading, "READY_BYTES", limit)
    paths = [tmp_path / f"{i}.wav" for i in range(6)]
    for number, path in enumerate(paths):
        path.write_bytes(file(speech(4, seed=number)))
    rows = [row(path, i / 4, 0.5 + i / 100, f"{path.stem}-{i}") for path in paths for i in range(9)]
    expected = [(r.id, round(r.seconds, 3)) for r in rows]
    assert names(rows, workers) == expected
    assert sorted(opened) == paths


@pytest.mark.parametrize(
    "error", [RuntimeError("a\nb"), MemoryError(), KeyError("k"), OSError(5, "no")]
)
def test_an_exception_of_one_row_is_the_result_of_that_row(tmp_path, monkeypatch, error):
    for name in "abc":
        (tmp_path / f"{name}.wav").write_bytes(file(speech(1)))
    original = audio_file.open_sound

    def failing(source, channel=None):
        if source.stem == "b":
            raise error
        return original(source)

    monkeypatch.setattr(audio_file, "open_sound", failing)
    rows = [Row(name, tmp_path / f"{name}.wav", "x") for name in "abc"]
    results = {row.id: result for row, result in load_ahead(rows, RATE, 2)}
    assert [isinstance(results[name], DroppedError) for name in "abc"] == [False, True, False]
    message = str(results["b"])
    assert message.startswith("b: ")
    assert "\n" not in message


def test_closing_the_iterator_ends_the_loading_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "READY_BYTES", 1)
    path = tmp_path / "a.wav"
    path.write_bytes(file(speech(4)))
    before = threading.active_count()
    rows = (row(path, i % 3, 0.5, str(i)) for i in range(500))
    loaded = load_ahead(rows, RATE, 2)
    assert next(loaded)[0].id == "0"
    loaded.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("container", "codec", "kept"),
    [
        ("wav", "pcm_s16le", True),
        ("flac", "flac", True),
        ("mp3", "libmp3lame", True),
        ("ipod", "aac", False),
        ("ogg", "libopus", False),
    ],
)
def test_bytes_are_kept_unchanged_where_libsndfile_reads_the_same_samples(container, codec, kept):
    data = file(speech(2), RATE, container, codec)
    [result] = load([Row("a", data, "x")], RATE)
    assert (result.audio == data) == kept
    [doubled] = load([Row("a", data + data, "x")], RATE)
    if container in ("flac", "mp3", "ogg"):
        assert doubled.audio != data + data
        assert doubled.seconds == pytest.approx(4, abs=0.3)


def test_an_unexpected_exception_of_a_row_is_reported(recording, monkeypatch):
    monkeypatch.setattr(loading, "_utterance", lambda row, *_: 1 / (row.start_seconds - 2))
    results = list(load([row(recording, i, 1) for i in range(5)], RATE))
    assert isinstance(results[2], DroppedError)
    assert results[2].reason == "error"
    assert str(results[2]) == "2-1: ZeroDivisionError: division by zero"
