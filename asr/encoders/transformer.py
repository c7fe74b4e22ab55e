"""Transformer encoder: pre-norm, rotary positions; full, causal or chunked attention."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from asr.encoders.attention import Attention, FrameAttention
from asr.encoders.block import Block, Frames, State
from asr.encoders.stack import Stack
from asr.layers import FeedForward, dropout, sinusoids


class Transformer(Stack):
    """Subsampling, then pre-norm layers of self-attention and feed-forward, then a norm."""

    remedy = "set causal: true"

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
        chunk: int = 1,
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
            causal: whether a frame sees only frames up to the end of its chunk.
            left_context: encoder frames that a frame of a causal encoder sees before itself; none
                given: all.
            chunk: encoder frames that see each other although the encoder is causal; streaming
                takes as many at once. 1: strictly causal.
            positions: rotary (relative, turns queries and keys) or sinusoidal (added to frames).
            channels: channels of the subsampling convolutions.

        Raises:
            ValueError: a dim that does not fit the heads, or left_context or chunk without causal.
        """
        blocks: list[Block] = [
            Input(dim, dropout=dropout, sinusoidal=positions == "sinusoidal"),
            *(
                TransformerBlock(
                    dim,
                    FrameAttention(
                        dim,
                        heads=heads,
                        causal=causal,
                        left_context=left_context,
                        chunk=chunk,
                        rotary=positions == "rotary",
                    ),
                    inner=feedforward * dim,
                    dropout=dropout,
                )
                for _ in range(layers)
            ),
        ]
        super().__init__(num_mels, blocks, dim=dim, channels=channels)


class Input(Block):
    """What comes before the first layer: dropout, and sinusoids added where asked for."""

    def __init__(self, dim: int, *, dropout: float, sinusoidal: bool) -> None:
        super().__init__()
        self.dim, self.dropout, self.sinusoidal = dim, dropout, sinusoidal

    def forward(self, frames: Frames) -> Frames:
        """(B, S, D) -> (B, S, D)."""
        return self._place(frames, 0)

    def _place(self, frames: Frames, first: int | Tensor) -> Frames:
        x = frames.x
        if self.sinusoidal:
            positions = first + torch.arange(x.shape[1], device=x.device)
            x = x + sinusoids(positions, self.dim)
        return replace(frames, x=dropout(x, self.dropout, self.training))

    def initial_state(self, batch: int) -> State:
        """The ``position`` of the next frame, where it matters."""
        return {"position": torch.zeros((), dtype=torch.int64)} if self.sinusoidal else {}

    def step(self, frames: Frames, state: State) -> tuple[Frames, State]:
        """See ``Block.step``."""
        if not self.sinusoidal:
            return self._place(frames, 0), state
        position = state["position"].to(frames.x.device)
        return self._place(frames, position), {"position": position + frames.x.shape[1]}

    def flops(self, time: int) -> int:
        """None: it is elementwise."""
        return 0


class TransformerBlock(Block):
    """Self-attention and feed-forward, each as x + dropout(module(norm(x)))."""

    def __init__(self, dim: int, attention: Attention, *, inner: int, dropout: float) -> None:
        super().__init__()
        self.dropout, self.causal, self.chunk = dropout, attention.causal, attention.chunk
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = attention
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, inner=inner, dropout=dropout)

    def forward(self, frames: Frames) -> Frames:
        """(B, S, D) -> (B, S, D)."""
        x = frames.x
        return self._join(frames, self.attention(self.attention_norm(x), frames.lengths))

    def initial_state(self, batch: int) -> State:
        """Those of the attention."""
        return self.attention.initial_state(batch)

    def step(self, frames: Frames, state: State) -> tuple[Frames, State]:
        """See ``Block.step``."""
        y, state = self.attention.step(self.attention_norm(frames.x), state)
        return self._join(frames, y), state

    def _join(self, frames: Frames, y: Tensor) -> Frames:
        """The residual around the attention, then the feed-forward with its own."""
        x = frames.x + dropout(y, self.dropout, self.training)
        y = self.feedforward(self.feedforward_norm(x))
        return replace(frames, x=x + dropout(y, self.dropout, self.training))

    def flops(self, time: int) -> int:
        """FLOPs of one utterance of ``time`` frames."""
        return self.attention.flops(time) + self.feedforward.flops(time)
