"""Connectionist temporal classification (Graves et al. 2006): a head and its loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import BLANK, mask
from asr.linear import Linear
from asr.loss import Term


class CTCHead(nn.Module):
    """A linear layer over encoder frames, in float32 whatever the precision of the model."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.dim, self.vocabulary = dim, vocabulary
        self.output = Linear(dim, vocabulary)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, encoded: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, V) float32 log-probabilities."""
        with torch.autocast(encoded.device.type, enabled=False):
            return self.output(encoded.float()).log_softmax(-1)

    def loss(
        self,
        encoded: Tensor,
        lengths: Tensor,
        tokens: Tensor,
        token_lengths: Tensor,
        weight: float,
    ) -> tuple[Term, Tensor]:
        """(B, S, D), (B,), (B, U), (B,) -> the term, and () int64 infeasible utterances.

        The sum of negative log-likelihoods over feasible utterances, counted in tokens.
        """
        feasible = frames_needed(tokens, token_lengths) <= lengths
        log_probs = self(encoded).transpose(0, 1)  # (S, B, V)
        losses = F.ctc_loss(
            log_probs,
            tokens.masked_fill(~mask(token_lengths, tokens.shape[1]), BLANK + 1),
            lengths,
            token_lengths,
            blank=BLANK,
            reduction="none",
            zero_infinity=True,  # an infeasible utterance has no gradient either
        )
        total = losses.masked_fill(~feasible, 0.0).sum()
        count = (token_lengths * feasible).sum()
        return Term(total, count, weight), (~feasible).sum()

    def flops(self, time: int) -> int:
        """FLOPs of ``time`` encoder frames."""
        return 2 * self.dim * self.vocabulary * time


def frames_needed(tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """(B, U), (B,) -> (B,) the fewest frames: one per token, a blank between equal neighbours.

    At least one, because no alignment of zero frames exists.
    """
    equal = tokens[:, 1:] == tokens[:, :-1]
    repeats = equal & mask(token_lengths - 1, equal.shape[1])
    return (token_lengths + repeats.sum(1)).clamp(min=1)
