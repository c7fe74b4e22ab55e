"""The interface of language models: the probability of the next token, given the previous ones."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from asr.batch import Cache


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

    @abstractmethod
    def log_probs(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Computes log-probabilities (B, U + 1) of (B, U) tokens and of EOS; 0 after EOS."""

    @abstractmethod
    def flops(self, lengths: list[int]) -> int:
        """FLOPs of one forward pass over sentences of these lengths, EOS included, unpadded."""
