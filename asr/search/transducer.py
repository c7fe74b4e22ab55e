"""Greedy and beam search along the lattice of a transducer; pure functions."""

from torch import Tensor

from asr.decoders.decoder import TransducerDecoder
from asr.language_models.language_model import LanguageModel
from asr.search.hypothesis import Hypothesis, Rules


def greedy(decoder: TransducerDecoder, encoded: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
    """(B, S, D), (B,) -> the labels of the path that takes the likeliest step each time."""
    raise NotImplementedError


def search(
    decoder: TransducerDecoder,
    encoded: Tensor,
    lengths: Tensor,
    rules: Rules,
    language_model: LanguageModel | None = None,
) -> list[list[Hypothesis]]:
    """(B, S, D), (B,) -> hypotheses of each utterance, best first."""
    raise NotImplementedError
