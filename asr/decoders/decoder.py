"""The interface of decoders: a training loss, and the methods that the search calls."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.batch import Cache
from asr.loss import Loss


class State(NamedTuple):
    """The state of an attention decoder between two steps of a search.

    A step may change the memory of its input state in place. Afterwards only the state that the
    step returns is valid.

    Attributes:
        memory: tensors (B, ...) with one row per utterance, which its K hypotheses share (encoder
            frames, keys and values). A step never copies them per hypothesis.
        cache: tensors (B*K, ...) with one row per hypothesis (recurrent states, ancestors). The
            rows of one utterance are adjacent.
    """

    memory: dict[str, Tensor]
    cache: dict[str, Tensor]

    def select(self, hypotheses: Tensor, utterances: Tensor | None = None) -> "State":
        """Selects rows of the cache and, if given, of the memory (drops finished utterances)."""
        memory = self.memory
        if utterances is not None:
            memory = {name: value[utterances] for name, value in memory.items()}
        return State(memory, {name: value[hypotheses] for name, value in self.cache.items()})


class Decoder(nn.Module, ABC):
    """Base class of decoders, which score tokens given encoder frames.

    A subclass takes the encoder's ``dim`` and the ``vocabulary`` size as its first two, positional
    parameters and everything else as keywords, which are the keys of a recipe. It is final.

    Attributes:
        dim: width D of the encoder's frames.
        vocabulary: number of tokens V, including BLANK.
        searcher: name of the decoder's search algorithms in ``asr.search.search.SEARCHERS``.
        aligner: name of the word alignment in ``asr.recognition.alignment.ALIGNERS``.
    """

    dim: int
    vocabulary: int
    searcher: str = "ctc"
    aligner: str = "ctc"

    @abstractmethod
    def loss(self, encoded: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Loss:
        """Computes the loss of (B, U) tokens given (B, S, D) frames, in float32 at any precision.

        A row without frames and tokens is not an utterance: it is infeasible and in no term.
        ``tokens`` do not contain EOS; an attention term predicts U + 1 tokens, EOS last.
        """

    @abstractmethod
    def ctc_log_probs(self, encoded: Tensor) -> Tensor | None:
        """Computes float32 log-probabilities (B, S, V) of the CTC head; None without one."""

    def has_ctc(self) -> bool:
        """Returns whether there is a CTC head."""
        device = next((parameter.device for parameter in self.parameters()), None)
        with torch.no_grad():
            return self.ctc_log_probs(torch.zeros(1, 1, self.dim, device=device)) is not None

    def regions(self) -> list[nn.Module]:
        """Returns the modules that ``torch.compile`` makes faster; each is compiled separately."""
        return []

    @abstractmethod
    def flops(self, lengths: Sequence[int], token_lengths: Sequence[int]) -> int:
        """Returns the FLOPs of a forward pass of ``loss`` for these lengths, without padding.

        They are counted as in ``Encoder.flops``.
        """


class AttentionDecoder(Decoder):
    """A decoder that predicts one token at a time, given all previous tokens."""

    searcher = "attention"

    @abstractmethod
    def start(self, encoded: Tensor, lengths: Tensor) -> State:
        """Returns the state before the first token, with K = 1, given (B, S, D) frames."""

    @abstractmethod
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Scores the next token, given (B*K,) last tokens (EOS at the start).

        Returns float32 log-probabilities (B*K, V) and the next state.

        K is the number of cache rows per row of memory. BLANK has log-probability -inf. Earlier
        tokens are never computed again.
        """


class TransducerDecoder(Decoder):
    """A decoder that emits tokens at a frame until it emits BLANK and moves to the next frame.

    Graves 2012: with frames f_t and predictions g_u, p(k | t, u) = softmax(join(f_t, g_u)), and the
    probability of tokens is the sum over all paths through the lattice of S frames and U + 1
    predictions. EOS is never emitted.
    """

    searcher = aligner = "transducer"

    @abstractmethod
    def project(self, encoded: Tensor) -> Tensor:
        """Computes the encoder's part (B, S, J) of the joint network for all frames (B, S, D)."""

    @abstractmethod
    def begin(self, rows: int) -> Cache:
        """Returns N rows of the prediction network's state before EOS, its first token."""

    @abstractmethod
    def predict(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Computes predictions (N, J) after (N,) last tokens (EOS at the start), and the state.

        The given state is not changed.
        """

    @abstractmethod
    def join(self, frames: Tensor, predictions: Tensor) -> Tensor:
        """Computes float32 log-probabilities (..., V) of frames and predictions; EOS has -inf."""

    @abstractmethod
    def internal_lm(self, predictions: Tensor) -> Tensor:
        """Computes float32 log-probabilities (N, V) of tokens without the audio.

        The joint network computes them without the encoder's part (Variani et al. 2020; Meng et
        al. 2021), normalised over all tokens but BLANK and EOS, which have -inf.
        """
