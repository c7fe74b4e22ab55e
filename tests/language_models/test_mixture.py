"""Several language models in each search, against weighted sums over all hypotheses."""

import math

import pytest
import torch

from asr.batch import EOS
from asr.config.strict_yaml import read_component
from asr.language_models import Mixture
from asr.search import SEARCHES, Beam
from tests.search import test_ctc, test_search, test_transducer
from tests.table_language_model import TableLanguageModel

WEIGHTS = [0.5, 0.2, 0.0]


class Sum:
    """What a mixture should say, from the scores of whole sentences."""

    def __init__(self, models, weights):
        self.pairs = list(zip(models, weights, strict=True))

    def score(self, tokens):
        """Of tokens without EOS at the start."""
        return sum(w * model.score(tokens) for model, w in self.pairs) / sum(WEIGHTS)


def mixed(V):
    models = [TableLanguageModel(V, seed=seed) for seed in (1, 2, 3)]
    models[2].bias[2] = -math.inf  # a weight of 0 times this is not NaN
    return Mixture(models), Sum(models[:2], WEIGHTS[:2])


def beams(**options):
    """The search, and the same with the sum of the weights for an enumeration."""
    return Beam(lm_weight=WEIGHTS, **options), Beam(lm_weight=sum(WEIGHTS), **options)


def assert_parts(found, rows):
    """Rows are (score, tokens, ..., LM score)."""
    assert len(found) > 1
    for hypothesis, row in zip(found, rows, strict=False):
        assert hypothesis.tokens == row[1]
        assert hypothesis.score == pytest.approx(row[0], abs=1e-4)
        assert hypothesis.lm_score == pytest.approx(row[-1], abs=1e-4)


def test_a_search_over_ctc_ranks_by_the_weighted_sum():
    (logits, lengths), (mixture, total) = test_ctc.frames(5, V=4), mixed(4)
    search, summed = beams(beam=400, length_bonus=0.4)
    rows = test_ctc.enumerate_hypotheses(logits[0], summed, total)
    assert_parts(search(test_ctc.Head(4), logits, lengths, mixture)[0], rows)


def test_a_search_over_attention_and_ctc_ranks_by_the_weighted_sum():
    decoder, (mixture, total) = test_search.Recurrent(4, seed=2, ctc=True), mixed(4)
    encoded, lengths = test_search.frames(4)
    search, summed = beams(beam=200, nbest=20, ctc_weight=0.3, length_bonus=0.2)
    rows = test_search.enumerate_hypotheses(decoder, encoded, lengths, summed, total)
    assert_parts(search(decoder, encoded, lengths, mixture)[0], rows)


def test_a_search_over_a_transducer_scores_the_weighted_sum():
    decoder, (mixture, total) = test_transducer.Lattice(5, 1, blank=3.0), mixed(5)
    x, lengths = test_transducer.frames(3, V=5, seed=1)
    search, summed = beams(beam=300, nbest=8)
    for hypothesis in search(decoder, x, lengths, mixture)[0]:
        _, lm, score = test_transducer.expected(decoder, x[0], hypothesis.tokens, summed, total)
        assert hypothesis.lm_score == pytest.approx(lm, abs=1e-4)
        assert hypothesis.score == pytest.approx(score, abs=1e-4)


def test_a_sentence_has_the_mean_of_its_scores():
    models = [TableLanguageModel(5, seed=seed) for seed in (1, 2)]
    tokens, lengths = torch.tensor([[2, 3, 4], [4, 2, 0]]), torch.tensor([3, 2])
    found = Mixture(models, [3, 1]).log_probs(tokens, lengths).sum(1).tolist()
    for row, total in zip(([2, 3, 4, EOS], [4, 2, EOS]), found, strict=True):
        assert total == pytest.approx(sum(m.score(row) for m in (*models[:1] * 3, models[1])) / 4)


def test_one_model_in_a_list_is_that_model():
    (logits, lengths), model = test_ctc.frames(9, V=6), TableLanguageModel(6)
    one = Beam(beam=3, lm_weight=0.6)(test_ctc.Head(6), logits, lengths, model)
    assert Beam(beam=3, lm_weight=[0.6])(test_ctc.Head(6), logits, lengths, model) == one
    none = Beam(beam=3, lm_weight=[0.0, 0.0])(test_ctc.Head(6), logits, lengths)
    assert none == Beam(beam=3)(test_ctc.Head(6), logits, lengths)


def test_weights_that_do_not_fit_the_models_are_named():
    (logits, lengths), (mixture, _) = test_ctc.frames(3, V=4), mixed(4)
    for weight in (0.5, [0.5, 0.2]):
        with pytest.raises(ValueError, match=r"lm_weight is .*, but .* language models is 3: give"):
            Beam(lm_weight=weight)(test_ctc.Head(4), logits, lengths, mixture)
    with pytest.raises(ValueError, match=r"lm_weight is \[0.5, -0.1\]: it must be"):
        Beam(lm_weight=[0.5, -0.1])


def test_a_recipe_may_write_a_number_or_a_list():
    for weight in (0.5, [0.5, 0.2]):
        tree = {"class_path": "Beam", "init_args": {"lm_weight": weight}}
        component = read_component(SEARCHES, tree, "search")
        assert component().lm_weight == weight
        assert component.tree()["init_args"]["lm_weight"] == weight
