"""Errors of words and characters, aligned by jiwer and pooled over utterances."""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jiwer

NUM_CONFUSIONS = 30
# Languages that are written with spaces have one in 4 to 13 characters.
CHARACTERS_PER_SPACE = 20


class Alignment(NamedTuple):
    """One reference against one hypothesis, in the literature's counts."""

    substitutions: int
    deletions: int
    insertions: int
    hits: int

    @property
    def errors(self) -> int:
        """All that is wrong."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def words(self) -> int:
        """Words (or characters) of the reference."""
        return self.substitutions + self.deletions + self.hits


def telling_metric(references: Sequence[str]) -> str:
    """``cer`` where the texts have next to no spaces, ``wer`` otherwise.

    Without spaces a whole sentence is one word, so that the WER of almost all models is 100 %.
    """
    spaces = sum(text.count(" ") for text in references)
    return "cer" if spaces * CHARACTERS_PER_SPACE < sum(map(len, references)) else "wer"


def ranked(rates: Mapping[str, float | None], metric: str) -> tuple[float, float]:
    """The rate of this metric, then that of the other, which breaks ties; lower is better."""
    wer, cer = (math.inf if (rate := rates.get(name)) is None else rate for name in ("wer", "cer"))
    return (cer, wer) if metric == "cer" else (wer, cer)


def align(
    references: Sequence[str], hypotheses: Sequence[str]
) -> tuple[list[Alignment], dict[str, list[list[Any]]]]:
    """Word alignment of each pair, and the commonest confusions of all.

    Raises:
        ValueError: the lists differ in length.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses")
    if not references:
        return [], {"substitutions": [], "deletions": [], "insertions": []}
    result = jiwer.process_words([spaced(t) for t in references], [spaced(t) for t in hypotheses])
    alignments = []
    swaps: Counter[tuple[str, str]] = Counter()
    lost: Counter[str] = Counter()
    added: Counter[str] = Counter()
    for reference, hypothesis, chunks in zip(
        result.references, result.hypotheses, result.alignments, strict=True
    ):
        counts = dict.fromkeys(("substitute", "delete", "insert", "equal"), 0)
        for chunk in chunks:
            before = reference[chunk.ref_start_idx : chunk.ref_end_idx]
            after = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
            counts[chunk.type] += max(len(before), len(after))
            if chunk.type == "substitute":
                swaps.update(zip(before, after, strict=True))
            elif chunk.type == "delete":
                lost.update(before)
            elif chunk.type == "insert":
                added.update(after)
        alignments.append(Alignment(*counts.values()))
    return alignments, {
        "substitutions": [[*pair, n] for pair, n in swaps.most_common(NUM_CONFUSIONS)],
        "deletions": [[word, n] for word, n in lost.most_common(NUM_CONFUSIONS)],
        "insertions": [[word, n] for word, n in added.most_common(NUM_CONFUSIONS)],
    }


def hits(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[bool]]:
    """For each word of each hypothesis, whether the alignment of ``align`` makes it a hit.

    Raises:
        ValueError: the lists differ in length.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses")
    if not references:
        return []
    result = jiwer.process_words([spaced(t) for t in references], [spaced(t) for t in hypotheses])
    found = []
    for hypothesis, chunks in zip(result.hypotheses, result.alignments, strict=True):
        right = [False] * len(hypothesis)
        for chunk in chunks:
            if chunk.type == "equal":
                length = chunk.hyp_end_idx - chunk.hyp_start_idx
                right[chunk.hyp_start_idx : chunk.hyp_end_idx] = [True] * length
        found.append(right)
    return found


def pooled(alignments: Iterable[Alignment]) -> Alignment:
    """Sums of counts; a rate is one of them divided by another, once, at the end."""
    return Alignment(*map(sum, zip(Alignment(0, 0, 0, 0), *alignments, strict=True)))


def characters(references: Sequence[str], hypotheses: Sequence[str]) -> Alignment:
    """Pooled edit operations on characters, the space between words being one."""
    if not references:
        return Alignment(0, 0, 0, 0)
    result = jiwer.process_characters([*map(spaced, references)], [*map(spaced, hypotheses)])
    return Alignment(result.substitutions, result.deletions, result.insertions, result.hits)


def score(
    alignments: Sequence[Alignment], references: Sequence[str], hypotheses: Sequence[str]
) -> dict[str, Any]:
    """Pooled WER and CER with their counts, and the share of sentences with an error.

    Rates are sum of errors / sum of reference words over the whole list, never a mean of rates, and
    may exceed 1. What a hypothesis says where its reference is empty counts as insertions.

    Raises:
        ValueError: no reference holds a word.
    """
    words, letters = pooled(alignments), characters(references, hypotheses)
    if not words.words:
        raise ValueError("no reference words, so there is no error rate; check the corpus' texts")
    return {
        "utterances": len(references),
        "wer": {"rate": words.errors / words.words, **words._asdict(), "words": words.words},
        "cer": {
            "rate": letters.errors / letters.words,
            **letters._asdict(),
            "characters": letters.words,
        },
        "sentence_error_rate": sum(a.errors > 0 for a in alignments) / len(alignments),
    }


def spaced(text: str) -> str:
    """In Unicode's composed form (NFC), with one space between words, where jiwer splits."""
    return " ".join(unicodedata.normalize("NFC", text).split())
