"""Connectionist temporal classification (Graves et al. 2006): the head, its loss, the decoder."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import BLANK, mask
from asr.decoders.decoder import Decoder
from asr.kernels.linear import Linear, xavier
from asr.layers import dropout
from asr.loss import Loss, Term


class CTCHead(nn.Module):
    """A linear layer over encoder frames; it computes in float32 at any precision of the model."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.dim, self.vocabulary = dim, vocabulary
        self.output = Linear(dim, vocabulary)
        xavier(self.output)
        self.output.parts = 0

    def forward(self, encoded: Tensor) -> Tensor:
        """Computes float32 log-probabilities (B, S, V) of frames (B, S, D)."""
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
        """Computes the CTC term and the number of infeasible utterances, () int64.

        The term is the sum of the negative log-likelihoods of the feasible utterances, and counts
        their tokens. An utterance with fewer frames than its tokens need is infeasible.
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
            zero_infinity=True,  # so that the gradient of an infeasible utterance is zero, too
        )
        total = losses.masked_fill(~feasible, 0.0).sum()
        count = (token_lengths * feasible).sum()
        return Term(total, count, weight), (~feasible).sum()

    def flops(self, time: int) -> int:
        """Returns the FLOPs for ``time`` encoder frames."""
        return 2 * self.dim * self.vocabulary * time


class JointCTC(Decoder):
    """A decoder that is trained jointly with a CTC head (Kim, Hori and Watanabe 2017).

    Args:
        dim: width D of the encoder's frames.
        vocabulary: tokens V, BLANK included.
        ctc_weight: weight of the CTC loss in the total loss, at least 0 and below 1; at 0 there is
            no CTC head.

    Attributes:
        ctc: the CTC head; None if the weight is 0.
    """

    ctc: CTCHead | None

    def __init__(self, dim: int, vocabulary: int, ctc_weight: float) -> None:
        super().__init__()
        if not 0 <= ctc_weight < 1:
            raise ValueError(
                f"ctc_weight {ctc_weight} is not in [0, 1); the decoder needs its share"
            )
        self.dim, self.vocabulary, self.ctc_weight = dim, vocabulary, ctc_weight

    @abstractmethod
    def own_terms(
        self, encoded: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> dict[str, Term]:
        """Computes the terms of the loss other than CTC."""

    @abstractmethod
    def own_flops(self, time: int, tokens: int) -> int:
        """Returns one utterance's FLOPs without CTC: ``time`` frames, ``tokens`` labels."""

    def loss(self, encoded: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Loss:
        """See ``Decoder.loss``; returns ``own_terms`` and, if there is a CTC head, ``ctc``."""
        batch = encoded, lengths, tokens, token_lengths
        terms, infeasible = self.own_terms(*batch), (lengths < 1).sum()
        if self.ctc is not None:
            terms["ctc"], infeasible = self.ctc.loss(*batch, self.ctc_weight)
        return Loss(terms, infeasible)

    def ctc_log_probs(self, encoded: Tensor) -> Tensor | None:
        """See ``Decoder.ctc_log_probs``."""
        return None if self.ctc is None else self.ctc(encoded)

    def flops(self, lengths: Sequence[int], token_lengths: Sequence[int]) -> int:
        """See ``Decoder.flops``."""
        own = sum(map(self.own_flops, lengths, token_lengths))
        return own if self.ctc is None else own + self.ctc.flops(sum(lengths))


class CTC(Decoder):
    """The CTC head alone: each frame predicts a token or BLANK, independently of other frames.

    The loss is the negative log-likelihood of the tokens, summed over all alignments. No frame has
    a target of its own, so label smoothing does not apply.

    Args:
        dim: width D of the encoder's frames.
        vocabulary: tokens V, BLANK included.
        dropout: dropout probability, on the encoder's frames.
    """

    def __init__(self, dim: int, vocabulary: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.dim, self.vocabulary, self.dropout = dim, vocabulary, dropout
        self.head = CTCHead(dim, vocabulary)

    def loss(self, encoded: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Loss:
        """See ``Decoder.loss``; the term is ``ctc``."""
        x = dropout(encoded, self.dropout, self.training)
        term, infeasible = self.head.loss(x, lengths, tokens, token_lengths, 1.0)
        return Loss({"ctc": term}, infeasible)

    def ctc_log_probs(self, encoded: Tensor) -> Tensor:
        """See ``Decoder.ctc_log_probs``."""
        log_probs: Tensor = self.head(encoded)
        return log_probs

    def flops(self, lengths: Sequence[int], token_lengths: Sequence[int]) -> int:
        """Counts the output layer; see ``Decoder.flops``."""
        return self.head.flops(sum(lengths))


def frames_needed(tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """Counts the frames (B,) that an alignment of (B, U) tokens needs at least.

    An alignment needs one frame per token and one per blank between equal neighbours, and at least
    one frame.
    """
    equal = tokens[:, 1:] == tokens[:, :-1]
    repeats = equal & mask(token_lengths - 1, equal.shape[1])
    return (token_lengths + repeats.sum(1)).clamp(min=1)
