"""The contract of encoders, for every tiny configuration of every entry of the table."""

import copy
import inspect
import math

import pytest
import torch
from torch import nn

from asr.encoders import ENCODERS, LSTM, Transformer
from asr.encoders.recurrent import cpu_padded
from asr.kernels.padded_cudnn import cudnn_padded
from asr.loss import collected
from asr.loss import weighted as total
from tests import tiny
from tests.recurrence import packed

NAMES = list(tiny.ENCODER_BUILDERS)
CAUSAL = [name for name in NAMES if tiny.encoder(name).causal]


def weighted(y):
    """A sum that a last layer norm does not make constant."""
    return (y * torch.linspace(-1, 2, y.shape[-1], device=y.device)).sum()


def test_every_entry_of_the_table_has_a_tiny_configuration():
    assert {name.split()[0] for name in NAMES} == set(ENCODERS)


@pytest.mark.parametrize("cls", ENCODERS.values())
def test_a_constructor_takes_mels_first_and_few_options(cls):
    first, *others = inspect.signature(cls).parameters.values()
    assert first.name == "num_mels"
    assert len(others) <= 14
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in others)


@pytest.mark.parametrize("garbage", [False, True])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_an_output_does_not_depend_on_the_rest_of_the_batch(name, garbage):
    encoder = tiny.encoder(name)
    lengths = (1, 4, 41, 66, 97)
    x, sizes = tiny.features(*lengths)
    together, outputs = encoder(tiny.with_garbage(x, sizes) if garbage else x, sizes)
    for row, length in enumerate(lengths):
        alone, size = encoder(x[row : row + 1, :length], sizes[row : row + 1])
        assert size.item() == outputs[row].item()
        torch.testing.assert_close(together[row, :size], alone[0], rtol=1e-4, atol=1e-5)
        assert together[row, size:].eq(0).all()


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("80 ms")])
@torch.no_grad()
def test_frames_of_80_ms_keep_the_contract(name):
    torch.manual_seed(0)
    build = tiny.ENCODER_BUILDERS[name]
    encoder = build(tiny.NUM_MELS, subsampling=8).eval()
    assert encoder.stride == 2 * build(tiny.NUM_MELS).stride
    lengths = (1, 9, 97)
    x, sizes = tiny.features(*lengths)
    together, outputs = encoder(tiny.with_garbage(x, sizes), sizes)
    assert outputs.tolist() == [math.ceil(length / encoder.stride) for length in lengths]
    for row, length in enumerate(lengths):
        alone, _ = encoder(x[row : row + 1, :length], sizes[row : row + 1])
        size = outputs[row]
        torch.testing.assert_close(together[row, :size], alone[0], rtol=1e-4, atol=1e-5)
    if name not in tiny.BOUNDED_FLOPS:
        assert tiny.counted_flops(lambda: encoder(x[2:], sizes[2:])) == encoder.flops([97])
    if encoder.causal:
        x = torch.randn(2, 6 * encoder.chunk, tiny.NUM_MELS)
        state, parts = encoder.initial_state(2), []
        for piece in x.split(2 * encoder.chunk, dim=1):
            y, state = encoder.step(piece, state)
            parts.append(y)
        expected, _ = encoder(x, torch.tensor([x.shape[1]] * 2))
        torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_nan_in_the_padding_does_not_reach_real_frames(name):
    encoder = tiny.encoder(name)
    x, lengths = tiny.features(9, 33)
    expected, _ = encoder(x, lengths)
    x[0, 9:] = torch.nan
    torch.testing.assert_close(encoder(x, lengths)[0], expected)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_lengths_are_divided_by_the_stride_and_rounded_up(name):
    encoder = tiny.encoder(name)
    for length in range(1, 41):
        y, lengths = encoder(torch.randn(1, length, tiny.NUM_MELS), torch.tensor([length]))
        assert lengths.tolist() == [math.ceil(length / encoder.stride)]
        assert y.shape == (1, lengths.item(), encoder.dim)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_receives_a_gradient(name):
    encoder = tiny.encoder(name).train()
    with collected() as terms:
        y, _ = encoder(*tiny.features(41, 97))
    (weighted(y) + (total(terms) if terms else 0)).backward()
    for path, parameter in encoder.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.abs().sum() > 0, path


@pytest.mark.parametrize("name", NAMES)
def test_every_real_frame_gets_a_gradient_and_padding_none(name):
    encoder = tiny.encoder(name)
    seen = torch.zeros(50)
    for seed in range(4):  # few channels: one input may meet a ReLU that is off
        x, lengths = tiny.features(30, 50, seed=seed)
        x.requires_grad_()
        y, _ = encoder(x, lengths)
        (gradient,) = torch.autograd.grad(weighted(y), x)
        seen += gradient[0].abs().sum(1)
    assert seen[30:].eq(0).all()
    assert seen[:30].gt(0).all()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_two_evaluations_give_the_same_output(name):
    encoder = tiny.encoder(name)
    x, lengths = tiny.features(41, 97)
    assert encoder(x, lengths)[0].equal(encoder(x, lengths)[0])


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_runs_and_stays_finite(name):
    encoder = tiny.encoder(name).train()
    with torch.autocast("cpu", torch.bfloat16), collected() as terms:
        y, _ = encoder(*tiny.features(41, 97))
        (weighted(y.float()) + (total(terms) if terms else 0)).backward()
    assert y.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("time", [64, 61])
@torch.no_grad()
def test_the_counted_flops_equal_the_formula(name, time):
    encoder = tiny.encoder(name)
    x, lengths = tiny.features(time, time)
    counted = tiny.counted_flops(lambda: encoder(x, lengths))
    if name in tiny.BOUNDED_FLOPS:
        assert 0.5 * encoder.flops([time, time]) < counted < encoder.flops([time, time])
    else:
        assert counted == encoder.flops([time, time])


@pytest.mark.parametrize(("bidirectional", "flops"), [(False, 347_340_800), (True, 904_396_800)])
def test_lstm_flops_equal_the_published_ones(bidirectional, flops):
    # 4 utterances of 50 frames, 80 inputs, 256 cells, 2 layers: 2 * 4 * 256 * (in + 256) a frame.
    lstm = nn.LSTM(80, 256, 2, bidirectional=bidirectional, batch_first=True)
    with torch.no_grad():
        assert tiny.counted_flops(lambda: lstm(torch.zeros(4, 50, 80))) == flops


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_encoder_sees_no_frame_beyond_its_chunk(name):
    encoder = tiny.encoder(name)
    x, lengths = tiny.features(64)
    x.requires_grad_()
    y, _ = encoder(x, lengths)
    for frame in range(y.shape[1]):
        (gradient,) = torch.autograd.grad(weighted(y[0, frame]), x, retain_graph=True)
        seen = gradient[0].abs().sum(1).nonzero()[-1].item()
        assert seen < (frame * encoder.stride // encoder.chunk + 1) * encoder.chunk


def test_left_context_bounds_what_a_frame_sees():
    encoder = tiny.encoder("Transformer left context")  # 2 layers of 2 frames before
    x, lengths = tiny.features(80)
    x.requires_grad_()
    y, _ = encoder(x, lengths)
    (gradient,) = torch.autograd.grad(weighted(y[0, -1]), x)
    first = gradient[0].abs().sum(1).nonzero()[0].item()
    assert first == 4 * (19 - 2 * 2) - 3


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_streaming_equals_offline_encoding(name, chunk):
    encoder = tiny.encoder(name)
    x = torch.randn(2, 10 * encoder.chunk, tiny.NUM_MELS)
    state, outputs = encoder.initial_state(2), []
    for piece in x.split(chunk * encoder.chunk, dim=1):
        y, state = encoder.step(piece, state)
        outputs.append(y)
    expected, _ = encoder(x, torch.tensor([x.shape[1]] * 2))
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_streaming_an_utterance_that_ends_within_a_chunk_equals_offline_encoding():
    for name in CAUSAL:
        encoder = tiny.encoder(name)
        x, lengths = tiny.features(5 * encoder.chunk - 3)
        whole = torch.cat([x, torch.zeros(1, 3, tiny.NUM_MELS)], dim=1)
        y, _ = encoder.step(whole, encoder.initial_state(1))
        torch.testing.assert_close(y, encoder(x, lengths)[0], rtol=1e-4, atol=1e-5)


def test_the_state_of_bounded_encoders_does_not_grow():
    for name in ("LSTM causal", "Transformer left context"):
        encoder = tiny.encoder(name)
        state, sizes = encoder.initial_state(1), []
        for _ in range(6):
            _, state = encoder.step(torch.randn(1, 2 * encoder.chunk, tiny.NUM_MELS), state)
            sizes.append(sum(value.numel() for value in state.values()))
        assert len(set(sizes[1:])) == 1, name


@pytest.mark.parametrize("name", CAUSAL)
def test_a_chunk_that_is_no_multiple_of_the_stride_is_refused(name):
    encoder = tiny.encoder(name)
    with pytest.raises(ValueError, match=f"multiples of {encoder.chunk}"):
        encoder.step(torch.randn(1, encoder.chunk + 1, tiny.NUM_MELS), encoder.initial_state(1))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CAUSAL])
def test_an_encoder_that_sees_the_future_refuses_to_stream(name):
    with pytest.raises(ValueError, match="cannot stream"):
        tiny.encoder(name).initial_state(1)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (LSTM, {"dim": 15, "layers": 1}, "dim 15 is odd"),
        (LSTM, {"dim": 16, "layers": 1, "time_reduction": [2]}, "after layer 2, of 1 layers"),
        (Transformer, {"dim": 16, "layers": 1, "heads": 3}, "width 16"),
        (Transformer, {"dim": 16, "layers": 1, "heads": 2, "left_context": 3}, "causal: true"),
        (Transformer, {"dim": 16, "layers": 1, "heads": 2, "chunk": 3}, "causal: true"),
    ],
)
def test_impossible_options_are_refused_with_a_message(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(8, **options)


@pytest.mark.parametrize("run", [cpu_padded, cudnn_padded])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrence_over_padded_frames_equals_that_of_torch_over_packed_ones(
    bidirectional, kind, run
):
    torch.manual_seed(0)
    recurrence = kind(6, 5, bidirectional=bidirectional, batch_first=True)
    lengths = torch.tensor([9, 12, 1, 7])
    real = torch.arange(12) < lengths[:, None]
    weights = torch.randn(4, 12, 10 if bidirectional else 5) * real[..., None]
    results = []
    for each in (packed, run):
        x = torch.randn(4, 12, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
        y = each(recurrence, x, lengths) * real[..., None]
        gradients = torch.autograd.grad((y * weights).sum(), [x, *recurrence.parameters()])
        results.append([y, *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_copied_encoder_gives_the_output_of_the_original():
    for name in NAMES:
        encoder = tiny.encoder(name)
        x, lengths = tiny.features(30, 50)
        assert copy.deepcopy(encoder)(x, lengths)[0].equal(encoder(x, lengths)[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_agrees_with_the_cpu_in_values_and_gradients(name):
    encoder, (x, lengths) = tiny.encoder(name), tiny.features(41, 97)
    for part in encoder.modules():
        if isinstance(part, nn.RNNBase):
            part.train()  # in eval mode cuDNN keeps nothing for the backward pass
    results = []
    for device in ("cpu", "cuda"):
        encoder.to(device).zero_grad()
        y, sizes = encoder(x.to(device), lengths.to(device))
        weighted(y).backward()
        # Copies: a module's gradients move with it.
        gradients = [p.grad.clone().cpu() for p in encoder.parameters() if p.grad is not None]
        results.append([y.detach().cpu(), sizes.cpu(), *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_streaming_on_a_gpu_equals_offline_encoding(name):
    encoder = tiny.encoder(name).cuda()
    x = torch.randn(2, 6 * encoder.chunk, tiny.NUM_MELS, device="cuda")
    state, outputs = encoder.initial_state(2), []
    for piece in x.split(encoder.chunk, dim=1):
        y, state = encoder.step(piece, state)
        outputs.append(y)
    expected, _ = encoder(x, torch.tensor([x.shape[1]] * 2, device="cuda"))
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_double_precision_runs_and_agrees(name):
    encoder, (x, lengths) = tiny.encoder(name), tiny.features(41, 97)
    single, _ = encoder(x, lengths)
    double, _ = encoder.double()(x.double(), lengths)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_a_state_owns_its_memory_and_outlives_the_callers_buffer(name):
    encoder = tiny.encoder(name)
    x = torch.randn(1, 4 * encoder.chunk, tiny.NUM_MELS)
    state, outputs = encoder.initial_state(1), []
    buffer = torch.empty(1, encoder.chunk, tiny.NUM_MELS)
    for piece in x.split(encoder.chunk, dim=1):
        y, state = encoder.step(buffer.copy_(piece), state)
        outputs.append(y)
    expected, _ = encoder(x, torch.tensor([x.shape[1]]))
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-4, atol=1e-5)
    _, state = encoder.step(torch.randn(1, 50 * encoder.chunk, tiny.NUM_MELS), state)
    for key, value in state.items():
        held = value.untyped_storage().nbytes()
        assert held <= max(64, 4 * value.numel() * value.element_size()), key
