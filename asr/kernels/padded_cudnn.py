"""cuDNN's recurrent layers over a padded batch in one call; padding keeps the state at 0."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import mask

Recurrence = nn.LSTM | nn.GRU

MARK = 8  # columns added to the input, of which one is used: 16 bytes in 16 bits, for tensor cores
SHUT = 1000.0  # added to a gate at padding, so that its sigmoid is exactly 0 or 1


def cudnn_padded(recurrence: Recurrence, x: Tensor, lengths: Tensor) -> Tensor:
    """Runs a recurrence over padded (B, S, D) in float32; autocast is disabled inside.

    torch's packed sequences give the same result, but take cuDNN 1.2 to 2.4 times as long (H200, 16
    to 64 utterances, 192 to 512 cells per direction, forward and backward). Autocast would run
    cuDNN's recurrent kernels in float16, which needs a scaled loss; float32 kernels use TF32 if it
    is allowed.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, weights = marked(recurrence, x.float(), lengths)
        return call(recurrence, in_one_block(weights), x, recurrence.bidirectional)


def marked(recurrence: Recurrence, x: Tensor, lengths: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Input and weights with an extra column that keeps a zero state at zero during padding.

    Padding comes last, so it only affects the backward direction, which reads it first. The extra
    input is 1 at padding: it sets the input gate of an LSTM to 0, or the update gate of a GRU to 1.
    """
    weights = [weight for weight in recurrence._flat_weights if weight is not None]
    if not recurrence.bidirectional:
        return x, weights
    padding = ~mask(lengths, x.shape[1])
    x = torch.cat([x, F.pad(padding[..., None].to(x.dtype), (0, MARK - 1))], dim=-1)
    cells = recurrence.hidden_size
    column = weights[0].new_zeros(len(weights[0]), MARK)
    if isinstance(recurrence, nn.LSTM):
        column[:cells, 0] = -SHUT
    else:
        column[cells : 2 * cells, 0] = SHUT
    for index in (0, 4):  # the input weights of each direction
        weights[index] = torch.cat([weights[index], column], dim=1)
    return x, weights


def in_one_block(
    weights: list[Tensor], change: Callable[[Tensor], Tensor] = lambda flat: flat
) -> list[Tensor]:
    """The same weights as views of one new tensor, matrices before biases.

    cuDNN uses this order and takes such weights without a copy.

    Args:
        weights: weights of one call, in torch's order.
        change: function of the whole block, such as a cast, applied before it is split.
    """
    order = sorted(range(len(weights)), key=lambda index: weights[index].ndim == 1)
    flat = change(torch.cat([weights[index].flatten() for index in order]))
    parts = flat.split([weights[index].numel() for index in order])
    views = {index: part.view_as(weights[index]) for index, part in zip(order, parts, strict=True)}
    return [views[index] for index in range(len(weights))]


def call(recurrence: Recurrence, weights: list[Tensor], x: Tensor, bidirectional: bool) -> Tensor:
    """Calls cuDNN on x (B, S, D) with these weights, from a zero state."""
    directions = 2 if bidirectional else 1
    first = x.new_zeros(directions, len(x), recurrence.hidden_size)
    options: tuple[Any, ...] = (
        True,  # biases
        1,  # layer
        0.0,  # dropout
        recurrence.training,
        bidirectional,
        True,  # batch first
    )
    if isinstance(recurrence, nn.LSTM):
        return torch.lstm(x, (first, first), weights, *options)[0]
    return torch.gru(x, first, weights, *options)[0]
