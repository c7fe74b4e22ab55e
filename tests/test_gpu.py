"""A GPU computes what a CPU does: decoders, search, features, training, FLOPs and the profile."""

import copy

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from asr.audio.features import Augmentation, LogMel
from asr.batch import EOS
from asr.encoders.recurrent import RecurrentBlock, set_recurrent_precision
from asr.kernels.padded_cudnn import MARK, cudnn_padded
from asr.loss import collected
from asr.loss import weighted as total
from asr.metering.ledger_format import read_ledger
from asr.search import Beam, Greedy
from asr.training import compiled
from asr.training.run import train
from benchmarks import profile_step
from tests import tiny
from tests.corpus import make_corpus
from tests.decoders.test_decoders import utterances
from tests.encoders.test_encoders import weighted
from tests.training.test_train import recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
ENCODERS, DECODERS = list(tiny.ENCODER_BUILDERS), list(tiny.DECODER_BUILDERS)
DEVICES = ("cpu", "cuda")


def assert_close(one, other):
    """Float32 sums in another order."""
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def trainable(module):
    """In eval mode but for torch's recurrent layers, whose cuDNN kernels else keep no gradient."""
    for part in module.modules():
        if isinstance(part, torch.nn.RNNBase):
            part.train()
    return module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "tones"
    make_corpus(folder, train=60, validation=6, test=6)
    return folder


@pytest.mark.parametrize("name", DECODERS)
def test_losses_and_gradients_of_a_decoder_agree_with_the_cpu(name):
    decoder, results = trainable(tiny.decoder(name)), []
    for device in DEVICES:
        decoder.to(device).zero_grad()
        encoded, *others = (value.to(device) for value in utterances())
        encoded.requires_grad_()
        loss = decoder.loss(encoded, *others)
        loss.total().backward()
        found = {name: term.sum.detach() for name, term in loss.terms.items()}
        found |= {name: p.grad for name, p in decoder.named_parameters()}
        found["encoded"], found["infeasible"] = encoded.grad, loss.infeasible
        # Copies: a module's gradients move with it.
        results.append({name: value.clone().cpu() for name, value in found.items()})
    assert_close(*results)


@pytest.mark.parametrize("name", tiny.ATTENTION_DECODERS)
@torch.no_grad()
def test_steps_of_an_attention_decoder_agree_also_after_reordering(name):
    decoder, results = tiny.decoder(name), []
    for device in DEVICES:
        decoder.to(device)
        encoded, lengths, _, _ = (value.to(device) for value in utterances())
        state = decoder.start(encoded, lengths)
        state = state.select(torch.arange(3, device=device).repeat_interleave(2))
        scores = []
        for tokens in ([EOS] * 6, [2, 3, 4, 5, 2, 3], [3, 3, 4, 4, 5, 5]):
            log_probs, state = decoder.step(torch.tensor(tokens, device=device), state)
            state = state.select(torch.tensor([1, 0, 2, 3, 5, 4], device=device))
            scores.append(log_probs.cpu())
        results.append(torch.stack(scores))
    assert_close(*results)


@pytest.mark.parametrize("search", [Greedy(), Beam(beam=4)], ids=["greedy", "beam"])
@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_a_search_finds_the_same_hypotheses(name, search):
    decoder, results = tiny.decoder(name), []
    for device in DEVICES:
        encoded, lengths, _, _ = (value.to(device) for value in utterances())
        results.append([found[0] for found in search(decoder.to(device), 3 * encoded, lengths)])
    for one, other in zip(*results, strict=True):
        assert one.tokens == other.tokens
        assert one.score == pytest.approx(other.score, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_the_counted_flops_of_an_encoder_equal_the_formula(name):
    encoder = tiny.encoder(name).cuda()
    x, lengths = (value.cuda() for value in tiny.features(61, 61))
    marks = []  # what the mark of padding adds to the products of two directions

    def see(block, arguments):
        if not block.causal:
            (frames,), weight = arguments, block.recurrence.weight_ih_l0
            marks.append(frames.x.shape[:2].numel() * 2 * 2 * len(weight) * MARK)

    for block in encoder.modules():
        if isinstance(block, RecurrentBlock):
            block.register_forward_pre_hook(see)
    counted = tiny.counted_flops(lambda: encoder(x, lengths)) - sum(marks)
    if name in tiny.BOUNDED_FLOPS:
        assert 0.5 * encoder.flops([61, 61]) < counted < encoder.flops([61, 61])
    else:
        assert counted == encoder.flops([61, 61])


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_the_counted_flops_of_a_decoder_equal_the_formula(name):
    decoder = tiny.decoder(name).cuda()
    encoded = torch.randn(2, 20, tiny.DIM, device="cuda")
    tokens = torch.randint(2, 6, (2, 5), device="cuda")
    full, sizes = torch.tensor([20, 20], device="cuda"), torch.tensor([5, 5], device="cuda")
    counted = tiny.counted_flops(lambda: decoder.loss(encoded, full, tokens, sizes))
    assert counted == decoder.flops([20, 20], [5, 5])


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrences_use_cudnn_kernels_also_in_a_copy(kind, bidirectional):
    recurrence = kind(16, 24, bidirectional=bidirectional, batch_first=True).cuda()
    for module in (recurrence, copy.deepcopy(recurrence)):  # warnings are errors
        x = torch.randn(3, 20, 16, device="cuda", requires_grad=True)
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
            cudnn_padded(module, x, torch.tensor([20, 7, 13], device="cuda")).sum().backward()
        names = {event.name for event in profiler.events()}
        assert {"aten::_cudnn_rnn", "aten::_cudnn_rnn_backward"} <= names


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", [name for name in ENCODERS if name.startswith(("LSTM", "GRU"))])
def test_recurrences_in_16_bits_are_close_to_those_in_float32(name, precision):
    encoder, results = trainable(tiny.encoder(name)).cuda(), []
    x, lengths = (value.cuda() for value in tiny.features(41, 97))
    for chosen in ("float32", precision):
        set_recurrent_precision(encoder.modules(), chosen)
        y, _ = encoder(x, lengths)
        results.append(y)
    torch.testing.assert_close(*results, rtol=0.05, atol=0.05)
    weighted(results[1].float()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_in_bfloat16_stays_finite(name):
    encoder = tiny.encoder(name).cuda().train()
    x, lengths = (value.cuda() for value in tiny.features(41, 97))
    with torch.autocast("cuda", torch.bfloat16), collected() as terms:
        y, _ = encoder(x, lengths)
        (weighted(y.float()) + (total(terms) if terms else 0)).backward()
    assert y.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


@pytest.mark.parametrize("name", DECODERS)
def test_losses_of_a_decoder_in_bfloat16_are_float32_and_finite(name):
    decoder = tiny.decoder(name).cuda().train()
    with torch.autocast("cuda", torch.bfloat16):
        loss = decoder.loss(*(value.cuda() for value in utterances()))
    assert all(term.sum.dtype == torch.float32 for term in loss.terms.values())
    loss.total().backward()
    assert loss.total().isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in decoder.parameters())


@torch.no_grad()
def test_features_and_their_augmentation_agree_with_the_cpu():
    front, results = LogMel(sample_rate=8000, num_mels=20), []
    augmentation = Augmentation(speed=[0.9], time_masks=2, frequency_masks=2)
    waves = torch.randn(2, 9000, generator=torch.Generator().manual_seed(0)) / 10
    for device in DEVICES:
        lengths = torch.tensor([9000, 5000], device=device)
        slower, lengths = augmentation.perturb(waves.to(device), lengths, 8000, 1)
        x, frames = front.to(device)(slower, lengths)
        results.append([augmentation.spec_augment(x, frames, 2).cpu(), frames.cpu()])
    assert_close(*results)


def losses(line):
    """Of a line of the ledger."""
    return [line["train_loss"], *line["train_terms"].values()]


@pytest.mark.parametrize("encoder", ["LSTM", "Transformer"])
def test_a_training_run_has_the_losses_of_a_cpu_run_and_a_ledger(corpus, tmp_path, encoder):
    lines = []
    for accelerator in ("cpu", "gpu"):
        options = {"accelerator": accelerator, "allow_tf32": False, "log_every_n_steps": 2}
        decoder = {"width": 32, "layers": 1, "heads": 2, "dropout": 0.0}
        given = recipe(
            corpus,
            encoder,
            decoder={"class_path": "Transformer", "init_args": decoder},
            augmentation={},
            trainer=options,
            budget={"updates": 4},
        )
        train(given, tmp_path / accelerator)
        written = read_ledger(tmp_path / accelerator)
        lines.append([line for line in written if line["event"] == "step"])
    for one, other in zip(*lines, strict=True):
        assert losses(one) == pytest.approx(losses(other), rel=1e-2)
        assert one["train_flops"] == other["train_flops"]
    account = lines[1][-1]
    assert account["peak_memory_bytes"] > 0
    assert (account["energy_joules"] is None) == (account["energy_note"] is not None)


@pytest.mark.filterwarnings("default")  # a compiler has remarks on complex numbers, and its own
@pytest.mark.parametrize("encoder", ["LSTM", "Transformer"])
def test_a_run_with_cuda_graphs_has_the_losses_of_one_without(
    corpus, tmp_path, monkeypatch, encoder
):
    monkeypatch.setattr(compiled, "STEP", 100.0)  # one shape, as to compile for it takes seconds
    torch._dynamo.reset()
    found = []
    for mode in (None, "reduce-overhead"):
        trainer = {"accelerator": "gpu", "allow_tf32": False, "log_every_n_steps": 1}
        decoder = {"width": 32, "layers": 2, "heads": 2, "dropout": 0.0}
        given = recipe(
            corpus,
            encoder,
            decoder={"class_path": "Transformer", "init_args": decoder},
            augmentation={},
            trainer={**trainer, "compile": mode},
            budget={"updates": 8},  # compiled before the first, recorded in it, then replayed
        )
        line = train(given, tmp_path / str(mode))
        written = read_ledger(tmp_path / str(mode))
        found.append([losses(line) for line in written if line["event"] == "step"])
        assert (line["seconds"]["compilation"] > 0) == (mode is not None)
    assert len(found[0]) == 8
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-2)


def test_a_profile_counts_kernels_and_idle_time(corpus):
    given = recipe(corpus, trainer={"accelerator": "gpu"}, budget={"updates": 100})
    row = profile_step.measure(given, warm=1, updates=2, repeats=1)
    assert row["kernels"] > 100
    assert row["launches"] > 100
    assert 0 < row["idle_share"] < 1
    assert 0 < row["launch_share"] < 1
    assert row["dearest_ms"]
