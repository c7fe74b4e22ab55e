"""Tasks that need memory and nothing else: tokens in, one answer out, at a lag that is a dial.

Both write something, wait and ask. In between stands noise, so that whoever stores everything
alike has to tell what matters from what does not. One token is one encoder frame.
"""

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

    def draw(self, number: int, lag: int, generator: torch.Generator) -> Questions:
        """``number`` questions of ``lag + 1`` tokens; the answer stands ``lag`` before the query.

        Raises:
            ValueError: a lag below 1.
        """
        if lag < 1:
            raise ValueError(f"a lag of {lag}: it must be 1 or more")
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

    def draw(self, number: int, lag: int, generator: torch.Generator) -> Questions:
        """``number`` questions of ``lag + 2 * pairs`` tokens.

        All pairs stand together, the one that is asked for at the distance ``lag``; before and
        after them is noise.

        Raises:
            ValueError: a lag that does not hold the pairs.
        """
        if lag < 2 * self.pairs:
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


TASKS: dict[str, type[Latch] | type[Recall]] = {"latch": Latch, "recall": Recall}


def corrected(accuracy: float) -> float:
    """Accuracy with guessing taken out: 0 at chance, 1 where everything is right."""
    chance = 1 / SYMBOLS
    return (accuracy - chance) / (1 - chance)
