import itertools
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.batch import Batch, padded
from asr.data.device_cache import Resident, no_room
from asr.data.utterances import DataOptions, SpeechData
from asr.text.tokenizers import Characters
from tests.corpus import WORDS, make_corpus, train_batches

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "tones"
    make_corpus(folder, train=30, validation=7)
    return folder


def speech(corpus, device: torch.device = CPU, **keys) -> SpeechData:
    options = DataOptions(corpus=str(corpus), **{"max_batch_seconds": 4.0, **keys})
    return SpeechData(options, Characters([" ".join(WORDS)]), 8000, 1, device)


def assert_identical(one: Batch, other: Batch) -> None:
    assert (one.ids, one.texts) == (other.ids, other.texts)
    assert one.num_samples == other.num_samples == one.wave_lengths.tolist()
    for name in ("waves", "wave_lengths", "tokens", "token_lengths"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b), name


def test_batches_on_the_device_equal_those_of_the_loader_bit_for_bit(corpus):
    host, resident = speech(corpus), speech(corpus, device_cache=True)
    assert resident.train.resident is not None
    for rank, ranks in ((0, 1), (1, 2)):
        pairs = zip(
            train_batches(host, 0, rank, ranks),
            train_batches(resident, 0, rank, ranks),
            strict=False,
        )
        for one, other in itertools.islice(pairs, 25):
            assert_identical(one, other)
    for one, other in zip(host.validation_batches(), resident.validation_batches(), strict=True):
        assert_identical(one, other)


def test_batches_on_the_device_resume_at_any_position(corpus):
    whole = list(itertools.islice(train_batches(speech(corpus, device_cache=True)), 12))
    resumed = speech(corpus, device_cache=True)
    for one, other in zip(whole[9:], train_batches(resumed, 9), strict=False):
        assert_identical(one, other)


def test_a_batch_cut_from_the_cache_equals_padded_rows():
    draw = np.random.default_rng(0)
    sizes = [3, 0, 5, 1, 0]
    parts = [draw.integers(1, 9, size) for size in sizes]
    held = Resident(torch.from_numpy(np.concatenate(parts)), sizes, CPU)
    for rows in ([0], [2, 1, 0], [4, 3], [1, 4]):
        expected, sizes_of_rows = padded([torch.from_numpy(parts[row]) for row in rows])
        cut, lengths = held.cut(rows, 0)
        assert torch.equal(cut, expected)
        assert torch.equal(lengths, sizes_of_rows)
    assert held.cut([1, 0], -7)[0].tolist() == [[-7] * 3, parts[0].tolist()]


def test_on_a_cpu_the_audio_stays_in_its_file(corpus):
    data = speech(corpus, device_cache=True)
    flat = data.train.resident[0].flat
    assert len(flat) == sum(len(data.train.wave(index)) for index in range(len(data.train)))
    maps = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split("-")[0] for line in maps if line.endswith("-8000.pcm")]
    assert flat.data_ptr() in {int(start, 16) for start in ranges}


def test_audio_that_does_not_fit_is_copied_batch_by_batch_and_the_log_says_why(
    corpus, monkeypatch, caplog
):
    with caplog.at_level(logging.WARNING):
        data = speech(corpus, device_cache=True, cache_gib=0.0)
    assert data.train.resident is None
    assert "a split needs more than data.cache_gib 0" in caplog.text
    assert len(next(iter(train_batches(data))).ids) > 0

    splits = speech(corpus).train, speech(corpus).validation
    size = sum(2 * len(split.wave(index)) for split in splits for index in range(len(split)))
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * size - 1, 10**12))
    with caplog.at_level(logging.WARNING):
        data = speech(corpus, cuda, device_cache=True)
    assert data.train.resident is None
    assert "are more than half of the" in caplog.text
    assert no_room(size - 1, cuda) is None
