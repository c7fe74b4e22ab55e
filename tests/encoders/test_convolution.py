"""Convolutions and squeeze-and-excitation against sums written out by hand."""

import pytest
import torch
import torch.nn.functional as F

from asr.encoders import Convolution, Frames
from asr.encoders.convolution import Excitation
from asr.encoders.depthwise import Depthwise
from tests import tiny

VARIANTS = [
    (kernel, dilation, causal)
    for kernel, dilation in [(1, 1), (3, 1), (5, 2), (3, 4)]
    for causal in (False, True)
] + [(4, 3, True)]


def depthwise(kernel, dilation, causal, dim=6):
    torch.manual_seed(0)
    return Depthwise(dim, kernel=kernel, dilation=dilation, causal=causal)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_depthwise_convolution_sums_over_taps_within_each_utterance(variant):
    kernel, dilation, causal = variant
    module = depthwise(*variant)
    lengths = torch.tensor([1, 13, 20])
    x = 100 * torch.randn(3, 20, 6)  # padding as loud as the rest
    weight, bias = module.convolution.weight.flatten(1), module.convolution.bias
    y = module(x, lengths)
    first = (kernel - 1) * dilation if causal else (kernel - 1) * dilation // 2
    for row, length in enumerate(lengths.tolist()):
        for frame in range(length):
            expected = bias.clone()
            for tap in range(kernel):
                source = frame - first + tap * dilation
                if 0 <= source < length:
                    expected += weight[:, tap] * x[row, source]
            torch.testing.assert_close(y[row, frame], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_depthwise_convolution_equals_conv1d_in_values_and_gradients(variant):
    kernel, dilation, causal = variant
    module = depthwise(*variant)
    x = torch.randn(1, 17, 6, requires_grad=True)
    reach = (kernel - 1) * dilation
    before = reach if causal else reach // 2
    weight = module.convolution.weight
    expected = F.conv1d(
        F.pad(x.transpose(1, 2), (before, reach - before)),
        weight[..., 0],
        module.convolution.bias,
        dilation=dilation,
        groups=6,
    ).transpose(1, 2)
    y = module(x, torch.tensor([17]))
    torch.testing.assert_close(y, expected)
    gradient = torch.randn_like(y)
    for one, other in zip(
        torch.autograd.grad(y, [x, weight], gradient),
        torch.autograd.grad(expected, [x, weight], gradient),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("time", [1, 11])
@torch.no_grad()
def test_the_flops_of_a_depthwise_convolution_equal_the_count_of_torch(variant, time):
    module = depthwise(*variant)
    x, lengths = torch.randn(2, time, 6), torch.tensor([time, time])
    assert tiny.counted_flops(lambda: module(x, lengths)) == 2 * module.flops(time)


@pytest.mark.parametrize("chunk", [1, 2, 7])
@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant[2]])
@torch.no_grad()
def test_a_depthwise_convolution_streams_with_a_state_of_constant_size(variant, chunk):
    module = depthwise(*variant)
    x = torch.randn(2, 21, 6)
    state, outputs = module.initial_state(2), []
    for piece in x.split(chunk, dim=1):
        y, state = module.step(piece, state)
        outputs.append(y)
        assert state.shape == (2, (variant[0] - 1) * variant[1], 6)
    torch.testing.assert_close(torch.cat(outputs, 1), module(x, torch.tensor([21, 21])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 4, "causal": False}, "kernel 4 is even"),
        ({"kernel": 0, "causal": True}, "kernel 0, dilation 1: both are at least 1"),
        ({"kernel": 3, "dilation": 0, "causal": True}, "dilation 0: both are at least 1"),
    ],
)
def test_impossible_kernels_are_refused_with_a_message(options, message):
    with pytest.raises(ValueError, match=message):
        Depthwise(6, **options)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("kernel", "dilations", "repeats", "layers", "field"),
    [
        (3, [1], 1, 3, 1 + 3 * 2),
        (5, [1, 2], 2, 3, 1 + 2 * (4 + 8 + 4)),  # the third layer begins the list again
        (3, [1, 2, 4], 2, 3, 1 + 2 * (2 + 4 + 8)),
    ],
)
def test_the_receptive_field_equals_the_formula(causal, kernel, dilations, repeats, layers, field):
    torch.manual_seed(0)
    encoder = Convolution(
        8,
        dim=16,
        layers=layers,
        kernel=kernel,
        dilations=dilations,
        repeats=repeats,
        reduction=0,
        causal=causal,
    ).eval()
    x = torch.randn(1, 100, 16, requires_grad=True)
    frames = Frames(x, torch.tensor([100]))
    for block in encoder.layers:
        frames = block(frames)
    (gradient,) = torch.autograd.grad((frames.x[0, 50] * torch.randn(16)).sum(), x)
    seen = gradient[0].abs().sum(1).nonzero().flatten()
    first = 50 - (field - 1 if causal else field // 2)
    assert seen[0] == first
    assert seen[-1] == first + field - 1


def excited(module, x, mean):
    """One frame (D,), scaled by what the mean (D,) says, product by product."""
    inner = module.squeeze.weight @ mean + module.squeeze.bias
    outer = module.expand.weight @ (inner / (1 + torch.exp(-inner))) + module.expand.bias
    return x / (1 + torch.exp(-outer))


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_excitation_scales_by_the_mean_of_all_real_frames_or_of_the_past_ones(causal):
    torch.manual_seed(0)
    module = Excitation(6, reduction=2, causal=causal)
    lengths = torch.tensor([9, 4, 1])
    x = 3 * torch.randn(3, 9, 6)  # the padding is as loud as the rest
    y = module(x, lengths)
    for row, length in enumerate(lengths.tolist()):
        for frame in range(length):
            heard = x[row, : frame + 1] if causal else x[row, :length]
            expected = excited(module, x[row, frame], sum(heard) / len(heard))
            torch.testing.assert_close(y[row, frame], expected)


@torch.no_grad()
def test_a_causal_excitation_remembers_the_sum_and_the_number_of_frames():
    module = Excitation(6, reduction=2, causal=True)
    x = torch.randn(2, 12, 6)
    state = module.initial_state(2)
    for piece in x.split([1, 4, 7], dim=1):
        y, state = module.step(piece, state)
    assert state["count"] == 12
    torch.testing.assert_close(state["sum"], x.sum(1))
    last = torch.stack([excited(module, x[row, -1], x[row].mean(0)) for row in range(2)])
    torch.testing.assert_close(y[:, -1], last)


@torch.no_grad()
def test_the_state_of_a_causal_encoder_is_of_constant_size():
    encoder = Convolution(8, dim=16, layers=3, kernel=4, dilations=[1, 3], causal=True).eval()
    state = encoder.initial_state(1)
    sizes = {name: value.shape for name, value in state.items()}
    for chunk in (1, 2, 9):
        _, state = encoder.step(torch.randn(1, 4 * chunk, 8), state)
        assert {name: value.shape for name, value in state.items()} == sizes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 4}, "kernel 4 is even"),
        ({"dilations": []}, "dilations is empty"),
        ({"dilations": [1, 0]}, "dilation 0: both are at least 1"),
        ({"repeats": 0}, "repeats 0"),
        ({"reduction": 17}, "reduction 17: take 1 to 16"),
        ({"reduction": -1}, "reduction -1"),
    ],
)
def test_impossible_options_are_refused_with_a_message(options, message):
    with pytest.raises(ValueError, match=message):
        Convolution(8, dim=16, layers=2, **options)
