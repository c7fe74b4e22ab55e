"""How words are spelt with the pieces of a tokenizer, as a back-off automaton.

Its contexts are the beginnings of the words of a vocabulary: a prefix tree of characters. A piece
moves along several characters at once, so all segmentations of a word lead to the same context. Let
V(s) be the probability that a word begins with the characters s, whatever is before it:

    V(s) = sum of the unigram probabilities of the words that begin with s + p(<unk>) Q(s)

The piece x after s has the probability V(sx) / V(s), a look-ahead to the words that are still
possible (Ortmanns and Ney 1996). Q(s) is the probability that an unknown word begins with s, under
a bigram model of characters with a Dirichlet prior (MacKay and Peto 1995). A beginning that no word
has leaves the tree: its context is its last character. All beginnings that end in this character
back off to this context.

Context 0 is the place between two words. A piece that begins with a space leads where it leads from
context 0; to read one, end the word before it (see ``Spelling.endings``).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.batch import BLANK, UNKNOWN
from asr.language_models.backoff import Automaton
from asr.text.tokenizers import FIRST, REPLACEMENT, SPACE

EDGE = 0  # number of the edge of a word, before its first and after its last character


@dataclass(frozen=True)
class Spelling:
    """The automaton of V pieces, and what it says about its C contexts.

    Attributes:
        automaton: its tokens are the pieces; n-grams are of order 2.
        dense: number of contexts that have all arcs; the others back off to them, see ``Lookup``.
        words: (C,) int64, the word that ends here; UNKNOWN if it is not in the vocabulary.
        endings: (C,) float32, what to add to log p(word | words before) if the word ends here: less
            what its characters have been charged already. It is -inf if the word is forbidden.
        begins: (V,) bool, the pieces that begin with a space.
    """

    automaton: Automaton
    dense: int
    words: np.ndarray
    endings: np.ndarray
    begins: np.ndarray


def spelling(
    words: Sequence[str], log_probs: np.ndarray, pieces: Sequence[str], lexicon: bool
) -> Spelling:
    """Builds the automaton of a vocabulary.

    Args:
        words: the vocabulary without <s>, </s> and <unk>; the first word has the id FIRST.
        log_probs: unigram log-probability of each id.
        pieces: spelling of each token id, see ``Tokenizer.pieces``.
        lexicon: whether words outside the vocabulary are forbidden.
    """
    V = len(pieces)
    spelt = ["", "", REPLACEMENT, *(piece.removeprefix(SPACE) for piece in pieces[FIRST:])]
    begins = np.array([piece.startswith(SPACE) for piece in pieces])
    alphabet = sorted(set().union(*spelt, *words))
    number = {character: place for place, character in enumerate(alphabet, EDGE + 1)}
    bigrams = _bigrams([[number[c] for c in word] for word in words], len(number) + 1)
    unknown = -math.inf if lexicon else float(log_probs[UNKNOWN])

    # The M nodes of the prefix tree. Node 0 is context 0; node n > 0 is context C + n.
    nodes, mass, log_q = _tree(words, np.exp(log_probs[FIRST:]), number, bigrams)
    outside = log_q + unknown
    value = np.logaddexp(np.log(mass), outside)  # (M,) log V(s)
    value[0] = 0.0
    last = np.array([number[prefix[-1]] if prefix else EDGE for prefix in nodes])
    source, token, target = _arcs(nodes, pieces)
    order = np.lexsort((token, source))
    source, token, target = source[order], token[order], target[order]
    first, C = np.count_nonzero(source == 0), len(number)

    # The dense contexts: 0, and the C characters. Only pieces that go on with a word differ.
    head, inside, tail = _edges([[number[c] for c in piece] for piece in spelt], bigrams)
    scores, targets = np.empty((C + 1, V)), np.empty((C + 1, V), np.int64)
    scores[:], targets[:] = (
        np.where(head == EDGE, 0.0, unknown + bigrams[EDGE, head] + inside),
        tail,
    )
    scores[:, token[:first]], targets[:, token[:first]] = value[target[:first]], C + target[:first]
    scores[:, BLANK] = -math.inf
    inner = np.flatnonzero((head != EDGE) & ~begins)
    scores[1:, inner] = bigrams[1:, head[inner]] + inside[inner]
    targets[1:, inner] = tail[inner]

    # Characters cost log p(<unk>) Q(s) outside of the tree, and log V(s) inside.
    word = np.full(len(nodes), UNKNOWN)
    word[[nodes[each] for each in words]] = np.arange(FIRST, FIRST + len(words))
    forbidden = unknown == -math.inf
    other = np.full(C + 1, -math.inf) if forbidden else bigrams[:, EDGE]
    ending = np.where(word == UNKNOWN, log_q + other[last], 0.0) - value
    outer = other if forbidden else other - unknown

    keys = np.append(np.arange(scores.size), (C + source[first:]) * V + token[first:])
    automaton = Automaton(
        keys=keys,
        log_probabilities=np.append(scores, (value[target] - value[source])[first:]).astype("f4"),
        targets=np.append(targets, C + target[first:]).astype("i4"),
        starts=np.searchsorted(keys, np.arange(C + len(nodes) + 1) * V),
        log_backoffs=np.append(np.zeros(C + 1), (outside - value)[1:]).astype("f4"),
        suffixes=np.append(np.arange(C + 1), last[1:]).astype("i4"),
    )
    words_ended = np.append(np.full(C + 1, UNKNOWN), word[1:])
    return Spelling(
        automaton, C + 1, words_ended, np.append(outer, ending[1:]).astype("f4"), begins
    )


def _bigrams(words: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """Returns log-probabilities (size, size) of a character or EDGE after another or EDGE."""
    counts = np.zeros((size, size))
    for word in words:
        np.add.at(counts, ([EDGE, *word], [*word, EDGE]), 1)
    prior = counts.sum(0) + 1  # every character has been seen once more
    counts += prior / prior.sum() * size
    log_probs: np.ndarray = np.log(counts / counts.sum(1, keepdims=True))
    return log_probs


def _tree(
    words: Sequence[str], probabilities: np.ndarray, number: dict[str, int], bigrams: np.ndarray
) -> tuple[dict[str, int], np.ndarray, np.ndarray]:
    """Numbers the M beginnings s of words; returns their mass (M,), too, and log Q(s) (M,)."""
    nodes, mass, log_q = {"": 0}, [1.0], [0.0]
    steps = bigrams.tolist()
    for word, probability in zip(words, probabilities.tolist(), strict=True):
        before, last = 0, EDGE
        for size, character in enumerate(word, 1):
            node = nodes.setdefault(word[:size], len(nodes))
            if node == len(mass):
                mass.append(0.0)
                log_q.append(log_q[before] + steps[last][number[character]])
            mass[node] += probability
            before, last = node, number[character]
    return nodes, np.array(mass), np.array(log_q)


def _arcs(
    nodes: dict[str, int], pieces: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns source, piece and target (A,) of the arcs of the tree, one for each way to go on."""
    tokens = {piece: token for token, piece in enumerate(pieces) if token > UNKNOWN}
    longest = max(map(len, pieces))
    arcs = []
    for prefix, node in itertools.islice(nodes.items(), 1, None):
        for size in range(1, min(len(prefix), longest) + 1):
            if (token := tokens.get(prefix[-size:])) is not None:
                arcs.append((nodes[prefix[:-size]], token, node))
        if (token := tokens.get(SPACE + prefix)) is not None:
            arcs.append((0, token, node))
    columns = np.array(arcs, np.int64).reshape(-1, 3).T
    return columns[0], columns[1], columns[2]


def _edges(
    rows: Sequence[Sequence[int]], bigrams: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the first character, log-probability of the others, and last character; (V,) each."""
    ends = np.array([[row[0], row[-1]] if row else [EDGE, EDGE] for row in rows])
    inside = np.array([sum(bigrams[a, b] for a, b in itertools.pairwise(row)) for row in rows])
    return ends[:, 0], inside, ends[:, 1]
