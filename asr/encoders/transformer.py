"""Transformer encoder: pre-norm, rotary positions, full or causal attention."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import mask
from asr.encoders.encoder import Encoder, EncoderState
from asr.layers import (
    SUBSAMPLING,
    FeedForward,
    SelfAttention,
    Subsampling,
    causal_mask,
    dropout,
    halved,
    modules,
    rotation,
    sinusoids,
    zero_padding,
)


class Transformer(Encoder):
    """Subsampling, then pre-norm layers of self-attention and feed-forward, then a norm."""

    def __init__(
        self,
        num_mels: int,
        *,
        dim: int,
        layers: int,
        heads: int,
        feedforward: int = 4,
        dropout: float = 0.1,
        causal: bool = False,
        left_context: int | None = None,
        positions: Literal["rotary", "sinusoidal"] = "rotary",
        channels: int = 32,
    ) -> None:
        """Builds the encoder.

        Args:
            num_mels: mel bins F.
            dim: width D.
            layers: pairs of self-attention and feed-forward.
            heads: attention heads; dim divides by twice as many.
            feedforward: inner width of the feed-forward, in multiples of dim.
            dropout: probability, on the input, on what each block adds and inside feed-forwards.
            causal: whether a frame sees only frames before it and itself.
            left_context: encoder frames that a frame of a causal encoder sees before itself; none
                given: all.
            positions: rotary (relative, turns queries and keys) or sinusoidal (added to frames).
            channels: channels of the subsampling convolutions.

        Raises:
            ValueError: a dim that does not fit the heads, or left_context without causal.
        """
        super().__init__()
        if left_context is not None and not causal:
            raise ValueError(f"left_context {left_context} needs causal: true")
        self.dim, self.stride, self.causal = dim, SUBSAMPLING, causal
        self.heads, self.dropout, self.positions = heads, dropout, positions
        self.left_context = left_context
        self.subsampling = Subsampling(num_mels, dim, channels=channels)
        self.layers = modules(
            Layer(dim, heads=heads, inner=feedforward * dim, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> (B, S, D), (B,); see ``Encoder.forward``."""
        x, lengths = self.subsampling(x, lengths)
        time = x.shape[1]
        x, factors = self._place(x, torch.arange(time, device=x.device))
        real = self._mask(lengths, time)
        for layer in self.layers:
            x = layer(x, factors, real, self.causal)
        return zero_padding(self.norm(x), lengths), lengths

    def _mask(self, lengths: Tensor, time: int) -> Tensor | None:
        """What may be seen, (B or 1, 1, S or 1, S); None where the kernel needs no mask.

        Padding comes last, so a causal frame never sees it. Asking a GPU whether there is padding
        would wait for it, so there a mask is always given.
        """
        if self.causal and (self.left_context is None or self.left_context >= time - 1):
            return None
        if self.causal:
            return causal_mask(time, time, self.left_context, lengths.device)[None, None]
        if lengths.is_cuda or bool((lengths < time).any()):
            return mask(lengths.clamp(min=1), time)[:, None, None]
        return None

    def _place(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, S, D), (S,) -> frames with sinusoids, or with the rotary factors for attention."""
        factors = None
        if self.positions == "rotary":
            factors = rotation(positions, self.dim // self.heads)
        else:
            x = x + sinusoids(positions, self.dim)
        return dropout(x, self.dropout, self.training), factors

    def initial_state(self, batch: int) -> EncoderState:
        """Empty caches at position 0; see ``Encoder.initial_state``."""
        if not self.causal:
            raise ValueError("a Transformer with full attention cannot stream; set causal: true")
        weight = self.norm.weight
        width = self.dim // self.heads
        cache = weight.new_zeros(batch, len(self.layers), 2, self.heads, 0, width)
        position = torch.zeros((), dtype=torch.int64, device=weight.device)
        return self.subsampling.initial_state(batch) | {"cache": cache, "position": position}

    def step(self, x: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """(B, C, F) -> (B, C / stride, D), next state; see ``Encoder.step``.

        The state grows with the audio, unless ``left_context`` bounds it.
        """
        x, after = self.subsampling.step(x, state)
        time = x.shape[1]
        positions = state["position"] + torch.arange(time, device=x.device)
        x, factors = self._place(x, positions)
        cache = F.pad(state["cache"], (0, 0, 0, time))
        real = causal_mask(time, cache.shape[4], self.left_context, x.device)[None, None]
        for index, layer in enumerate(self.layers):
            x = layer.step(x, factors, cache[:, index], real)
        if self.left_context is not None:
            cache = cache[:, :, :, :, max(0, cache.shape[4] - self.left_context) :]
        return self.norm(x), after | {"cache": cache, "position": state["position"] + time}

    def flops(self, lengths: Sequence[int]) -> int:
        """Products of the convolutions, linear layers and attention; see ``Encoder.flops``.

        Attention counts whole score matrices, also where a causal mask hides half of them.
        """
        total = 0
        for time in lengths:
            total += self.subsampling.flops(time)
            time = halved(time, 2)
            total += sum(layer.flops(time) for layer in self.layers)
        return total


class Layer(nn.Module):
    """Self-attention and feed-forward, each as x + dropout(block(norm(x)))."""

    def __init__(self, dim: int, *, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads=heads)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, inner=inner, dropout=dropout)

    def forward(
        self, x: Tensor, factors: Tensor | None, real: Tensor | None, causal: bool
    ) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        return self._join(x, self.attention(self.attention_norm(x), factors, real, causal))

    def step(self, x: Tensor, factors: Tensor | None, cache: Tensor, real: Tensor) -> Tensor:
        """(B, Q, D), (B, 2, H, U + Q, d) with room for Q at its end -> (B, Q, D)."""
        return self._join(x, self.attention.step(self.attention_norm(x), factors, cache, real))

    def _join(self, x: Tensor, y: Tensor) -> Tensor:
        """The residual around the attention, then the feed-forward with its own."""
        x = x + dropout(y, self.dropout, self.training)
        y = self.feedforward(self.feedforward_norm(x))
        return x + dropout(y, self.dropout, self.training)

    def flops(self, time: int) -> int:
        """FLOPs of one utterance of ``time`` frames."""
        return self.attention.flops(time) + self.feedforward.flops(time)
