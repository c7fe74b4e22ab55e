"""A block of scanned recurrences in one direction or two."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from asr.encoders.block import Block, BlockState, Frames
from asr.kernels.linear import Linear, xavier
from asr.kernels.permute import both_directions
from asr.layers import FeedForward, dropout, modules


class DirectionalBlock(Block):
    """x + projection(directions(norm(x))), then, if asked for, x + feedforward(norm(x)).

    Attributes:
        directions: one or two recurrences, of which the second reads the utterances backwards.
            Each maps (B, S, D) and a state (None: the first) to its outputs and the next state. The
            outputs of all have ``width`` numbers.
    """

    def __init__(
        self,
        dim: int,
        directions: Iterable[nn.Module],
        *,
        width: int,
        dropout: float,
        feedforward: int = 0,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.directions: Sequence[Any] = modules(directions)
        self.dim, self.dropout, self.causal = dim, dropout, len(self.directions) == 1
        self.projection = Linear(width, dim)
        self.feedforward = None
        if feedforward:
            self.feedforward_norm = nn.LayerNorm(dim)
            self.feedforward = FeedForward(dim, inner=feedforward, dropout=dropout)
        xavier(self.projection)

    def forward(self, frames: Frames) -> Frames:
        """Processes (B, S, D) frames; the shape does not change."""
        x = self.norm(frames.x)
        if self.causal:
            return self._join(frames, self.directions[0](x)[0])
        ahead, back = self.directions
        y = both_directions(lambda x: ahead(x)[0], lambda x: back(x)[0], x, frames.lengths)
        return self._join(frames, y)

    def initial_state(self, batch: int) -> BlockState:
        """The state of the only direction."""
        return self.directions[0].initial_state(batch)

    def step(self, frames: Frames, state: BlockState) -> tuple[Frames, BlockState]:
        """See ``Block.step``."""
        y, state = self.directions[0](self.norm(frames.x), state)
        return self._join(frames, y), state

    def _join(self, frames: Frames, y: Tensor) -> Frames:
        """Adds the residual of the recurrence, then the feed-forward module and its residual."""
        y = self.projection(y.to(frames.x.dtype))
        x = frames.x + dropout(y, self.dropout, self.training)
        if self.feedforward is not None:
            y = self.feedforward(self.feedforward_norm(x))
            x = x + dropout(y, self.dropout, self.training)
        return replace(frames, x=x)

    def flops(self, time: int) -> int:
        """FLOPs of one utterance of ``time`` frames."""
        total = sum(direction.flops(time) for direction in self.directions)
        total += 2 * self.projection.in_features * self.dim * time
        return total if self.feedforward is None else total + self.feedforward.flops(time)
