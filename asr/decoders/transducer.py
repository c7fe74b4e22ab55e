"""The transducer (Graves 2012) predicts a token or BLANK at each frame, given all tokens so far."""

from typing import Literal

import torch
from torch import Tensor

from asr.batch import Cache
from asr.decoders.ctc import CTCHead, JointCTC
from asr.decoders.decoder import TransducerDecoder
from asr.decoders.joint import Joint
from asr.decoders.prediction import LSTMPrediction, StatelessPrediction
from asr.layers import inputs
from asr.loss import Term

CONTEXT = 2  # default number of tokens that a stateless prediction network sees


class Transducer(JointCTC, TransducerDecoder):
    """A prediction network over tokens, joined with the encoder's frames (He et al. 2019).

    The loss is the negative log-likelihood of the tokens, summed over all alignments. No cell of
    the lattice has a target of its own, so label smoothing does not apply. The decoder computes in
    float32 at any precision of the model.

    Args:
        width: width of the embeddings and the output of the prediction network.
        joint: width J of the joint network.
        prediction: prediction network: lstm sees all previous tokens (Graves 2012), stateless sees
            the last few (Ghodsi et al. 2020).
        layers: number of LSTM layers.
        context: number of previous tokens that a stateless prediction network sees; null: 2. For an
            LSTM it must be null.
        dropout: dropout probability, on the embeddings and the output of the prediction network.
    """

    def __init__(
        self,
        dim: int,
        vocabulary: int,
        *,
        width: int,
        joint: int,
        prediction: Literal["lstm", "stateless"] = "lstm",
        layers: int = 1,
        context: int | None = None,
        ctc_weight: float = 0.3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(dim, vocabulary, ctc_weight)
        self.prediction = _prediction(prediction, vocabulary, width, layers, context, dropout)
        self.joint = Joint(dim, width, joint, vocabulary)
        self.ctc = CTCHead(dim, vocabulary) if ctc_weight else None

    def own_terms(
        self, encoded: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> dict[str, Term]:
        """See ``JointCTC.own_terms``; the term is ``transducer``.

        The term counts U + 1 tokens, like that of an attention decoder, because the BLANK after the
        last frame corresponds to EOS. One frame suffices for an alignment of any tokens; utterances
        without frames are left out.
        """
        sizes = torch.stack([lengths, token_lengths]).tolist()
        with torch.autocast(encoded.device.type, enabled=False):
            predictions = self.joint.prediction(self.prediction(inputs(tokens, token_lengths)))
            total = self.joint.loss(self.project(encoded), predictions, sizes[0], tokens, sizes[1])
        count = ((token_lengths + 1) * (lengths > 0)).sum()
        return {"transducer": Term(total, count, 1 - self.ctc_weight)}

    def project(self, encoded: Tensor) -> Tensor:
        """See ``TransducerDecoder.project``."""
        with torch.autocast(encoded.device.type, enabled=False):
            return self.joint.encoder(encoded.float())

    def begin(self, rows: int) -> Cache:
        """Returns the prediction network's state before EOS; see ``TransducerDecoder.begin``."""
        return self.prediction.begin(rows)

    def predict(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """See ``TransducerDecoder.predict``."""
        with torch.autocast(tokens.device.type, enabled=False):
            y, after = self.prediction.step(tokens, cache)
            return self.joint.prediction(y), after

    def join(self, frames: Tensor, predictions: Tensor) -> Tensor:
        """See ``TransducerDecoder.join``."""
        with torch.autocast(frames.device.type, enabled=False):
            return self.joint(frames, predictions)

    def internal_lm(self, predictions: Tensor) -> Tensor:
        """See ``TransducerDecoder.internal_lm``."""
        with torch.autocast(predictions.device.type, enabled=False):
            return self.joint.internal_lm(predictions)

    def own_flops(self, time: int, tokens: int) -> int:
        """Returns the FLOPs of the prediction network and the joint network.

        ``JointCTC.own_flops`` describes the arguments.
        """
        return self.prediction.flops(tokens + 1) + self.joint.flops(time, tokens)


def _prediction(
    kind: str, vocabulary: int, width: int, layers: int, context: int | None, dropout: float
) -> LSTMPrediction | StatelessPrediction:
    """Builds the prediction network; raises ValueError for an option that it does not have."""
    if width < 1:
        raise ValueError(f"width is {width}: the prediction network needs at least 1")
    if kind == "lstm":
        if context is not None:
            raise ValueError(f"context is {context}: an LSTM sees all tokens, leave it out")
        return LSTMPrediction(vocabulary, width, layers=layers, dropout=dropout)
    if kind != "stateless":
        raise ValueError(f"prediction is {kind}: it must be lstm or stateless")
    if layers != 1:
        raise ValueError(f"layers is {layers}: a stateless network has one, leave it out")
    context = CONTEXT if context is None else context
    return StatelessPrediction(vocabulary, width, context=context, dropout=dropout)
