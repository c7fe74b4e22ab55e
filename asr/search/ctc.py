"""Greedy search and time-synchronous prefix beam search with a CTC head.

Each prefix h of U tokens has two probabilities at frame t. They sum over the alignments of the
first t frames that spell h and end in a blank, and over those that end in the last token of h
(Graves 2014, "Towards end-to-end speech recognition"; Hannun et al. 2014, "First-pass large
vocabulary continuous speech recognition using bi-directional recurrent DNNs"). After the last frame
the score of h is

    log p_ctc(h) + l log p_lm(h) + length_bonus * U

The language model reads a token when a prefix grows by this token, and EOS at the end. If the beam
holds every prefix, p_ctc is the sum over all alignments. With a smaller beam, it is the sum over
the alignments whose prefixes were kept.

At each frame a prefix stays or grows by one token; equal prefixes are merged, see
``asr.search.prefixes``.

**Tokens that are tried.** The search tries the 2 * beam likeliest tokens of each frame; with a
language model, those that lead to the best scores from any prefix. This gives the same result as
trying all tokens: among them, at least ``beam`` neither repeat the last token of a prefix nor lead
to a live prefix, and each of these has an extension that is better than one by any other token.

An alignment never contains EOS, so the probability that the CTC head gives to EOS is not used.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from asr.batch import BLANK, EOS, mask
from asr.decoders.ctc_prefix import precision
from asr.decoders.decoder import Decoder
from asr.language_models.language_model import LanguageModel
from asr.search.fusion import Fusion, begin
from asr.search.hypothesis import Hypothesis, Rules, refuse_nan
from asr.search.prefixes import FIRST_TOKEN, Prefixes, Survivors, listed


@torch.no_grad()
def greedy(decoder: Decoder, encoded: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
    """Returns the tokens of the likeliest path of each utterance.

    ``decoder_score`` is the log-probability of this one path, not of all paths with these tokens.

    Raises:
        ValueError: scores are NaN.
    """
    log_probs = _emissions(decoder, encoded, lengths)  # (B, S, V)
    score, path = log_probs.max(-1)  # (B, S)
    before = torch.nn.functional.pad(path, (1, 0), value=BLANK)[:, :-1]
    spoken = (path != BLANK) & (path != before)  # (B, S)
    tokens = path[spoken].split(spoken.sum(1).tolist())
    return [
        [Hypothesis(tuple(found.tolist()), total, total, 0.0, 0.0, True)]
        for found, total in zip(tokens, score.sum(1).tolist(), strict=True)
    ]


@dataclass(frozen=True)
class LivePrefixes:
    """The K prefixes of each utterance at one frame; unused places have -inf in every value.

    Attributes:
        blank: (B, K) log-probability of the alignments that end in a blank.
        label: (B, K) log-probability of the alignments that end in the last token.
        lm: (B, K) log-probability under the language model, 0 without one.
        prefixes: the tokens of the prefixes.
    """

    blank: Tensor
    label: Tensor
    lm: Tensor
    prefixes: Prefixes


@torch.no_grad()
def search(
    decoder: Decoder,
    encoded: Tensor,
    lengths: Tensor,
    rules: Rules,
    language_model: LanguageModel | None = None,
) -> list[list[Hypothesis]]:
    """Returns up to ``nbest`` or ``beam`` hypotheses of each utterance, best first.

    All prefixes of all utterances advance together, frame by frame. Without a language model, the
    host waits for the device only at the end. With one, the host waits at each frame to learn which
    prefixes grew, because the language model reads only these.

    Raises:
        ValueError: scores are NaN.
    """
    if not len(encoded):
        return []
    log_probs = _emissions(decoder, encoded, lengths)  # (B, S, V)
    scores = log_probs[..., FIRST_TOKEN:]  # (B, S, V - 2)
    live, fusion = _empty(log_probs), None
    tokens = scores  # are chosen at each frame if there is a language model
    if language_model is None:
        scores, tokens = scores.topk(min(2 * rules.beam, scores.shape[2]))  # (B, S, M)
        tokens += FIRST_TOKEN
    else:
        fusion = begin(language_model, len(encoded), encoded.device)
    for frame in range(log_probs.shape[1]):
        live, fusion = _step(
            live, fusion, log_probs[:, frame], scores[:, frame], tokens[:, frame], rules
        )
    return _hypotheses(live, fusion, rules)


def _emissions(decoder: Decoder, encoded: Tensor, lengths: Tensor) -> Tensor:
    """Returns log-probabilities (B, S, V), in float64 if the device has it.

    EOS has probability 0. In the padding the blank has probability 1.
    """
    log_probs = decoder.ctc_log_probs(encoded)
    assert log_probs is not None, "a decoder that is searched by CTC has a CTC head"
    log_probs = log_probs.to(precision(encoded.device), copy=True)
    padding = ~mask(lengths.to(encoded.device), encoded.shape[1])  # (B, S)
    log_probs.masked_fill_(padding[..., None], -math.inf)
    log_probs[..., BLANK].masked_fill_(padding, 0.0)
    refuse_nan(log_probs.isnan().flatten(1).any(1).nonzero()[:, 0].tolist())
    log_probs[..., EOS] = -math.inf
    return log_probs


def _empty(log_probs: Tensor) -> LivePrefixes:
    """The empty prefix, before the first frame; K = 1."""
    zero = log_probs.new_zeros(len(log_probs), 1)  # (B, 1)
    prefixes = Prefixes.empty(len(log_probs), log_probs.device)
    return LivePrefixes(zero, torch.full_like(zero, -math.inf), zero, prefixes)


def _step(
    live: LivePrefixes,
    fusion: Fusion | None,
    log_probs: Tensor,
    scores: Tensor,
    tokens: Tensor,
    rules: Rules,
) -> tuple[LivePrefixes, Fusion | None]:
    """Advances by one frame with (B, V) log-probabilities; (B, M) ``scores`` are of ``tokens``."""
    total = torch.logaddexp(live.blank, live.label)  # (B, K)
    parents = live.prefixes.parents(total > -math.inf)  # (B, K, K)
    blank, label = _stay(live, total, parents, log_probs)
    bonus = rules.length_bonus * live.prefixes.lengths.to(total.dtype)  # (B, K)
    extra = rules.lm_weight * live.lm + bonus
    stay = torch.logaddexp(blank, label) + extra
    lm = live.lm[..., None]  # (B, K, 1)
    if fusion is not None:
        following = fusion.log_probs.view(*live.lm.shape, -1)[..., FIRST_TOKEN:]  # (B, K, V - 2)
        ranks = (total + extra).to(following.dtype)[..., None]
        best = torch.add(ranks, following, alpha=rules.lm_weight).amax(1)  # (B, V - 2)
        kind = (scores + best).topk(min(2 * rules.beam, scores.shape[1])).indices  # (B, M)
        scores, tokens = scores.gather(1, kind), kind + FIRST_TOKEN
        lm = lm + following.gather(2, kind[:, None].expand(-1, lm.shape[1], -1))
    grown = _grow(live, total, parents, scores, tokens)
    lm = lm.expand_as(grown)  # (B, K, M)
    grow = torch.add(grown, lm, alpha=rules.lm_weight) + (bonus + rules.length_bonus)[..., None]
    survivors = Survivors.best(stay, grow, rules.beam)
    token = torch.where(survivors.grew, tokens.gather(1, survivors.kind), BLANK)  # (B, K')
    blank = blank.gather(1, survivors.parent).masked_fill_(survivors.grew, -math.inf)
    label = survivors.of(label, grown)
    if fusion is not None:
        read = survivors.grew & (label > -math.inf)
        fusion = fusion.grow(survivors.rows, read.flatten(), token.flatten())
    return LivePrefixes(
        blank, label, survivors.of(live.lm, lm), live.prefixes.follow(survivors, token)
    ), fusion


def _stay(
    live: LivePrefixes, total: Tensor, parents: Tensor, log_probs: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns log-probabilities of prefixes that stay and end in a blank, or in their last token.

    Both are (B, K). The extensions of other prefixes that equal a prefix are added to it.
    """
    last = live.prefixes.last  # (B, K)
    # A token that repeats the last one needs a blank between both.
    same = last[..., None] == last[:, None]  # (B, K, K)
    arrived = torch.where(same, live.blank[..., None], total[..., None])  # (B, K, K)
    arrived = arrived.masked_fill_(~parents, -math.inf).amax(1)  # (B, K), of at most one
    label = torch.logaddexp(live.label, arrived) + log_probs.gather(1, last)
    return total + log_probs[:, BLANK, None], label


def _grow(
    live: LivePrefixes, total: Tensor, parents: Tensor, scores: Tensor, tokens: Tensor
) -> Tensor:
    """Returns log-probabilities (B, K, M) of prefixes that grow; -inf where they equal a prefix."""
    ends = tokens[:, None] == live.prefixes.last[..., None]  # (B, K, M)
    grown = torch.where(ends, live.blank[..., None], total[..., None]) + scores[:, None]
    reached = torch.bmm(parents.to(scores.dtype), ends.to(scores.dtype)) > 0  # (B, K, M)
    return grown.masked_fill_(reached, -math.inf)


def _hypotheses(live: LivePrefixes, fusion: Fusion | None, rules: Rules) -> list[list[Hypothesis]]:
    """The hypotheses after the last frame, best first.

    If the language model gives EOS probability 0, the hypothesis has ``finished=False`` and a score
    without EOS.
    """
    total = torch.logaddexp(live.blank, live.label)  # (B, K)
    ended = live.lm
    if fusion is not None:
        ended = ended + fusion.log_probs[:, EOS].view_as(ended)
    finished = ended > -math.inf
    lm = torch.where(finished, ended, live.lm)
    score = total + rules.lm_weight * lm + rules.length_bonus * live.prefixes.lengths
    refuse_nan(score.isnan().any(1).nonzero()[:, 0].tolist())
    nothing = Hypothesis((), -math.inf, -math.inf, 0.0, 0.0, False)
    return [
        found[: rules.nbest or rules.beam] or [nothing]
        for found in listed(live.prefixes, score, total, lm, finished)
    ]
