"""Greedy and time-synchronous prefix beam search over a CTC head; pure functions."""

from torch import Tensor

from asr.decoders.decoder import Decoder
from asr.language_models.language_model import LanguageModel
from asr.search.hypothesis import Hypothesis, Rules


def greedy(decoder: Decoder, encoded: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
    """(B, S, D), (B,) -> the labels of the likeliest path of each utterance."""
    raise NotImplementedError


def search(
    decoder: Decoder,
    encoded: Tensor,
    lengths: Tensor,
    rules: Rules,
    language_model: LanguageModel | None = None,
) -> list[list[Hypothesis]]:
    """(B, S, D), (B,) -> hypotheses of each utterance, best first."""
    raise NotImplementedError
