"""Errors of words and characters, counted by jiwer and pooled over utterances."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import jiwer


@dataclass(frozen=True)
class Counts:
    """Sums over utterances; a rate is one of them divided by another, once, at the end."""

    word_errors: int
    words: int
    character_errors: int
    characters: int

    def counts(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


def score(references: Sequence[str], hypotheses: Sequence[str]) -> Counts:
    """Pooled edit distances in words (split at white space) and in characters."""
    words = jiwer.process_words(list(references), list(hypotheses))
    letters = jiwer.process_characters(list(references), list(hypotheses))
    return Counts(
        word_errors=words.substitutions + words.deletions + words.insertions,
        words=words.hits + words.substitutions + words.deletions,
        character_errors=letters.substitutions + letters.deletions + letters.insertions,
        characters=letters.hits + letters.substitutions + letters.deletions,
    )
