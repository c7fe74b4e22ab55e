"""Self-attention over frames: full, causal or chunked, with optional left context; streams."""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import mask
from asr.encoders.block import BlockState, Frames
from asr.layers import Rotary, SelfAttention, attend, rotary_factors

LEAST_BLOCK = 16


class Attention(nn.Module, ABC):
    """The attention of a Transformer block. It works like a ``Block`` without residual and norm."""

    causal: bool
    chunk: int = 1

    @abstractmethod
    def forward(self, frames: Frames) -> Tensor:
        """Lets the frames (B, S, D) attend to each other."""

    @abstractmethod
    def initial_state(self, batch: int) -> BlockState:
        """The state before the first frame."""

    @abstractmethod
    def step(self, frames: Frames, state: BlockState) -> tuple[Tensor, BlockState]:
        """Processes (B, C, D) new frames, C a multiple of the chunk; see ``Block.step``."""

    @abstractmethod
    def flops(self, time: int) -> int:
        """FLOPs of one sequence; scores that a mask hides count, as in torch's counter."""


class FrameAttention(Attention):
    """Multi-head self-attention with rotary positions and a limited context.

    Without ``causal``, a frame sees all frames. With it, a frame sees the frames up to the end of
    its chunk of ``chunk`` frames (1: strictly causal), and the ``left_context`` frames before
    itself (None: all).
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        causal: bool = False,
        left_context: int | None = None,
        chunk: int = 1,
        rotary: bool = True,
    ) -> None:
        super().__init__()
        if left_context is not None and not causal:
            raise ValueError(f"left_context {left_context} needs causal: true")
        if chunk != 1 and not causal:
            raise ValueError(f"chunk {chunk} needs causal: true")
        if chunk < 1 or (left_context or 0) < 0:
            raise ValueError(
                f"chunk {chunk}, left_context {left_context}: give chunks of 1 frame or more"
                " and a left context of 0 or more"
            )
        self.dim, self.heads, self.causal = dim, heads, causal
        self.left_context, self.chunk = left_context, chunk
        self.attention = SelfAttention(dim, heads=heads)
        self.rotary = Rotary(dim // heads) if rotary else None

    @property
    def window(self) -> int | None:
        """Frames of a block of ``windowed``: whole chunks, no shorter than the left context."""
        if self.left_context is None:
            return None
        return block_frames(self.left_context, self.chunk)

    def is_windowed(self, time: int) -> bool:
        """Whether blocks are less work than a mask over all pairs of frames."""
        return self.window is not None and time > 2 * self.window

    def forward(self, frames: Frames) -> Tensor:
        """Lets the frames (B, S, D) attend to each other."""
        x, lengths, time = frames.x, frames.lengths, frames.x.shape[1]
        factors = self.rotary(time, x.device) if self.rotary else None
        if not self.is_windowed(time):
            return self.attention(x, factors, self._mask(lengths, time), self.causal)
        assert self.left_context is not None
        query, key, value = self.attention.split(x, factors)
        y = windowed(query, key, value, lengths, self.left_context, self.chunk)
        return self.attention.output(y)

    def _mask(self, lengths: Tensor, time: int) -> Tensor | None:
        """The attention mask, broadcastable to (B, 1, S, S); None if the kernel needs no mask.

        Padding comes last, so a strictly causal frame never sees it. A test for padding on a GPU
        would make the host wait, so a GPU always gets a mask.
        """
        if not self.causal:
            if lengths.is_cuda or bool((lengths < time).any()):
                return mask(lengths.clamp(min=1), time)[:, None, None]
            return None
        if self.chunk == 1 and (self.left_context is None or self.left_context >= time - 1):
            return None
        frames = torch.arange(time, device=lengths.device)
        seen = visible(frames[:, None], frames, self.left_context, self.chunk)[None, None]
        if self.chunk > 1:
            seen = seen & mask(lengths, time)[:, None, None]
            seen = seen | torch.eye(time, dtype=torch.bool, device=lengths.device)
        return seen

    def initial_state(self, batch: int) -> BlockState:
        """The empty ``keys`` and ``values``, and the ``position`` 0."""
        weight = self.attention.output.weight
        empty = weight.new_zeros(batch, self.heads, 0, self.dim // self.heads)
        position = torch.zeros((), dtype=torch.int64, device=weight.device)
        return {"keys": empty, "values": empty, "position": position}

    def step(self, frames: Frames, state: BlockState) -> tuple[Tensor, BlockState]:
        """Processes (B, C, D) new frames, where C is a multiple of the chunk.

        The state grows with the audio, unless ``left_context`` bounds it.
        """
        x, time, position = frames.x, frames.x.shape[1], state["position"]
        queries = position + torch.arange(time, device=x.device)
        factors = rotary_factors(queries, self.dim // self.heads) if self.rotary else None
        query, key, value = self.attention.split(x, factors)
        keys = torch.cat([state["keys"].to(key.dtype), key], dim=2)
        values = torch.cat([state["values"].to(value.dtype), value], dim=2)
        first = position + time - keys.shape[2]
        stored = first + torch.arange(keys.shape[2], device=x.device)
        seen = visible(queries[:, None], stored, self.left_context, self.chunk)
        y = self.attention.output(attend(query, keys, values, seen[None, None]))
        if self.left_context is not None:
            oldest = max(0, keys.shape[2] - self.left_context)
            # A copy: a view would keep what it was cut from.
            keys, values = keys[:, :, oldest:].clone(), values[:, :, oldest:].clone()
        return y, {"keys": keys, "values": values, "position": position + time}

    def flops(self, time: int) -> int:
        """FLOPs of one sequence; scores that a mask hides count, as in torch's counter."""
        scores = time**2
        if self.is_windowed(time):
            assert self.window is not None
            scores = -(-time // self.window) * 2 * self.window**2
        return 8 * self.dim**2 * time + 4 * self.dim * scores


def visible(query: Tensor, key: Tensor, left_context: int | None, chunk: int) -> Tensor:
    """Positions, broadcastable -> bool: the query may see the key."""
    limit = math.inf if left_context is None else left_context
    return (query - key <= limit) & (key < (query // chunk + 1) * chunk)


def block_frames(left_context: int, chunk: int) -> int:
    """Returns the frames of a block of queries: whole chunks, at least the left context."""
    return chunk * -(-max(left_context, LEAST_BLOCK) // chunk)


def windowed(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, left_context: int, chunk: int
) -> Tensor:
    """Attention within a window, (B, H, S, d) three times -> (B, S, H * d).

    Time is cut into blocks of n frames, n >= left_context and whole chunks; the queries of a block
    see its keys and those of the block before. Work and memory grow with S * n, not with S * S.
    """
    batch, heads, time, width = query.shape
    block = block_frames(left_context, chunk)
    blocks = -(-time // block)
    later = blocks * block - time
    # (B, H, S, d) is a view of (B, S, H, d): blocks and heads change places without a copy.
    query = F.pad(query.transpose(1, 2), (0, 0, 0, 0, 0, later)).unflatten(1, (blocks, block))
    query = query.flatten(0, 1).transpose(1, 2)  # (B * blocks, H, n, d)
    windows = []
    for x in (key, value):
        x = F.pad(x.transpose(1, 2), (0, 0, 0, 0, block, later)).unflatten(1, (blocks + 1, block))
        x = torch.cat([x[:, :-1], x[:, 1:]], dim=2)  # (B, blocks, 2n, H, d)
        windows.append(x.flatten(0, 1).transpose(1, 2))
    queries = torch.arange(block, device=query.device)[:, None]
    keys = torch.arange(-block, block, device=query.device)
    seen = visible(queries, keys, left_context, chunk)  # (n, 2n)
    starts = block * torch.arange(blocks, device=query.device)[:, None]
    at = starts + keys  # (blocks, 2n)
    there = (at >= 0) & (at < lengths[:, None, None]) if chunk > 1 else (at >= 0)[None]
    real = seen & there[:, :, None]  # (B or 1, blocks, n, 2n)
    real = real | (queries == keys)  # what is padding sees itself, so that nothing is NaN
    real = real.expand(batch, -1, -1, -1).flatten(0, 1)[:, None]
    y = attend(query, windows[0], windows[1], real)  # (B * blocks, n, H * d)
    return y.unflatten(0, (batch, blocks)).flatten(1, 2)[:, :time]
