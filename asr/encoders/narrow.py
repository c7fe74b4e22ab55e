"""Recurrent layers in 16 bits: weights cast into one block, fp16 gradients scaled."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from asr.cudnn import whole_rows
from asr.layers import Permute, reversal

# The largest gradient that enters an fp16 kernel is brought to this power of two: far enough from
# fp16's 2^16 for sums over frames and utterances, and 2^21 above the least that it can hold.
LARGEST_GRADIENT = -3


def narrow(
    recurrence: nn.LSTM | nn.GRU, x: Tensor, lengths: Tensor, dtype: torch.dtype, *, is_packed: bool
) -> Tensor:
    """(B, S, D), (B,) -> (B, S, cells * directions) in the type of the weights.

    Either one call over the packed real frames, both directions at once; or one call per direction
    over all frames, the backward one over each utterance reversed within its own length, so that
    padding comes last in both, and in whole rows of cuDNN's: what its persistent kernel asks for.

    In fp16 every gradient is multiplied by a power of two before it enters the kernel, and divided
    by it behind: without, those of a mean over a batch's tokens would be less than fp16 can hold.
    The largest decides anew in each pass, so that nothing is to be tuned and no step is lost.
    """
    scale = Scale()
    with torch.autocast(x.device.type, enabled=False):
        x = cast(Tensor, Enter.apply(x.float(), dtype, scale))
        weights = cast_weights(recurrence, dtype, scale)
        y = _packed(recurrence, weights, x, lengths) if is_packed else None
        y = _padded(recurrence, weights, x, lengths) if y is None else y
        return cast(Tensor, Leave.apply(y, scale))


def cast_weights(recurrence: nn.LSTM | nn.GRU, dtype: torch.dtype, scale: "Scale") -> list[Tensor]:
    """All weights in another type, in torch's order: views of one block, matrices before biases.

    That is cuDNN's own order, in which it takes them without a copy.
    """
    weights = [weight for weight in recurrence._flat_weights if weight is not None]
    order = sorted(range(len(weights)), key=lambda index: weights[index].ndim == 1)
    flat = torch.cat([weights[index].flatten() for index in order])
    parts = cast(Tensor, Enter.apply(flat, dtype, scale)).split(
        [weights[index].numel() for index in order]
    )
    views = {index: part.view_as(weights[index]) for index, part in zip(order, parts, strict=True)}
    return [views[index] for index in range(len(weights))]


def _packed(
    recurrence: nn.LSTM | nn.GRU, weights: list[Tensor], x: Tensor, lengths: Tensor
) -> Tensor:
    """(B, S, D), (B,) -> (B, S, cells * directions)."""
    sequence = pack_padded_sequence(
        x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
    )
    directions = 2 if recurrence.bidirectional else 1
    first = x.new_zeros(directions, len(x), recurrence.hidden_size)
    run, state = _kind(recurrence, first)
    y = run(
        sequence.data,
        sequence.batch_sizes,
        state,
        weights,
        True,  # biases
        1,  # layer
        0.0,  # dropout
        recurrence.training,
        recurrence.bidirectional,
    )[0]
    whole = PackedSequence(
        y, sequence.batch_sizes, sequence.sorted_indices, sequence.unsorted_indices
    )
    return pad_packed_sequence(whole, batch_first=True, total_length=x.shape[1])[0]


def _padded(
    recurrence: nn.LSTM | nn.GRU, weights: list[Tensor], x: Tensor, lengths: Tensor
) -> Tensor:
    """(B, S, D), (B,) -> (B, S, cells * directions)."""
    rows = len(x)
    x = F.pad(x, (0, 0, 0, 0, 0, whole_rows(rows) - rows))
    y = _one_direction(recurrence, weights[:4], x)
    if recurrence.bidirectional:
        order = reversal(F.pad(lengths, (0, len(x) - rows)), x.shape[1])
        z = _one_direction(recurrence, weights[4:], cast(Tensor, Permute.apply(x, order)))
        y = torch.cat([y, cast(Tensor, Permute.apply(z, order))], dim=-1)
    return y[:rows]


def _one_direction(recurrence: nn.LSTM | nn.GRU, weights: list[Tensor], x: Tensor) -> Tensor:
    """(B, S, D) -> (B, S, cells), from a zero state."""
    run, state = _kind(recurrence, x.new_zeros(1, len(x), recurrence.hidden_size))
    return run(x, state, weights, True, 1, 0.0, recurrence.training, False, True)[0]


def _kind(recurrence: nn.LSTM | nn.GRU, first: Tensor):  # type: ignore[no-untyped-def]
    """What torch computes this layer with, and its first state."""
    if isinstance(recurrence, nn.LSTM):
        return torch.lstm, (first, first)
    return torch.gru, first


class Scale:
    """The power of two that gradients are multiplied by, while they are in a kernel."""

    value: Tensor | None = None  # None: 1


class Leave(torch.autograd.Function):
    """Results of a kernel in float32; their gradient goes in, scaled where it is fp16."""

    @staticmethod
    def forward(ctx, y: Tensor, scale: Scale) -> Tensor:  # type: ignore[no-untyped-def]
        """(...) in 16 bits -> (...) float32."""
        ctx.scale, ctx.dtype = scale, y.dtype
        return y.float()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        """(...) float32 -> (...) in 16 bits; decides on the scale, without waiting for a GPU."""
        if ctx.dtype == torch.float16:
            largest = gradient.abs().amax()
            exponent = torch.frexp(largest).exponent  # largest < 2^exponent
            scale = torch.ldexp(torch.ones_like(largest), LARGEST_GRADIENT - exponent)
            ctx.scale.value = scale.where(largest.isfinite() & (largest > 0), 1.0)
            gradient = gradient * ctx.scale.value
        return gradient.to(ctx.dtype), None


class Enter(torch.autograd.Function):
    """What a kernel takes, in 16 bits; its gradient comes out, divided by the scale."""

    @staticmethod
    def forward(ctx, x: Tensor, dtype: torch.dtype, scale: Scale) -> Tensor:  # type: ignore[no-untyped-def]
        """(...) float32 -> (...) in 16 bits."""
        ctx.scale = scale
        return x.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        """(...) in 16 bits -> (...) float32; comes after ``Leave``'s, whose result it needs."""
        gradient = gradient.float()
        return gradient if ctx.scale.value is None else gradient / ctx.scale.value, None, None
