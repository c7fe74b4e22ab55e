"""Under bf16 autocast products are in bf16, and whatever a loss is computed of is in float32."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from asr import model
from asr.commands import recognise
from asr.decoders import joint
from asr.language_models import LSTM
from asr.metering.precision import tf32_inside
from asr.recognition import validate
from tests import tiny
from tests.decoders.test_decoders import utterances

LOSSES = [(F, "ctc_loss"), (F, "cross_entropy"), (joint, "rnnt_loss")]


@pytest.mark.parametrize("name", list(tiny.DECODER_BUILDERS))
def test_losses_are_computed_from_float32_scores(name, monkeypatch):
    seen, products = {}, set()

    def noting(function, original):
        def noted(scores, *rest, **keys):
            seen[function] = scores.dtype
            return original(scores, *rest, **keys)

        return noted

    for place, function in LOSSES:
        monkeypatch.setattr(place, function, noting(function, getattr(place, function)))
    original_softmax = torch.Tensor.log_softmax

    def softmax(scores, *rest, **keys):
        seen["log_softmax"] = scores.dtype
        return original_softmax(scores, *rest, **keys)

    monkeypatch.setattr(torch.Tensor, "log_softmax", softmax)
    decoder = tiny.decoder(name)
    for part in decoder.modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_hook(lambda part, given, y: products.add(y.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = decoder.loss(*utterances())
    assert seen
    assert set(seen.values()) == {torch.float32}
    assert {term.sum.dtype for term in loss.terms.values()} == {torch.float32}
    assert loss.total().dtype == torch.float32
    if "Transformer" in name or "AttentionLSTM" in name:
        assert torch.bfloat16 in products, "autocast was on"
    expected = decoder.loss(*utterances())
    for key, term in loss.terms.items():
        torch.testing.assert_close(term.sum, expected.terms[key].sum, rtol=0.05, atol=0.0)


def test_a_language_models_recurrence_is_in_float32():
    seen, model = [], LSTM(tiny.VOCABULARY, width=16)
    model.lstm.register_forward_hook(lambda part, given, results: seen.append(results[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.log_probs(*utterances()[2:])
    assert seen == [torch.float32]


class Loaded(NamedTuple):
    """Stands for a model."""

    device: str
    search: None = None


def test_recognition_on_a_gpu_allows_tf32_products(monkeypatch):
    monkeypatch.setattr(recognise, "device_of", lambda name: "cuda")
    monkeypatch.setattr(model, "find_model", lambda path: path)
    monkeypatch.setattr(model, "load_model", lambda path, device, *rest: Loaded(device))
    monkeypatch.setattr(validate, "try_search", lambda search, model: None)
    known = recognise.model_options("evaluate").parse_args(["run"])
    with tf32_inside(False):
        assert recognise.load(known).device == "cuda"
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("device", "words", "expected"),
    [("cpu", [], 120), ("cuda", [], 960), ("cuda:1", ["--batch-seconds", "30"], 30)],
)
def test_recognition_uses_larger_batches_on_a_gpu(device, words, expected, monkeypatch):
    monkeypatch.setattr(recognise, "device_of", lambda name: device)
    monkeypatch.setattr(model, "find_model", lambda path: path)
    monkeypatch.setattr(model, "load_model", lambda path, device, *rest: Loaded(device))
    monkeypatch.setattr(validate, "try_search", lambda search, model: None)
    known = recognise.model_options("evaluate").parse_args(["run", *words])
    with tf32_inside(False):
        recognise.load(known)
    assert known.batch_seconds == expected
