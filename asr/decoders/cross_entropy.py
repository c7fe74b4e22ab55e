"""What attention decoders are trained with: teacher forcing and a smoothed cross-entropy."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import BLANK, EOS, mask
from asr.kernels.linear import Linear
from asr.loss import Term

IGNORED = -100  # the target of a position that does not exist


class CrossEntropyHead(nn.Module):
    """A linear layer to all tokens but BLANK, which a seq2seq decoder never emits."""

    def __init__(self, width: int, vocabulary: int, *, label_smoothing: float) -> None:
        super().__init__()
        if vocabulary < 3:
            raise ValueError(f"a vocabulary of {vocabulary}; BLANK, EOS and one token are needed")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing {label_smoothing} is not in [0, 1)")
        self.width, self.vocabulary = width, vocabulary
        self.label_smoothing = label_smoothing
        self.output = Linear(width, vocabulary - 1)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., V) float32 log-probabilities, that of BLANK -inf."""
        log_probs = self.output(x).float().log_softmax(-1)
        return F.pad(log_probs, (BLANK + 1, 0), value=-torch.inf)

    def loss(
        self, x: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor, weight: float
    ) -> Term:
        """(B, U + 1, width), (B,), (B, U), (B,) -> the sum over U + 1 tokens each, EOS last.

        Rows of no frames (``lengths``) are no utterances and have no part in it.

        In training a target has probability 1 - label_smoothing and the other V - 2 tokens share
        the rest. In evaluation nothing is smoothed, so that the loss is a likelihood.
        """
        target = targets(tokens, token_lengths) - (BLANK + 1)
        there = lengths > 0
        smoothing = self.label_smoothing if self.training else 0.0
        tokens_but_blank = self.vocabulary - 1
        total = F.cross_entropy(
            self.output(x).float().flatten(0, 1),
            target.masked_fill((target < 0) | ~there[:, None], IGNORED).flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            # torch spreads the smoothing over all classes, the target included.
            label_smoothing=smoothing * tokens_but_blank / (tokens_but_blank - 1),
        )
        return Term(total, ((token_lengths + 1) * there).sum(), weight)

    def flops(self, time: int) -> int:
        """FLOPs of ``time`` positions."""
        return 2 * self.width * (self.vocabulary - 1) * time


def inputs(tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """(B, U), (B,) -> (B, U + 1): EOS, then the tokens; BLANK beyond them."""
    tokens = tokens.masked_fill(~mask(token_lengths, tokens.shape[1]), BLANK)
    return F.pad(tokens, (1, 0), value=EOS)


def targets(tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """(B, U), (B,) -> (B, U + 1): the tokens, then EOS; BLANK beyond it."""
    tokens = F.pad(tokens.masked_fill(~mask(token_lengths, tokens.shape[1]), BLANK), (0, 1))
    return tokens.scatter(1, token_lengths[:, None], EOS)


def check_ctc_weight(weight: float) -> None:
    """Refuses weights that leave nothing to the attention decoder.

    Raises:
        ValueError: not in [0, 1).
    """
    if not 0 <= weight < 1:
        raise ValueError(f"ctc_weight {weight} is not in [0, 1); the decoder needs its share")
