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

CONTEXT = 2  # tokens that a stateless prediction network sees, where nothing else is said


class Transducer(JointCTC, TransducerDecoder):
    """A prediction network over tokens, joined with the encoder's frames (He et al. 2019).

    Its loss is the likelihood of the tokens, summed over all alignments, so there is no target at
    a cell of the lattice and label smoothing does not apply. All of it is computed in float32
    whatever the precision of the model.

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
        """See ``JointCTC.own_terms``; ``transducer``.

        The sum of negative log-likelihoods, counted in U + 1 as an attention decoder's: the BLANK
        that leaves the last frame is its EOS. Any number of tokens has an alignment with one frame
        or more; utterances without a frame have none and are left out.
        """
        sizes = torch.stack([lengths, token_lengths]).tolist()
        with torch.autocast(encoded.device.type, enabled=False):
            predictions = self.joint.prediction(self.prediction(inputs(tokens, token_lengths)))
            total = self.joint.loss(self.project(encoded), predictions, sizes[0], tokens, sizes[1])
        count = ((token_lengths + 1) * (lengths > 0)).sum()
        return {"transducer": Term(total, count, 1 - self.ctc_weight)}

    def project(self, encoded: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, J); see ``TransducerDecoder.project``."""
        with torch.autocast(encoded.device.type, enabled=False):
            return self.joint.encoder(encoded.float())

    def begin(self, rows: int) -> Cache:
        """The prediction network's state before EOS; see ``TransducerDecoder.begin``."""
        return self.prediction.begin(rows)

    def predict(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """(N,) last tokens -> (N, J), next state; see ``TransducerDecoder.predict``."""
        with torch.autocast(tokens.device.type, enabled=False):
            y, after = self.prediction.step(tokens, cache)
            return self.joint.prediction(y), after

    def join(self, frames: Tensor, predictions: Tensor) -> Tensor:
        """(..., J), (..., J) -> (..., V); see ``TransducerDecoder.join``."""
        with torch.autocast(frames.device.type, enabled=False):
            return self.joint(frames, predictions)

    def internal_lm(self, predictions: Tensor) -> Tensor:
        """(N, J) -> (N, V); see ``TransducerDecoder.internal_lm``."""
        with torch.autocast(predictions.device.type, enabled=False):
            return self.joint.internal_lm(predictions)

    def own_flops(self, time: int, tokens: int) -> int:
        """Products of prediction and joint network; see ``JointCTC.own_flops``."""
        return self.prediction.flops(tokens + 1) + self.joint.flops(time, tokens)


def _prediction(
    kind: str, vocabulary: int, width: int, layers: int, context: int | None, dropout: float
) -> LSTMPrediction | StatelessPrediction:
    """The prediction network; an option that it does not have is refused."""
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
