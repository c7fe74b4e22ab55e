"""Synthetic memory tasks: a sequence of tokens, and one answer after a chosen lag.

In both tasks a sequence shows symbols, then noise, and then asks for one of the symbols. Because
of the noise, an encoder must tell important tokens from unimportant ones. One token is one encoder
frame.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SYMBOLS = 8  # possible answers: guessing is right in 1/8 of the cases
NOISE = 8  # different tokens of noise


class Questions(NamedTuple):
    """Sequences, and the right answer after the last token of each.

    Attributes:
        tokens: (B, S) int64.
        answers: (B,) int64, below SYMBOLS.
    """

    tokens: Tensor
    answers: Tensor


@dataclass(frozen=True)
class Latch:
    """A symbol, ``lag - 1`` tokens of noise, and the query. The task tests distance alone.

    Hochreiter and Schmidhuber 1997, experiment 2; the form of Tallec and Ollivier 2018.
    """

    vocabulary = SYMBOLS + NOISE + 1
    shortest = 1  # lag

    def draw(self, number: int, lag: int, generator: torch.Generator) -> Questions:
        """Draws ``number`` questions of ``lag + 1`` tokens; the first token is the answer."""
        answers = torch.randint(SYMBOLS, (number,), generator=generator)  # (B,)
        tokens = torch.randint(
            SYMBOLS, SYMBOLS + NOISE, (number, lag + 1), generator=generator
        )  # (B, S)
        tokens[:, 0] = answers
        tokens[:, -1] = self.vocabulary - 1
        return Questions(tokens, answers)


@dataclass(frozen=True)
class Recall:
    """Pairs of a key and a value, noise, and one key as the query.

    This is associative recall (Graves, Wayne and Danihelka 2014; Arora et al. 2023), which tests
    distance and capacity. The keys of a sequence are distinct. The query is a random one of them,
    and its value is ``lag`` tokens before the query.

    Attributes:
        pairs: number of pairs in each sequence.
        keys: number of keys in the vocabulary.
    """

    pairs: int = 4
    keys: int = 16

    @property
    def vocabulary(self) -> int:
        """Number of tokens: values, noise, keys in pairs, and keys as queries."""
        return SYMBOLS + NOISE + 2 * self.keys

    @property
    def shortest(self) -> int:
        """The shortest lag that has room for the pairs."""
        return 2 * self.pairs

    def draw(self, number: int, lag: int, generator: torch.Generator) -> Questions:
        """Draws ``number`` questions of ``lag + 2 * pairs`` tokens.

        All pairs are adjacent, with noise before and after them. The value of the query is ``lag``
        tokens before the query.

        Raises:
            ValueError: the lag has no room for the pairs.
        """
        if lag < self.shortest:
            raise ValueError(f"a lag of {lag} does not hold {self.pairs} pairs; give more")
        size = lag + 2 * self.pairs
        tokens = torch.randint(SYMBOLS, SYMBOLS + NOISE, (number, size), generator=generator)
        drawn = torch.rand(number, self.keys, generator=generator).argsort(1)[:, : self.pairs]
        values = torch.randint(SYMBOLS, (number, self.pairs), generator=generator)
        asked = torch.randint(self.pairs, (number,), generator=generator)  # (B,)
        written = torch.stack([SYMBOLS + NOISE + drawn, values], dim=2).flatten(1)  # (B, 2 pairs)
        # The right value is entry 2 * asked + 1 of the pairs, and token size - 1 - lag.
        first = size - 1 - lag - (2 * asked + 1)  # (B,)
        places = first[:, None] + torch.arange(2 * self.pairs)  # (B, 2 pairs)
        tokens.scatter_(1, places, written)
        rows = torch.arange(number)
        tokens[:, -1] = SYMBOLS + NOISE + self.keys + drawn[rows, asked]
        return Questions(tokens, values[rows, asked])


@dataclass(frozen=True)
class Task:
    """A kind of question, and the lags of its training.

    Attributes:
        questions: draws the questions of training and test.
        mixed: whether each training batch has its own lag, drawn log-uniformly from the shortest
            lag to the lag of the test (about k / ln k tokens per sequence for a test at lag k).
            Otherwise all have the lag of the test.
    """

    questions: Latch | Recall
    mixed: bool = False

    def draw_for_training(self, number: int, lag: int, generator: torch.Generator) -> Questions:
        """Draws ``number`` training questions for a test at ``lag``.

        Raises:
            ValueError: the lag is too short.
        """
        if self.mixed and lag > self.questions.shortest:
            shortest, part = self.questions.shortest, torch.rand((), generator=generator).item()
            lag = math.floor(shortest * ((lag + 1) / shortest) ** part)  # + 1 includes ``lag``
        return self.questions.draw(number, lag, generator)


TASKS = {
    "latch": Task(Latch()),
    "recall": Task(Recall()),
    "latch-mixed": Task(Latch(), mixed=True),
    "recall-mixed": Task(Recall(), mixed=True),
}


def corrected(accuracy: float) -> float:
    """Accuracy corrected for guessing: 0 at the level of chance, 1 if all answers are right."""
    chance = 1 / SYMBOLS
    return (accuracy - chance) / (1 - chance)
