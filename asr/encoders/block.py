"""The interface of a block (one layer of an encoder), and the frames that blocks exchange."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BlockState = dict[str, Tensor]


@dataclass(frozen=True)
class Stored:
    """The frames that attention stores, as decided by a gate for all blocks above it.

    A stored frame begins a group; the frames that are skipped after it belong to its group.

    Attributes:
        keep: (B, S) bool, false in the padding.
        before: (B, S) int64, number of frames stored before this frame.
        began: (B, S) int64, first frame of the group of this frame.
        frames: (B, K) int64, the stored frames in order; K is the largest number in the batch. Rows
            with fewer stored frames are filled up with skipped frames.
        weight: (B, S), all 1; passes the gradient of stored values on to a learned gate. None for
            other gates.
    """

    keep: Tensor
    before: Tensor
    began: Tensor
    frames: Tensor
    weight: Tensor | None = None

    @classmethod
    def of(cls, keep: Tensor, weight: Tensor | None = None) -> "Stored":
        """Builds the indices from ``keep`` (B, S), which must be True for the first frame."""
        frame = torch.arange(keep.shape[1], device=keep.device)
        through = keep.cumsum(1)
        began = torch.where(keep, frame, 0).cummax(1).values
        most = int(through[:, -1].max())
        frames = keep.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        return cls(keep, through - keep.long(), began, frames, weight)


@dataclass(frozen=True)
class Frames:
    """The input and output of a block; change it with ``dataclasses.replace``.

    Attributes:
        x: (B, S, D). Values in the padding are finite, and must not affect valid frames.
        lengths: (B,) int64.
        loudness: (B, S) mean of the features of each frame, NaN in the padding; None unless terms
            are being collected (``asr.loss.collecting``).
        stored: frames that attention stores; None without a gate.
    """

    x: Tensor
    lengths: Tensor
    loudness: Tensor | None = None
    stored: Stored | None = None


class Block(nn.Module, ABC):
    """One layer of an encoder, as a pre-norm residual block: x + f(norm(x)).

    Attributes:
        causal: whether output frame s depends on no frame after the end of its chunk.
        chunk: number of input frames per chunk; a step takes a multiple of it, and the frames of a
            chunk see each other. 1: strictly causal.
        stride: number of input frames per output frame.
    """

    causal: bool = True
    chunk: int = 1
    stride: int = 1

    @abstractmethod
    def forward(self, frames: Frames) -> Frames:
        """Processes (B, S, D) frames of padded utterances.

        The output has ceil(S / stride) frames and the lengths ceil(lengths / stride).
        """

    @abstractmethod
    def initial_state(self, batch: int) -> BlockState:
        """The state of a causal block before the first frame; tensors by name."""

    @abstractmethod
    def step(self, frames: Frames, state: BlockState) -> tuple[Frames, BlockState]:
        """Processes the next chunk, without padding; returns its output and the next state.

        The outputs for consecutive chunks equal the output of ``forward`` for the whole input.
        """

    @abstractmethod
    def flops(self, time: int) -> int:
        """FLOPs of one utterance of ``time`` input frames; see ``Encoder.flops``."""
