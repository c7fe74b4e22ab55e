"""The published equations, one frame after another; the contract is in test_encoders.py."""

import math

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
def test_min_lstm_equals_the_published_recurrence():
    torch.manual_seed(0)
    cell = MinLSTMCell(5, 4, forget_bias=1.0)
    x = 2 * torch.randn(1, 7, 5)
    h, states = torch.zeros(4), []
    for frame in x[0]:
        forget, enter, new = parts(cell, frame)
        f, i = torch.sigmoid(forget), torch.sigmoid(enter)
        h = f / (f + i) * h + i / (f + i) * g(new)
        states.append(h)
    torch.testing.assert_close(cell(x)[0][0], torch.stack(states), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_min_gru_equals_the_published_recurrence():
    torch.manual_seed(0)
    cell = MinGRUCell(5, 4, forget_bias=1.0)
    x = 2 * torch.randn(1, 7, 5)
    h, states = torch.zeros(4), []
    for frame in x[0]:
        keep, new = parts(cell, frame)
        z = 1 - torch.sigmoid(keep)
        h = (1 - z) * h + z * g(new)
        states.append(h)
    torch.testing.assert_close(cell(x)[0][0], torch.stack(states), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", [MinLSTMCell, MinGRUCell])
@torch.no_grad()
def test_gates_that_underflow_leave_the_state_finite(cell):
    layer = cell(3, 2, forget_bias=0.0)
    for value in (-300.0, 300.0):
        layer.gates.bias.fill_(value)
        assert layer(torch.randn(1, 40, 3))[0].isfinite().all()


@pytest.mark.parametrize("bias", [-4.0, 0.0, 1.0, 4.0])
@torch.no_grad()
def test_the_forget_bias_sets_the_initial_share_of_the_state_that_is_kept(bias):
    x = torch.randn(1, 20000, 8, generator=torch.Generator().manual_seed(0))
    f = 1 / (1 + math.exp(-bias))
    for cls, expected in ((MinGRUCell, f), (MinLSTMCell, f / (f + 0.5))):
        cell = cls(8, 8, forget_bias=bias)
        kept, _ = cell.coefficients(torch.zeros(1, 1, 8))
        torch.testing.assert_close(kept.exp(), torch.full((1, 1, 8), expected))
        logits = cell.gates(x)[..., : cell.cells]
        assert logits.mean().item() == pytest.approx(bias, abs=0.05)


@pytest.mark.parametrize("encoder", [MinLSTM, MinGRU])
@torch.no_grad()
def test_long_and_short_chunks_stream_alike(encoder):
    torch.manual_seed(0)
    model = encoder(8, dim=16, layers=2, bidirectional=False, channels=4).eval()
    x = torch.randn(2, 200, 8)
    expected, _ = model(x, torch.tensor([200, 200]))
    state, outputs, sizes = model.initial_state(2), [], []
    for piece in x.split([80, 4, 64, 52], dim=1):  # 20 frames of the encoder, 1, 16, 13
        y, state = model.step(piece, state)
        outputs.append(y)
        sizes.append(sum(value.numel() for value in state.values()))
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-4, atol=1e-5)
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("encoder", [MinLSTM, MinGRU])
def test_two_directions_need_an_even_number_of_cells(encoder):
    with pytest.raises(ValueError, match="dim 15 is odd"):
        encoder(8, dim=15, layers=1, expansion=1)
