"""The data structure of back-off n-gram models, and its states for decoding.

A token w after a context h has the probability of the longest n-gram that the model has:

    p(w | h) = p(hw) if the model has hw, else backoff(h) p(w | h without its first token)

and a context that the model does not have has a back-off weight of 1 (Katz 1987).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.batch import BLANK, EOS

START = BLANK  # the id of <s> in n-grams, shared with BLANK because neither is ever predicted


@dataclass(frozen=True)
class Grams:
    """The G n-grams of one order, sorted by context, then by token; natural logarithms.

    Order 1 has all V tokens, so that row and token are the same number.

    Attributes:
        context: (G,) int64, row of the order below that has all tokens but the last; 0 in order 1.
        token: (G,) int64, the last token.
        log_prob: (G,) float64, log-probability of the token after its context; -inf for START.
        log_backoff: (G,) float64, back-off weight of the n-gram as a context; 0 if nothing follows.
    """

    context: np.ndarray
    token: np.ndarray
    log_prob: np.ndarray
    log_backoff: np.ndarray


@dataclass(frozen=True)
class Automaton:
    """The n-grams as C contexts and A arcs between them; an arc is an n-gram.

    Context 0 is the empty one, with an arc for each of the V tokens. Every n-gram that a prediction
    can depend on is a context: one that others continue, or whose back-off weight is not 1.

    Attributes:
        keys: (A,) int64 ascending, context * V + token of each arc.
        log_probabilities: (A,) float32.
        targets: (A,) int32, the context after the arc: the longest one that the text ends with.
            After EOS it is the context of <s>.
        starts: (C + 1,) int64, the arcs of context c are those from starts[c] to starts[c + 1] - 1.
        log_backoffs: (C,) float32; 0 for the empty context.
        suffixes: (C,) int32, the longest context that this one ends with; 0 for the empty one.
    """

    keys: np.ndarray
    log_probabilities: np.ndarray
    targets: np.ndarray
    starts: np.ndarray
    log_backoffs: np.ndarray
    suffixes: np.ndarray


def uniform_unigrams(vocabulary: int) -> Grams:
    """N-grams of order 1 in which all V tokens but START are equally likely."""
    log_prob = np.full(vocabulary, -np.log(vocabulary - 1))
    log_prob[START] = -np.inf
    tokens = np.arange(vocabulary)
    return Grams(np.zeros_like(tokens), tokens, log_prob, np.zeros(vocabulary))


def automaton(orders: Sequence[Grams]) -> Automaton:
    """Joins the n-grams of orders 1 and up; prefixes of a context must exist, suffixes need not."""
    vocabulary = len(orders[0].token)
    # Node 0 is the empty n-gram, then come the n-grams, order by order.
    first = np.cumsum([1] + [len(grams.token) for grams in orders])
    above = [grams.context + begin for grams, begin in zip(orders[1:], first, strict=False)]
    parent = np.concatenate([orders[0].context, *above])  # (A,)
    keys = parent * vocabulary + np.concatenate([grams.token for grams in orders])  # (A,)
    backoff = np.concatenate([[0.0], *(grams.log_backoff for grams in orders)])  # (A + 1,)
    suffix = _suffixes(keys, vocabulary, first)  # (A + 1,)

    children = np.bincount(parent, minlength=len(suffix))  # (A + 1,)
    kept = (children > 0) | (backoff != 0)  # (A + 1,)
    nearest = np.arange(len(suffix))  # (A + 1,) the longest suffix that is kept, or itself
    while not kept[nearest].all():
        nearest = np.where(kept[nearest], nearest, suffix[nearest])
    number = np.cumsum(kept) - 1  # (A + 1,) of the nodes that are kept
    targets = number[nearest[1:]]  # (A,)
    targets[keys % vocabulary == EOS] = number[nearest[1 + START]]
    return Automaton(
        keys=number[parent] * vocabulary + keys % vocabulary,
        log_probabilities=np.concatenate([grams.log_prob for grams in orders]).astype(np.float32),
        targets=targets.astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(children[kept])]),
        log_backoffs=backoff[kept].astype(np.float32),
        suffixes=number[nearest[suffix[kept]]].astype(np.int32),
    )


def find_keys(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds wanted keys (N,) among ascending keys (A,): their positions, and whether they exist."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)  # (N,)
    return place, keys[place] == wanted


def _suffixes(keys: np.ndarray, vocabulary: int, first: np.ndarray) -> np.ndarray:
    """Keys (A,) of the arcs between nodes -> the longest proper suffix of each node, (A + 1,).

    The suffix of hw is w after the longest suffix of h that w can follow (Aho and Corasick 1975).
    """
    suffix = np.zeros(len(keys) + 1, dtype=np.int64)
    for begin, end in zip(first[1:-1], first[2:], strict=True):
        open_ = np.arange(begin, end)  # nodes
        parent, token = np.divmod(keys[begin - 1 : end - 1], vocabulary)
        state = suffix[parent]
        while len(open_):
            place, found = find_keys(keys, state * vocabulary + token)
            suffix[open_[found]] = place[found] + 1
            open_, token, state = open_[~found], token[~found], suffix[state[~found]]
    return suffix
