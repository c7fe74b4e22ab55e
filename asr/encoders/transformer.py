"""Transformer encoder: pre-norm, rotary positions; full, causal or chunked attention."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from asr.encoders.attention import Attention, FrameAttention
from asr.encoders.block import Block, BlockState, Frames
from asr.encoders.gate import Gate, Memory
from asr.encoders.gated import GatedAttention
from asr.encoders.stack import Stack
from asr.layers import FeedForward, dropout, sinusoids


class Transformer(Stack):
    """Subsampling, then pre-norm layers of self-attention and feed-forward, then a norm.

    Args:
        layers: number of layers, each self-attention and a feed-forward.
        heads: number of attention heads; dim must be a multiple of twice this number.
        feedforward: inner width of the feed-forward, as a multiple of dim.
        dropout: dropout probability, on the input, on the residual branch of each block and inside
            feed-forwards.
        causal: whether a frame sees only frames up to the end of its chunk.
        left_context: number of earlier encoder frames that a frame of a causal encoder sees; null:
            all.
        chunk: number of encoder frames in a chunk. In a causal encoder the frames of a chunk see
            each other, and streaming takes a chunk at once. 1: strictly causal.
        memory: rule that chooses the frames to store, in a causal encoder. It applies to the layers
            after the first; there, left_context counts stored vectors. null: every frame is stored.
        positions: position encoding: rotary (relative, rotates queries and keys) or sinusoidal
            (added to frames).
    """

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
        memory: Memory | None = None,
        positions: Literal["rotary", "sinusoidal"] = "rotary",
        channels: int = 32,
        subsampling: int = 4,
    ) -> None:
        if memory and (not causal or chunk != 1 or layers < 2):
            raise ValueError(
                f"memory with causal {causal}, chunk {chunk}, layers {layers}: it needs causal: "
                "true, chunk: 1 and 2 layers or more, the first of which stores every frame"
            )
        rotary = positions == "rotary"

        def attention(layer: int) -> Attention:
            if memory and layer:
                return GatedAttention(
                    dim, heads=heads, memory=memory, left_context=left_context, rotary=rotary
                )
            return FrameAttention(
                dim,
                heads=heads,
                causal=causal,
                left_context=left_context,
                chunk=chunk,
                rotary=rotary,
            )

        blocks = transformer_blocks(
            dim, layers, attention, memory, feedforward, dropout, sinusoidal=not rotary
        )
        super().__init__(num_mels, blocks, dim=dim, channels=channels, subsampling=subsampling)


def transformer_blocks(
    dim: int,
    layers: int,
    attention: Callable[[int], Attention],
    memory: Memory | None,
    feedforward: int,
    dropout: float,
    sinusoidal: bool = False,
) -> list[Block]:
    """The input's dropout, then layers; before the second one a gate, if there is a memory.

    ``attention`` makes that of a layer, from 0 up; ``feedforward`` is in multiples of ``dim``.
    """
    blocks: list[Block] = [Input(dim, dropout=dropout, sinusoidal=sinusoidal)]
    for layer in range(layers):
        if memory and layer == 1:
            blocks.append(Gate(dim, memory))
        inner = feedforward * dim
        blocks.append(TransformerBlock(dim, attention(layer), inner=inner, dropout=dropout))
    return blocks


class Input(Block):
    """The input of the first layer: adds sinusoidal positions if chosen, and applies dropout."""

    def __init__(self, dim: int, *, dropout: float, sinusoidal: bool) -> None:
        super().__init__()
        self.dim, self.dropout, self.sinusoidal = dim, dropout, sinusoidal

    def forward(self, frames: Frames) -> Frames:
        """Processes (B, S, D) frames; the shape does not change."""
        return self._place(frames, 0)

    def _place(self, frames: Frames, first: int | Tensor) -> Frames:
        x = frames.x
        if self.sinusoidal:
            positions = first + torch.arange(x.shape[1], device=x.device)
            x = x + sinusoids(positions, self.dim)
        return replace(frames, x=dropout(x, self.dropout, self.training))

    def initial_state(self, batch: int) -> BlockState:
        """The ``position`` of the next frame, if positions are sinusoidal."""
        return {"position": torch.zeros((), dtype=torch.int64)} if self.sinusoidal else {}

    def step(self, frames: Frames, state: BlockState) -> tuple[Frames, BlockState]:
        """See ``Block.step``."""
        if not self.sinusoidal:
            return self._place(frames, 0), state
        position = state["position"].to(frames.x.device)
        return self._place(frames, position), {"position": position + frames.x.shape[1]}

    def flops(self, time: int) -> int:
        """Returns 0, because all operations are elementwise."""
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
        """Processes (B, S, D) frames; the shape does not change."""
        y = self.attention(replace(frames, x=self.attention_norm(frames.x)))
        return self._join(frames, y)

    def initial_state(self, batch: int) -> BlockState:
        """The state of the attention."""
        return self.attention.initial_state(batch)

    def step(self, frames: Frames, state: BlockState) -> tuple[Frames, BlockState]:
        """See ``Block.step``."""
        normed = replace(frames, x=self.attention_norm(frames.x))
        y, state = self.attention.step(normed, state)
        return self._join(frames, y), state

    def _join(self, frames: Frames, y: Tensor) -> Frames:
        """The residual around the attention, then the feed-forward with its own."""
        x = frames.x + dropout(y, self.dropout, self.training)
        y = self.feedforward(self.feedforward_norm(x))
        return replace(frames, x=x + dropout(y, self.dropout, self.training))

    def flops(self, time: int) -> int:
        """FLOPs of one utterance of ``time`` frames."""
        return self.attention.flops(time) + self.feedforward.flops(time)
