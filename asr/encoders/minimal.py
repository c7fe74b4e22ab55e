"""Minimal recurrences (Feng et al. 2024, "Were RNNs all we needed?"): they train in parallel.

The gates see the input and not the state, so the state is a linear recurrence, and a scan gives
all frames at once.
"""

from abc import abstractmethod
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.encoders.block import Block, Frames, State
from asr.kernels.linear import Linear
from asr.kernels.permute import Permute, reversal
from asr.kernels.scan import scan, sequential
from asr.layers import FeedForward, dropout, modules


class Minimal(nn.Module):
    """A recurrence of one direction, (B, S, D) -> (B, S, cells)."""

    gates: Linear

    def __init__(self, dim: int, cells: int, *, gates: int, forget_bias: float) -> None:
        super().__init__()
        self.dim, self.cells, self.number = dim, cells, gates
        self.gates = Linear(dim, gates * cells)
        for weight in self.gates.weight.data.split(cells):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.gates.bias)
        nn.init.constant_(self.gates.bias.data[:cells], forget_bias)

    @abstractmethod
    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, D) -> log of what is kept, (B, S, cells), and what comes in, in float32."""

    def forward(self, x: Tensor, initial: Tensor | None = None) -> Tensor:
        """(B, S, D), (B, cells) -> the states (B, S, cells)."""
        log_kept, new = self.coefficients(x)
        if initial is not None and x.shape[1] < 16:  # streaming, a few frames at a time
            return sequential(log_kept, new, initial)
        return scan(log_kept, new, initial)

    def flops(self, time: int) -> int:
        """FLOPs of ``time`` frames; the scan is elementwise."""
        return 2 * self.dim * self.number * self.cells * time


class MinLSTMCell(Minimal):
    """h_t = f' h_{t-1} + i' g(W x_t), with f' = f / (f + i) and i' = i / (f + i)."""

    def __init__(self, dim: int, cells: int, *, forget_bias: float) -> None:
        super().__init__(dim, cells, gates=3, forget_bias=forget_bias)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Minimal.coefficients``."""
        forget, enter, new = self.gates(x).float().chunk(3, dim=-1)
        # log(f / i); the quotient is a logistic function of it, whatever underflows.
        ratio = F.softplus(-enter) - F.softplus(-forget)
        log_kept = F.logsigmoid(ratio)
        return log_kept, torch.sigmoid(-ratio) * positive(new)


class MinGRUCell(Minimal):
    """h_t = (1 - z) h_{t-1} + z g(W x_t)."""

    def __init__(self, dim: int, cells: int, *, forget_bias: float) -> None:
        super().__init__(dim, cells, gates=2, forget_bias=forget_bias)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Minimal.coefficients``."""
        keep, new = self.gates(x).float().chunk(2, dim=-1)
        return F.logsigmoid(keep), torch.sigmoid(-keep) * positive(new)


def positive(x: Tensor) -> Tensor:
    """The paper's g, of any shape: x + 0.5 where x >= 0, else its logistic function."""
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))


class MinimalBlock(Block):
    """x + projection(recurrence(norm(x))), then x + feedforward(norm(x))."""

    def __init__(
        self,
        dim: int,
        *,
        cell: type[MinLSTMCell] | type[MinGRUCell],
        bidirectional: bool,
        expansion: int,
        feedforward: int,
        dropout: float,
        forget_bias: float,
    ) -> None:
        super().__init__()
        directions = 2 if bidirectional else 1
        if expansion * dim % directions:
            raise ValueError(f"dim {dim} is odd; two directions share it equally")
        cells = expansion * dim // directions
        self.dim, self.dropout, self.causal = dim, dropout, not bidirectional
        self.norm = nn.LayerNorm(dim)
        self.directions = modules(
            cell(dim, cells, forget_bias=forget_bias) for _ in range(directions)
        )
        self.projection = Linear(expansion * dim, dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, inner=feedforward * dim, dropout=dropout)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, frames: Frames) -> Frames:
        """(B, S, D) -> (B, S, D)."""
        x = self.norm(frames.x)
        y = self.directions[0](x)
        if not self.causal:
            order = reversal(frames.lengths, x.shape[1])
            back = self.directions[1](Permute.apply(x, order))
            y = torch.cat([y, Permute.apply(back.contiguous(), order)], dim=-1)
        return self._join(frames, y)

    def initial_state(self, batch: int) -> State:
        """Zeros: ``hidden``."""
        return {"hidden": self.norm.weight.new_zeros(batch, self.directions[0].cells)}

    def step(self, frames: Frames, state: State) -> tuple[Frames, State]:
        """See ``Block.step``."""
        y = self.directions[0](self.norm(frames.x), state["hidden"])
        return self._join(frames, y), {"hidden": y[:, -1].clone()}

    def _join(self, frames: Frames, y: Tensor) -> Frames:
        """The residual around the recurrence, then the feed-forward with its own."""
        y = self.projection(y.to(frames.x.dtype))
        x = frames.x + dropout(y, self.dropout, self.training)
        y = self.feedforward(self.feedforward_norm(x))
        return replace(frames, x=x + dropout(y, self.dropout, self.training))

    def flops(self, time: int) -> int:
        """FLOPs of one utterance of ``time`` frames."""
        total = sum(direction.flops(time) for direction in self.directions)
        width = self.projection.in_features
        return total + 2 * width * self.dim * time + self.feedforward.flops(time)
