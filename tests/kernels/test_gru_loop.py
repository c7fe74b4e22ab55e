import pytest
import torch
from torch import nn

from asr.kernels.gru_loop import gru
from tests.recurrence import packed


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_loop_equals_the_gru_of_torch_in_values_and_gradients(bidirectional):
    torch.manual_seed(0)
    layer = nn.GRU(6, 5, bidirectional=bidirectional, batch_first=True)
    lengths = torch.tensor([9, 12, 1, 7])
    real = (torch.arange(12) < lengths[:, None])[..., None]
    weights = torch.randn(4, 12, 10 if bidirectional else 5) * real
    results = []
    for run in (packed, gru):
        torch.manual_seed(1)
        x = torch.randn(4, 12, 6, requires_grad=True)
        y = run(layer, x, lengths) * real
        results.append([y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
