"""MinLSTM and MinGRU encoders (Feng et al. 2024, "Were RNNs all we needed?").

The gates depend on the input and not on the state. The state is therefore a linear recurrence, and
a scan computes all frames in parallel.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.encoders.block import BlockState
from asr.encoders.directional import DirectionalBlock
from asr.encoders.stack import Stack
from asr.kernels.linear import Linear, xavier
from asr.kernels.scan import scan, sequential


class MinimalStack(Stack):
    """An encoder of minimal recurrences; a subclass names the ``cell``.

    Args:
        layers: number of layers, each a recurrence and a feed-forward.
        bidirectional: whether the layers read the audio in both directions; if false, the encoder
            is causal.
        expansion: number of cells of the recurrence, as a multiple of dim. In a bidirectional
            encoder, each direction has half of them.
        feedforward: inner width of the feed-forward, as a multiple of dim.
        dropout: dropout probability, on the residual branch of each block and inside feed-forwards.
        forget_bias: initial bias of the gates that keep the state.
    """

    remedy = "set bidirectional: false"
    cell: type["MinimalCell"]

    def __init__(
        self,
        num_mels: int,
        *,
        dim: int,
        layers: int,
        bidirectional: bool = True,
        expansion: int = 2,
        feedforward: int = 2,
        dropout: float = 0.1,
        forget_bias: float = 1.0,
        channels: int = 32,
        subsampling: int = 4,
    ) -> None:
        directions = 2 if bidirectional else 1
        if expansion * dim % directions:
            raise ValueError(f"dim {dim} is odd; two directions share it equally")
        cells = expansion * dim // directions
        blocks = (
            DirectionalBlock(
                dim,
                [self.cell(dim, cells, forget_bias=forget_bias) for _ in range(directions)],
                width=expansion * dim,
                dropout=dropout,
                feedforward=feedforward * dim,
            )
            for _ in range(layers)
        )
        super().__init__(num_mels, blocks, dim=dim, channels=channels, subsampling=subsampling)


class MinimalCell(nn.Module):
    """A recurrence of one direction; a direction of a ``DirectionalBlock``."""

    num_gates: int

    def __init__(self, dim: int, cells: int, *, forget_bias: float) -> None:
        super().__init__()
        self.dim, self.cells = dim, cells
        self.gates = Linear(dim, self.num_gates * cells)
        xavier(self.gates, parts=self.num_gates)
        nn.init.constant_(self.gates.bias.data[:cells], forget_bias)

    @abstractmethod
    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the log of the forget gate and the new input, each (B, S, cells) in float32."""

    def initial_state(self, batch: int) -> BlockState:
        """Zeros: ``hidden``."""
        return {"hidden": self.gates.weight.new_zeros(batch, self.cells)}

    def forward(self, x: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        """Runs the recurrence over (B, S, D); returns (B, S, cells) float32 and the next state."""
        log_kept, new = self.coefficients(x)
        if state is not None and x.shape[1] < 16:  # streaming, a few frames at a time
            y = sequential(log_kept, new, state["hidden"])
        else:
            y = scan(log_kept, new, None if state is None else state["hidden"])
        return y, {"hidden": y[:, -1].clone()}

    def flops(self, time: int) -> int:
        """FLOPs of ``time`` frames; the scan is elementwise."""
        return 2 * self.dim * self.num_gates * self.cells * time


def paper_g(x: Tensor) -> Tensor:
    """The paper's g, of any shape: x + 0.5 where x >= 0, else its logistic function."""
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))


class MinLSTMCell(MinimalCell):
    """h_t = f' h_{t-1} + i' g(W x_t), with f' = f / (f + i) and i' = i / (f + i)."""

    num_gates = 3

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See ``MinimalCell.coefficients``."""
        forget, enter, new = self.gates(x).float().chunk(3, dim=-1)
        # log(f / i); the quotient is a logistic function of it, whatever underflows.
        ratio = F.softplus(-enter) - F.softplus(-forget)
        return F.logsigmoid(ratio), torch.sigmoid(-ratio) * paper_g(new)


class MinLSTM(MinimalStack):
    """Subsampling, then layers of a minimal recurrence and a feed-forward, then a norm.

    The counter-example to "recurrence cannot be parallelised" (Feng et al. 2024): three products
    of the input per frame, none of the state.
    """

    cell = MinLSTMCell


class MinGRUCell(MinimalCell):
    """h_t = (1 - z) h_{t-1} + z g(W x_t)."""

    num_gates = 2

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See ``MinimalCell.coefficients``."""
        keep, new = self.gates(x).float().chunk(2, dim=-1)
        return F.logsigmoid(keep), torch.sigmoid(-keep) * paper_g(new)


class MinGRU(MinimalStack):
    """Subsampling, then layers of a minimal recurrence and a feed-forward, then a norm.

    The counter-example to "recurrence cannot be parallelised" (Feng et al. 2024): two products
    of the input per frame, none of the state.
    """

    cell = MinGRUCell
