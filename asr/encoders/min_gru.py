"""MinGRU encoder: a gated recurrence that trains in parallel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.encoders.minimal import MinimalCell, MinimalStack, paper_g


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
