"""MinLSTM encoder: a gated recurrence that trains in parallel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.encoders.minimal import MinimalCell, MinimalStack, paper_g


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
