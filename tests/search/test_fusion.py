"""A language model's rows, selected and grown, against reading each hypothesis from its start."""

import itertools

import pytest
import torch

from asr.search.fusion import begin
from tests.table_language_model import TableLanguageModel, grow

CPU = torch.device("cpu")


def assert_reads(fusion, hypotheses):
    """Every row knows the probability of each token after its hypothesis."""
    model = fusion.language_model
    assert fusion.log_probs.shape == (len(hypotheses), model.vocabulary)
    for row, tokens in zip(fusion.log_probs.tolist(), hypotheses, strict=True):
        before = model.score(tokens)
        for token in range(model.vocabulary):
            assert row[token] == pytest.approx(model.score([*tokens, token]) - before, abs=1e-5)


def test_rows_are_independent_under_any_selection_repetition_and_growth():
    generator = torch.Generator().manual_seed(3)
    fusion, hypotheses = begin(TableLanguageModel(6, seed=1), 3, CPU), [[], [], []]
    for _ in range(30):
        rows = torch.randint(len(hypotheses), (5,), generator=generator)
        fusion, hypotheses = fusion.select(rows), [hypotheses[row] for row in rows]
        grown = torch.randperm(5, generator=generator)[
            : int(torch.randint(6, (), generator=generator))
        ]
        tokens = torch.randint(2, 6, grown.shape, generator=generator)
        before = fusion
        fusion = grow(fusion, grown, tokens)
        assert_reads(before, hypotheses)  # it stays as it was
        for row, token in zip(grown.tolist(), tokens.tolist(), strict=True):
            hypotheses[row] = [*hypotheses[row], token]
        assert_reads(fusion, hypotheses)
    assert len({len(tokens) for tokens in hypotheses}) > 1


def test_follow_extends_rows_in_any_order():
    fusion, rows = begin(TableLanguageModel(5), 2, CPU), torch.tensor([1, 0, 1])
    hypotheses = [(), ()]
    for tokens in itertools.islice(itertools.permutations((2, 3, 4)), 4):
        fusion = fusion.follow(rows, torch.tensor(tokens))
        hypotheses = [(*hypotheses[row], token) for row, token in zip(rows, tokens, strict=True)]
        assert_reads(fusion, hypotheses)


def test_the_language_model_reads_only_rows_that_grow():
    model = TableLanguageModel(5)
    fusion = begin(model, 4, CPU)
    fusion = grow(fusion, torch.tensor([2, 0]), torch.tensor([3, 4]))
    nothing = torch.tensor([], dtype=torch.long)
    assert torch.equal(grow(fusion, nothing, nothing).log_probs, fusion.log_probs)
    assert model.rows == [4, 2]
