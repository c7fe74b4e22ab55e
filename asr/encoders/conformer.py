"""Conformer encoder (Gulati et al. 2020): convolution between attention and feed-forward."""

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from asr.encoders.attention import FrameAttention
from asr.encoders.block import Block, BlockState, Frames
from asr.encoders.depthwise import Depthwise
from asr.encoders.stack import Stack
from asr.encoders.transformer import Input
from asr.kernels.linear import Linear, xavier
from asr.layers import dropout


class Conformer(Stack):
    """Subsampling, then Conformer blocks, then a norm.

    Differs from the paper in rotary positions for relative sinusoids, and in layer norm for the
    batch norm of the convolution, so that an utterance does not feel its batch.

    Args:
        layers: number of blocks.
        heads: number of attention heads; dim must be a multiple of twice this number.
        feedforward: inner width of both feed-forwards, as a multiple of dim.
        kernel: number of frames that the convolution sees. It must be odd unless the encoder is
            causal; a causal convolution sees its own and earlier frames.
        dropout: dropout probability, on the input, on the residual branch of each module and inside
            feed-forwards.
        causal: whether a frame sees only frames up to the end of its chunk.
        left_context: number of earlier encoder frames that the attention of a causal encoder sees;
            null: all.
        chunk: number of encoder frames in a chunk. In a causal encoder the attention of a frame
            sees its whole chunk; the convolution sees earlier frames only. 1: strictly causal.
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
        kernel: int = 15,
        dropout: float = 0.1,
        causal: bool = False,
        left_context: int | None = None,
        chunk: int = 1,
        channels: int = 32,
        subsampling: int = 4,
    ) -> None:
        blocks: list[Block] = [Input(dim, dropout=dropout, sinusoidal=False)]
        blocks += [
            ConformerBlock(
                dim,
                FrameAttention(
                    dim, heads=heads, causal=causal, left_context=left_context, chunk=chunk
                ),
                inner=feedforward * dim,
                kernel=kernel,
                dropout=dropout,
            )
            for _ in range(layers)
        ]
        super().__init__(num_mels, blocks, dim=dim, channels=channels, subsampling=subsampling)


class ConformerBlock(Block):
    """Half a feed-forward, attention, convolution, half a feed-forward, and a norm."""

    def __init__(
        self, dim: int, attention: FrameAttention, *, inner: int, kernel: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout, self.causal, self.chunk = dropout, attention.causal, attention.chunk
        self.first = HalfFeedForward(dim, inner=inner, dropout=dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = attention
        self.convolution_norm = nn.LayerNorm(dim)
        self.convolution = ConvolutionModule(dim, kernel=kernel, causal=attention.causal)
        self.second = HalfFeedForward(dim, inner=inner, dropout=dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, frames: Frames) -> Frames:
        """Processes (B, S, D) frames; the shape does not change."""
        x = self.first(frames.x)
        x = self._add(x, self.attention(replace(frames, x=self.attention_norm(x))))
        x = self._add(x, self.convolution(self.convolution_norm(x), frames.lengths))
        return replace(frames, x=self.norm(self.second(x)))

    def initial_state(self, batch: int) -> BlockState:
        """The state of the attention, and the past frames of the convolution."""
        convolved = self.convolution.depthwise.initial_state(batch)
        return self.attention.initial_state(batch) | {"convolved": convolved}

    def step(self, frames: Frames, state: BlockState) -> tuple[Frames, BlockState]:
        """See ``Block.step``."""
        x = self.first(frames.x)
        y, after = self.attention.step(replace(frames, x=self.attention_norm(x)), state)
        x = self._add(x, y)
        y, convolved = self.convolution.step(self.convolution_norm(x), state["convolved"])
        x = self.norm(self.second(self._add(x, y)))
        return replace(frames, x=x), after | {"convolved": convolved}

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + dropout(y, self.dropout, self.training)

    def flops(self, time: int) -> int:
        """FLOPs of one utterance of ``time`` frames."""
        halves = self.first.flops(time) + self.second.flops(time)
        return halves + self.attention.flops(time) + self.convolution.flops(time)


class HalfFeedForward(nn.Module):
    """x + feedforward(norm(x)) / 2, with SiLU (Gulati et al. 2020, figure 4)."""

    def __init__(self, dim: int, *, inner: int, dropout: float) -> None:
        super().__init__()
        self.dim, self.inner, self.dropout = dim, inner, dropout
        self.norm = nn.LayerNorm(dim)
        self.expand, self.reduce = Linear(dim, inner), Linear(inner, dim)
        xavier(self.expand, self.reduce)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the module to (B, S, D) frames."""
        y = dropout(F.silu(self.expand(self.norm(x))), self.dropout, self.training)
        return x + 0.5 * dropout(self.reduce(y), self.dropout, self.training)

    def flops(self, time: int) -> int:
        """FLOPs of ``time`` frames."""
        return 4 * self.dim * self.inner * time


class ConvolutionModule(nn.Module):
    """Pointwise with a gate, depthwise over time, norm, SiLU, pointwise (figure 2)."""

    def __init__(self, dim: int, *, kernel: int, causal: bool) -> None:
        super().__init__()
        self.dim = dim
        self.gated, self.mixed = Linear(dim, 2 * dim), Linear(dim, dim)
        self.depthwise = Depthwise(dim, kernel=kernel, causal=causal)
        self.norm = nn.LayerNorm(dim)
        xavier(self.gated, parts=2)
        xavier(self.mixed)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Convolves (B, S, D) frames within their utterances."""
        return self._mix(self.depthwise(F.glu(self.gated(x)), lengths))

    def step(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Convolves (B, C, D) new frames; returns the past frames that the next step needs, too."""
        y, before = self.depthwise.step(F.glu(self.gated(x)), before)
        return self._mix(y), before

    def _mix(self, x: Tensor) -> Tensor:
        return self.mixed(F.silu(self.norm(x)))

    def flops(self, time: int) -> int:
        """FLOPs of ``time`` frames."""
        return 6 * self.dim**2 * time + self.depthwise.flops(time)
