"""Audio beyond the cache: read in windows of row groups, once an epoch, resumable anywhere."""

import functools
import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from asr.config import strict_yaml
from asr.corpora import prepare as prepare_module
from asr.data.batches import BatchStream
from asr.data.utterances import DataOptions, SpeechData, Table
from asr.recipe.schema import Recipe
from asr.text.tokenizers import Characters
from asr.training.run import train
from tests.corpus import RATE, WORDS, make_corpus, train_batches

SECONDS = np.random.default_rng(0).uniform(0.3, 9.0, 200).tolist()
GROUPS = [0, 7, 40, 41, 90, 120, 160, 200]


def stream(window_size=60.0, **keys):
    return BatchStream(SECONDS, 20.0, 3, groups=GROUPS, window_size=window_size, **keys)


def group_of(item):
    return next(number for number, end in enumerate(GROUPS[1:]) if item < end)


def test_a_window_holds_whole_groups_and_an_epoch_holds_every_item_once():
    orders = []
    for epoch in range(3):
        windows = stream().windows(epoch)
        items = [sorted(itertools.chain(*window)) for window in windows]
        assert sorted(itertools.chain(*items)) == list(range(200))
        groups = [{group_of(item) for item in some} for some in items]
        assert sum(map(len, groups)) == len(GROUPS) - 1
        sizes = [sum(SECONDS[item] for item in some) for some in items]
        largest = max(sum(SECONDS[a:b]) for a, b in itertools.pairwise(GROUPS))
        assert all(size < 60.0 + largest for size in sizes)
        for batch in itertools.chain(*windows):
            assert len(batch) * max(SECONDS[item] for item in batch) <= 20.0
        orders.append([sorted(some) for some in groups])
    assert orders[0] != orders[1] != orders[2]
    assert stream().windows(1) == stream().windows(1)


def test_a_stream_of_windows_resumes_at_every_position():
    whole = list(itertools.islice(stream().batches(0), 300))
    for start in range(0, 220, 13):
        assert list(itertools.islice(stream().batches(start), 30)) == whole[start : start + 30]


def test_a_curriculum_leaves_long_items_out_of_windows():
    windows = stream(curriculum=[0.5]).windows(0)
    assert set(itertools.chain(*itertools.chain(*windows))) == {
        item for item, size in enumerate(SECONDS) if size <= 0.5
    }


def test_one_window_for_everything_is_not_the_order_of_cached_items_but_equally_full():
    cached = BatchStream(SECONDS, 20.0, 3).epoch(0)
    (window,) = stream(window_size=10_000.0).windows(0)
    assert abs(len(window) - len(cached)) <= 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "tones"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_module, "GROUP_BYTES", 20_000)
        make_corpus(folder, train=60, validation=5)
    return folder


def speech(corpus, **keys):
    options = DataOptions(corpus=str(corpus), max_batch_seconds=4.0, shuffle_seconds=8.0, **keys)
    return SpeechData(options, Characters([" ".join(WORDS)]), RATE, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_uncached_audio_is_that_of_the_cache_and_is_read_once_an_epoch(
    corpus, workers, monkeypatch
):
    cached, data = speech(corpus), speech(corpus, cache_gib=0.0, num_workers=workers)
    assert len(data.train.rows.groups) > 10
    expected = {name: cached.train.wave(row) for row, name in enumerate(cached.train.ids)}
    groups: Counter[int] = Counter()
    read = Table._read
    monkeypatch.setattr(
        Table, "_read", lambda table, place, *a: groups.update([place]) or read(table, place, *a)
    )
    length = len(data.stream.epoch(0))
    batches = list(itertools.islice(train_batches(data), length))
    seen = list(itertools.chain(*(batch.ids for batch in batches)))
    assert sorted(seen) == sorted(expected)
    for batch in batches:
        for name, wave, size in zip(batch.ids, batch.waves, batch.wave_lengths, strict=True):
            assert torch.equal(wave[:size], expected[name])
    ahead = sum(groups.values()) - (len(data.train.rows.groups) - 1)
    if workers == 0:
        assert ahead == 0
        assert set(groups.values()) == {1}
    else:  # threads have begun with the next epoch
        assert max(groups.values()) <= 2


@pytest.mark.parametrize("workers", [0, 1])
def test_uncached_audio_resumes_exactly_on_any_number_of_ranks(corpus, workers):
    data = speech(corpus, cache_gib=0.0, num_workers=workers)
    whole = [batch.ids for batch in itertools.islice(train_batches(data), 40)]
    for start in (3, 17):
        parts = [itertools.islice(train_batches(data, start, rank, 2), 12) for rank in (0, 1)]
        for ids, pair in zip(whole[start : start + 12], zip(*parts, strict=True), strict=True):
            assert set(ids) == set(pair[0].ids) | set(pair[1].ids)


def test_a_rank_decodes_only_its_own_rows(corpus, monkeypatch):
    data = speech(corpus, cache_gib=0.0)
    decoded = []
    monkeypatch.setattr(
        "asr.data.utterances.decode", lambda audio, rate: decoded.append(1) or np.zeros(800)
    )
    length = len(data.stream.epoch(0))
    shares = [data.shares(0, rank, 2) for rank in (0, 1)]
    busy = [share for some in shares for window in itertools.islice(some, 1) for share in window]
    wanted = {item for share in busy for item in share.items}
    first = len(data.stream.windows(0)[0])
    for rank in (0, 1):
        list(itertools.islice(train_batches(data, 0, rank, 2), first))
    assert len(wanted) <= len(decoded) <= sum(len(share.items) for share in busy)
    assert length > first


def test_validation_beyond_the_cache_holds_every_utterance_once(corpus):
    batches = speech(corpus, cache_gib=0.0).validation_batches()
    seen = list(itertools.chain(*(batch.ids for batch in batches)))
    assert sorted(seen) == sorted(speech(corpus).validation.ids)


def test_a_run_is_not_resumed_in_another_order(corpus, tmp_path):
    run = functools.partial(run_on, corpus, tmp_path / "run")
    run(1, cache_gib=0.0)
    words = (
        r"order of batches changed since the run began \(was windows of 8 s, as audio exceeds data."
        r"cache_gib, is {}\); restore data.cache_gib and data.shuffle_seconds, or"
    )
    with pytest.raises(ValueError, match=words.format("that of cached audio")):
        run(2)
    with pytest.raises(ValueError, match=words.format("windows of 9 s, .*")):
        run(2, cache_gib=0.0, shuffle_seconds=9.0)
    assert run(2, cache_gib=1e-9)["updates"] == 2


def test_the_windows_of_uncached_audio_may_change_for_a_run_on_cached_audio(corpus, tmp_path):
    run_on(corpus, tmp_path / "run", 1)
    with pytest.raises(ValueError, match=r"was that of cached audio, is windows of 8 s"):
        run_on(corpus, tmp_path / "run", 2, cache_gib=0.0)
    assert run_on(corpus, tmp_path / "run", 2, shuffle_seconds=9.0)["updates"] == 2


def test_a_run_resumes_whose_checkpoint_has_the_order_among_the_checksums(corpus, tmp_path):
    for name, keys in (("windows", {"cache_gib": 0.0}), ("cached", {})):
        run_on(corpus, tmp_path / name, 1, **keys)
        state = torch.load(tmp_path / name / "last.ckpt", weights_only=True)
        order = state["same"].pop("order of batches")
        if name == "windows":
            state["same"]["data"]["order"] = order
        torch.save(state, tmp_path / name / "last.ckpt")
        assert run_on(corpus, tmp_path / name, 2, **keys)["updates"] == 2


def run_on(corpus, folder, updates, **keys):
    tree = {
        "data": {"corpus": str(corpus), "max_batch_seconds": 4.0, "shuffle_seconds": 8.0} | keys,
        "features": {"sample_rate": RATE, "num_mels": 20},
        "encoder": {"class_path": "LSTM", "init_args": {"dim": 8, "channels": 2, "layers": 1}},
        "decoder": {"class_path": "CTC", "init_args": {}},
        "trainer": {"accelerator": "cpu", "devices": 1},
        "budget": {"updates": updates},
    }
    return train(strict_yaml.read(Recipe, tree), folder)
