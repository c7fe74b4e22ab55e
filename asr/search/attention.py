"""Beam search with an attention decoder, CTC prefix scores and a language model.

A hypothesis h of U tokens has the score

    (1 - c) log p_attention(h) + c log p_ctc(h) + l log p_lm(h) + length_bonus * U

For an open hypothesis, p_ctc is the probability of all alignments that begin with h. For an ended
one, it is the probability of all alignments that spell exactly h (Hori, Watanabe and Hershey 2017,
"Joint CTC/attention decoding"; Graves 2008). p_lm is the probability under a language model
(shallow fusion, Gulcehre et al. 2015); it includes EOS once h has ended.

**Stopping.** No probability rises as a hypothesis grows. The best score of the open hypotheses,
plus a positive length bonus for all tokens that are still allowed, is therefore an upper bound of
all later scores. An utterance ends when a finished hypothesis reaches this bound. The search needs
no guess of the output length, and truncates no hypothesis.

**Limit on tokens.** Some decoders never emit EOS. An alignment cannot hold more tokens than encoder
frames, so the limit is S tokens. If CTC is part of the score, the limit is twice the expected
number of CTC labels plus 10, if this is less than S; the expectation has a closed form, because the
frames are independent given the audio. A hypothesis that reaches the limit without EOS has
``finished=False`` and ranks below every finished one.
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
    """Hypotheses with the terms of their scores, as (B, K) arrays on the host, best first.

    Attributes:
        score: the weighted sum of the terms; -inf where there is no hypothesis.
        attention: log-probability under the decoder.
        ctc: log-probability under CTC, 0 without it.
        lm: log-probability under the language model, 0 without one.
        parent: position of the hypothesis that was extended, at the previous step.
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
    """An utterance whose search goes on: its batch index, token limit and finished hypotheses."""

    index: int
    allowance: int
    found: list[Hypothesis] = field(default_factory=list)

    def bound(self, best: float, length: int, rules: Rules) -> float:
        """Upper bound of the scores that extensions of a hypothesis can reach."""
        return best + max(rules.length_bonus, 0.0) * (self.allowance - length)


@torch.no_grad()
def search(
    decoder: AttentionDecoder,
    encoded: Tensor,
    lengths: Tensor,
    rules: Rules,
    language_model: LanguageModel | None = None,
) -> list[list[Hypothesis]]:
    """Returns the hypotheses of each utterance, best first.

    Of the ``beam`` best extensions at each step, those that end with EOS become results. The search
    goes on with the ``beam`` best of the others. All hypotheses of all open utterances are one
    batch of the decoder. The host waits for the device once per step.

    Raises:
        ValueError: ``rules`` use CTC but the decoder has no CTC head, or scores are NaN.
    """
    results = [[Hypothesis((), 0.0, 0.0, 0.0, 0.0, True)] for _ in range(len(encoded))]
    nonempty = [index for index, length in enumerate(lengths.tolist()) if length > 0]
    if not nonempty:
        return results
    if len(nonempty) < len(results):
        rows = torch.tensor(nonempty)
        encoded, lengths = encoded[rows.to(encoded.device)], lengths[rows.to(lengths.device)]
    prefixes = _start_ctc(decoder, encoded, lengths, rules.ctc_weight)
    utterances = _open(nonempty, lengths, prefixes)
    state = decoder.start(encoded, lengths)
    fusion = None
    if language_model is not None:
        fusion = begin(language_model, len(encoded), encoded.device)
    one = np.zeros((len(nonempty), 1))  # one hypothesis without tokens per utterance
    live = Candidates(one, one, one, one, one.astype(np.int64), np.full(one.shape, EOS))
    spoken = np.zeros((len(nonempty), 1, 0), dtype=np.int64)  # (B, K, U)
    while True:
        last = torch.from_numpy(live.token.ravel()).to(encoded.device)  # (B*K,)
        log_probs, state = decoder.step(last, state)  # (B*K, V)
        found = _extensions(log_probs, live, prefixes, fusion, spoken.shape[2], rules)
        # topk ranks NaN above every number, so a NaN is in the first column.
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
    """The CTC scores of empty prefixes; None if CTC has no weight."""
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
    """Returns the open utterances, each with its limit on tokens."""
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
    """The best extensions of live hypotheses of ``length`` tokens, by (B*K, V) log-probabilities.

    It returns ``beam`` + K of them, so that at least ``beam`` are left without those that end.
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
    attentions[np.isneginf(scores)] = -math.inf  # an excluded extension has no extensions
    return Candidates(scores, attentions, ctcs, lms, *np.divmod(places.astype(np.int64), V))


def _extended(totals: np.ndarray, log_probs: Tensor) -> Tensor:
    """Adds (B*K, V) log-probabilities of tokens to the (B, K) totals of their hypotheses."""
    before = torch.from_numpy(totals).to(log_probs.device, precision(log_probs.device))
    return before[..., None] + log_probs.view(*totals.shape, -1)


def _weighted(attention: Tensor, ctc: Tensor | None, lm: Tensor | None, rules: Rules) -> Tensor:
    """Returns the weighted sum of the terms; it is -inf, not NaN, if a term is -inf."""
    if ctc is None:
        score = attention.clone()
    elif rules.ctc_weight == 1:
        score = ctc.masked_fill(attention.isneginf(), -math.inf)
    else:
        score = (1 - rules.ctc_weight) * attention + rules.ctc_weight * ctc
    return score if lm is None else score.add_(lm, alpha=rules.lm_weight)


def _continuing(found: Candidates, beam: int) -> Candidates:
    """The best ``beam`` candidates that have not ended, in as few columns as possible: (B, K)."""
    alive = (found.token != EOS) & np.isfinite(found.score)  # (B, C)
    order = np.argsort(~alive, axis=1, kind="stable")  # (B, C)
    order = order[:, : min(beam, alive.sum(1).max())]  # (B, K)
    rows = np.arange(len(order))[:, None]
    alive = alive[rows, order]
    grown = Candidates(*(value[rows, order] for value in found))
    return grown._replace(
        score=np.where(alive, grown.score, -math.inf),
        token=np.where(alive, grown.token, UNKNOWN),  # a valid input that is ignored
    )


def _end(utterances: list[OpenUtterance], found: Candidates, spoken: np.ndarray, beam: int) -> None:
    """Adds those of the best ``beam`` candidates (B, C) that ended to their utterances."""
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
    """Writes the results of utterances that end at this step; returns the rows of the others.

    ``spoken`` (B, K, U) are the tokens of ``live``; those in ``grown`` have one token more.
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
    """Reorders the states on the device, from ``live`` to the rows ``stay`` of ``grown``."""
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
