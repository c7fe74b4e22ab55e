"""A block: one layer of an encoder, and what passes between blocks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

State = dict[str, Tensor]


@dataclass(frozen=True)
class Frames:
    """What passes from block to block; change it with ``dataclasses.replace``.

    Attributes:
        x: (B, S, D). What stands in the padding is finite, and must not matter.
        lengths: (B,) int64.
    """

    x: Tensor
    lengths: Tensor


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
    def initial_state(self, batch: int) -> State:
        """What a causal block remembers before the first frame; tensors of any names."""

    @abstractmethod
    def step(self, frames: Frames, state: State) -> tuple[Frames, State]:
        """Consecutive chunks without padding -> what ``forward`` gives on the whole, next state."""

    @abstractmethod
    def flops(self, time: int) -> int:
        """FLOPs of one utterance that enters with ``time`` frames; see ``Encoder.flops``."""
