"""Recurrent layers in 16 bits against themselves in float64."""

import copy

import pytest
import torch
from torch import nn

from asr.encoders.recurrent import RecurrentBlock, recurrent_kernel
from asr.kernels.cudnn_rules import GPU
from asr.kernels.low_precision import narrow
from asr.layers import initialise

LENGTHS = torch.tensor([9, 3, 6])
KINDS = [(kind, two) for kind in (nn.LSTM, nn.GRU) for two in (False, True)]


def layer(kind, bidirectional):
    torch.manual_seed(0)
    recurrence = kind(12, 10, bidirectional=bidirectional, batch_first=True)
    initialise(recurrence, 1.0)
    return recurrence


def exact(recurrence, x, weight):
    """Outputs and gradients in float64, one utterance at a time, without padding."""
    recurrence, x = copy.deepcopy(recurrence).double(), x.detach().double().requires_grad_()
    parts = [recurrence(row[None, :length])[0][0] for row, length in zip(x, LENGTHS, strict=True)]
    y = nn.utils.rnn.pad_sequence(parts, batch_first=True)
    (y * weight).sum().backward()
    return y.detach(), [x.grad, *(p.grad for p in recurrence.parameters())]


def relative(value, wanted):
    return float((value.detach().double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("kind", "bidirectional"), KINDS)
@pytest.mark.parametrize("size", [1.0, 1e-9])
def test_16_bit_results_are_close_to_64_bit_ones_even_for_small_gradients(
    kind, bidirectional, dtype, twice, size
):
    recurrence = layer(kind, bidirectional)
    x = torch.randn(3, 9, 12, requires_grad=True)
    real = (torch.arange(9) < LENGTHS[:, None])[..., None]
    weight = size * torch.randn(3, 9, 20 if bidirectional else 10) * real
    wanted, gradients = exact(recurrence, x, weight.double())
    y = narrow(recurrence, x, LENGTHS, dtype, twice=twice)
    assert y.dtype == torch.float32
    (y * weight).sum().backward()
    close = 0.004 if dtype == torch.float16 else 0.03  # 2^-11 and 2^-8, through 9 frames
    assert relative(y * real, wanted) < close
    found = [x.grad, *(p.grad for p in recurrence.parameters())]
    for value, expected in zip(found, gradients, strict=True):
        assert value.dtype == torch.float32
        assert relative(value, expected) < close


def test_a_gradient_that_is_infinite_or_zero_stays_so():
    recurrence, x = layer(nn.LSTM, True), torch.randn(3, 9, 12, requires_grad=True)
    y = narrow(recurrence, x, LENGTHS, torch.float16, twice=False)
    (y * torch.inf).sum().backward()
    assert not x.grad.isfinite().all()
    x.grad = None
    y = narrow(recurrence, x, LENGTHS, torch.float16, twice=False)
    (0 * y).sum().backward()
    assert not x.grad.any()


def block(**keys):
    given = {"cells": 512, "bidirectional": True, "dropout": 0.0, "forget_bias": 1.0}
    return RecurrentBlock(1024, kind=nn.LSTM, reduce=False, **given | keys)


def test_a_block_reports_the_kernel_that_it_will_use():
    gpu, made = GPU(), block()
    assert made.kernel(gpu, 64) == ("standard", "float32 is not fp16")
    made.precision = torch.bfloat16
    assert made.kernel(gpu, 64) == ("standard", "bf16 is not fp16")
    made.precision = torch.float16
    assert made.kernel(gpu, 61).algorithm == "persistent", "rows are filled up"
    assert made.kernel(gpu, 130).algorithm == "standard"
    narrower = block(cells=160)
    narrower.precision = torch.float16
    assert (
        narrower.kernel(gpu, 8).reason
        == "the number of cells, 160, is not a multiple of 128 up to 1024"
    )

    assert recurrent_kernel(made.modules(), torch.device("cpu")) == (
        "each direction over padded frames, in fp16 on a cpu"
    )
    assert recurrent_kernel([nn.Linear(2, 2)], torch.device("cpu")) is None
