"""An encoder made of blocks: subsampling, blocks one after another, a norm."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import mask
from asr.encoders.block import Block, BlockState, Frames
from asr.encoders.encoder import Encoder, EncoderState
from asr.encoders.subsampling import Subsampling
from asr.layers import modules, zero_padding
from asr.loss import collecting


class Stack(Encoder):
    """The base of most encoders: subsampling, a list of blocks, and a norm.

    Args:
        num_mels: number of mel bins F.
        blocks: blocks in order, first to last.
        dim: width D of the frames between blocks.
        channels: number of channels of the subsampling convolutions.
        subsampling: factor by which the convolutions lower the frame rate, 4 or 8. Features every
            10 ms become encoder frames every 40 or 80 ms.

    Attributes:
        layers: the blocks.
        remedy: for error messages, the option that makes the encoder causal.
    """

    remedy = "take a causal one"

    def __init__(
        self,
        num_mels: int,
        blocks: Iterable[Block],
        *,
        dim: int,
        channels: int,
        subsampling: int = 4,
    ) -> None:
        super().__init__()
        self.subsampling = Subsampling(num_mels, dim, channels=channels, stride=subsampling)
        self.layers: Sequence[Block] = modules(blocks)
        self.norm = nn.LayerNorm(dim)
        self.dim = dim
        self.stride = subsampling * math.prod(block.stride for block in self.layers)
        self.causal = all(block.causal for block in self.layers)

    @property
    def chunk(self) -> int:
        """The smallest chunk that fits every block, in feature frames; see ``Encoder.chunk``."""
        before, chunk = self.subsampling.stride, self.stride
        for block in self.layers:
            chunk = math.lcm(chunk, before * block.chunk)
            before *= block.stride
        return chunk

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes a batch of features; see ``Encoder.forward``."""
        frames = Frames(*self.subsampling(x, lengths))
        if collecting():
            each = x.mean(-1).masked_fill(~mask(lengths, x.shape[1]), math.nan)
            frames = replace(frames, loudness=averaged(each, self.subsampling.stride))
        for block in self.layers:
            frames = block(frames)
            if frames.loudness is not None and block.stride > 1:
                frames = replace(frames, loudness=averaged(frames.loudness, block.stride))
        return zero_padding(self.norm(frames.x), frames.lengths), frames.lengths

    def regions(self) -> list[nn.Module]:
        """The subsampling and the blocks."""
        return [self.subsampling, *self.layers]

    def initial_state(self, batch: int) -> EncoderState:
        """The initial states of all blocks; see ``Encoder.initial_state``."""
        if not self.causal:
            name = type(self).__name__
            raise ValueError(f"this {name} sees the future and cannot stream; {self.remedy}")
        state = self.subsampling.initial_state(batch)
        for index, block in enumerate(self.layers):
            state |= state_as_part(index, block.initial_state(batch))
        return state

    def step(self, x: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """Encodes the next chunk of features; see ``Encoder.step``."""
        if x.shape[1] % self.chunk:
            raise ValueError(
                f"a chunk of {x.shape[1]} frames; streaming takes multiples of {self.chunk}"
            )
        x, after = self.subsampling.step(x, state)
        frames = Frames(x, x.new_full(x.shape[:1], x.shape[1]).long())
        for index, block in enumerate(self.layers):
            frames, then = block.step(frames, state_of_part(index, state))
            after |= state_as_part(index, then)
        return self.norm(frames.x), after

    def flops(self, lengths: Sequence[int]) -> int:
        """FLOPs of the subsampling and of all blocks; see ``Encoder.flops``."""
        total = 0
        for time in lengths:
            total += self.subsampling.flops(time)
            time = -(-time // self.subsampling.stride)
            for block in self.layers:
                total += block.flops(time)
                time = -(-time // block.stride)
        return total


def state_as_part(index: int, state: BlockState) -> BlockState:
    """The state of part ``index``, with its names in the state of the stack."""
    return {f"{index}.{name}": value for name, value in state.items()}


def state_of_part(index: int, state: BlockState) -> BlockState:
    """The state of part ``index``, taken from the state of the stack."""
    own = f"{index}."
    return {n.removeprefix(own): value for n, value in state.items() if n.startswith(own)}


def averaged(x: Tensor, stride: int) -> Tensor:
    """Means of (B, S) over ``stride`` frames each, (B, ceil(S / stride)), ignoring NaN."""
    return F.pad(x, (0, -x.shape[1] % stride), value=math.nan).unflatten(1, (-1, stride)).nanmean(2)
