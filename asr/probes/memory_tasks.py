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

SYMBOLS = 8  # what may be asked for: chance is 1/8
NOISE = 8  # tokens that mean nothing


class Questions(NamedTuple):
    """Sequences and what is to be said after their last token.

    Attributes:
        tokens: (B, S) int64.
        answers: (B,) int64, below SYMBOLS.
    """

    tokens: Tensor
    answers: Tensor


@dataclass(frozen=True)
class Latch:
    """A symbol, ``lag - 1`` tokens of noise, the query: distance alone.

    Hochreiter and Schmidhuber 1997, experiment 2; the form of Tallec and Ollivier 2018.
    """

    vocabulary = SYMBOLS + NOISE + 1
    shortest = 1  # lag

    def draw(self, number: int, lag: int, generator: torch.Generator) -> Questions:
        """``number`` questions of ``lag + 1`` tokens; the answer stands ``lag`` before the query.

        Raises:
            ValueError: a lag below 1.
        """
        if lag < self.shortest:
            raise ValueError(f"a lag of {lag}: it must be {self.shortest} or more")
        answers = torch.randint(SYMBOLS, (number,), generator=generator)  # (B,)
        tokens = torch.randint(
            SYMBOLS, SYMBOLS + NOISE, (number, lag + 1), generator=generator
        )  # (B, S)
        tokens[:, 0] = answers
        tokens[:, -1] = self.vocabulary - 1
        return Questions(tokens, answers)


@dataclass(frozen=True)
class Recall:
    """Pairs of a key and a value, noise, and one of the keys: distance and capacity.

    Associative recall (Graves, Wayne and Danihelka 2014; Arora et al. 2023). Keys of a sequence are
    distinct; which of them is asked for is drawn, the value asked for stands ``lag`` before the
    query.

    Attributes:
        pairs: of each sequence.
        keys: that there are.
    """

    pairs: int = 4
    keys: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.pairs <= self.keys:
            raise ValueError(f"{self.pairs} pairs of {self.keys} keys: give 1 to {self.keys}")

    @property
    def vocabulary(self) -> int:
        """Values, noise, keys where they are told, and keys where they are asked for."""
        return SYMBOLS + NOISE + 2 * self.keys

    @property
    def shortest(self) -> int:
        """Lag that holds the pairs."""
        return 2 * self.pairs

    def draw(self, number: int, lag: int, generator: torch.Generator) -> Questions:
        """``number`` questions of ``lag + 2 * pairs`` tokens.

        All pairs stand together, the one that is asked for at the distance ``lag``; before and
        after them is noise.

        Raises:
            ValueError: a lag that does not hold the pairs.
        """
        if lag < self.shortest:
            raise ValueError(f"a lag of {lag} does not hold {self.pairs} pairs; give more")
        size = lag + 2 * self.pairs
        tokens = torch.randint(SYMBOLS, SYMBOLS + NOISE, (number, size), generator=generator)
        drawn = torch.rand(number, self.keys, generator=generator).argsort(1)[:, : self.pairs]
        values = torch.randint(SYMBOLS, (number, self.pairs), generator=generator)
        asked = torch.randint(self.pairs, (number,), generator=generator)  # (B,)
        written = torch.stack([SYMBOLS + NOISE + drawn, values], dim=2).flatten(1)  # (B, 2 pairs)
        # The value asked for is written at place 2 asked + 1, and stands at size - 1 - lag.
        first = size - 1 - lag - (2 * asked + 1)  # (B,)
        places = first[:, None] + torch.arange(2 * self.pairs)  # (B, 2 pairs)
        tokens.scatter_(1, places, written)
        rows = torch.arange(number)
        tokens[:, -1] = SYMBOLS + NOISE + self.keys + drawn[rows, asked]
        return Questions(tokens, values[rows, asked])


@dataclass(frozen=True)
class Task:
    """What is asked, and at which lags that is learnt.

    Attributes:
        questions: of training and of the test.
        mixed: trained at lags drawn log-uniformly from the shortest to the one of the test, a lag
            a batch, instead of at that one alone: at the lag k about k / ln k tokens a sequence.
    """

    questions: Latch | Recall
    mixed: bool = False

    def draw_for_training(self, number: int, lag: int, generator: torch.Generator) -> Questions:
        """``number`` questions for one who will be tested at ``lag``.

        Raises:
            ValueError: a lag that is too short.
        """
        if self.mixed and lag > self.questions.shortest:
            shortest, part = self.questions.shortest, torch.rand((), generator=generator).item()
            lag = math.floor(shortest * ((lag + 1) / shortest) ** part)  # + 1: itself included
        return self.questions.draw(number, lag, generator)


TASKS = {
    "latch": Task(Latch()),
    "recall": Task(Recall()),
    "latch-mixed": Task(Latch(), mixed=True),
    "recall-mixed": Task(Recall(), mixed=True),
}


def corrected(accuracy: float) -> float:
    """Accuracy with guessing taken out: 0 at chance, 1 where everything is right."""
    chance = 1 / SYMBOLS
    return (accuracy - chance) / (1 - chance)
