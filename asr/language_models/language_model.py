"""The interface of language models: the probability of the next token, given the previous ones."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from asr.batch import EOS, Cache, mask


class LanguageModel(nn.Module, ABC):
    """The interface of a language model: tokens in, log-probabilities of the next token out.

    A subclass is final and takes the ``vocabulary`` size as its first, positional parameter. Its
    tokens are those of the speech model's tokenizer.

    Args:
        vocabulary: number of token ids, including BLANK.
    """

    vocabulary: int

    @abstractmethod
    def start(self, rows: int) -> Cache:
        """The state of N rows before the first token (EOS); see ``Cache``."""

    @abstractmethod
    def step(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Scores the next token, (N, V) float32, after (N,) last tokens (EOS at the start).

        BLANK has log-probability -inf; EOS ends a sentence. Rows may have read different numbers of
        tokens. The given state is not changed. Earlier tokens are never read again.
        """

    def open_step(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Takes a step for a perplexity, which allows what only a search forbids; see ``step``."""
        return self.step(tokens, cache)

    def log_probs(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Computes log-probabilities (B, U + 1) of (B, U) tokens and of EOS; 0 after EOS."""
        B, U = tokens.shape
        text = tokens.masked_fill(~mask(lengths, U), EOS)
        text = nn.functional.pad(text, (1, 1), value=EOS)  # (B, U + 2)
        cache, scores = self.start(B), []
        for place in range(U + 1):
            log_probs, cache = self.open_step(text[:, place], cache)
            scores.append(log_probs.gather(1, text[:, place + 1, None])[:, 0])
        return torch.stack(scores, 1).masked_fill(~mask(lengths + 1, U + 1), 0.0)  # (B, U + 1)

    @abstractmethod
    def flops(self, lengths: list[int]) -> int:
        """FLOPs of one forward pass over sentences of these lengths, EOS included, unpadded."""


class CountedLanguageModel(LanguageModel):
    """A language model that is estimated by counting, or read from a file.

    Attributes:
        arpa: file in ARPA format that takes the place of the text; None: there is none.
    """

    arpa: str | None

    @abstractmethod
    def fit(
        self,
        sentences: Iterable[Sequence[int]],
        pieces: Sequence[str],
        encode: Callable[[str], list[int]],
    ) -> None:
        """Estimates the model from sentences of token ids, or reads the file ``arpa``.

        Args:
            sentences: ids from UNKNOWN up, without EOS; not used if there is a file.
            pieces: spelling of each id, see ``Tokenizer.pieces``.
            encode: cuts a text into ids, see ``Tokenizer.encode``.

        Raises:
            ValueError: there are no sentences, or an id is not a token; the file is missing or
                damaged, or has another order or other words.
        """

    def flops(self, lengths: list[int]) -> int:
        """Returns 0, because probabilities are looked up and added, not multiplied."""
        return 0
