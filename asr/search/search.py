"""Greedy and beam search over any decoder: one interface, and who does the work.

An attention decoder is searched token by token (``asr.search.attention``), CTC alone frame by frame
(``asr.search.ctc``), a transducer along its lattice (``asr.search.transducer``).
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from asr.decoders.decoder import AttentionDecoder, Decoder, TransducerDecoder
from asr.kernels.linear import packed
from asr.language_models.language_model import LanguageModel
from asr.search import attention, ctc, transducer
from asr.search.hypothesis import Hypothesis, Rules

CTC_WEIGHT = 0.3  # of attention decoders with a CTC head (Watanabe et al. 2017)


class Search(ABC):
    """From encoder frames to hypotheses. Subclasses are final; there is no code here.

    Attributes:
        lm_weight: of the language model; 0: it is called without one.
    """

    lm_weight: float = 0.0

    @abstractmethod
    def __call__(
        self,
        decoder: Decoder,
        encoded: Tensor,
        lengths: Tensor,
        language_model: LanguageModel | None = None,
    ) -> list[list[Hypothesis]]:
        """(B, S, D), (B,) -> the hypotheses of each utterance, at least one, best first.

        They are distinct and do not depend on what an utterance is batched with. An utterance
        without frames has the empty hypothesis.

        Raises:
            ValueError: decoder, language model and options do not fit together, or scores are NaN.
        """


class Greedy(Search):
    """The best token at each step; one hypothesis per utterance."""

    def __init__(self, *, ctc_weight: float | None = None):
        """Greedy search.

        Args:
            ctc_weight: share of the CTC prefix score in the score of an attention decoder, 0 to 1;
                null: 0.3 where it has a CTC head.
        """
        self.ctc_weight = _checked_share(ctc_weight)

    def __repr__(self) -> str:
        return f"Greedy(ctc_weight={self.ctc_weight})"

    def __call__(
        self,
        decoder: Decoder,
        encoded: Tensor,
        lengths: Tensor,
        language_model: LanguageModel | None = None,
    ) -> list[list[Hypothesis]]:
        """(B, S, D), (B,) -> one hypothesis per utterance; see ``Search``."""
        if language_model is not None:
            raise ValueError("greedy search takes no language model; search with Beam")
        rules = Rules(1, _checked_use(decoder, encoded, self.ctc_weight))
        with torch.no_grad(), packed(decoder):
            if isinstance(decoder, AttentionDecoder):
                return attention.search(decoder, encoded, lengths, rules)
            if isinstance(decoder, TransducerDecoder):
                return transducer.greedy(decoder, encoded, lengths)
            return ctc.greedy(decoder, encoded, lengths)


class Beam(Search):
    """The ``beam`` best hypotheses at each step."""

    def __init__(
        self,
        *,
        beam: int = 8,
        ctc_weight: float | None = None,
        length_bonus: float = 0.0,
        lm_weight: float = 0.0,
        internal_lm_weight: float = 0.0,
        nbest: int | None = None,
    ):
        """Beam search.

        Args:
            beam: hypotheses kept at each step.
            ctc_weight: share of the CTC prefix score in the score of an attention decoder, 0 to 1;
                null: 0.3 where it has a CTC head.
            length_bonus: added to the score per token.
            lm_weight: of the language model's log-probability, added to the score; 0 or more.
            internal_lm_weight: of a transducer's internal language model, taken from the score.
            nbest: search on until so many hypotheses are certain, and return them. Without it,
                stop when the best is certain, and return it with those finished by then.
        """
        if beam < 1:
            raise ValueError(f"beam is {beam}: it must be at least 1")
        if not math.isfinite(length_bonus):
            raise ValueError(f"length_bonus is {length_bonus}: it must be a finite number")
        if nbest is not None and not 1 <= nbest <= beam:
            raise ValueError(f"nbest is {nbest}: it must be between 1 and beam, which is {beam}")
        for name, value in {
            "lm_weight": lm_weight,
            "internal_lm_weight": internal_lm_weight,
        }.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}: it must be a finite number of 0 or more")
        self.beam = beam
        self.ctc_weight = _checked_share(ctc_weight)
        self.length_bonus = length_bonus
        self.lm_weight = lm_weight
        self.internal_lm_weight = internal_lm_weight
        self.nbest = nbest

    def __repr__(self) -> str:
        values = (f"{name}={value}" for name, value in vars(self).items())
        return f"Beam({', '.join(values)})"

    def __call__(
        self,
        decoder: Decoder,
        encoded: Tensor,
        lengths: Tensor,
        language_model: LanguageModel | None = None,
    ) -> list[list[Hypothesis]]:
        """(B, S, D), (B,) -> up to ``nbest`` or ``beam`` hypotheses each; see ``Search``."""
        if (language_model is None) != (self.lm_weight == 0):
            given = "no language model is" if language_model is None else "a language model is"
            raise ValueError(
                f"lm_weight is {self.lm_weight} and {given} given; set both or neither"
            )
        if self.internal_lm_weight and not isinstance(decoder, TransducerDecoder):
            raise ValueError(
                f"internal_lm_weight is {self.internal_lm_weight}: it is for transducers; "
                f"{type(decoder).__name__} has no internal language model, set it to 0"
            )
        if language_model is not None and language_model.vocabulary != decoder.vocabulary:
            raise ValueError(
                f"the language model has {language_model.vocabulary} tokens, the decoder "
                f"{decoder.vocabulary}: take one that was estimated with the same tokenizer"
            )
        rules = Rules(
            **vars(self) | {"ctc_weight": _checked_use(decoder, encoded, self.ctc_weight)}
        )
        with torch.no_grad(), packed(decoder, language_model):
            if isinstance(decoder, AttentionDecoder):
                return attention.search(decoder, encoded, lengths, rules, language_model)
            if isinstance(decoder, TransducerDecoder):
                return transducer.search(decoder, encoded, lengths, rules, language_model)
            return ctc.search(decoder, encoded, lengths, rules, language_model)


SEARCHES: dict[str, type[Search]] = {cls.__name__: cls for cls in (Beam, Greedy)}


def _checked_share(ctc_weight: float | None) -> float | None:
    if ctc_weight is not None and not 0 <= ctc_weight <= 1:
        raise ValueError(f"ctc_weight is {ctc_weight}: it must be between 0 and 1")
    return ctc_weight


def _checked_use(decoder: Decoder, encoded: Tensor, ctc_weight: float | None) -> float:
    """The share of CTC beside this decoder."""
    if isinstance(decoder, AttentionDecoder):
        if ctc_weight is not None:
            return ctc_weight
        return 0.0 if decoder.ctc_log_probs(encoded[:0]) is None else CTC_WEIGHT
    if ctc_weight is not None:
        raise ValueError(
            f"ctc_weight is {ctc_weight}: it is for attention decoders; {type(decoder).__name__} "
            "is searched by its own probabilities, leave it out"
        )
    return 0.0
