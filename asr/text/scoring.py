"""Word and character errors, aligned by jiwer and summed over utterances."""

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jiwer

NUM_CONFUSIONS = 30
# Languages that are written with spaces have one space per 4 to 13 characters.
CHARACTERS_PER_SPACE = 20


class Alignment(NamedTuple):
    """The numbers of edits between one reference and one hypothesis."""

    substitutions: int
    deletions: int
    insertions: int
    hits: int

    @property
    def errors(self) -> int:
        """Returns the number of substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def words(self) -> int:
        """Returns the number of words (or characters) of the reference."""
        return self.substitutions + self.deletions + self.hits


def telling_metric(references: Sequence[str]) -> str:
    """Returns ``cer`` if the texts have hardly any spaces, otherwise ``wer``.

    Without spaces a whole sentence is one word, so the WER of almost all models is 100 %.
    """
    spaces = sum(text.count(" ") for text in references)
    return "cer" if spaces * CHARACTERS_PER_SPACE < sum(map(len, references)) else "wer"


def ranked(rates: Mapping[str, float | None], metric: str) -> tuple[float, float]:
    """Returns the rate of a metric, then the other rate to break ties; lower is better."""
    wer, cer = (math.inf if (rate := rates.get(name)) is None else rate for name in ("wer", "cer"))
    return (cer, wer) if metric == "cer" else (wer, cer)


Edits = Iterator[tuple[str, list[str], list[str]]]  # kind, reference words, hypothesis words
CONFUSIONS = {"substitute": "substitutions", "delete": "deletions", "insert": "insertions"}


def _edits(
    references: Sequence[str],
    hypotheses: Sequence[str],
    process: Callable[..., Any] = jiwer.process_words,
) -> Iterator[Edits]:
    """Yields the edits that turn each reference into its hypothesis, as jiwer aligns them."""
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses")
    found = process([*map(spaced, references)], [*map(spaced, hypotheses)])
    # jiwer scores two empty lists as if they were one pair of empty texts.
    rows = [*zip(found.references, found.hypotheses, found.alignments, strict=True)]
    for before, after, chunks in rows[: len(references)]:
        places = [(c.type, c.ref_start_idx, c.ref_end_idx, c) for c in chunks]
        yield (
            (kind, before[start:end], after[c.hyp_start_idx : c.hyp_end_idx])
            for kind, start, end, c in places
        )


def align(
    references: Sequence[str], hypotheses: Sequence[str]
) -> tuple[list[Alignment], dict[str, list[list[Any]]]]:
    """Returns the word alignment of each pair, and the most frequent confusions of all pairs.

    Raises:
        ValueError: the lists differ in length.
    """
    alignments = []
    confused: dict[str, Counter[tuple[str, ...]]] = {kind: Counter() for kind in CONFUSIONS}
    for edits in _edits(references, hypotheses):
        counts = dict.fromkeys((*CONFUSIONS, "equal"), 0)
        for kind, before, after in edits:
            counts[kind] += max(len(before), len(after))
            if kind != "equal":
                # A word that was deleted or inserted has no partner.
                sides = [words for words in (before, after) if words]
                confused[kind].update(zip(*sides, strict=True))
        alignments.append(Alignment(*counts.values()))
    return alignments, {
        name: [[*words, n] for words, n in confused[kind].most_common(NUM_CONFUSIONS)]
        for kind, name in CONFUSIONS.items()
    }


def hits(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[bool]]:
    """Returns for each word of each hypothesis whether ``align`` counts it as a hit."""
    return [
        [kind == "equal" for kind, _, after in edits for _ in after]
        for edits in _edits(references, hypotheses)
    ]


def pooled(alignments: Iterable[Alignment]) -> Alignment:
    """Sums the counts over utterances; rates are computed from these sums."""
    return Alignment(*map(sum, zip(Alignment(0, 0, 0, 0), *alignments, strict=True)))


def align_characters(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Returns the alignment of characters of each pair; a space between words is a character."""
    alignments = []
    for edits in _edits(references, hypotheses, jiwer.process_characters):
        counts = dict.fromkeys((*CONFUSIONS, "equal"), 0)
        for kind, before, after in edits:
            counts[kind] += max(len(before), len(after))
        alignments.append(Alignment(*counts.values()))
    return alignments


def characters(references: Sequence[str], hypotheses: Sequence[str]) -> Alignment:
    """Sums the edits of characters; a space between words is a character."""
    return pooled(align_characters(references, hypotheses))


def score(words: Sequence[Alignment], letters: Sequence[Alignment]) -> dict[str, Any]:
    """Returns pooled WER and CER with their counts, and the share of sentences with an error.

    A rate is the sum of errors divided by the sum of reference words over the whole list, and may
    exceed 1. The words of a hypothesis with an empty reference count as insertions.

    Args:
        words: the word alignments of all utterances.
        letters: their alignments of characters.

    Raises:
        ValueError: no reference has a word.
    """
    rates: dict[str, Any] = {"utterances": len(words)}
    for name, unit, counts in (("wer", "words", words), ("cer", "characters", letters)):
        total = pooled(counts)
        if not total.words:
            raise ValueError("no reference words, so there is no error rate; check the texts")
        rate = total.errors / total.words
        rates[name] = {"rate": rate, **total._asdict(), unit: total.words}
    return {**rates, "sentence_error_rate": sum(a.errors > 0 for a in words) / len(words)}


def percent(rate: float | None) -> str:
    """Formats a rate in percent with two decimals, or None as a dash."""
    return "-" if rate is None else f"{100 * rate:.2f} %"


def spaced(text: str) -> str:
    """Returns text in Unicode NFC with one space between words, at which jiwer splits."""
    return " ".join(unicodedata.normalize("NFC", text).split())
