"""State-space encoder: Mamba-2 layers, bidirectional or causal."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.encoders.block import Block, Frames, State
from asr.encoders.depthwise import Depthwise
from asr.encoders.stack import Stack
from asr.layers import Permute, dropout, modules, reversal
from asr.linear import Linear
from asr.state_space import scan, scan_flops

KERNEL = 4  # frames under the convolution; this and the rest are Mamba-2's
RATES = (1.0, 16.0)
STEPS = (0.001, 0.1)
EPSILON = 1e-5


class StateSpace(Stack):
    """Subsampling, then layers of x + projection(selective state space(norm(x))), then a norm.

    Mamba-2 (Dao & Gu 2024): a recurrence whose decay, input and output depend on the frame, in
    products of matrices. A bidirectional layer has two of them, one on the frames reversed.
    """

    remedy = "set bidirectional: false"

    def __init__(
        self,
        num_mels: int,
        *,
        dim: int,
        layers: int,
        bidirectional: bool = True,
        expansion: int = 2,
        heads: int = 8,
        state: int = 64,
        dropout: float = 0.1,
        channels: int = 32,
    ) -> None:
        """Builds the encoder.

        Args:
            num_mels: mel bins F.
            dim: width D.
            layers: layers.
            bidirectional: whether the future is seen too; without, the encoder is causal.
            expansion: inner width, in multiples of dim; two directions share it.
            heads: parts of the inner width that decay by themselves; two directions share them.
            state: numbers that are remembered per unit of the inner width.
            dropout: probability, on each layer's output.
            channels: channels of the subsampling convolutions.

        Raises:
            ValueError: heads that do not divide the inner width, or two directions cannot share.
        """
        blocks = (
            StateSpaceBlock(
                dim,
                bidirectional=bidirectional,
                expansion=expansion,
                heads=heads,
                state=state,
                dropout=dropout,
            )
            for _ in range(layers)
        )
        super().__init__(num_mels, blocks, dim=dim, channels=channels)


class StateSpaceBlock(Block):
    """x + projection(mixer(norm(x))), with one mixer or, joined, two of opposite directions."""

    def __init__(
        self,
        dim: int,
        *,
        bidirectional: bool,
        expansion: int,
        heads: int,
        state: int,
        dropout: float,
    ) -> None:
        super().__init__()
        directions, inner = 2 if bidirectional else 1, expansion * dim
        if heads < 1 or heads % directions:
            raise ValueError(f"heads {heads}: take a multiple of {directions} (directions)")
        if inner % heads:
            raise ValueError(
                f"inner width {inner} (expansion * dim) does not divide by heads ({heads})"
            )
        self.dim, self.dropout, self.causal = dim, dropout, not bidirectional
        self.norm = nn.LayerNorm(dim)
        self.directions = modules(
            Mixer(dim, heads=heads // directions, width=inner // heads, state=state)
            for _ in range(directions)
        )
        self.projection = Linear(inner, dim, bias=False)

    def forward(self, frames: Frames) -> Frames:
        """(B, S, D) -> (B, S, D)."""
        x = self.norm(frames.x)
        y = self.directions[0](x)
        if not self.causal:
            order = reversal(frames.lengths, x.shape[1])
            back = self.directions[1](Permute.apply(x, order))
            y = torch.cat([y, Permute.apply(back, order)], dim=-1)
        return self._join(frames, y)

    def initial_state(self, batch: int) -> State:
        """Zeros: ``hidden`` of the recurrence and the frames ``before`` under the convolution."""
        return self.directions[0].initial_state(batch)

    def step(self, frames: Frames, state: State) -> tuple[Frames, State]:
        """See ``Block.step``."""
        y, state = self.directions[0].step(self.norm(frames.x), state)
        return self._join(frames, y), state

    def _join(self, frames: Frames, y: Tensor) -> Frames:
        y = self.projection(y.to(frames.x.dtype))
        return replace(frames, x=frames.x + dropout(y, self.dropout, self.training))

    def flops(self, time: int) -> int:
        """FLOPs of one utterance of ``time`` frames."""
        total = sum(direction.flops(time) for direction in self.directions)
        return total + 2 * self.projection.in_features * self.dim * time


class Mixer(nn.Module):
    """Mamba-2's mixer of one direction, without its output projection.

    One product gives the gate z, the step sizes dt and, after a causal convolution over time, what
    comes in (x), where it enters the state (b) and what is read from it (c).
    """

    def __init__(self, dim: int, *, heads: int, width: int, state: int) -> None:
        super().__init__()
        self.dim, self.heads, self.width, self.state = dim, heads, width, state
        self.inner = heads * width
        convolved = self.inner + 2 * state
        self.input = Linear(dim, self.inner + convolved + heads, bias=False)
        self.convolution = Depthwise(convolved, kernel=KERNEL, causal=True)
        self.log_rate = nn.Parameter(torch.empty(heads).uniform_(*RATES).log())
        least, most = map(math.log, STEPS)
        steps = torch.empty(heads).uniform_(least, most).exp()
        self.step_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))  # softplus gives it
        self.skip = nn.Parameter(torch.ones(heads))
        self.norm = nn.RMSNorm(self.inner, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, inner)."""
        return self.step(x, self.initial_state(len(x)))[0]

    def initial_state(self, batch: int) -> State:
        """See ``StateSpaceBlock.initial_state``."""
        hidden = self.skip.new_zeros(batch, self.heads, self.width, self.state)
        return {"hidden": hidden, "before": self.convolution.initial_state(batch)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, S, D), state -> (B, S, inner), next state."""
        convolved = self.convolution.dim
        z, y, dt = self.input(x).split([self.inner, convolved, self.heads], dim=-1)
        y, before = self.convolution.step(y, state["before"])
        x, b, c = F.silu(y).float().split([self.inner, self.state, self.state], dim=-1)
        y, hidden = scan(
            x.unflatten(2, (self.heads, self.width)),
            F.softplus(dt.float() + self.step_bias),
            -self.log_rate.exp(),
            b,
            c,
            self.skip,
            state["hidden"],
        )
        y = self.norm(y.flatten(2) * F.silu(z.float()))
        return y, {"hidden": hidden, "before": before}

    def flops(self, time: int) -> int:
        """FLOPs of ``time`` frames."""
        scanned = scan_flops(time, self.heads, self.width, self.state)
        projected = 2 * self.input.in_features * self.input.out_features * time
        return projected + self.convolution.flops(time) + scanned
