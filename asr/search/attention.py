"""Beam search with an attention decoder, CTC prefix scores and a language model.

A hypothesis h of U tokens has the score

    (1 - c) log p_attention(h) + c log p_ctc(h) + l log p_lm(h) + length_bonus * U

where p_ctc is the probability of all alignments that begin with h or, once h has ended, that
spell exactly h (Hori, Watanabe and Hershey 2017, "Joint CTC/attention decoding"; Graves 2008), and
p_lm that of a language model (shallow fusion, Gulcehre et al. 2015), EOS included once h has ended.

**Where a search stops.** All probabilities only fall as a hypothesis grows. The best score among
the open hypotheses (plus, if positive, the length bonus of all tokens that are still allowed)
therefore bounds everything that could follow, and an utterance ends as soon as a finished
hypothesis reaches this bound. No length ratio is guessed, and nothing is truncated.

**The allowance** is for decoders that do not want to stop. An alignment cannot hold more tokens
than encoder frames, so S tokens are the limit. Where CTC takes part in the score, its posterior
knows more: frames are independent given the audio, hence the expected number of labels has a
closed form, and the limit is twice that plus 10 if this is less. A hypothesis that is cut there
carries ``finished=False`` and ranks below every finished one.
"""

import bisect
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr.batch import BLANK, EOS, UNKNOWN
from asr.decoders.ctc_prefix import (
    CTCPrefixes,
    empty_prefixes,
    expected_length,
    extend,
    extension_scores,
    precision,
)
from asr.decoders.decoder import AttentionDecoder, State
from asr.language_models.language_model import LanguageModel
from asr.search.fusion import Fusion, begin
from asr.search.hypothesis import Hypothesis, Rules, refuse_nan, settled


class Candidates(NamedTuple):
    """Hypotheses and what they are made of, on the host; arrays of (B, K), best first.

    Attributes:
        score: the weighted sum, -inf where there is no hypothesis.
        attention: log-probability under the decoder.
        ctc: log-probability under CTC, 0 without it.
        lm: log-probability under the language model, 0 without one.
        parent: position among the hypotheses of the step before.
        token: last token.
    """

    score: np.ndarray
    attention: np.ndarray
    ctc: np.ndarray
    lm: np.ndarray
    parent: np.ndarray
    token: np.ndarray


@dataclass
class OpenUtterance:
    """An utterance that is still searched: its place in the batch, limit, and finds best first."""

    index: int
    allowance: int
    found: list[Hypothesis] = field(default_factory=list)

    def bound(self, best: float, length: int, rules: Rules) -> float:
        """What follows from hypotheses of this length and score is not worth more."""
        return best + max(rules.length_bonus, 0.0) * (self.allowance - length)


@torch.no_grad()
def search(
    decoder: AttentionDecoder,
    encoded: Tensor,
    lengths: Tensor,
    rules: Rules,
    language_model: LanguageModel | None = None,
) -> list[list[Hypothesis]]:
    """(B, S, D), (B,) -> hypotheses of each utterance, best first.

    At each step the ``beam`` best of all extensions count: those that end are finished, and the
    search goes on with the ``beam`` best that do not. The decoder sees all utterances and
    hypotheses at once; utterances leave when they end. The device is waited for once per step.

    Raises:
        ValueError: CTC is asked for and the decoder has no CTC head, or scores are NaN.
    """
    results = [[Hypothesis((), 0.0, 0.0, 0.0, 0.0, True)] for _ in range(len(encoded))]
    heard = [index for index, length in enumerate(lengths.tolist()) if length > 0]
    if not heard:
        return results
    if len(heard) < len(results):
        rows = torch.tensor(heard)
        encoded, lengths = encoded[rows.to(encoded.device)], lengths[rows.to(lengths.device)]
    prefixes = _start_ctc(decoder, encoded, lengths, rules.ctc_weight)
    utterances = _open(heard, lengths, prefixes)
    state = decoder.start(encoded, lengths)
    fusion = None
    if language_model is not None:
        fusion = begin(language_model, len(encoded), encoded.device)
    one = np.zeros((len(heard), 1))  # hypothesis per utterance, of no tokens
    live = Candidates(one, one, one, one, one.astype(np.int64), np.full(one.shape, EOS))
    spoken = np.zeros((len(heard), 1, 0), dtype=np.int64)  # (B, K, U)
    while True:
        last = torch.from_numpy(live.token.ravel()).to(encoded.device)  # (B*K,)
        log_probs, state = decoder.step(last, state)  # (B*K, V)
        found = _extensions(log_probs, live, prefixes, fusion, spoken.shape[2], rules)
        # NaN is greater than any number to topk: where there is one, it stands first.
        refuse_nan([utterances[row].index for row in np.flatnonzero(np.isnan(found.score[:, 0]))])
        grown = _continuing(found, rules.beam)
        _end(utterances, found, spoken, rules.beam)
        stay = _close(utterances, live, grown, spoken, rules, results)
        if not len(stay):
            return results
        state, prefixes, fusion = _follow(
            state, prefixes, fusion, live, grown, stay, encoded.device
        )
        utterances = [utterances[row] for row in stay]
        live = Candidates(*(value[stay] for value in grown))
        spoken = np.concatenate(
            [spoken[stay[:, None], live.parent], live.token[..., None]], axis=2
        )  # (B, K, U + 1)


def _start_ctc(
    decoder: AttentionDecoder, encoded: Tensor, lengths: Tensor, ctc_weight: float
) -> CTCPrefixes | None:
    """The empty prefixes; None where CTC takes no part."""
    if ctc_weight == 0:
        return None
    log_probs = decoder.ctc_log_probs(encoded)
    if log_probs is None:
        raise ValueError(
            f"ctc_weight is {ctc_weight} but the decoder has no CTC head: "
            "set ctc_weight to 0, or train the decoder with a CTC term"
        )
    return empty_prefixes(log_probs, lengths)


def _open(indices: list[int], lengths: Tensor, prefixes: CTCPrefixes | None) -> list[OpenUtterance]:
    """The utterances, with the tokens that each may have."""
    limits = lengths.tolist()
    if prefixes is not None:
        generous = (2 * expected_length(prefixes) + 10).nan_to_num(nan=math.inf).tolist()
        limits = [int(min(pair)) for pair in zip(limits, generous, strict=True)]
    return [OpenUtterance(index, limit) for index, limit in zip(indices, limits, strict=True)]


def _extensions(
    log_probs: Tensor,
    live: Candidates,
    prefixes: CTCPrefixes | None,
    fusion: Fusion | None,
    length: int,
    rules: Rules,
) -> Candidates:
    """The best extensions of the live hypotheses of this length, from (B*K, V).

    There are enough for ``beam`` of them not to end, whichever end.
    """
    K, V = live.score.shape[1], log_probs.shape[1]
    attention = _extended(live.attention, log_probs)  # (B, K, V)
    ctc = None if prefixes is None else extension_scores(prefixes)
    lm = None if fusion is None else _extended(live.lm, fusion.log_probs)
    score = _weighted(attention, ctc, lm, rules) + rules.length_bonus * (length + 1)
    score[..., EOS] -= rules.length_bonus
    score[..., BLANK] = -math.inf
    score, place = score.flatten(1).topk(min(rules.beam + K, K * V))  # (B, C)
    parts = [
        torch.zeros_like(score) if part is None else part.flatten(1).gather(1, place)  # (B, C)
        for part in (attention, ctc, lm)
    ]
    packed = torch.stack([score, *parts, place.to(score.dtype)])  # one transfer to the host
    scores, attentions, ctcs, lms, places = packed.cpu().to(torch.float64).numpy()
    attentions[np.isneginf(scores)] = -math.inf  # nothing grows from what is not a hypothesis
    return Candidates(scores, attentions, ctcs, lms, *np.divmod(places.astype(np.int64), V))


def _extended(totals: np.ndarray, log_probs: Tensor) -> Tensor:
    """(B, K) log-probabilities of hypotheses, (B*K, V) of tokens -> (B, K, V) of both."""
    before = torch.from_numpy(totals).to(log_probs.device, precision(log_probs.device))
    return before[..., None] + log_probs.view(*totals.shape, -1)


def _weighted(attention: Tensor, ctc: Tensor | None, lm: Tensor | None, rules: Rules) -> Tensor:
    """The weighted sum; what any of them excludes has -inf, never 0 * -inf."""
    if ctc is None:
        score = attention.clone()
    elif rules.ctc_weight == 1:
        score = ctc.masked_fill(attention.isneginf(), -math.inf)
    else:
        score = (1 - rules.ctc_weight) * attention + rules.ctc_weight * ctc
    return score if lm is None else score.add_(lm, alpha=rules.lm_weight)


def _continuing(found: Candidates, beam: int) -> Candidates:
    """The best ``beam`` that have not ended, and no more columns than needed: (B, K)."""
    alive = (found.token != EOS) & np.isfinite(found.score)  # (B, C)
    order = np.argsort(~alive, axis=1, kind="stable")  # (B, C)
    order = order[:, : min(beam, alive.sum(1).max())]  # (B, K)
    rows = np.arange(len(order))[:, None]
    alive = alive[rows, order]
    grown = Candidates(*(value[rows, order] for value in found))
    return grown._replace(
        score=np.where(alive, grown.score, -math.inf),
        token=np.where(alive, grown.token, UNKNOWN),  # what no network minds to read
    )


def _end(utterances: list[OpenUtterance], found: Candidates, spoken: np.ndarray, beam: int) -> None:
    """Gives the utterances those of their best ``beam`` candidates (B, C) that have ended."""
    score, token = found.score[:, :beam], found.token[:, :beam]
    for row, column in np.argwhere((token == EOS) & np.isfinite(score)).tolist():
        tokens = spoken[row, found.parent[row, column]]
        hypothesis = _hypothesis(found, row, column, tokens, True)
        bisect.insort(utterances[row].found, hypothesis, key=lambda h: -h.score)


def _hypothesis(
    candidates: Candidates, row: int, column: int, tokens: np.ndarray, finished: bool
) -> Hypothesis:
    score, attention, ctc, lm = (float(value[row, column]) for value in candidates[:4])
    return Hypothesis(tuple(tokens.tolist()), score, attention, ctc, lm, finished)


def _close(
    utterances: list[OpenUtterance],
    live: Candidates,
    grown: Candidates,
    spoken: np.ndarray,
    rules: Rules,
    results: list[list[Hypothesis]],
) -> np.ndarray:
    """Writes the results of utterances that end here; the rows of the others.

    ``live`` have the tokens ``spoken`` (B, K, U), ``grown`` one more.
    """
    stay = []
    length = spoken.shape[2]
    for row, utterance in enumerate(utterances):
        best = float(grown.score[row, 0]) if grown.score.shape[1] else -math.inf
        found = utterance.found
        if not settled(found, utterance.bound(best, length + 1, rules), rules):
            if length < utterance.allowance and best > -math.inf:
                stay.append(row)
                continue
            ended = {hypothesis.tokens for hypothesis in found}
            cut = [
                _hypothesis(live, row, column, spoken[row, column], False)
                for column in np.flatnonzero(np.isfinite(live.score[row])).tolist()
            ]
            found = found + [hypothesis for hypothesis in cut if hypothesis.tokens not in ended]
        results[utterance.index] = found[: rules.nbest or rules.beam]
    return np.array(stay, dtype=np.int64)


def _follow(
    state: State,
    prefixes: CTCPrefixes | None,
    fusion: Fusion | None,
    live: Candidates,
    grown: Candidates,
    stay: np.ndarray,
    device: torch.device,
) -> tuple[State, CTCPrefixes | None, Fusion | None]:
    """Reorders what the device holds: from ``live`` to the rows ``stay`` of ``grown``."""
    B, K = live.score.shape
    parent, token = grown.parent[stay], grown.token[stay]  # (B', K')
    rows = None if len(stay) == B else torch.from_numpy(stay).to(device)  # (B',)
    places = (stay[:, None] * K + parent).ravel()  # (B'*K',)
    hypotheses = torch.from_numpy(places).to(device)
    parents, tokens = torch.from_numpy(np.stack([parent, token])).to(device)
    if rows is not None or not np.array_equal(places, np.arange(B * K)):
        state = state.select(hypotheses, rows)
    if prefixes is not None:
        prefixes = prefixes if rows is None else prefixes.select(rows)
        prefixes = extend(prefixes, parents, tokens)
    if fusion is not None:
        fusion = fusion.follow(hypotheses, tokens.flatten())
    return state, prefixes, fusion
