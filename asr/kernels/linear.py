"""Linear layers that are as fast on every CPU as the recurrent kernels they are compared with."""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ONEDNN = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)

FEW_ROWS = 16  # with fewer rows, calling oneDNN takes longer than it saves
FEW_PRODUCTS = 2**20  # the same limit for packed weights, in scalar multiplications


class Linear(nn.Linear):
    """An ``nn.Linear`` that computes its product by ``linear``."""

    packed: Tensor | None = None  # the weight in oneDNN's own order, inside ``packed``
    parts: int = 1  # number of matrices in the weight, for Muon; 0: AdamW updates it

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (..., inputs) to (..., outputs)."""
        weight = self.packed  # read once: another thread may reset it
        if weight is None or torch.is_grad_enabled():
            return linear(x, self.weight, self.bias)
        if x.numel() * self.out_features < FEW_PRODUCTS:
            return linear(x, self.weight, self.bias)
        return product(x, weight, self.bias)


def xavier(*layers: Linear, parts: int = 1) -> None:
    """Initialises weights (Glorot and Bengio 2010), and biases with zeros.

    ``parts``: number of matrices of equal height in each weight; each is initialised by itself.
    """
    for layer in layers:
        layer.parts = parts
        for weight in layer.weight.data.chunk(parts):
            nn.init.xavier_uniform_(weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@contextlib.contextmanager
def packed(*models: object) -> Iterator[None]:
    """Keeps a copy of the weights of all layers in oneDNN's order inside the block.

    A search computes many products of few rows, and oneDNN would reorder the weights for each of
    them (16 rows of 304 x 1216 on an EPYC: 310 us, or 135 us with packed weights). The weights must
    not change inside the block. Nothing is done if gradients are enabled or ``linear`` uses torch's
    own product; arguments that are not modules are ignored.
    """
    layers = [
        layer
        for model in models
        if isinstance(model, nn.Module)
        for layer in model.modules()
        if isinstance(layer, Linear) and layer.packed is None and _fits(layer.weight)
    ]
    try:
        if ONEDNN and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
            for layer in layers:
                layer.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight, None)
        yield
    finally:
        for layer in layers:
            layer.packed = None


def _fits(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes ``F.linear``, by oneDNN on a CPU in float32.

    torch computes float32 products with MKL, but its LSTM with oneDNN. On AMD processors MKL is the
    slower one (105 against 240 GFLOP/s on one core of an EPYC), which would put attention at a
    disadvantage. On other devices, and for a few rows, this function calls ``F.linear``.
    """
    fits = _fits(x) and weight.dtype == torch.float32
    few = x.numel() < FEW_ROWS * x.shape[-1]
    # torch.compile has its own matrix products.
    if torch.compiler.is_compiling() or not ONEDNN or not fits or few:
        return F.linear(x, weight, bias)
    if torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    return OneDNNLinear.apply(x, weight, bias)


class OneDNNLinear(torch.autograd.Function):
    """A linear layer whose product and gradients are computed by oneDNN."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[no-untyped-def]
        """Computes x weight^T + bias, (..., outputs)."""
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # type: ignore[no-untyped-def]
        """Computes the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = product(gradient, weight.t(), None)
        if ctx.needs_input_grad[1]:
            of_weight = product(rows.t(), x.reshape(-1, x.shape[-1]).t(), None)
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_x, of_weight, of_bias


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiplies (..., inputs) by the transpose of (outputs, inputs), and adds a bias."""
    if not ONEDNN or x.dtype != torch.float32:
        return F.linear(x, weight, bias)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y
