"""The interface of greedy search and beam search over any decoder."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from asr.decoders.decoder import Decoder
from asr.kernels.linear import packed
from asr.language_models.language_model import LanguageModel
from asr.language_models.mixture import Mixture
from asr.search import attention, ctc, transducer
from asr.search.hypothesis import Hypothesis, Rules

CTC_WEIGHT = 0.3  # default for attention decoders with a CTC head (Watanabe et al. 2017)


@dataclass(frozen=True)
class Searcher:
    """The search algorithms for decoders of one kind.

    Attributes:
        beam: (decoder, encoded, lengths, rules, language model) -> hypotheses; see ``Search``.
        greedy: (decoder, encoded, lengths) -> hypotheses; None: a beam search with a beam of 1.
        own: options of ``Beam`` for this kind only, and the name of the kind in error messages.
    """

    beam: Callable[..., list[list[Hypothesis]]]
    greedy: Callable[..., list[list[Hypothesis]]] | None = None
    own: Mapping[str, str] = field(default_factory=dict)


# By ``Decoder.searcher``. The searches advance by tokens, by frames, and along the lattice.
SEARCHERS = {
    "attention": Searcher(attention.search, own={"ctc_weight": "attention decoders"}),
    "ctc": Searcher(ctc.search, ctc.greedy),
    "transducer": Searcher(
        transducer.search, transducer.greedy, own={"internal_lm_weight": "transducers"}
    ),
}


class Search(ABC):
    """Base class of searches, which turn encoder frames into hypotheses. Subclasses are final.

    Attributes:
        lm_weight: weight of the language model, or a list with one for each of several; at 0 the
            search is called without one.
        ranges: lowest and highest value of each option that ``asr tune-decoding`` draws uniformly;
            if empty, it tunes ``Beam`` instead.
        beams: values of ``beam`` that ``asr tune-decoding`` tries.
    """

    lm_weight: float | list[float] = 0.0
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    beams: ClassVar[Sequence[int]] = ()

    @abstractmethod
    def __call__(
        self,
        decoder: Decoder,
        encoded: Tensor,
        lengths: Tensor,
        language_model: LanguageModel | None = None,
    ) -> list[list[Hypothesis]]:
        """Returns the hypotheses of each utterance, at least one, best first.

        The hypotheses are distinct and do not depend on the other utterances of the batch. An
        utterance without frames has the empty hypothesis.

        Raises:
            ValueError: decoder, language model and options do not fit together, or scores are NaN.
        """

    @classmethod
    def tuned(cls, decoder: Decoder, language_model: LanguageModel | None) -> list[str]:
        """The keys of ``ranges`` that apply to this decoder and language model."""
        return list(cls.ranges)

    def __repr__(self) -> str:
        values = (f"{name}={value}" for name, value in vars(self).items())
        return f"{type(self).__name__}({', '.join(values)})"


class Greedy(Search):
    """Takes the best token at each step, and returns one hypothesis per utterance.

    Args:
        ctc_weight: weight of the CTC prefix score in the score of an attention decoder, 0 to 1.
            null: 0.3 if the decoder has a CTC head.
    """

    def __init__(self, *, ctc_weight: float | None = None):
        self.ctc_weight = _checked_share(ctc_weight)

    def __call__(
        self,
        decoder: Decoder,
        encoded: Tensor,
        lengths: Tensor,
        language_model: LanguageModel | None = None,
    ) -> list[list[Hypothesis]]:
        """Returns one hypothesis per utterance; see ``Search``."""
        if language_model is not None:
            raise ValueError("greedy search takes no language model; search with Beam")
        searcher, ctc_weight = _searcher(decoder, ctc_weight=self.ctc_weight)
        with torch.no_grad(), packed(decoder):
            if searcher.greedy is not None:
                return searcher.greedy(decoder, encoded, lengths)
            return searcher.beam(decoder, encoded, lengths, Rules(1, ctc_weight))


class Beam(Search):
    """Keeps the ``beam`` best hypotheses at each step.

    Args:
        beam: number of hypotheses kept at each step.
        ctc_weight: weight of the CTC prefix score in the score of an attention decoder, 0 to 1.
            null: 0.3 if the decoder has a CTC head.
        length_bonus: bonus added to the score for each token.
        lm_weight: weight of the language model's log-probability, which is added to the score; 0 or
            more. With several language models, a list of their weights.
        internal_lm_weight: weight of the log-probability of a transducer's internal language model,
            which is subtracted from the score.
        nbest: number of hypotheses to return. The search stops when no open hypothesis can enter
            them. null: the search stops when no open hypothesis can surpass the best one, and
            returns all that are finished by then.
    """

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "ctc_weight": (0.0, 0.7),
        "lm_weight": (0.0, 1.2),
        # A share of the lm_weight that is drawn.
        "internal_lm_weight": (0.0, 0.7),
        "length_bonus": (-1.0, 5.0),
    }
    beams = (1, 2, 4, 8, 16)

    def __init__(
        self,
        *,
        beam: int = 8,
        ctc_weight: float | None = None,
        length_bonus: float = 0.0,
        lm_weight: float | list[float] = 0.0,
        internal_lm_weight: float = 0.0,
        nbest: int | None = None,
    ):
        if beam < 1:
            raise ValueError(f"beam is {beam}: it must be at least 1")
        if not math.isfinite(length_bonus):
            raise ValueError(f"length_bonus is {length_bonus}: it must be a finite number")
        if nbest is not None and not 1 <= nbest <= beam:
            raise ValueError(f"nbest is {nbest}: it must be between 1 and beam, which is {beam}")
        for name, value in (("lm_weight", lm_weight), ("internal_lm_weight", internal_lm_weight)):
            if not all(0 <= weight < math.inf for weight in np.ravel(value)):
                raise ValueError(f"{name} is {value}: it must be a finite number of 0 or more")
        self.beam, self.ctc_weight = beam, _checked_share(ctc_weight)
        self.length_bonus, self.lm_weight = length_bonus, lm_weight if np.any(lm_weight) else 0.0
        self.internal_lm_weight, self.nbest = internal_lm_weight, nbest

    def __call__(
        self,
        decoder: Decoder,
        encoded: Tensor,
        lengths: Tensor,
        language_model: LanguageModel | None = None,
    ) -> list[list[Hypothesis]]:
        """Returns up to ``nbest`` or ``beam`` hypotheses per utterance; see ``Search``."""
        if (language_model is None) != (not self.lm_weight):
            given = "no language model is" if language_model is None else "a language model is"
            raise ValueError(
                f"lm_weight is {self.lm_weight} and {given} given; set both or neither"
            )
        if language_model is not None and language_model.vocabulary != decoder.vocabulary:
            raise ValueError(
                f"the language model has {language_model.vocabulary} tokens, the decoder "
                f"{decoder.vocabulary}: take one that was estimated with the same tokenizer"
            )
        weights = np.ravel(self.lm_weight).tolist()
        models = language_model.models if isinstance(language_model, Mixture) else ()
        if len(weights) != (len(models) or 1):
            raise ValueError(
                f"lm_weight is {self.lm_weight}, but the number of language models is "
                f"{len(models) or 1}: give a list with a weight for each"
            )
        if models:
            used = [i for i, weight in enumerate(weights) if weight]
            language_model = Mixture([models[i] for i in used], [weights[i] for i in used])
        searcher, ctc_weight = _searcher(
            decoder,
            ctc_weight=self.ctc_weight,
            internal_lm_weight=self.internal_lm_weight or None,
        )
        rules = Rules(**vars(self) | {"ctc_weight": ctc_weight, "lm_weight": sum(weights)})
        with torch.no_grad(), packed(decoder, language_model):
            return searcher.beam(decoder, encoded, lengths, rules, language_model)

    @classmethod
    def tuned(cls, decoder: Decoder, language_model: LanguageModel | None) -> list[str]:
        """See ``Search.tuned``."""
        own = _searcher_of(decoder).own
        keys = ["length_bonus"]
        keys += ["ctc_weight"] if "ctc_weight" in own and decoder.has_ctc() else []
        if language_model is not None:
            keys += ["lm_weight", *(["internal_lm_weight"] if "internal_lm_weight" in own else [])]
        return keys


SEARCHES: dict[str, type[Search]] = {cls.__name__: cls for cls in (Beam, Greedy)}


def _checked_share(ctc_weight: float | None) -> float | None:
    if ctc_weight is not None and not 0 <= ctc_weight <= 1:
        raise ValueError(f"ctc_weight is {ctc_weight}: it must be between 0 and 1")
    return ctc_weight


def _searcher_of(decoder: Decoder) -> Searcher:
    """Returns the search algorithms that the decoder names.

    Raises:
        ValueError: the name is unknown.
    """
    if decoder.searcher not in SEARCHERS:
        name = f"{type(decoder).__name__}.searcher"
        raise ValueError(f"{name} {decoder.searcher!r}: expects {', '.join(SEARCHERS)}")
    return SEARCHERS[decoder.searcher]


def _searcher(decoder: Decoder, **options: float | None) -> tuple[Searcher, float]:
    """The search algorithms for this decoder, and the weight of CTC.

    Raises:
        ValueError: an option is set that applies only to decoders of another kind.
    """
    searcher = _searcher_of(decoder)
    for other in SEARCHERS.values():
        for name, kind in other.own.items():
            if options.get(name) is not None and name not in searcher.own:
                raise ValueError(
                    f"{name} is {options[name]}: it is for {kind}; {type(decoder).__name__} does "
                    "not use it; leave it out"
                )
    ctc_weight = options["ctc_weight"]
    if ctc_weight is None:
        ctc_weight = CTC_WEIGHT if "ctc_weight" in searcher.own and decoder.has_ctc() else 0.0
    return searcher, ctc_weight
