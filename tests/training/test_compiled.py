"""Compiled training against training as it is; traced only, as a compiler may be missing."""

import copy
import dataclasses
import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from asr.audio.features import FeatureOptions, LogMel
from asr.config import strict_yaml
from asr.data.batches import BatchStream, split
from asr.metering.ledger_format import read_ledger
from asr.metering.meter import Ledger
from asr.model import build_model
from asr.recipe.schema import Budget, Recipe
from asr.search import Greedy
from asr.text.tokenizers import Characters
from asr.training import speech as speech_module
from asr.training.average import LastAverage, MovingAverage
from asr.training.compiled import Shape, Shapes, begin_step, compile_regions, metered
from asr.training.run import train
from tests import tiny
from tests.corpus import RATE, make_corpus
from tests.decoders.test_decoders import utterances

SPEEDS = [0.9, 1.0, 1.1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "tones"
    make_corpus(folder, train=40, validation=4)
    return folder


def test_every_batch_fits_one_of_a_few_shapes_at_any_speed(corpus):
    draw = np.random.default_rng(0)
    seconds = [0.3, 17.0, *draw.gamma(8.0, 1.5, 400).clip(0.5, 16.0)]
    num_tokens = [int(15 * s * draw.uniform(0.5, 1.0)) for s in seconds]
    shapes = Shapes(seconds, num_tokens, 120.0, SPEEDS, 0.01)
    assert len(shapes.all) <= 22, "log(17 / 0.3 * 1.1 / 0.9) / log(1.25), both ends included"
    assert all(s.frames % 16 == 0 and s.tokens % 8 == 0 for s in shapes.all)
    front = LogMel(sample_rate=16000, num_mels=20)
    stream = BatchStream(seconds, 120.0, seed=1)
    waste = []
    for batch in stream.epoch(0) + stream.epoch(1):
        for speed in SPEEDS:
            samples = torch.tensor([int(seconds[i] * 16000 / speed) + 1 for i in batch])
            frames = int(front.num_frames(samples).max())
            size = len(batch), frames, max(num_tokens[i] for i in batch)
            shape = shapes.of(*size)
            assert all(a >= b for a, b in zip(shape, size, strict=True))
            waste.append(shape.rows * shape.frames / (size[0] * size[1]))
    assert np.median(waste) < 1.25 * 1.1 / 0.9


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_the_shapes_of_a_rank_hold_its_shares_and_little_more(ranks):
    draw = np.random.default_rng(1)
    seconds = [0.3, 17.0, *draw.gamma(8.0, 1.5, 400).clip(0.5, 16.0), *[0.5] * 40]
    shapes = Shapes(seconds, [5] * len(seconds), 120.0, [1.0], 0.01, ranks)
    stream, filled, used = BatchStream(seconds, 120.0, seed=1), 0, 0
    # The last batch mixes the longest utterance with short ones.
    batches = [*stream.epoch(0), *stream.epoch(1), [1, *range(402, 408)]]
    for batch in batches:
        for rows in split([seconds[i] for i in batch], ranks):
            longest = max((seconds[batch[row]] for row in rows), default=0.0)
            if rows:
                shape = shapes.of(len(rows), int(100 * longest) + 1, 5)
                filled += shape.rows * shape.frames
                used += len(rows) * int(100 * longest)
    assert filled / used < {2: 1.7, 3: 1.9, 8: 3.0}[ranks]


def test_a_padded_batch_holds_the_same_values_and_otherwise_zeros():
    encoded, lengths, tokens, token_lengths = utterances()
    shapes = Shapes([0.1, 0.15, 0.2, 2.0], [9, 3, 5, 30], 8.0, [1.0], 0.01)
    filled = shapes.pad((encoded, lengths, tokens, token_lengths))
    shape = shapes.of(*encoded.shape[:2], tokens.shape[1])
    assert filled[0].shape == (shape.rows, shape.frames, encoded.shape[2])
    assert filled[2].shape == (shape.rows, shape.tokens)
    for large, small in zip(filled, (encoded, lengths, tokens, token_lengths), strict=True):
        cut = large[tuple(slice(size) for size in small.shape)]
        assert torch.equal(cut, small)
        assert large.abs().sum() == small.abs().sum()


@pytest.mark.parametrize("name", list(tiny.DECODER_BUILDERS))
def test_empty_rows_do_not_change_the_loss_of_a_decoder(name):
    decoder = tiny.decoder(name)
    given = utterances()
    expected = decoder.loss(*given)
    encoded, lengths, tokens, token_lengths = given
    loss = decoder.loss(
        torch.nn.functional.pad(encoded, (0, 0, 0, 3, 0, 2)),
        torch.nn.functional.pad(lengths, (0, 2)),
        torch.nn.functional.pad(tokens, (0, 4, 0, 2)),
        torch.nn.functional.pad(token_lengths, (0, 2)),
    )
    for key, term in expected.terms.items():
        torch.testing.assert_close(loss.terms[key].sum, term.sum, rtol=1e-5, atol=1e-5)
        assert loss.terms[key].count == term.count
    assert loss.infeasible - expected.infeasible in (0, 2)


@pytest.mark.parametrize("name", list(tiny.ENCODER_BUILDERS))
def test_empty_rows_do_not_change_the_output_of_an_encoder(name):
    torch.manual_seed(0)
    encoder = tiny.ENCODER_BUILDERS[name](tiny.NUM_MELS).eval()
    x, lengths = torch.randn(2, 37, tiny.NUM_MELS), torch.tensor([37, 21])
    with torch.no_grad():
        y, expected = encoder(x, lengths)
        larger = torch.nn.functional.pad(x, (0, 0, 0, 11, 0, 1))
        z, found = encoder(larger, torch.tensor([37, 21, 0]))
    assert found.tolist() == [*expected.tolist(), 0]
    assert z.isfinite().all()
    torch.testing.assert_close(z[:2, : y.shape[1]], y, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compilation_is_charged_to_its_own_phase_inside_any_other(tmp_path, caplog):
    torch._dynamo.reset()
    ledger, entered = Ledger(tmp_path, torch.device("cpu"), writes=False), []
    enter = ledger.enter
    ledger.enter = lambda phase: (entered.append(phase), enter(phase))[1]
    enter("validation")
    compiled = torch.compile(lambda x: x.sin() + 1, backend="eager", dynamic=False)
    with caplog.at_level(logging.INFO), metered(ledger):
        for size in (3, 3, 4):
            compiled(torch.ones(size))
    compiled(torch.ones(5))  # no longer of interest
    assert entered == ["compilation", "validation"] * 2
    assert "2 compilations" in caplog.text


def recipe(corpus, encoder, **trainer):
    sizes = {"LSTM": {}, "Transformer": {"heads": 2}}[encoder]
    return strict_yaml.read(Recipe, {
        "data": {"corpus": str(corpus), "max_batch_seconds": 8.0},
        "features": {"sample_rate": RATE, "num_mels": 20},
        "encoder": {"class_path": encoder, "init_args": {
            "dim": 16, "layers": 2, "channels": 4, "dropout": 0.0, **sizes}},
        "decoder": {"class_path": "Transformer", "init_args": {
            "width": 16, "layers": 1, "heads": 2, "dropout": 0.0}},
        "optimizer": {"lr": 5e-3, "warmup_updates": 4},
        "augmentation": {"speed": [0.9, 1.0], "time_masks": 1, "noise_probability": 0.2},
        "validation": {"every_updates": 50},
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 1, **trainer},
        "budget": {"updates": 5},
    })  # fmt: skip


# What torch's tracer warns of it hides itself, which an error forestalls.
@pytest.mark.filterwarnings("default:::torch")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("encoder", ["LSTM", "Transformer"])
def test_a_compiled_run_has_the_losses_of_one_that_is_not(
    corpus, tmp_path, caplog, encoder, backend, monkeypatch
):
    torch._dynamo.reset()
    losses, steps = {}, []
    monkeypatch.setattr(speech_module, "begin_step", steps.append)
    for mode in (None, backend):
        with caplog.at_level(logging.INFO, logger="asr"):
            line = train(recipe(corpus, encoder, compile=mode), tmp_path / str(mode))
        lines = read_ledger(tmp_path / str(mode))
        losses[mode] = [e["train_loss"] for e in lines if e["event"] == "step"]
        assert (line["seconds"]["compilation"] > 0) == (mode is not None)
    assert len(losses[None]) == 5
    assert steps == [backend] * 6, "with the longest batch, before the first update"
    assert losses[backend] == pytest.approx(losses[None], rel=1e-3)
    assert f"torch.compile, {backend}" in caplog.text
    assert "compilations" in caplog.text
    padded = [
        json.loads((tmp_path / str(mode) / "ledger.json").read_text())["padded_train_flops"]
        for mode in (None, backend)
    ]
    assert padded[1] > padded[0]


@pytest.mark.filterwarnings("default:::torch")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_run_has_the_same_shapes_on_a_gpu(corpus, tmp_path, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    given = recipe(corpus, "Transformer", compile="eager")
    train(dataclasses.replace(given, budget=Budget(updates=1)), tmp_path / "run")
    monkeypatch.undo()
    line = read_ledger(tmp_path / "run")[-1]
    assert line["updates"] == 1


@pytest.mark.filterwarnings("default:::torch")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_the_cached_table_of_positions_is_made_outside_of_compiled_regions():
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = build_model(
        FeatureOptions(sample_rate=RATE, num_mels=tiny.NUM_MELS),
        tiny.ENCODER_BUILDERS["Transformer causal"],
        tiny.DECODER_BUILDERS["Transformer"],
        Greedy,
        Characters((), alphabet="abc"),
        "none",
    )
    rotaries = [layer.attention.rotary for layer in model.encoder.layers[1:]]
    compile_regions(model, "eager", [Shape(2, 32, 8), Shape(2, 64, 8)])
    before = [rotary.factors for rotary in rotaries]
    model.encoder.train()(*tiny.features(41, 64))
    assert len(before) == 2
    assert all(r.factors is made for r, made in zip(rotaries, before, strict=True))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.filterwarnings("default:::torch")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_last_region_without_gradient_does_not_begin_a_new_step_of_cuda_graphs():
    """By the rules of torch's own manager of graphs, which is told what it would be on a GPU."""
    from torch._inductor.cudagraph_trees import CUDAGraphTreeManager

    torch._dynamo.reset()
    manager = object.__new__(CUDAGraphTreeManager)
    manager.current_gen, manager.running_forwards_with_pending_backwards = None, False
    begun = []

    def seen(direction, has_graph, graph):
        def run(*values):
            if direction == "backward" and not has_graph:
                manager.set_to_running_backward()
            if has_graph:
                if manager.can_start_new_generation():
                    begun.append(direction)
                manager.update_generation()
                manager.running_forwards_with_pending_backwards = direction == "forward"
            return graph(*values)

        return make_boxed_func(run)

    def backend(has_graph):
        return aot_autograd(
            fw_compiler=lambda graph, _: seen("forward", has_graph, graph),
            bw_compiler=lambda graph, _: seen("backward", has_graph, graph),
        )

    class Region(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(x).sin()

    regions = [Region() for _ in range(3)]
    for region, has_graph in zip(regions, (True, True, False), strict=True):
        region.compile(backend=backend(has_graph), dynamic=False)
    for _ in range(4):
        begin_step("reduce-overhead")
        x = torch.ones(2, 3)
        for region in regions:
            x = region(x)
        x.sum().backward()
        for region in regions:
            region.zero_grad(set_to_none=True)
    assert begun == ["forward"] * 4


def test_the_average_of_a_compiled_model_computes_with_its_own_weights():
    torch.manual_seed(0)
    model = build_model(
        FeatureOptions(sample_rate=RATE, num_mels=tiny.NUM_MELS),
        tiny.ENCODER_BUILDERS["LSTM"],
        tiny.DECODER_BUILDERS["CTC"],
        Greedy,
        Characters((), alphabet="abc"),
        "none",
    )
    expected = copy.deepcopy(model).eval()
    task = SimpleNamespace(model=model, progress=SimpleNamespace(updates=1))
    MovingAverage().on_fit_start(None, task)
    compile_regions(model, "eager", [Shape(2, 64, 8)])
    last = LastAverage(2)
    last.on_validation_start(SimpleNamespace(should_stop=False), task)
    with torch.no_grad():
        for parameter, mean in zip(model.parameters(), expected.parameters(), strict=True):
            parameter.mul_(3)
            mean.mul_(2)
    task.progress.updates = 2
    last.on_validation_start(SimpleNamespace(should_stop=True), task)
    given = tiny.features(41, 64)
    with torch.no_grad():
        found = task.final[0].encoder(*given)[0]
        torch.testing.assert_close(found, expected.encoder(*given)[0])
