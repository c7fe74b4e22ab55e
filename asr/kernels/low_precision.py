"""Recurrent layers in 16 bits: weights in one block, and scaled gradients in fp16."""

from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from asr.kernels.cudnn_rules import whole_rows
from asr.kernels.padded_cudnn import Recurrence, call, in_one_block, marked
from asr.kernels.permute import both_directions

# The largest gradient that enters an fp16 kernel is scaled to this power of two: far enough below
# fp16's 2^16 for sums over frames and utterances, and 2^21 above the smallest fp16 number.
LARGEST_GRADIENT = -3


def narrow(
    recurrence: Recurrence, x: Tensor, lengths: Tensor, dtype: torch.dtype, *, twice: bool
) -> Tensor:
    """Runs a recurrence over padded (B, S, D) in ``dtype``; the result is float32.

    Both directions are one call, unless ``twice`` asks for one call per direction. The backward
    call then reads each utterance reversed within its own length, so that padding comes last, and
    the batch is rounded up to a multiple of ROWS, as cuDNN's persistent kernel needs it.

    In fp16, gradients are multiplied by a power of two before the kernel and divided by it after
    the kernel; otherwise the gradients of a mean over the batch's tokens would underflow. The scale
    follows from the largest gradient of each pass, so it needs no tuning and no step is skipped.
    """
    scale = Scale()

    def enter(value: Tensor) -> Tensor:
        return cast(Tensor, Enter.apply(value, dtype, scale))

    with torch.autocast(x.device.type, enabled=False):
        if twice:
            weights = [weight for weight in recurrence._flat_weights if weight is not None]
            blocks = [in_one_block(weights[i : i + 4], enter) for i in range(0, len(weights), 4)]
            y = _twice(recurrence, blocks, enter(x.float()), lengths)
        else:
            x, weights = marked(recurrence, x.float(), lengths)
            block = in_one_block(weights, enter)
            y = call(recurrence, block, enter(x), recurrence.bidirectional)
        return cast(Tensor, Leave.apply(y, scale))


def _twice(
    recurrence: Recurrence, blocks: list[list[Tensor]], x: Tensor, lengths: Tensor
) -> Tensor:
    """Calls cuDNN once per direction over padded (B, S, D)."""
    rows = len(x)
    more = whole_rows(rows) - rows
    x, lengths = F.pad(x, (0, 0, 0, 0, 0, more)), F.pad(lengths, (0, more))
    calls = [partial(call, recurrence, block, bidirectional=False) for block in blocks]
    if recurrence.bidirectional:
        return both_directions(calls[0], calls[1], x, lengths)[:rows]
    return calls[0](x)[:rows]


class Scale:
    """The power of two that gradients are multiplied by inside a kernel."""

    value: Tensor | None = None  # None: 1


class Leave(torch.autograd.Function):
    """Converts the output of a kernel to float32, and scales its gradient in the case of fp16."""

    @staticmethod
    def forward(ctx, y: Tensor, scale: Scale) -> Tensor:  # type: ignore[no-untyped-def]
        """Converts 16-bit values to float32."""
        ctx.scale, ctx.dtype = scale, y.dtype
        return y.float()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        """Converts the gradient to 16 bits; sets the scale without synchronising with the GPU."""
        if ctx.dtype == torch.float16:
            largest = gradient.abs().amax()
            exponent = torch.frexp(largest).exponent  # largest < 2^exponent
            scale = torch.ldexp(torch.ones_like(largest), LARGEST_GRADIENT - exponent)
            ctx.scale.value = scale.where(largest.isfinite() & (largest > 0), 1.0)
            gradient = gradient * ctx.scale.value
        return gradient.to(ctx.dtype), None


class Enter(torch.autograd.Function):
    """Converts the input of a kernel to 16 bits, and divides its gradient by the scale."""

    @staticmethod
    def forward(ctx, x: Tensor, dtype: torch.dtype, scale: Scale) -> Tensor:  # type: ignore[no-untyped-def]
        """Converts float32 values to 16 bits."""
        ctx.scale = scale
        return x.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        """Converts the gradient to float32; ``Leave.backward`` has set the scale."""
        gradient = gradient.float()
        return gradient if ctx.scale.value is None else gradient / ctx.scale.value, None, None
