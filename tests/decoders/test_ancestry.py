"""Shared columns of keys and values against hypotheses that keep their own."""

import pytest
import torch

from asr.batch import EOS
from asr.decoders import location_attention
from asr.decoders.ancestry import make_room, unseen, with_newest
from tests import tiny


def random_search(generator, utterances, beams):
    """Yields, per step, parents (B', K') and tokens (B', K') of K' hypotheses, and who stays."""
    before = 1
    for step, beam in enumerate(beams):
        stay = torch.arange(utterances)
        if step % 9 == 8 and utterances > 1:
            stay = torch.randperm(utterances, generator=generator)[1:].sort()[0]
        utterances = len(stay)
        size = (utterances, beam)
        parents = torch.randint(0, before, size, generator=generator)
        yield parents, torch.randint(EOS + 1, tiny.VOCABULARY, size, generator=generator), stay
        before = beam


@pytest.mark.parametrize("name", tiny.ATTENTION_DECODERS)
@pytest.mark.parametrize("widest", [1, 3, 7])
@torch.no_grad()
def test_a_long_search_scores_every_hypothesis_as_teacher_forcing_does(name, widest):
    decoder, generator = tiny.decoder(name), torch.Generator().manual_seed(widest)
    encoded = torch.randn(4, 12, tiny.DIM, generator=generator)
    lengths, rows = torch.tensor([12, 5, 9, 12]), torch.arange(4)
    beams = torch.randint(max(1, widest - 1), widest + 1, (40,), generator=generator).tolist()
    log_probs, state = decoder.step(torch.full((4,), EOS), decoder.start(encoded, lengths))
    spoken = torch.full((4, 1, 1), EOS)  # (B, K, U)
    for parents, tokens, stay in random_search(generator, 4, beams):
        hypotheses = (stay[:, None] * spoken.shape[1] + parents).flatten()
        state = state.select(hypotheses, None if len(stay) == len(rows) else stay)
        rows = rows[stay]
        spoken = torch.cat([spoken[stay[:, None], parents], tokens[..., None]], dim=2)
        log_probs, state = decoder.step(tokens.flatten(), state)
    assert len(rows) < 4
    for row, paths, scores in zip(rows, spoken, log_probs.view(len(rows), -1, 6), strict=True):
        frames = encoded[row, : lengths[row]].expand(len(paths), -1, -1)
        y = decoder._teach(frames, lengths[row].expand(len(paths)), paths)
        torch.testing.assert_close(scores, decoder.head(y)[:, -1], rtol=1e-4, atol=1e-4)


def grown(steps, beam, parents, utterances=2):
    """Columns that hold the number of the step that wrote them, and the ancestry, at the end."""
    past = [torch.zeros(utterances, 3, 0, 2) for _ in range(2)]
    ancestry = torch.zeros(utterances * beam, 0, dtype=torch.bool)
    widest = 0
    for step in range(steps):
        past, ancestry = make_room(past, ancestry)
        ancestry = with_newest(ancestry, utterances)
        for layer, columns in enumerate(past):
            columns[:, :, ancestry.shape[1] - beam : ancestry.shape[1]] = step + 1000 * layer
        ancestry = ancestry[parents(step)]
        widest = max(widest, past[0].shape[2])
    return past, ancestry, widest


def test_each_hypothesis_has_exactly_one_column_per_step():
    generator = torch.Generator().manual_seed(0)

    def parents(step):
        chosen = torch.randint(0, 5, (2, 5), generator=generator)
        return (chosen + torch.tensor([[0], [5]])).flatten()

    past, ancestry, _ = grown(100, 5, parents)
    for layer, columns in enumerate(past):
        written = columns[:, :, : ancestry.shape[1]].repeat_interleave(5, 0)  # (B*K, H, C, d)
        for row, values in zip(ancestry, written, strict=True):
            own = values[:, row]  # (H, U, d)
            expected = torch.arange(100.0) + 1000 * layer
            assert own.sort(1)[0].equal(expected[:, None].expand(3, -1, 2))


@pytest.mark.parametrize(("beam", "steps"), [(1, 300), (8, 300)])
def test_the_number_of_columns_does_not_grow_with_the_beam(beam, steps):
    def first(step):
        return torch.arange(2).repeat_interleave(beam) * beam

    _, _, widest = grown(steps, beam, first)
    assert widest <= 1.5 * steps + 8 * beam


def test_all_columns_are_kept_while_hypotheses_share_no_prefix():
    _, ancestry, widest = grown(60, 4, lambda step: torch.arange(8))
    assert ancestry.sum(1).eq(60).all()
    assert widest >= 60 * 4
    assert not (ancestry[0] & ancestry[1]).any()


def test_the_mask_is_minus_infinity_where_a_hypothesis_may_not_attend():
    added = unseen(torch.tensor([[True, False]]), torch.float32)
    assert added.tolist() == [[0.0, -torch.inf]]


@pytest.mark.parametrize("chunk", [1, 2 * 3 * 12 * 8, 10**9])
@torch.no_grad()
def test_energies_do_not_depend_on_the_chunk_size(chunk, monkeypatch):
    decoder, generator = tiny.decoder("AttentionLSTM"), torch.Generator().manual_seed(1)
    encoded = torch.randn(5, 12, tiny.DIM, generator=generator)
    rows = torch.arange(5).repeat_interleave(3)
    tokens = torch.randint(EOS + 1, tiny.VOCABULARY, (15,), generator=generator)
    results = []
    for size in (location_attention.ENERGIES_AT_ONCE, chunk):
        monkeypatch.setattr(location_attention, "ENERGIES_AT_ONCE", size)
        _, state = decoder.step(
            torch.full((5,), EOS), decoder.start(encoded, torch.tensor([12, 3, 7, 1, 12]))
        )
        results.append(decoder.step(tokens, state.select(rows))[0])
    torch.testing.assert_close(*results)
