import math

import pytest
import torch
import torch.nn.functional as F

from asr.encoders.subsampling import Subsampling
from tests import tiny


def convolved(x, weight, bias):
    """(B, C, T, F) -> (B, C', T / 2, F / 2): a convolution without groups."""
    return F.conv2d(x, weight, bias, stride=2, padding=1)


def separable(x, layer):
    """The same by a kernel for each channel, written as one dense kernel with zeros."""
    channels = len(layer.weight)
    dense = torch.zeros(channels, channels, 3, 3)
    dense[range(channels), range(channels)] = layer.weight[:, 0]
    x = convolved(x, dense, layer.bias)
    return (
        torch.einsum("dc,bctf->bdtf", layer.pointwise.weight[:, :, 0, 0], x)
        + (layer.pointwise.bias[:, None, None])
    )


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("time", range(1, 18))
def test_subsampling_is_zero_padded_convolutions_and_a_linear_layer(time, stride):
    torch.manual_seed(0)
    block = Subsampling(7, 6, channels=3, stride=stride)
    x = torch.randn(2, time, 7)
    y, lengths = block(x, torch.tensor([time, time]))
    whole = F.pad(x, (0, 0, 0, -time % stride))[:, None]  # to whole chunks
    expected = convolved(whole, block.first.weight, block.first.bias).relu()
    if stride == 4:
        expected = convolved(expected, block.second.weight, block.second.bias).relu()
    else:
        expected = separable(separable(expected, block.second).relu(), block.third).relu()
    expected = F.linear(
        expected.transpose(1, 2).flatten(2), block.project.weight, block.project.bias
    )
    assert lengths.tolist() == [math.ceil(time / stride)] * 2
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("frame", range(5))
def test_an_output_frame_depends_on_its_chunk_and_on_one_chunk_less_a_frame_before(frame, stride):
    torch.manual_seed(0)
    block = Subsampling(8, 6, channels=8, stride=stride)
    x = torch.randn(1, 5 * stride, 8, requires_grad=True)
    y, _ = block(x, torch.tensor([5 * stride]))
    (gradient,) = torch.autograd.grad(y[0, frame].square().sum(), x)
    seen = gradient[0].abs().sum(1).nonzero()[:, 0].tolist()
    first = max(0, stride * frame - (stride - 1))
    assert seen == list(range(first, stride * (frame + 1)))


def test_other_strides_are_refused():
    with pytest.raises(ValueError, match="subsampling 6: an encoder frame is 4 or 8"):
        Subsampling(8, 6, channels=4, stride=6)


@pytest.mark.parametrize("mels", [7, 8])
@pytest.mark.parametrize("stride", [4, 8])
def test_counted_flops_are_those_of_the_formula(stride, mels):
    block = Subsampling(mels, 6, channels=4, stride=stride)
    for time in (3, 24, 25):
        x, lengths = torch.zeros(1, time, mels), torch.tensor([time])
        assert tiny.counted_flops(lambda: block(x, lengths)) == block.flops(time)  # noqa: B023


def test_stride_4_has_the_weights_that_models_were_saved_with():
    names = {name: tuple(v.shape) for name, v in Subsampling(8, 6, channels=4).named_parameters()}
    assert names == {
        "first.weight": (4, 1, 3, 3),
        "first.bias": (4,),
        "second.weight": (4, 4, 3, 3),
        "second.bias": (4,),
        "project.weight": (6, 8),
        "project.bias": (6,),
    }
