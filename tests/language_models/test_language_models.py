"""Neural language models: what they read step by step is what they read at once."""

import json
import re
from functools import partial

import pytest
import torch

from asr.batch import BLANK, EOS
from asr.config.strict_yaml import Component
from asr.language_models import LANGUAGE_MODELS, LSTM, Transformer
from asr.language_models.folder import (
    TrainedLanguageModel,
    load_language_model,
    save_language_model,
)
from asr.model import find_model
from asr.search.fusion import begin
from asr.text.tokenizers import Characters
from tests.table_language_model import grow
from tests.tiny import counted_flops

V = 7
BUILDERS = {
    "LSTM": partial(LSTM, V, width=16),
    "LSTM of 2 layers": partial(LSTM, V, width=16, layers=2),
    "Transformer": partial(Transformer, V, width=16, layers=2, heads=2),
}


@pytest.fixture(params=sorted(BUILDERS))
def model(request):
    torch.manual_seed(0)
    return BUILDERS[request.param]().eval()


def test_every_model_of_the_table_is_tested_here_or_as_an_ngram():
    counted = {"NGram", "WordNGram"}
    assert {name.split()[0] for name in BUILDERS} | counted == set(LANGUAGE_MODELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0, "heads": 2}, "layers is 0: a Transformer has at least 1"),
        ({"layers": 1, "heads": 0}, r"width 16 .* heads \(0\)"),
        ({"layers": 1, "heads": 3}, r"width 16 .* heads \(3\)"),
    ],
)
def test_a_transformer_of_no_layers_or_heads_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Transformer(V, width=16, **options)


def sentences(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, V, (len(lengths), max(lengths)), generator=generator)
    return tokens, torch.tensor(lengths)


@torch.no_grad()
def test_scoring_step_by_step_equals_scoring_at_once(model):
    tokens, lengths = sentences(40, 40)
    whole = model.log_probs(tokens, lengths)
    cache, said = model.start(2), torch.full((2,), EOS)
    for place in range(41):
        scores, cache = model.step(said, cache)
        assert (scores[:, BLANK] == -torch.inf).all()
        torch.testing.assert_close(scores.exp().sum(1), torch.ones(2))
        said = tokens[:, place] if place < 40 else torch.full((2,), EOS)
        torch.testing.assert_close(
            scores.gather(1, said[:, None])[:, 0], whole[:, place], atol=1e-5, rtol=0
        )


@torch.no_grad()
def test_rows_may_grow_at_different_times_and_be_selected_or_repeated(model):
    tokens, lengths = sentences(30, 30, 30)
    whole = model.log_probs(tokens, lengths)
    fusion, read = begin(model, 3, torch.device("cpu")), [0, 0, 0]
    owner = [0, 1, 2]
    generator = torch.Generator().manual_seed(1)
    for _ in range(60):
        rows = [
            i
            for i in range(len(owner))
            if read[i] < 30 and torch.rand((), generator=generator) < 0.4
        ]
        grown = torch.tensor([tokens[owner[i], read[i]] for i in rows], dtype=torch.long)
        fusion = grow(fusion, torch.tensor(rows, dtype=torch.long), grown)
        for i in rows:
            read[i] += 1
        order = torch.randint(len(owner), (4,), generator=generator).tolist()
        fusion = fusion.select(torch.tensor(order))
        owner, read = [owner[i] for i in order], [read[i] for i in order]
        for i, (sentence, place) in enumerate(zip(owner, read, strict=True)):
            following = int(tokens[sentence, place]) if place < 30 else EOS
            assert float(fusion.log_probs[i, following]) == pytest.approx(
                float(whole[sentence, place]), abs=1e-5
            )
    assert len(set(read)) > 1


@torch.no_grad()
def test_a_step_does_not_change_the_state_that_it_gets(model):
    _, cache = model.step(torch.tensor([EOS, EOS]), model.start(2))
    before = {name: value.clone() for name, value in cache.items()}
    first, _ = model.step(torch.tensor([3, 4]), cache)
    again, _ = model.step(torch.tensor([3, 4]), cache)
    assert torch.equal(first, again)
    for name, value in before.items():
        assert torch.equal(cache[name], value)


@torch.no_grad()
@pytest.mark.parametrize("rubbish", [BLANK, 5])
def test_scores_do_not_depend_on_padding_or_on_the_rest_of_the_batch(model, rubbish):
    tokens, lengths = sentences(12, 5, 1)
    tokens = tokens.masked_fill(torch.arange(12) >= lengths[:, None], rubbish)
    together = model.log_probs(tokens, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model.log_probs(tokens[row : row + 1, :length], lengths[row : row + 1])[0]
        torch.testing.assert_close(together[row, : length + 1], alone, atol=1e-5, rtol=0)
        assert (together[row, length + 1 :] == 0).all()


@torch.no_grad()
def test_a_token_depends_on_all_before_it_and_on_none_after(model):
    tokens, lengths = sentences(9)
    other = tokens.clone()
    other[0, 4] = 2 if tokens[0, 4] != 2 else 3
    change = (model.log_probs(tokens, lengths) - model.log_probs(other, lengths))[0].abs() > 1e-7
    assert not change[:4].any()
    assert change[4:].all()


def test_the_counted_flops_equal_the_formula(model):
    tokens, lengths = sentences(11, 11)
    with torch.no_grad():
        counted = counted_flops(lambda: model.log_probs(tokens, lengths))
    assert model.flops([12, 12]) == counted


def test_every_weight_receives_a_gradient(model):
    model.train()
    tokens, lengths = sentences(9, 4)
    model.log_probs(tokens, lengths).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": None}, "is damaged ('NoneType' object"),
        ({"tokenizer": {}}, "not the state of a tokenizer"),
        ({"tokenizer": {"class": "SentencePiece", "model": "abc"}}, "model is damaged"),
        ({"tokenizer": {"class": "SentencePiece", "model": "YWJj"}}, "model is damaged"),
        ({"language_model": {"class_path": "Unknown"}}, "'Unknown' is not shipped"),
        (
            {"language_model": {"class_path": "LSTM", "init_args": {"width": 0}}},
            "greater than zero",
        ),
        (
            {"language_model": {"class_path": "LSTM", "init_args": {"width": 9}}},
            "size mismatch for",
        ),
        ({"normaliser": ...}, "is damaged ('normaliser' is missing)"),
    ],
)
def test_a_folder_of_files_that_do_not_fit_together_is_refused_with_the_name_of_the_file(
    tmp_path, change, message
):
    component = Component(LSTM, {"width": 8})
    tokenizer = Characters(["abc"])
    model = component(tokenizer.vocabulary_size)
    save_language_model(TrainedLanguageModel(model, component, tokenizer, "none"), tmp_path)
    assert load_language_model(tmp_path).normaliser == "none"
    path = tmp_path / "language_model.json"
    described = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in described.items() if v is not ...}))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_language_model(tmp_path)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("below", ["", "best"])
def test_a_language_model_given_as_a_speech_model_is_refused_as_such(tmp_path, below):
    component, tokenizer = Component(LSTM, {"width": 8}), Characters(["abc"])
    model = component(tokenizer.vocabulary_size)
    trained = TrainedLanguageModel(model, component, tokenizer, "none")
    save_language_model(trained, tmp_path / below)
    with pytest.raises(ValueError, match="is a language model, .* first, as in: asr tune-decoding"):
        find_model(tmp_path)
