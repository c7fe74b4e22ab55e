"""A batch that is searched in parts, one for each thread, against the same batch in one."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from asr.decoders import DECODERS
from asr.search import Beam, Greedy, parallel
from asr.search.parallel import side_by_side
from tests.table_language_model import TableLanguageModel
from tests.test_search import assert_same

LENGTHS = torch.tensor([9, 23, 0, 14, 5, 21, 1])


OPTIONS = {
    "AttentionLSTM": {"width": 16, "attention": 8, "location_kernel": 5},
    "Transformer": {"width": 16, "layers": 2, "heads": 2},
    "Transducer": {"width": 16, "joint": 16},
    "CTC": {},
}


def real_decoder(name):
    torch.manual_seed(4)
    decoder = DECODERS[name](16, 8, **OPTIONS[name]).eval()
    for parameter in decoder.parameters():
        parameter.data *= 1.5  # opinions, not the uniform distribution of a fresh model
    return decoder


@contextlib.contextmanager
def threads(number):
    """Afterwards this thread, and a new one, must have what they had."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
        assert torch.get_num_threads() == number
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == number
    finally:
        torch.set_num_threads(before)


def encoded():
    return torch.randn(len(LENGTHS), 23, 16, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("search", [Greedy(), Beam(beam=4, nbest=4), Beam(beam=3, lm_weight=0.4)])
@pytest.mark.parametrize("name", DECODERS)
def test_parts_find_what_the_whole_finds(name, search, inference, monkeypatch):
    monkeypatch.setattr(parallel, "SHARE", 1)
    decoder, frames = real_decoder(name), encoded()
    language_model = TableLanguageModel(decoder.vocabulary, seed=1) if search.lm_weight else None
    found = []
    with torch.inference_mode(inference):
        for number in (1, 2, 5, 16):
            with threads(number):
                found.append(search(decoder, frames, LENGTHS, language_model))
    for other in found[1:]:
        assert_same(found[0], other)


@pytest.mark.parametrize(
    ("number", "share", "expected"),
    [
        (3, 2, [(14, [14, 1], 1), (21, [21, 5], 1), (23, [23, 9, 0], 1)]),
        (5, 3, [(21, [21, 9, 1], 2), (23, [23, 14, 5, 0], 2)]),
        (5, 4, [(23, [9, 23, 0, 14, 5, 21, 1], 5)]),
    ],
)
def test_parts_share_threads_have_all_lengths_and_no_more_padding_than_they_need(
    number, share, expected, monkeypatch
):
    monkeypatch.setattr(parallel, "SHARE", share)
    barrier, seen = threading.Barrier(len(expected)), []

    def search(frames, lengths):
        seen.append((frames.shape[1], lengths.tolist(), torch.get_num_threads()))
        barrier.wait(timeout=10)  # all at once
        return [[length] for length in lengths.tolist()]

    with threads(number):
        found = side_by_side(search, encoded(), LENGTHS)
    assert sorted(seen) == expected
    assert found == [[length] for length in LENGTHS.tolist()]


def test_an_error_names_the_place_in_the_batch_and_leaves_the_threads_as_they_were(monkeypatch):
    monkeypatch.setattr(parallel, "SHARE", 1)
    frames = encoded()
    frames[5] = torch.nan
    with threads(2), pytest.raises(ValueError, match=r"NaN for utterances 5 of the batch: check"):
        Beam(beam=2)(real_decoder("AttentionLSTM"), frames, LENGTHS)


def test_a_mistake_of_a_part_alone_is_not_passed_over(monkeypatch):
    monkeypatch.setattr(parallel, "SHARE", 1)

    def search(frames, lengths):
        if len(lengths) < len(LENGTHS):
            raise ValueError("of a part")
        return [[] for _ in lengths]

    with threads(2), pytest.raises(ValueError, match="of a part"):
        side_by_side(search, encoded(), LENGTHS)


def test_a_search_within_another_threads_search_is_in_one_part(monkeypatch):
    monkeypatch.setattr(parallel, "SHARE", 1)
    seen = []

    def search(frames, lengths):
        seen.append(len(lengths))
        if len(lengths) == 4:
            side_by_side(search, encoded(), LENGTHS)
        return [[] for _ in lengths]

    with threads(2):
        side_by_side(search, encoded(), LENGTHS)
    assert sorted(seen) == [3, 4, 7]
