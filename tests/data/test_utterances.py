import itertools
import json
import random
from collections import Counter

import numpy as np
import pytest
import torch

from asr.batch import BLANK, padded
from asr.data.batches import BatchSource, BatchStream, bucket, split
from asr.data.utterances import (
    DataOptions,
    SpeechData,
    read_corpus,
    read_rows,
)
from asr.text.tokenizers import Characters
from tests.corpus import WORDS, make_corpus, train_batches

SECONDS = list(np.random.default_rng(0).uniform(0.3, 9.0, 200))


class Rows:
    """Items whose batches are the numbers of their items."""

    sizes = SECONDS

    def batch(self, indices):
        return indices


def batches(*place):
    source = BatchSource(Rows(), Rows(), 20.0, BatchStream(SECONDS, 20.0, seed=3))
    return train_batches(source, *place)


def test_batches_hold_each_utterance_once_and_stay_within_the_bound():
    batches = bucket(SECONDS, 20.0)
    assert sorted(itertools.chain(*batches)) == list(range(200))
    assert all(len(b) * max(SECONDS[i] for i in b) <= 20.0 for b in batches)
    full = [len(b) for b in batches[:-1]]
    nexts = [SECONDS[b[0]] for b in batches[1:]]
    assert all((n + 1) * longest > 20.0 for n, longest in zip(full, nexts, strict=True))


def test_an_utterance_longer_than_the_bound_is_alone():
    assert bucket([30.0, 1.0, 2.0], 20.0) == [[1, 2], [0]]


def test_each_epoch_of_a_stream_holds_all_utterances_in_new_batches():
    stream = BatchStream(SECONDS, 20.0, seed=3)
    first, second = stream.epoch(0), stream.epoch(1)
    for epoch in (first, second):
        assert sorted(itertools.chain(*epoch)) == list(range(200))
        assert all(len(b) * max(SECONDS[i] for i in b) <= 20.0 for b in epoch)
    assert {frozenset(b) for b in first} != {frozenset(b) for b in second}
    assert first != BatchStream(SECONDS, 20.0, seed=4).epoch(0)
    expected = first + second
    assert list(itertools.islice(stream.batches(0), len(expected))) == expected


@pytest.mark.parametrize("start", [0, 1, 17, 55, 56, 57, 120])
def test_a_resumed_stream_continues_with_exactly_the_next_batch(start):
    whole = list(itertools.islice(BatchStream(SECONDS, 20.0, seed=3).batches(0), 200))
    assert list(itertools.islice(batches(start), 20)) == whole[start : start + 20]


@pytest.mark.parametrize("ranks", [2, 3, 30])
def test_any_number_of_ranks_shares_each_batch_of_the_same_stream(ranks):
    source = BatchSource(Rows(), Rows(), 20.0, BatchStream(SECONDS, 20.0, seed=3))
    whole = list(itertools.islice(source.stream.batches(0), 80))
    for start in (0, 29):
        windows = (source.shares(start, rank, ranks) for rank in range(ranks))
        shares = zip(*map(itertools.chain.from_iterable, windows), strict=True)
        for batch, parts in zip(whole[start : start + 50], shares, strict=False):
            busy = [part for part in parts if not part.idle]
            assert len(busy) == min(ranks, len(batch))
            assert sorted(row for part in busy for row in part.rows) == list(range(len(batch)))
            for part in parts:
                assert part.total == len(batch)
                assert part.items == [batch[row] for row in part.rows]
            shortest = min(batch, key=SECONDS.__getitem__)
            assert all(part.items == [shortest] for part in parts if part.idle)


def test_a_batch_is_split_so_that_the_largest_padded_size_is_smallest():
    draw = random.Random(1)
    for _ in range(500):
        number = draw.randint(1, 4)
        sizes = [draw.choice([0.1, 0.3, 1.7, draw.random()]) for _ in range(draw.randint(1, 8))]
        groups = split(sizes, number)
        assert sorted(itertools.chain(*groups)) == list(range(len(sizes)))
        assert sum(map(bool, groups)) == min(number, len(sizes))
        largest = max(len(group) * max(sizes[row] for row in group) for group in groups if group)
        by_size = sorted(sizes, reverse=True)
        best = min(
            max(by_size[a] * (b - a) for a, b in itertools.pairwise((0, *cuts, len(sizes))))
            for parts in range(min(number, len(sizes)))
            for cuts in itertools.combinations(range(1, len(sizes)), parts)
        )
        assert largest == pytest.approx(best, rel=1e-12)


def test_a_position_is_found_in_its_epoch():
    stream = BatchStream(SECONDS, 20.0, seed=3)
    sizes = [len(stream.epoch(epoch)) for epoch in range(4)]
    expected = [(epoch, i) for epoch, size in enumerate(sizes) for i in range(size)]
    assert [stream.locate(position) for position in range(sum(sizes))] == expected
    later = BatchStream(SECONDS, 20.0, seed=3)
    assert later.locate(sum(sizes) - 1) == expected[-1]


def test_the_curriculum_begins_with_short_utterances():
    stream = BatchStream(SECONDS, 20.0, 3, curriculum=[1.0, 4.0])
    for epoch, limit in enumerate((1.0, 4.0, 9.0)):
        used = set(itertools.chain(*stream.epoch(epoch)))
        assert used == {i for i, s in enumerate(SECONDS) if s <= limit}
    with pytest.raises(ValueError, match=r"nothing is as short as 0.1 .*; give larger numbers, or"):
        BatchStream(SECONDS, 20.0, 3, curriculum=[0.1])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_batches_hold_the_audio_and_text_of_the_corpus(tmp_path, num_workers, cache_gib):
    waves = make_corpus(tmp_path / "corpus", train=12, validation=5)
    keys = {"corpus": str(tmp_path / "corpus"), "max_batch_seconds": 4.0}
    data = SpeechData(
        DataOptions(num_workers=num_workers, cache_gib=cache_gib, **keys),
        Characters([" ".join(WORDS)]),
        8000,
        seed=1,
    )
    seen = Counter()
    for batch in data.validation_batches():
        assert (batch.waves.shape, batch.tokens.shape[0]) == (
            (len(batch.ids), batch.wave_lengths.max()),
            len(batch.ids),
        )
        for row, length, tokens, size, name, text in zip(
            batch.waves, batch.wave_lengths, batch.tokens, batch.token_lengths, batch.ids,
            batch.texts, strict=True,
        ):  # fmt: skip
            torch.testing.assert_close(row[:length], torch.tensor(waves[name]), atol=1e-4, rtol=0)
            assert not row[length:].any()
            assert data.train.tokenizer.decode(tokens[:size].tolist()) == text
            assert (tokens[size:] == BLANK).all()
            seen[name] += 1
    assert seen == dict.fromkeys(read_rows(keys["corpus"], ["validation"])["id"], 1)
    taken = [batch.ids for batch in itertools.islice(train_batches(data), 6)]
    assert [batch.ids for batch in itertools.islice(train_batches(data, 4), 2)] == taken[4:]


def test_the_longest_batch_needs_as_much_memory_as_any(tmp_path):
    make_corpus(tmp_path / "corpus", train=30, validation=2)
    data = SpeechData(
        DataOptions(corpus=str(tmp_path / "corpus"), max_batch_seconds=4.0),
        Characters([" ".join(WORDS)]),
        8000,
        seed=1,
    )
    longest = data.train.batch(data.longest_batch()).waves.numel()
    for batch in itertools.islice(train_batches(data), 40):
        assert batch.waves.numel() <= longest * 1.05


def test_rows_are_padded_also_if_some_or_all_are_empty():
    empty = torch.zeros(0, dtype=torch.int64)
    rows, lengths = padded([torch.tensor([3, 4]), empty, torch.tensor([5])], 7)
    assert (rows.tolist(), lengths.tolist()) == ([[3, 4], [7, 7], [5, 7]], [2, 0, 1])
    rows, lengths = padded([empty, empty])
    assert (rows.shape, lengths.tolist()) == ((2, 0), [0, 0])


def test_a_missing_corpus_or_split_is_named(tmp_path):
    with pytest.raises(ValueError, match="not a prepared corpus"):
        read_corpus(tmp_path)
    (tmp_path / "corpus.json").write_text(
        json.dumps({"splits": {"train": {}, "test": {}}, "normaliser": "none"})
    )
    with pytest.raises(ValueError, match="split 'dev' is not in .*; it has test, train"):
        read_rows(tmp_path, ["dev"])


def test_damaged_and_missing_files_of_a_corpus_are_named(tmp_path):
    make_corpus(tmp_path / "tones", train=8)
    shard = tmp_path / "tones" / "train-00000-of-00001.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="train-00000-of-00001.parquet is damaged.*prepare"):
        read_rows(tmp_path / "tones", ["train"])
    shard.rename(shard.with_name("train-00000-of-00002.parquet"))
    with pytest.raises(ValueError, match="has 1 of 2 files of the split train; prepare it again"):
        read_rows(tmp_path / "tones", ["train"])
    (tmp_path / "tones" / "corpus.json").write_text("{")
    with pytest.raises(ValueError, match="corpus.json is damaged"):
        read_corpus(tmp_path / "tones")
