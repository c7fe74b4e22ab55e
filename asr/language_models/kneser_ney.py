"""Interpolated modified Kneser-Ney estimates of n-gram models.

Chen and Goodman (1999), "An empirical study of smoothing techniques for language modeling", with
the conventions of KenLM's lmplz (Heafield et al. 2013). With a(hw) the adjusted count of the n-gram
hw, h' the context h without its first token, and sums over what follows h:

    p(w | h)    = (a(hw) - D(a(hw))) / sum a(hv) + backoff(h) p(w | h')
    backoff(h)  = sum D(a(hv)) / sum a(hv)

The adjusted count is the number of different tokens before the n-gram; for n-grams of the highest
order, and for those that begin with <s>, before which nothing can be, it is their number of
occurrences. Each order has its own discounts D(1), D(2) and D(3 or more). Below order 1 is the
uniform distribution over all tokens: EOS, UNKNOWN, characters or pieces. <s> is never predicted.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from asr.batch import EOS, UNKNOWN
from asr.language_models.backoff import START, Grams

logger = logging.getLogger(__name__)

FALLBACK = (0.5, 1.0, 1.5)  # discounts if the data define none, as in lmplz


@dataclass(frozen=True)
class Counts:
    """The G n-grams of one order in the text, sorted by context, then by token.

    Attributes:
        context: (G,) row of the order below that has all tokens but the last; 0 for order 1.
        token: (G,) the last token.
        suffix: (G,) row of the order below that has all tokens but the first; in order 1 token.
        occurrences: (G,) number of occurrences; 0 for START.
    """

    context: np.ndarray
    token: np.ndarray
    suffix: np.ndarray
    occurrences: np.ndarray


def estimate(
    sentences: Iterable[Sequence[int]],
    vocabulary: int,
    order: int,
    prune: int = 0,
    open_vocabulary: bool = False,
) -> list[Grams]:
    """Estimates the n-grams of orders 1 to ``order``.

    The text is sorted once per order; memory is about 100 bytes per token.

    Args:
        sentences: token ids without EOS; read once. UNKNOWN counts like any other token.
        vocabulary: number V of token ids, including BLANK and EOS.
        order: order of the longest n-grams.
        prune: n-grams of order 3 and above are left out if they occur at most this number of times.
            Their probability goes to the back-off, as with ``lmplz --prune 0 0 prune``.
        open_vocabulary: whether UNKNOWN stands for any number of tokens that the text does not
            have. It then gets all of the probability below order 1 instead of an equal share, as
            with ``lmplz --interpolate_unigrams 0``.

    Raises:
        ValueError: there are no sentences, or an id is not a token.
    """
    counts = _count(*_text(sentences, vocabulary), vocabulary, order)
    kept = [np.ones(len(these.token), bool) for these in counts[:2]]
    kept += [these.occurrences > prune for these in counts[2:]]
    probabilities, backoffs = [], []
    lower = np.full(vocabulary, 1 / (vocabulary - 1))
    if open_vocabulary:
        lower = (np.arange(vocabulary) == UNKNOWN).astype(np.float64)
    for n, these in enumerate(counts):
        adjusted = _adjusted(these, counts[n + 1] if n + 1 < order else None)
        contexts = len(counts[n - 1].token) if n else 1
        lower, backoff = _interpolate(these, adjusted, kept[n], lower, contexts, n + 1)
        probabilities.append(lower)
        backoffs.append(backoff)
    probabilities[0][START] = 0.0
    backoffs = [*backoffs[1:], np.ones(len(lower))]  # of the n-grams as contexts
    return _kept(counts, kept, probabilities, backoffs)


def _interpolate(
    counts: Counts, adjusted: np.ndarray, kept: np.ndarray, lower: np.ndarray, contexts: int, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities (G,) of the kept n-grams, and the back-off weights (contexts,).

    ``lower`` are the probabilities of the order below; a context without followers has weight 1.
    """
    discount = _discounts(adjusted, n)[np.minimum(adjusted, 3)]  # (G,)
    total = np.bincount(counts.context, adjusted, contexts)
    freed = np.bincount(counts.context, np.where(kept, discount, adjusted), contexts)
    backoff = np.divide(freed, total, out=np.ones(contexts), where=total > 0)
    own = (adjusted - discount) / total[counts.context]
    return own + backoff[counts.context] * lower[counts.suffix], backoff


def _kept(
    counts: list[Counts],
    kept: list[np.ndarray],
    probabilities: list[np.ndarray],
    backoffs: list[np.ndarray],
) -> list[Grams]:
    """The kept n-grams; their contexts are kept too, because a context is at least as frequent."""
    orders = []
    rows = np.zeros(1, dtype=np.int64)  # new row of each n-gram of the order below
    for these, stay, probability, backoff in zip(
        counts, kept, probabilities, backoffs, strict=True
    ):
        with np.errstate(divide="ignore"):  # START
            log_prob = np.log(probability[stay])
        log_backoff = np.log(backoff[stay])
        orders.append(Grams(rows[these.context[stay]], these.token[stay], log_prob, log_backoff))
        rows = np.cumsum(stay) - 1
    return orders


def _text(sentences: Iterable[Sequence[int]], vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """All sentences joined, with <s> and EOS, and the distance of each token from the end.

    Both are (M,); the last token of a sentence has distance 1.
    """
    lengths: list[int] = []

    def tokens() -> Iterator[int]:
        for sentence in sentences:
            lengths.append(len(sentence))
            yield from sentence

    body = np.fromiter(tokens(), np.int64)
    if not lengths:
        raise ValueError("there are no sentences to estimate n-grams from; check the texts")
    wrong = body[(body < UNKNOWN) | (body >= vocabulary)]
    if len(wrong):
        raise ValueError(
            f"token {wrong[0]} in a sentence: ids are {UNKNOWN} to {vocabulary - 1}; encode the "
            "texts with the tokenizer of this vocabulary"
        )
    whole = np.array(lengths) + 2
    ends = np.cumsum(whole)
    text = np.full(ends[-1], -1)
    text[ends - whole], text[ends - 1] = START, EOS
    text[text < 0] = body
    return text, np.repeat(ends, whole) - np.arange(len(text))


def _count(text: np.ndarray, left: np.ndarray, vocabulary: int, order: int) -> list[Counts]:
    """Counts the n-grams of each order in (M,) tokens; ``left`` is the rest of each sentence.

    An n-gram is identified by the row of its first n - 1 tokens and its last token. This is one
    int64 for any order and vocabulary, so sorting integers finds equal n-grams.
    """
    tokens = np.arange(vocabulary)
    occurrences = np.bincount(text, minlength=vocabulary)
    occurrences[START] = 0
    counts = [Counts(np.zeros_like(tokens), tokens, tokens, occurrences)]
    rows = text  # (M,) of the n-gram that begins here
    for n in range(2, order + 1):
        begin = np.flatnonzero(left >= n)
        keys = rows[begin] * vocabulary + text[begin + n - 1]
        keys, index, inverse, occurrences = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True
        )
        context, token = np.divmod(keys, vocabulary)
        counts.append(Counts(context, token, rows[begin[index] + 1], occurrences))
        rows = np.zeros_like(text)
        rows[begin] = inverse
    return counts


def _adjusted(counts: Counts, longer: Counts | None) -> np.ndarray:
    """Returns (G,) adjusted counts; ``longer`` are the n-grams of the next order, if any."""
    if longer is None:
        return counts.occurrences
    before = np.bincount(longer.suffix, minlength=len(counts.token))
    return np.where(before > 0, before, counts.occurrences)


def _discounts(adjusted: np.ndarray, order: int) -> np.ndarray:
    """Returns (4,) discounts of counts of 0, 1, 2, and 3 or more, from (G,) adjusted counts.

    Equation 26 of Chen and Goodman. It gives no usable value if too few n-grams have one of the
    counts 1 to 4, as in small texts and among n-grams of characters of low order; FALLBACK is used
    then.
    """
    n1, n2, n3, n4 = np.bincount(adjusted[adjusted < 5], minlength=5)[1:5].tolist()
    if n1 and n2 and n3 and n4:  # without n4, counts of 3 would lose all their mass
        share = n1 / (n1 + 2 * n2)
        found = [k - (k + 1) * share * b / a for k, a, b in ((1, n1, n2), (2, n2, n3), (3, n3, n4))]
        if min(found) > 0:
            return np.array([0.0, *found])
    if len(adjusted):
        logger.warning(
            "order %d: %d, %d, %d and %d n-grams with counts 1 to 4 define no Kneser-Ney "
            "discounts; %g, %g and %g are used",
            *(order, n1, n2, n3, n4, *FALLBACK),
        )
    return np.array([0.0, *FALLBACK])
