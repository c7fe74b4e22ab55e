"""The modules of a block by hand; the contract is in test_encoders.py."""

import torch
import torch.nn.functional as F

from asr.encoders import Conformer, Frames
from asr.encoders.conformer import ConvolutionModule, HalfFeedForward


@torch.no_grad()
def test_the_convolution_module_equals_the_published_one():
    torch.manual_seed(0)
    module = ConvolutionModule(6, kernel=5, causal=False)
    x = torch.randn(1, 20, 6)
    y = x @ module.gated.weight.T + module.gated.bias
    y = y[..., :6] * torch.sigmoid(y[..., 6:])
    kernel = module.depthwise.convolution
    y = F.conv1d(y.mT, kernel.weight.view(6, 1, 5), kernel.bias, padding=2, groups=6).mT
    y = F.layer_norm(y, (6,), module.norm.weight, module.norm.bias)
    y = (y * torch.sigmoid(y)) @ module.mixed.weight.T + module.mixed.bias
    torch.testing.assert_close(module(x, torch.tensor([20])), y, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_feed_forward_modules_add_half_their_output():
    torch.manual_seed(0)
    module = HalfFeedForward(6, inner=12, dropout=0.0)
    x = torch.randn(2, 3, 6)
    inner = F.layer_norm(x, (6,)) @ module.expand.weight.T
    y = (inner * torch.sigmoid(inner)) @ module.reduce.weight.T
    torch.testing.assert_close(module(x), x + y / 2, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_modules_come_in_the_published_order():
    torch.manual_seed(0)
    encoder = Conformer(8, dim=16, layers=1, heads=2, kernel=3, channels=4).eval()
    block, lengths = encoder.layers[-1], torch.tensor([9])
    x = torch.randn(1, 9, 16)
    y = block.first(x)
    y = y + block.attention(Frames(F.layer_norm(y, (16,)), lengths))
    y = y + block.convolution(F.layer_norm(y, (16,)), lengths)
    y = F.layer_norm(block.second(y), (16,))
    torch.testing.assert_close(block(Frames(x, lengths)).x, y, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_convolution_of_one_frame_sees_no_other():
    torch.manual_seed(0)
    module, order = ConvolutionModule(6, kernel=1, causal=False), torch.randperm(20)
    x, lengths = torch.randn(1, 20, 6), torch.tensor([20])
    torch.testing.assert_close(module(x[:, order], lengths), module(x, lengths)[:, order])
