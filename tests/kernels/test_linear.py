import pytest
import torch
import torch.nn.functional as F
from torch import nn

from asr.kernels.linear import FEW_PRODUCTS, FEW_ROWS, ONEDNN, Linear, linear, packed


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 7), (2, 11, 7), (2, 3, 9, 7), (FEW_ROWS, 7)])
def test_values_and_gradients_equal_those_of_torch(shape, bias):
    torch.manual_seed(0)
    leaves = [torch.randn(shape), torch.randn(5, 7)] + [torch.randn(5)] * bias
    expected = [leaf.double().requires_grad_() for leaf in leaves]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    y, z = linear(*leaves), F.linear(*expected)
    torch.testing.assert_close(y.double(), z, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(y.square().sum(), leaves)
    theirs = torch.autograd.grad(z.square().sum(), expected)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def test_transposed_and_expanded_tensors_give_the_right_values():
    x, weight = torch.randn(7, 40).t(), torch.randn(7, 5).t()
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)
    leaf = torch.randn(40, 5, requires_grad=True)
    y = linear(leaf, weight.t())
    y.sum().backward()  # an expanded gradient, all of whose elements are one
    torch.testing.assert_close(leaf.grad, weight.sum(1).expand(40, -1), rtol=1e-5, atol=1e-5)


def test_other_types_and_autocast_are_left_to_torch():
    x, layer = torch.randn(40, 7), Linear(7, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
    assert layer(torch.zeros(0, 7, dtype=torch.float64)).shape == (0, 5)


@pytest.mark.parametrize("bias", [True, False])
def test_packed_layers_compute_the_same_and_read_their_weights_again_afterwards(bias):
    torch.manual_seed(0)
    layer = Linear(96, 200, bias=bias)
    rows = FEW_PRODUCTS // (96 * 200)
    for x in (torch.randn(rows + 1, 96), torch.randn(2, rows, 96), torch.randn(rows - 1, 96)):
        with torch.no_grad(), packed(nn.Sequential(layer), "no module", None):
            y = layer(x)
        expected = F.linear(
            x.double(), layer.weight.double(), layer.bias.double() if bias else None
        )
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        layer.weight.zero_()
        y = layer(x)
    assert y.eq(layer.bias if bias else 0).all()


def test_packed_layers_are_restored_after_an_error_and_left_alone_where_gradients_are_needed():
    layer, x = Linear(96, 200), torch.randn(200, 96)

    def fail():
        with torch.no_grad(), packed(layer):
            assert (layer.packed is not None) == ONEDNN
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert layer.packed is None
    with packed(layer):
        layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(200, -1), rtol=1e-4, atol=1e-4)
    with torch.no_grad(), packed(layer.double()):
        assert layer(x.double()).dtype == torch.float64
