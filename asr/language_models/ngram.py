"""Back-off n-gram language models: estimated from text, or read from an ARPA file."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr.batch import Cache
from asr.language_models import arpa as arpa_file
from asr.language_models.backoff import automaton, uniform_unigrams
from asr.language_models.kneser_ney import estimate
from asr.language_models.language_model import CountedLanguageModel
from asr.language_models.lookup import Lookup, make_room


class NGram(Lookup, CountedLanguageModel):
    """An n-gram model with interpolated modified Kneser-Ney smoothing.

    All tokens are equally likely until ``fit`` is called or the tables are loaded. The tables are
    buffers in ``state_dict`` (see ``Automaton``); ``load_state_dict`` accepts them at any size. The
    state of a row is the number of its context: the longest suffix of its tokens, of at most
    ``order`` - 1 tokens, that the model has. Probabilities over all tokens but BLANK sum to 1.

    Args:
        order: length n of the longest n-grams; a prediction depends on n - 1 tokens.
        prune: n-grams of order 3 and above are left out if they occur at most this number of times.
        arpa: file in ARPA format, which is read instead of estimating n-grams from text; its words
            must be pieces of the tokenizer.
    """

    def __init__(self, vocabulary: int, *, order: int = 5, prune: int = 0, arpa: str | None = None):
        if order < 1:
            raise ValueError(f"order is {order}: it must be at least 1")
        if prune < 0:
            raise ValueError(f"prune is {prune}: it must be 0 or more")
        super().__init__(automaton([uniform_unigrams(vocabulary)]), order)
        self.prune, self.arpa = prune, arpa
        self.register_load_state_dict_pre_hook(_make_room)

    def fit(
        self,
        sentences: Iterable[Sequence[int]],
        pieces: Sequence[str],
        encode: Callable[[str], list[int]] | None = None,
    ) -> None:
        """See ``CountedLanguageModel``. The words of a file are the pieces."""
        if self.arpa is None:
            orders = estimate(sentences, self.vocabulary, self.order, self.prune)
        else:
            orders = arpa_file.read_arpa(Path(self.arpa), pieces, self.order)
        self.replace(automaton(orders))

    def start(self, rows: int) -> Cache:
        """The state of N rows with the empty context."""
        return {"context": torch.zeros(rows, dtype=torch.int64, device=self.keys.device)}

    def step(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """See ``LanguageModel.step``."""
        context = self.read(tokens, cache["context"])[1]  # (N,)
        return self.predict(context), {"context": context}


def _make_room(module: nn.Module, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
    """Makes room for the stored tables; an error if they are of another vocabulary."""
    make_room(module, state, prefix, *rest)
    starts = state.get(f"{prefix}starts")
    if starts is not None and starts[1] != module.vocabulary:
        rest[-1].append(f"n-grams have {starts[1]} tokens, the vocabulary has {module.vocabulary}")
