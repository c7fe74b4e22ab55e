"""Muon against torch's own in bfloat16, against AdamW, and against the definition of its update."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from asr.kernels.linear import Linear, xavier
from asr.kernels.muon import Muon, orthogonal
from asr.recipe.schema import OptimizerOptions
from tests.test_model import tiny_model

CPU = torch.device("cpu")


class OwnLSTM(nn.LSTM):
    """A user's kind of LSTM."""


class Net(nn.Module):
    """A hidden matrix, stacked matrices, gates, and weights that are AdamW's."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.stacked, self.tokens = Linear(12, 20), Linear(12, 24), Linear(20, 7)
        xavier(self.hidden, self.tokens)
        xavier(self.stacked, parts=2)
        self.tokens.parts = 0
        self.lstm, self.gru, self.rnn = OwnLSTM(12, 5), nn.GRU(12, 5), nn.RNN(12, 5)
        self.filters, self.embedding = nn.Conv2d(1, 3, 3), nn.Embedding(4, 12)


def graded(seed=0):
    torch.manual_seed(seed)
    net = Net()
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    return net


@pytest.mark.parametrize("shape", [(8, 8), (5, 30), (30, 5), (3, 16, 24)])
def test_the_iteration_sets_all_singular_values_to_about_one_and_keeps_the_directions(shape):
    torch.manual_seed(1)
    x = torch.randn(shape, dtype=torch.float64)
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    rotated = left.mT @ orthogonal(x) @ right.mT
    values = rotated.diagonal(dim1=-2, dim2=-1)
    assert values.min() > 0.5
    assert values.max() < 1.25
    assert (rotated - torch.diag_embed(values)).abs().max() < 1e-6


def test_updates_of_a_matrix_agree_with_those_of_torch_in_bfloat16():
    ours, theirs = graded(), graded()
    keys = {"lr": 0.01, "weight_decay": 0.1}
    mine = Muon(ours, **keys)
    other = torch.optim.Muon([theirs.hidden.weight], adjust_lr_fn="match_rms_adamw", **keys)
    for _ in range(3):
        mine.step()
        other.step()
    before = graded().hidden.weight
    change, expected = ours.hidden.weight - before, theirs.hidden.weight - before
    assert (change - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    ("name", "parts"), [("stacked.weight", 2), ("lstm.weight_hh_l0", 4), ("gru.weight_ih_l0", 3)]
)
def test_matrices_that_share_a_weight_are_updated_as_if_they_were_apart(name, parts):
    net, before = graded(), graded()
    Muon(net, 0.0, lr=0.01).step()
    weight, start = net.get_parameter(name), before.get_parameter(name)
    for part, was, slope in zip(
        weight.chunk(parts), start.chunk(parts), start.grad.chunk(parts), strict=True
    ):
        momentum = 0.05 * slope
        step = orthogonal(slope.lerp(momentum, 0.95))
        assert part.allclose(was - 0.01 * 0.2 * max(part.shape) ** 0.5 * step, atol=1e-6)


def test_filters_vectors_embeddings_and_outputs_are_updated_by_adamw():
    net, before = graded(), graded()
    optimizer = Muon(net, 0.1, lr=0.01)
    adamw = OptimizerOptions(lr=0.01, weight_decay=0.1, betas=(0.9, 0.999)).build(before, CPU)
    optimizer.step()
    adamw.step()
    matrices = {"hidden.weight", "stacked.weight"}
    matrices |= {f"{kind}.weight_{way}_l0" for kind in ("lstm", "gru") for way in ("ih", "hh")}
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name)) == (name not in matrices), name


def test_state_is_restored_exactly():
    net = graded()
    optimizer = Muon(net, 0.1, lr=0.01)
    optimizer.step()
    copy = graded()
    copy.load_state_dict(net.state_dict())
    restored = Muon(copy, 0.1, lr=0.01)
    restored.load_state_dict(deepcopy(optimizer.state_dict()))
    optimizer.step()
    restored.step()
    assert all(map(torch.equal, net.parameters(), copy.parameters()))


def test_all_trained_weights_of_a_model_belong_to_one_group_each():
    model = tiny_model()
    optimizer = OptimizerOptions(algorithm="muon").build(model, CPU)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({*map(id, held)})
    assert {*map(id, held)} == {id(p) for p in model.parameters() if p.requires_grad}
    assert any("parts" in group for group in optimizer.param_groups)
