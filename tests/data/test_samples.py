"""Decoded audio in files: made once, opened by all, made again when damaged or outdated."""

import logging
import multiprocessing

import numpy as np
import pytest

from asr.audio.audio_file import decode
from asr.data.samples import FULL_SCALE, Samples, shared
from asr.data.utterances import decoded, read_rows
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
    return shared(path, len(WAVES), waves, current)


def assert_holds(samples, waves):
    assert len(samples) == len(waves)
    for index, wave in enumerate(waves):
        assert np.array_equal(samples[index], wave)


def test_a_corpus_is_decoded_once_for_each_rate(corpus, monkeypatch):
    table = read_rows(corpus, ["train"])
    for rate in (RATE, RATE // 2):
        samples = decoded(corpus, "train", rate)
        for index in range(9):
            expected = decode(table[index]["audio"]["bytes"], rate)
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


def test_without_a_place_to_write_a_temporary_file_is_used_and_the_log_says_so(tmp_path, caplog):
    (tmp_path / "cache").touch()  # a file where the folder should be
    with caplog.at_level(logging.WARNING):
        samples = opened(tmp_path / "cache" / "a.pcm", lambda: WAVES)
    assert_holds(samples, WAVES)
    assert samples.mapped().tolist() == np.concatenate(WAVES).tolist()
    assert "to a temporary file, for this run alone" in caplog.text
    assert len(caplog.records) == 1


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
