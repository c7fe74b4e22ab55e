"""The output layer and loss of attention decoders: label-smoothed cross entropy."""

import torch.nn.functional as F
from torch import Tensor

from asr.batch import BLANK
from asr.layers import TokenOutput, targets
from asr.loss import Term

IGNORED = -100  # the target of a position in the padding


class CrossEntropyHead(TokenOutput):
    """An output layer with its loss; a seq2seq decoder never emits BLANK."""

    def __init__(self, width: int, vocabulary: int, *, label_smoothing: float) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing {label_smoothing} is not in [0, 1)")
        super().__init__(width, vocabulary)
        self.label_smoothing = label_smoothing

    def loss(
        self, x: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor, weight: float
    ) -> Term:
        """Computes the loss of x (B, U + 1, width), summed over U tokens and EOS.

        Rows of length 0 in ``lengths`` are not utterances and are left out.

        In training, the target has probability 1 - label_smoothing and the other V - 2 tokens share
        the rest. Evaluation does not smooth, so that the loss is a likelihood.
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
            # torch spreads the smoothing over all classes, including the target.
            label_smoothing=smoothing * tokens_but_blank / (tokens_but_blank - 1),
        )
        return Term(total, ((token_lengths + 1) * there).sum(), weight)
