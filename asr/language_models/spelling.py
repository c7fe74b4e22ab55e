"""How the words of a vocabulary are spelt with tokens.

The contexts are the beginnings of words, a prefix tree of the tokens that the tokenizer cuts each
word into. Let V(s) be the probability that a word begins with the tokens s, whatever is before it:

    V(s) = sum of the unigram probabilities of the words that begin with s + p(<unk>) Q(s)

The token x after s has the probability V(sx) / V(s), a look-ahead to the words that are still
possible (Ortmanns and Ney 1996). Q(s) is the probability that a word outside the vocabulary begins
with s: its tokens are independent of each other. What no word of the vocabulary begins with leaves
the tree. Context 0 is the place between two words, context OUTSIDE is outside of the tree.
"""

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor, nn

from asr.batch import BLANK, EOS, UNKNOWN
from asr.text.tokenizers import FIRST, SPACE

INSTEAD = "take a model of tokens, class_path: NGram"
OUTSIDE = 1
LOWEST = -1e9
DENSE = 2  # number of contexts that have all arcs; the others back off to OUTSIDE


class Kind(IntEnum):
    """What a token says about words."""

    INNER = 0  # it goes on with a word, or begins one after a space
    BEGIN = 1  # it begins with a space
    SPACE = 2  # it is a space


class Tree(nn.Module):
    """The spellings of a vocabulary with V tokens: C contexts, and A arcs between them.

    A token that begins with a space leads where it leads from context 0; to read one, end the word
    before it.

    Attributes:
        keys: (A + 1,) int64 ascending, context * V + token of each arc, then the largest number.
        tokens: (A,) int64, the token of each arc.
        targets: (A,) int64, the context after the arc.
        log_probs: (A,) float32.
        begins: (V,) bool, whether a token ends the word before it.
        base: (V,) float32, log-probability of each token between words if it ``begins``, otherwise
            outside of the tree.
        log_backoffs: (C,) float32, what to add to the latter in a context of the tree.
        sizes, stops: (C,) int64, number of arcs of a context, and the arc after them. Context
            OUTSIDE has none, because ``base`` has them.
        words: (C,) int64, the word that ends here; UNKNOWN if it is not in the vocabulary.
        endings: (C,) float32, what to add to log p(word | words before) if the word ends here: less
            what its tokens have been charged already.
    """

    keys: Tensor
    tokens: Tensor
    targets: Tensor
    log_probs: Tensor
    begins: Tensor
    base: Tensor
    log_backoffs: Tensor
    sizes: Tensor
    stops: Tensor
    words: Tensor
    endings: Tensor

    def __init__(self, **tables: np.ndarray):
        super().__init__()
        for name, values in tables.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def read(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Returns the contexts (N,) after tokens (N,) in contexts (N,)."""
        V = len(self.begins)
        wanted = context * V + tokens
        arc = torch.searchsorted(self.keys, wanted)  # (N,)
        arc = torch.where(self.keys.take(arc) == wanted, arc, tokens + OUTSIDE * V)
        return self.targets.take(arc)

    def predict(self, context: Tensor, end: Tensor) -> Tensor:
        """Returns log-probabilities (N, V) of the next token in contexts (N,).

        ``end`` (N,): log-probability that the word ends, 0 between words; that of EOS is the same.
        """
        outside = self.log_backoffs.take(context)
        log_probs = torch.where(self.begins, end[:, None], outside[:, None]).add_(self.base)
        sizes = self.sizes.take(context)
        row = torch.repeat_interleave(sizes)  # (R,)
        arc = (self.stops.take(context) - sizes.cumsum(0)).take(row)
        arc += torch.arange(len(row), device=row.device)
        log_probs[row, self.tokens.take(arc)] = self.log_probs.take(arc)
        return log_probs


def kinds_of(pieces: Sequence[str]) -> np.ndarray:
    """Returns the ``Kind`` (V,) of each token; a ValueError names one with parts of two words."""
    for piece in pieces:
        if SPACE in piece[1:]:
            raise ValueError(f"the token {piece!r} has parts of two words: {INSTEAD}")
    return np.array([piece.startswith(SPACE) + (piece == SPACE) for piece in pieces], np.uint8)


def spelling(
    spelt: Sequence[Sequence[int]], log_probs: np.ndarray, kinds: np.ndarray, lexicon: bool
) -> Tree:
    """Builds the tree of a vocabulary.

    Args:
        spelt: the tokens of each word, from id FIRST up; empty if the word cannot be spelt.
        log_probs: unigram log-probability of each word id.
        kinds: kinds (V,) of the tokens.
        lexicon: whether words outside the vocabulary have probability 0.
    """
    V, unknown = len(kinds), float(log_probs[UNKNOWN])
    first, inner, end = _outside(spelt, kinds)

    # The N nodes of the tree, with context 0 as the root; node n > 0 is context n + 1.
    arcs: dict[tuple[int, int], int] = {}
    mass, log_q, word = [1.0], [0.0], [UNKNOWN]
    costs = first.tolist(), inner.tolist()
    for number, row in enumerate(spelt, FIRST):
        node, probability = 0, math.exp(log_probs[number])
        for piece in row:
            before, node = node, arcs.setdefault((node, piece), len(mass))
            if node == len(mass):
                mass.append(0.0)
                log_q.append(log_q[before] + costs[before > 0][piece])
                word.append(UNKNOWN)
            mass[node] += probability
        word[node] = number if row else UNKNOWN
    outside = np.array(log_q) + unknown
    value = np.logaddexp(np.log(mass), outside)  # (N,) log V(s)
    value[0] = 0.0
    if unknown == -math.inf:  # a file without <unk>
        end = -math.inf
    ending = np.where(np.array(word) == UNKNOWN, np.array(log_q) + end, 0.0) - value
    ending = np.append([0.0, end - max(unknown, LOWEST)], ending[1:])

    source, token = np.array(list(arcs), np.int64).reshape(-1, 2).T
    target = np.arange(1, len(mass))
    order = np.lexsort((token, source))
    roots, rest = order[: (source == 0).sum()], order[(source == 0).sum() :]
    between = np.isin(np.arange(V), (BLANK, EOS)) | (kinds == Kind.SPACE)
    scores, targets = np.empty((DENSE, V)), np.empty((DENSE, V), np.int32)
    scores[:], targets[:] = np.where(between, 0.0, unknown + first), np.where(between, 0, 1)
    scores[:, BLANK] = -math.inf
    scores[:, token[roots]], targets[:, token[roots]] = value[target[roots]], target[roots] + 1
    goes_on = (kinds == Kind.INNER) & ~between
    scores[1, goes_on], targets[1, goes_on] = inner[goes_on], 1
    keys = np.append(np.arange(DENSE * V), (source[rest] + 1) * V + token[rest])
    scores = np.append(scores, value[target[rest]] - value[source[rest]])
    arrivals = np.append(targets, target[rest] + 1)
    words = np.array([UNKNOWN, UNKNOWN, *word[1:]])
    if lexicon:
        scores[arrivals == OUTSIDE] = -math.inf
        ending[1:][words[1:] == UNKNOWN] = -math.inf
    begins = (kinds != Kind.INNER) | (np.arange(V) == EOS)
    starts = np.searchsorted(keys, np.arange(len(words) + 1) * V)
    sizes = np.diff(starts) * (np.arange(len(words)) != OUTSIDE)
    return Tree(
        keys=np.append(keys, np.iinfo(np.int64).max),  # so that each search ends at an arc
        tokens=keys % V,
        targets=arrivals.astype(np.int64),
        log_probs=scores.astype(np.float32),
        begins=begins,
        base=np.where(begins, scores[:V], scores[V : 2 * V]).astype(np.float32),
        log_backoffs=np.append(np.zeros(DENSE), (outside - value)[1:]).astype(np.float32),
        sizes=sizes,
        stops=starts[:-1] + sizes,
        words=words,
        endings=ending.astype(np.float32),
    )


def _outside(
    spelt: Sequence[Sequence[int]], kinds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns log-probabilities (V,) of the first and of each other token, and that of the end.

    They come from the words of the vocabulary, each counted once, and every token once more.
    """
    V = len(kinds)
    first = np.bincount([row[0] for row in spelt if len(row)], minlength=V) + 1.0
    inner = np.bincount([token for row in spelt for token in row[1:]], minlength=V) + 1.0
    first[[BLANK, EOS]] = inner[[BLANK, EOS]] = 0
    first[kinds == Kind.SPACE], inner[kinds != Kind.INNER] = 0, 0
    ends = len(spelt) + 1
    with np.errstate(divide="ignore"):
        total = inner.sum() + ends
        return np.log(first / first.sum()), np.log(inner / total), math.log(ends / total)
