"""The published equations, one frame after another; the contract is in test_encoders.py."""

import pytest
import torch

from asr.encoders import MinGRU, MinLSTM
from asr.encoders.minimal import MinGRUCell, MinLSTMCell


def g(x):
    """Appendix B of the paper, element by element."""
    return torch.tensor([v + 0.5 if v >= 0 else float(torch.sigmoid(v)) for v in x.flatten()])


def parts(cell, x):
    weights = cell.gates.weight.detach().split(cell.cells)
    biases = cell.gates.bias.detach().split(cell.cells)
    return [w @ x + b for w, b in zip(weights, biases, strict=True)]


@torch.no_grad()
def test_min_lstm_is_the_published_recurrence():
    torch.manual_seed(0)
    cell = MinLSTMCell(5, 4, forget_bias=1.0)
    x = 2 * torch.randn(1, 7, 5)
    h, states = torch.zeros(4), []
    for frame in x[0]:
        forget, enter, new = parts(cell, frame)
        f, i = torch.sigmoid(forget), torch.sigmoid(enter)
        h = f / (f + i) * h + i / (f + i) * g(new)
        states.append(h)
    torch.testing.assert_close(cell(x)[0], torch.stack(states), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_min_gru_is_the_published_recurrence():
    torch.manual_seed(0)
    cell = MinGRUCell(5, 4, forget_bias=1.0)
    x = 2 * torch.randn(1, 7, 5)
    h, states = torch.zeros(4), []
    for frame in x[0]:
        keep, new = parts(cell, frame)
        z = 1 - torch.sigmoid(keep)
        h = (1 - z) * h + z * g(new)
        states.append(h)
    torch.testing.assert_close(cell(x)[0], torch.stack(states), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", [MinLSTMCell, MinGRUCell])
@torch.no_grad()
def test_gates_that_underflow_leave_the_state_finite(cell):
    layer = cell(3, 2, forget_bias=0.0)
    for value in (-300.0, 300.0):
        layer.gates.bias.fill_(value)
        assert layer(torch.randn(1, 40, 3)).isfinite().all()


@pytest.mark.parametrize(("bias", "least", "most"), [(-4.0, 0.0, 0.1), (4.0, 0.6, 1.0)])
@torch.no_grad()
def test_the_forget_bias_sets_what_is_kept_at_first(bias, least, most):
    log_kept, _ = MinGRUCell(8, 8, forget_bias=bias).coefficients(torch.zeros(1, 1, 8))
    assert least < log_kept.exp().mean() < most
    log_kept, _ = MinLSTMCell(8, 8, forget_bias=bias).coefficients(torch.zeros(1, 1, 8))
    assert least < log_kept.exp().mean() < most


@pytest.mark.parametrize("encoder", [MinLSTM, MinGRU])
def test_two_directions_need_cells_for_each(encoder):
    with pytest.raises(ValueError, match="dim 15 is odd"):
        encoder(8, dim=15, layers=1, expansion=1)
