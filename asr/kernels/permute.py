"""Reverses the valid frames of each utterance, and leaves the padding at the end."""

from collections.abc import Callable

import torch
from torch import Tensor

from asr.batch import mask


def reversal(lengths: Tensor, time: int) -> Tensor:
    """Returns rows (B * time,) that reverse the real frames of a flattened batch."""
    frames = torch.arange(time, device=lengths.device)
    order = torch.where(mask(lengths, time), lengths[:, None] - 1 - frames, frames)
    starts = torch.arange(len(lengths), device=lengths.device)[:, None] * time
    return (order + starts).flatten()


def both_directions(
    ahead: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor], x: Tensor, lengths: Tensor
) -> Tensor:
    """Runs two recurrences, one per direction; returns their outputs (B, S, 2 * cells).

    ``back`` reads each utterance reversed within its own length, so padding comes last in both.
    """
    order = reversal(lengths, x.shape[1])
    y, z = ahead(x), back(Permute.apply(x, order))
    return torch.cat([y, Permute.apply(z.contiguous(), order)], dim=-1)


class Permute(torch.autograd.Function):
    """Permutes rows by a permutation that is its own inverse.

    The gradient is therefore the same permutation; the gradient of indexing would add atomically.
    """

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        """Permutes the frames of x (B, S, D) by rows (B * S,)."""
        ctx.save_for_backward(order)
        return x.flatten(0, 1).index_select(0, order).view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        """Permutes the gradient back."""
        (order,) = ctx.saved_tensors
        return gradient.flatten(0, 1).index_select(0, order).view_as(gradient), None
