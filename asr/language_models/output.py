"""What neural language models have in common: what they read, and a layer to their tokens."""

import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import BLANK, EOS, mask
from asr.kernels.linear import Linear


class Output(nn.Module):
    """A linear layer to all tokens but BLANK, which is no text."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        if vocabulary < 3:
            raise ValueError(f"a vocabulary of {vocabulary}; BLANK, EOS and one token are needed")
        self.width, self.vocabulary = width, vocabulary
        self.output = Linear(width, vocabulary - 1)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., V) float32 log-probabilities, that of BLANK -inf."""
        log_probs = self.output(x).float().log_softmax(-1)
        return F.pad(log_probs, (BLANK + 1, 0), value=-float("inf"))

    def of(self, x: Tensor, targets: Tensor) -> Tensor:
        """(B, U, width), (B, U) -> (B, U) float32 log-probabilities of targets; BLANK has 0."""
        wanted = (targets - (BLANK + 1)).clamp(min=0)[..., None]  # (B, U, 1)
        scores = self.output(x).float().log_softmax(-1).gather(-1, wanted)[..., 0]
        return scores.masked_fill(targets == BLANK, 0.0)

    def flops(self) -> int:
        """FLOPs of one token."""
        return 2 * self.width * (self.vocabulary - 1)


def read(tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(B, U), (B,) -> (B, U + 1) twice: EOS and the tokens, to read; tokens and EOS, to say.

    BLANK stands beyond both.
    """
    tokens = tokens.masked_fill(~mask(lengths, tokens.shape[1]), BLANK)
    said = F.pad(tokens, (0, 1), value=BLANK).scatter(1, lengths[:, None], EOS)
    return F.pad(tokens, (1, 0), value=EOS), said
