"""The interface of a block (one layer of an encoder), and the frames that blocks exchange."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BlockState = dict[str, Tensor]


@dataclass(frozen=True)
class Stored:
    """Which frames attention keeps in its memory; decided by a gate for all blocks above it.

    A stored frame begins a group, to which those skipped after it belong.

    Attributes:
        keep: (B, S) bool, false in the padding.
        before: (B, S) int64, frames stored before this one.
        began: (B, S) int64, the frame that this one's group began with.
        frames: (B, K) int64, the stored frames in order, K of the utterance that stores the most;
            beyond an utterance's own number, skipped ones.
        weight: (B, S) of value 1, through which a stored frame's value gives the gate a gradient;
            None where a gate takes none.
    """

    keep: Tensor
    before: Tensor
    began: Tensor
    frames: Tensor
    weight: Tensor | None = None

    @classmethod
    def of(cls, keep: Tensor, weight: Tensor | None = None) -> "Stored":
        """(B, S) bool, frame 0 of an utterance's first chunk kept."""
        frame = torch.arange(keep.shape[1], device=keep.device)
        through = keep.cumsum(1)
        began = torch.where(keep, frame, 0).cummax(1).values
        most = int(through[:, -1].max())
        frames = keep.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        return cls(keep, through - keep.long(), began, frames, weight)


@dataclass(frozen=True)
class Frames:
    """What passes from block to block; change it with ``dataclasses.replace``.

    Attributes:
        x: (B, S, D). What stands in the padding is finite, and must not matter.
        lengths: (B,) int64.
        loudness: (B, S) mean of the features of each frame, NaN in the padding; only there while
            somebody collects terms (``asr.loss.collecting``).
        stored: what attention stores, where a gate has decided that.
    """

    x: Tensor
    lengths: Tensor
    loudness: Tensor | None = None
    stored: Stored | None = None


class Block(nn.Module, ABC):
    """One layer: normalises what it reads and adds to what it was given (pre-norm residual).

    Attributes:
        causal: whether frame s of the output depends on frames up to the end of its chunk only.
        chunk: frames of the input that a step takes a multiple of; those of a chunk see each
            other. 1: strictly causal.
        stride: frames of the input per frame of the output.
    """

    causal: bool = True
    chunk: int = 1
    stride: int = 1

    @abstractmethod
    def forward(self, frames: Frames) -> Frames:
        """(B, S, D), (B,) -> (B, ceil(S / stride), D), ceil(lengths / stride)."""

    @abstractmethod
    def initial_state(self, batch: int) -> BlockState:
        """What a causal block remembers before the first frame; tensors of any names."""

    @abstractmethod
    def step(self, frames: Frames, state: BlockState) -> tuple[Frames, BlockState]:
        """Consecutive chunks without padding -> what ``forward`` gives on the whole, next state."""

    @abstractmethod
    def flops(self, time: int) -> int:
        """FLOPs of one utterance that enters with ``time`` frames; see ``Encoder.flops``."""
