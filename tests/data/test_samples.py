"""Decoded audio in files: made once, opened by all, made again when damaged or outdated."""

import logging
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from asr.audio.audio_file import decode
from asr.data.samples import FULL_SCALE, Samples, cache_folders, shared
from asr.data.utterances import decode_rows, decoded, read_rows
from asr.files import OutputError
from asr.locks import take
from tests.corpus import RATE, make_corpus

WAVES = [np.arange(length, dtype=np.int16) for length in (5, 1, 900)]


@pytest.fixture
def corpus(tmp_path):
    make_corpus(tmp_path / "corpus", train=9, validation=2)
    return tmp_path / "corpus"


def never():
    raise AssertionError("decoded again")


def read(path, number=3):
    with path.open("rb") as file:
        return Samples(file, number)


def opened(path, waves, current=("",)):
    return shared([path], len(WAVES), waves, current)


def assert_holds(samples, waves):
    assert len(samples) == len(waves)
    for index, wave in enumerate(waves):
        assert np.array_equal(samples[index], wave)


def test_a_corpus_is_decoded_once_for_each_rate(corpus, monkeypatch):
    table = read_rows(corpus, ["train"])
    for rate in (RATE, RATE // 2):
        samples = decoded(corpus, "train", rate)
        for index in range(9):
            expected = decode(table.encoded(index), rate)
            assert np.abs(samples[index] / FULL_SCALE - expected).max() <= 0.5 / FULL_SCALE
    assert len(list((corpus / "cache").glob("*.pcm"))) == 2
    monkeypatch.setattr("asr.data.utterances.decode_rows", never)
    assert_holds(decoded(corpus, "train", RATE // 2), [samples[index] for index in range(9)])


@pytest.mark.parametrize("keep", [0, 7, -1, -16, -40])
def test_a_damaged_file_is_found_and_made_again(tmp_path, keep, caplog):
    path = tmp_path / "cache" / "a.pcm"
    assert_holds(opened(path, lambda: WAVES), WAVES)
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(ValueError, match="is damaged"):
        read(path)
    with caplog.at_level(logging.INFO):
        assert_holds(opened(path, lambda: WAVES), WAVES)
    assert path.read_bytes() == content
    assert "a.pcm is damaged and made again" in caplog.text


def test_a_file_of_another_number_of_utterances_is_damaged(tmp_path):
    path = tmp_path / "cache" / "a.pcm"
    opened(path, lambda: WAVES)
    for number in (0, 2, 4):
        with pytest.raises(ValueError, match="is damaged"):
            read(path, number)


def test_files_of_earlier_contents_are_removed(tmp_path):
    cache = tmp_path / "cache"
    for name in ("old-8000", "new-16000"):
        opened(cache / f"{name}.pcm", lambda: WAVES, ["old", "new"])
    (cache / "other").touch()
    opened(cache / "new-8000.pcm", lambda: WAVES, ["new"])
    assert {path.name for path in cache.iterdir()} == {
        ".lock", "new-16000.pcm", "new-8000.pcm", "other"
    }  # fmt: skip


@pytest.mark.parametrize("writable", ["user", "temporary"])
def test_if_the_corpus_cannot_be_written_processes_and_later_runs_share_a_file_elsewhere(
    corpus, writable, tmp_path, monkeypatch, caplog
):
    for name, folder in (("XDG_CACHE_HOME", "user"), ("TMPDIR", "temporary")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    (corpus / "cache").touch()  # a file where the folder should be
    if writable == "temporary":
        (tmp_path / "user").touch()
    expected = [table_wave(corpus, index) for index in range(9)]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_decode_in_process, args=(corpus, tmp_path / "journal"))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert (tmp_path / "journal").read_text() == "decoded\n"
    (made,) = tmp_path.glob("*/**/*.pcm")
    assert made.is_relative_to(tmp_path / writable)
    monkeypatch.setattr("asr.data.utterances.decode_rows", never)
    with caplog.at_level(logging.INFO):
        samples = decoded(corpus, "train", RATE)
    assert [record.getMessage() for record in caplog.records] == [
        f"decoded audio is read from {made}"
    ]
    assert_holds(samples, expected)
    assert samples.mapped().tolist() == np.concatenate(expected).tolist()


def table_wave(corpus, index):
    audio = read_rows(corpus, ["train"]).encoded(index)
    return (decode(audio, RATE) * FULL_SCALE).round().astype(np.int16)


def _decode_in_process(corpus, journal):
    def noted(*arguments):
        with journal.open("a") as file:
            file.write("decoded\n")
        return decode_rows(*arguments)

    with mock.patch("asr.data.utterances.decode_rows", noted):
        assert len(decoded(corpus, "train", RATE)) == 9


def test_the_log_says_why_and_where_audio_is_decoded_elsewhere(tmp_path, caplog):
    (tmp_path / "cache").touch()
    paths = [tmp_path / name / "a.pcm" for name in ("cache", "other")]
    with caplog.at_level(logging.WARNING):
        assert_holds(shared(paths, 3, lambda: WAVES, [""]), WAVES)
    (record,) = caplog.records
    assert f"{paths[1]} is made for all later runs, because" in record.getMessage()
    assert str(paths[0].parent) in record.getMessage()


def test_a_full_disk_is_left_for_the_next_place_and_named_if_all_are_full(tmp_path, quota):
    paths = [tmp_path / name / "a.pcm" for name in ("cache", "other")]
    with quota(500), pytest.raises(OutputError, match=r"File too large.*XDG_CACHE_HOME"):
        shared(paths, 3, lambda: WAVES, [""])
    assert not list(tmp_path.glob("*/*.pcm"))


def test_a_temporary_folder_of_another_user_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert any(folder.is_relative_to(tmp_path) for folder in cache_folders(tmp_path / "corpus")[1:])
    (tmp_path / f"asr-{os.getuid()}").mkdir()
    if os.getuid() == 0:
        os.chown(tmp_path / "asr-0", 12345, -1)
        places = cache_folders(Path("/corpus"))
        assert not any(folder.is_relative_to(tmp_path) for folder in places)


def test_a_process_says_that_it_waits_for_one_that_decodes(tmp_path, caplog):
    path = tmp_path / "cache" / "a.pcm"
    held = take(path.parent / ".lock")
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(1) as pool:
        found = pool.submit(opened, path, lambda: WAVES)
        deadline = time.monotonic() + 30
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
        held.close()
        assert_holds(found.result(), WAVES)
    said = f"waiting for another process: it decodes audio into {path.parent}"
    assert [record.getMessage() for record in caplog.records][0] == said


def test_audio_is_decoded_by_the_cores_that_this_process_may_use(corpus, monkeypatch):
    used = []
    monkeypatch.setattr("asr.metering.control_groups.usable_cores", lambda: 3)
    monkeypatch.setattr(
        "asr.items.ThreadPoolExecutor",
        lambda threads: used.append(threads) or ThreadPoolExecutor(threads),
    )
    decoded(corpus, "train", RATE)
    assert used == [3]


def test_an_error_of_decoding_leaves_no_file(tmp_path):
    def waves():
        yield WAVES[0]
        raise ValueError("a7: not audio")

    with pytest.raises(ValueError, match="a7: not audio"):
        opened(tmp_path / "cache" / "a.pcm", waves)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_samples_outlive_the_name_of_their_file_but_not_a_cut(tmp_path):
    path = tmp_path / "cache" / "a.pcm"
    samples = opened(path, lambda: WAVES)
    path.rename(tmp_path / "b.pcm")
    assert_holds(samples, WAVES)
    path = tmp_path / "b.pcm"
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match="was cut off"):
        samples[2]


def _open(path, queue):
    def waves():
        queue.put("decoded")
        return WAVES

    assert_holds(opened(path, waves), WAVES)


def test_processes_that_start_together_decode_once(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    path = tmp_path / "cache" / "a.pcm"
    processes = [context.Process(target=_open, args=(path, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert queue.get() == "decoded"
    assert queue.empty()
