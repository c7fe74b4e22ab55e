"""Stacked LSTM encoder: bidirectional or causal, fused kernels, residuals and layer norms."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from asr.batch import mask
from asr.encoders.encoder import Encoder, EncoderState
from asr.layers import (
    SUBSAMPLING,
    Subsampling,
    dropout,
    flatten,
    halved,
    halved_lengths,
    initialise,
    modules,
    zero_padding,
)


class LSTM(Encoder):
    """Subsampling, then layers of x + projection(LSTM(norm(x))), then a norm.

    Bidirectional, or causal when ``bidirectional`` is false.
    """

    def __init__(
        self,
        num_mels: int,
        *,
        dim: int,
        layers: int,
        bidirectional: bool = True,
        cells: int = 0,
        time_reduction: Sequence[int] = (),
        dropout: float = 0.1,
        forget_bias: float = 1.0,
        channels: int = 32,
    ) -> None:
        """Builds the encoder.

        Args:
            num_mels: mel bins F.
            dim: width D of the output and of the path between layers.
            layers: LSTM layers.
            bidirectional: whether the future is seen too; without, the encoder is causal.
            cells: memory cells per direction; what they put out is projected to ``dim`` where the
                two differ in width. 0: dim, or dim / 2 per direction of a bidirectional one.
            time_reduction: after each of these layers (1 is the first) two frames become one.
            dropout: probability, on each layer's output.
            forget_bias: initial bias of the forget gates.
            channels: channels of the subsampling convolutions.

        Raises:
            ValueError: odd ``dim`` for two directions, or no such layer in ``time_reduction``.
        """
        super().__init__()
        directions = 2 if bidirectional else 1
        if not cells and dim % directions:
            raise ValueError(f"dim {dim} is odd; two directions share it equally")
        for layer in time_reduction:
            if not 1 <= layer <= layers:
                raise ValueError(f"time_reduction after layer {layer}, of {layers} layers")
        self.dim, self.causal = dim, not bidirectional
        self.stride = SUBSAMPLING * 2 ** len(set(time_reduction))
        self.subsampling = Subsampling(num_mels, dim, channels=channels)
        self.layers = modules(
            Layer(
                dim,
                cells=cells or dim // directions,
                bidirectional=bidirectional,
                dropout=dropout,
                forget_bias=forget_bias,
                reduce=layer in time_reduction,
            )
            for layer in range(1, layers + 1)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> (B, S, D), (B,); see ``Encoder.forward``."""
        x, lengths = self.subsampling(x, lengths)
        for layer in self.layers:
            x, lengths = layer(x, lengths)
        return zero_padding(self.norm(x), lengths), lengths

    def initial_state(self, batch: int) -> EncoderState:
        """Zeros; see ``Encoder.initial_state``."""
        if not self.causal:
            raise ValueError("a bidirectional LSTM cannot stream; set bidirectional: false")
        state = self.subsampling.initial_state(batch)
        for index, layer in enumerate(self.layers):
            zeros = self.norm.weight.new_zeros(batch, layer.lstm.hidden_size)
            state |= {f"hidden.{index}": zeros, f"cell.{index}": zeros}
        return state

    def step(self, x: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """(B, C, F) -> (B, C / stride, D), next state; see ``Encoder.step``."""
        if x.shape[1] % self.stride:
            raise ValueError(
                f"a chunk of {x.shape[1]} frames; streaming takes multiples of {self.stride}"
            )
        x, after = self.subsampling.step(x, state)
        for index, layer in enumerate(self.layers):
            hidden, cell = f"hidden.{index}", f"cell.{index}"
            x, (after[hidden], after[cell]) = layer.step(x, (state[hidden], state[cell]))
        return self.norm(x), after

    def flops(self, lengths: Sequence[int]) -> int:
        """Products of the convolutions, linear layers and LSTM gates; see ``Encoder.flops``."""
        total = 0
        for time in lengths:
            total += self.subsampling.flops(time)
            time = halved(time, 2)
            for layer in self.layers:
                total += layer.flops(time)
                time = halved(time) if layer.reduction is not None else time
        return total


class Layer(nn.Module):
    """x + projection(LSTM(norm(x))), and the optional joining of two frames into one."""

    def __init__(
        self,
        dim: int,
        *,
        cells: int,
        bidirectional: bool,
        dropout: float,
        forget_bias: float,
        reduce: bool,
    ) -> None:
        super().__init__()
        self.dim, self.dropout = dim, dropout
        self.norm = nn.LayerNorm(dim)
        self.lstm = nn.LSTM(dim, cells, bidirectional=bidirectional, batch_first=True)
        width = cells * (2 if bidirectional else 1)
        self.projection = nn.Linear(width, dim) if width != dim else None
        self.reduction = nn.Linear(2 * dim, dim) if reduce else None
        initialise(self.lstm, forget_bias)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, D), (B,) -> (B, S or ceil(S / 2), D), (B,); padding stays finite, not zero."""
        run = packed if x.is_cuda else padded
        x = self._join(x, run(self.lstm, self.norm(x), lengths))
        if self.reduction is None:
            return x, lengths
        return self._reduce(zero_padding(x, lengths)), halved_lengths(lengths)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, S, D), hidden and cell of (B, cells) -> the same after S more frames."""
        before = (state[0][None], state[1][None])
        y, (hidden, cell) = self.lstm(self.norm(x), before)
        x = self._join(x, y)
        return x if self.reduction is None else self._reduce(x), (hidden[0], cell[0])

    def _join(self, x: Tensor, y: Tensor) -> Tensor:
        y = y if self.projection is None else self.projection(y)
        return x + dropout(y, self.dropout, self.training)

    def _reduce(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, ceil(S / 2), D); an odd last frame is joined with zeros."""
        assert self.reduction is not None
        x = F.pad(x, (0, 0, 0, x.shape[1] % 2))
        return self.reduction(x.unflatten(1, (-1, 2)).flatten(2))

    def flops(self, time: int) -> int:
        """FLOPs of one utterance of ``time`` frames."""
        lstm = self.lstm
        directions = 2 if lstm.bidirectional else 1
        cells, dim = lstm.hidden_size, self.dim
        flops = directions * time * 8 * cells * (dim + cells)
        if self.projection is not None:
            flops += 2 * directions * cells * dim * time
        if self.reduction is not None:
            flops += 4 * dim**2 * halved(time)
        return flops


def packed(lstm: nn.LSTM, x: Tensor, lengths: Tensor) -> Tensor:
    """(B, S, D), (B,) -> (B, S, cells * directions): one call over the real frames only.

    For GPUs: cuDNN runs both directions at once and skips the padding. Autocast is off because it
    runs cuDNN's recurrent kernels in float16, whatever type was asked for, which needs the loss to
    be scaled; float32 kernels use TF32 where that is allowed.
    """
    sequence = pack_padded_sequence(
        x.float(), lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
    )
    flatten(lstm)
    with torch.autocast(x.device.type, enabled=False):
        y, _ = lstm(sequence)
    assert isinstance(y, PackedSequence)
    return pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0]


def padded(lstm: nn.LSTM, x: Tensor, lengths: Tensor) -> Tensor:
    """(B, S, D), (B,) -> (B, S, cells * directions): each direction over all frames.

    For CPUs: oneDNN's fused kernel refuses packed sequences, for which torch loops over frames:
    1.32 s forward and backward (16 utterances of 250-400 frames, 128 cells per direction, one
    core of an EPYC) against 0.26 s here, although 27 % of the frames are padding. The backward
    direction reads each utterance reversed within its own length, so padding comes last in both.
    """
    weights = [weight for weight in lstm._flat_weights if weight is not None]
    y = one_direction(lstm, weights[:4], x)
    if not lstm.bidirectional:
        return y
    order = reversal(lengths, x.shape[1])
    z = one_direction(lstm, weights[4:], Permute.apply(x, order))
    return torch.cat([y, Permute.apply(z, order)], dim=-1)


def one_direction(lstm: nn.LSTM, weights: list[Tensor], x: Tensor) -> Tensor:
    """(B, S, D) -> (B, S, cells), from a zero state."""
    zeros = x.new_zeros(1, x.shape[0], lstm.hidden_size)
    return torch.lstm(
        x,
        (zeros, zeros),
        weights,
        has_biases=True,
        num_layers=1,
        dropout=0.0,
        train=lstm.training,
        bidirectional=False,
        batch_first=True,
    )[0]


def reversal(lengths: Tensor, time: int) -> Tensor:
    """(B,) -> (B * time,) rows of the flattened batch, real frames reversed, padding in place."""
    frames = torch.arange(time, device=lengths.device)
    order = torch.where(mask(lengths, time), lengths[:, None] - 1 - frames, frames)
    starts = torch.arange(len(lengths), device=lengths.device)[:, None] * time
    return (order + starts).flatten()


class Permute(torch.autograd.Function):
    """Rows in another order, where the order is its own inverse.

    So is its gradient, as plain a copy; that of indexing would add atomically.
    """

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        """(B, S, D), (B * S,) -> (B, S, D)."""
        ctx.save_for_backward(order)
        return x.flatten(0, 1).index_select(0, order).view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        """(B, S, D) -> (B, S, D), None."""
        (order,) = ctx.saved_tensors
        return gradient.flatten(0, 1).index_select(0, order).view_as(gradient), None
