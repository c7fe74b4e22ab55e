"""Universal Transformer encoder (Dehghani et al. 2019): repeats one layer until frames halt."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from asr.batch import mask
from asr.encoders.attention import FrameAttention
from asr.encoders.block import Block, BlockState, Frames
from asr.encoders.stack import Stack, state_as_part, state_of_part
from asr.encoders.transformer import Input, TransformerBlock
from asr.kernels.linear import Linear
from asr.loss import add_term

HALTED = 0.99  # 1 - epsilon of Graves 2016: a frame halts when its probabilities sum to more


class Universal(Stack):
    """Subsampling, then one Transformer layer applied again and again, then a norm.

    Every frame halts by itself (adaptive computation time, Graves 2016). What a run pondered is in
    its ledger: ``ponder``, which is learnt from, and ``steps``, the mean number of applications.

    Args:
        heads: number of attention heads; dim must be a multiple of twice this number.
        max_steps: largest number of times that the layer is applied to a frame.
        feedforward: inner width of the feed-forward, as a multiple of dim.
        dropout: dropout probability, on the input, on the residual branch of each module and inside
            feed-forwards.
        causal: whether a frame sees only itself and earlier frames.
        left_context: number of earlier encoder frames that a frame of a causal encoder sees; null:
            all.
        ponder_weight: weight of the ponder cost in the loss.
        halting_bias: initial bias of the halting unit; -1 gives about four steps.
    """

    remedy = "set causal: true"

    def __init__(
        self,
        num_mels: int,
        *,
        dim: int,
        heads: int,
        max_steps: int = 6,
        feedforward: int = 4,
        dropout: float = 0.1,
        causal: bool = False,
        left_context: int | None = None,
        ponder_weight: float = 0.01,
        halting_bias: float = -1.0,
        channels: int = 32,
        subsampling: int = 4,
    ) -> None:
        if max_steps < 1:
            raise ValueError(f"max_steps {max_steps}: the layer is applied at least once")
        attention = FrameAttention(dim, heads=heads, causal=causal, left_context=left_context)
        layer = TransformerBlock(dim, attention, inner=feedforward * dim, dropout=dropout)
        blocks: list[Block] = [
            Input(dim, dropout=dropout, sinusoidal=False),
            UniversalBlock(layer, dim, max_steps, ponder_weight, halting_bias),
        ]
        super().__init__(num_mels, blocks, dim=dim, channels=channels, subsampling=subsampling)


class UniversalBlock(Block):
    """One layer applied in depth, with a learned vector per step and a halting unit."""

    def __init__(
        self,
        layer: TransformerBlock,
        dim: int,
        max_steps: int,
        ponder_weight: float,
        halting_bias: float,
    ) -> None:
        super().__init__()
        self.layer, self.max_steps, self.ponder_weight = layer, max_steps, ponder_weight
        self.causal = layer.causal
        self.depth = nn.Parameter(0.02 * torch.randn(max_steps, dim))
        self.halting = Linear(dim, 1)
        nn.init.zeros_(self.halting.weight)
        nn.init.constant_(self.halting.bias, halting_bias)

    def forward(self, frames: Frames) -> Frames:
        """Returns the states (B, S, D), weighted by their halting probabilities.

        The loop ends when every real frame has halted, because further steps change nothing. On a
        GPU the host waits at every step to learn this.
        """
        real = mask(frames.lengths, frames.x.shape[1])
        ponder = Ponder(frames.x, self.max_steps)
        for step in range(self.max_steps):
            new = self.layer(replace(frames, x=ponder.x + self.depth[step])).x
            ponder.add(new, torch.sigmoid(self.halting(new).float()))
            if not bool((ponder.running & real[..., None]).any()):
                break
        count = real.sum()
        cost = (ponder.steps + ponder.remainder)[..., 0] * real
        add_term("ponder", cost.sum(), count, self.ponder_weight)
        add_term("steps", (ponder.steps[..., 0] * real).sum(), count)
        return replace(frames, x=ponder.y.to(frames.x.dtype))

    def initial_state(self, batch: int) -> BlockState:
        """The state of the attention for each step in depth."""
        state: BlockState = {}
        for step in range(self.max_steps):
            state |= state_as_part(step, self.layer.initial_state(batch))
        return state

    def step(self, frames: Frames, state: BlockState) -> tuple[Frames, BlockState]:
        """See ``Block.step``; takes all steps in depth, as later frames attend to each of them."""
        ponder = Ponder(frames.x, self.max_steps)
        after: BlockState = {}
        for step in range(self.max_steps):
            moved = replace(frames, x=ponder.x + self.depth[step])
            moved, then = self.layer.step(moved, state_of_part(step, state))
            ponder.add(moved.x, torch.sigmoid(self.halting(moved.x).float()))
            after |= state_as_part(step, then)
        return replace(frames, x=ponder.y.to(frames.x.dtype)), after

    def flops(self, time: int) -> int:
        """FLOPs of one utterance if no frame halts before the last step: an upper bound."""
        return self.max_steps * (self.layer.flops(time) + 2 * self.halting.in_features * time)


class Ponder:
    """Adaptive computation time of each frame (Graves 2016, equations 5 to 9).

    Attributes:
        x: (B, S, D) the states; the state of a frame no longer changes after it has halted.
        y: (B, S, D) sum of the states, weighted by the halting probabilities; the last step has the
            remaining probability as its weight.
        running: (B, S, 1) bool, True for frames that have not halted.
        steps: (B, S, 1) number of steps of each frame.
        remainder: (B, S, 1) weight of the last step, which gives the ponder cost its gradient.
    """

    def __init__(self, x: Tensor, max_steps: int) -> None:
        zeros = torch.zeros_like(x[..., :1], dtype=torch.float32)
        self.x, self.y = x, torch.zeros_like(x, dtype=torch.float32)
        self.running = torch.ones_like(zeros, dtype=torch.bool)
        self.steps, self.remainder, self.total = zeros, zeros, zeros
        self.left = max_steps

    def add(self, new: Tensor, probability: Tensor) -> None:
        """Adds one step: the new states (B, S, D), and the probability (B, S, 1) to halt there."""
        self.left -= 1
        total = self.total + probability
        last = self.running & ((total > HALTED) | (self.left == 0))
        weight = torch.where(last, 1 - self.total, probability) * self.running
        self.remainder = torch.where(last, 1 - self.total, self.remainder)
        self.y = self.y + weight * new
        self.x = torch.where(self.running, new, self.x.to(new.dtype))
        self.steps = self.steps + self.running
        self.total = torch.where(self.running, total, self.total)
        self.running = self.running & ~last
