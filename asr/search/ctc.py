"""Greedy and time-synchronous prefix beam search over a CTC head; pure functions.

A prefix h of U tokens is kept at frame t with two probabilities: of all alignments of the first t
frames that spell h and end in a blank, and of those that end in its last token (Graves 2014,
"Towards end-to-end speech recognition"; Hannun et al. 2014, "First-pass large vocabulary
continuous speech recognition using bi-directional recurrent DNNs"). After the last frame it has
the score

    log p_ctc(h) + l log p_lm(h) + length_bonus * U

in which the language model reads each token when a prefix grows by it, and EOS at the end. With a
beam that holds every prefix, p_ctc is the sum over all alignments; with a smaller one, over those
whose prefixes were kept.

**No prefix is held twice.** From frame to frame a prefix stays or grows by one token, so the only
way to reach it twice is to stay at it and to grow into it from the prefix one token shorter. Which
live prefix begins which other is therefore all there is to know; that is a matrix of booleans,
kept up to date by comparing tokens. No hash, and no approximation.

**Which tokens are tried.** Without a language model the 2 * beam likeliest tokens of a frame: a
prefix has at least ``beam`` extensions among these that are neither its repeated token nor live
already, and all are likelier than its extension by any other token. The result is that of trying
all tokens. With a language model all are tried.

EOS is no token of an alignment: what the CTC head gives it is lost.
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

FIRST = max(BLANK, EOS) + 1  # of the tokens that a hypothesis may hold


@torch.no_grad()
def greedy(decoder: Decoder, encoded: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
    """(B, S, D), (B,) -> the tokens of the likeliest path of each utterance.

    ``decoder_score`` is the log-probability of that path alone, of the many that spell the tokens.

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
class Live:
    """The K prefixes of each utterance after some frames; without one, a row has -inf throughout.

    Attributes:
        blank: (B, K) log-probability of the alignments that end in a blank.
        label: (B, K) of those that end in the last token.
        lm: (B, K) log-probability under the language model, 0 without one.
        tokens: (B, K, U) then BLANK.
        lengths: (B, K).
        last: (B, K) last token, EOS of the empty prefix.
        begins: (B, K, K) whether the first of two begins the second; true of itself.
    """

    blank: Tensor
    label: Tensor
    lm: Tensor
    tokens: Tensor
    lengths: Tensor
    last: Tensor
    begins: Tensor


@torch.no_grad()
def search(
    decoder: Decoder,
    encoded: Tensor,
    lengths: Tensor,
    rules: Rules,
    language_model: LanguageModel | None = None,
) -> list[list[Hypothesis]]:
    """(B, S, D), (B,) -> up to ``nbest`` or ``beam`` hypotheses of each utterance, best first.

    All utterances and prefixes take one frame together; the device is never waited for before the
    end, unless there is a language model: it reads only what has grown.

    Raises:
        ValueError: scores are NaN.
    """
    if not len(encoded):
        return []
    log_probs = _emissions(decoder, encoded, lengths)  # (B, S, V)
    scores, tokens = log_probs[..., FIRST:], None  # (B, S, V - 2)
    if language_model is None:
        scores, tokens = scores.topk(min(2 * rules.beam, scores.shape[2]))  # (B, S, M)
        tokens += FIRST
    else:
        tokens = torch.arange(FIRST, log_probs.shape[2], device=encoded.device)
        tokens = tokens.expand(scores.shape)
    live, fusion = _empty(log_probs), None
    if language_model is not None:
        fusion = begin(language_model, len(encoded), encoded.device)
    for frame in range(log_probs.shape[1]):
        live, fusion = _step(
            live, fusion, log_probs[:, frame], scores[:, frame], tokens[:, frame], rules
        )
    return _hypotheses(live, fusion, rules)


def _emissions(decoder: Decoder, encoded: Tensor, lengths: Tensor) -> Tensor:
    """(B, S, D), (B,) -> (B, S, V) log-probabilities; EOS never is, and blanks fill the padding.

    Float64, or float32 on a device without it.
    """
    log_probs = decoder.ctc_log_probs(encoded)
    assert log_probs is not None, "a decoder without a kind has a CTC head"
    log_probs = log_probs.to(precision(encoded.device), copy=True)
    padding = ~mask(lengths.to(encoded.device), encoded.shape[1])  # (B, S)
    log_probs.masked_fill_(padding[..., None], -math.inf)
    log_probs[..., BLANK].masked_fill_(padding, 0.0)
    refuse_nan(log_probs.isnan().flatten(1).any(1).nonzero()[:, 0].tolist())
    log_probs[..., EOS] = -math.inf
    return log_probs


def _empty(log_probs: Tensor) -> Live:
    """The empty prefix before the first frame, K = 1."""
    zero = log_probs.new_zeros(len(log_probs), 1)  # (B, 1)
    length = zero.long()
    tokens = length.new_empty(len(log_probs), 1, 0)
    never = torch.full_like(zero, -math.inf)
    return Live(zero, never, zero, tokens, length, length + EOS, length[..., None] == 0)


def _step(
    live: Live,
    fusion: Fusion | None,
    log_probs: Tensor,
    scores: Tensor,
    tokens: Tensor,
    rules: Rules,
) -> tuple[Live, Fusion | None]:
    """One frame: its (B, V) log-probabilities, and (B, M) those of the (B, M) tokens to try."""
    K, M = live.last.shape[1], tokens.shape[1]
    blank, label, grown = _continue(live, log_probs, scores, tokens)
    lm = live.lm[..., None].expand_as(grown)  # (B, K, M)
    if fusion is not None:
        lm = lm + fusion.log_probs.view(len(grown), K, -1)[..., FIRST:]
    bonus = rules.length_bonus * live.lengths.to(grown.dtype)  # (B, K)
    stay = torch.logaddexp(blank, label) + rules.lm_weight * live.lm + bonus
    grow = torch.add(grown, lm, alpha=rules.lm_weight) + (bonus + rules.length_bonus)[..., None]
    place = torch.cat([stay, grow.flatten(1)], 1).topk(min(rules.beam, K + K * M)).indices
    grew = place >= K  # (B, K')
    extension = (place - K).clamp_(min=0)  # (B, K') among K * M
    parent = torch.where(grew, extension // max(M, 1), place)  # (B, K')
    token = torch.where(grew, tokens.gather(1, extension % max(M, 1)), BLANK)  # (B, K')
    blank = blank.gather(1, parent).masked_fill_(grew, -math.inf)
    label = torch.where(grew, grown.flatten(1).gather(1, extension), label.gather(1, parent))
    lm = torch.where(grew, lm.flatten(1).gather(1, extension), live.lm.gather(1, parent))
    if fusion is not None:
        fusion = _read(fusion, parent, token, grew & (label > -math.inf))
    return _select(live, blank, label, lm, parent, token, grew), fusion


def _continue(
    live: Live, log_probs: Tensor, scores: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities after one more frame.

    Of prefixes that stay, ending in a blank (B, K) and in their last token (B, K); and of those
    that grow (B, K, M), -inf where this leads to a live one, which has it.
    """
    total = torch.logaddexp(live.blank, live.label)  # (B, K)
    # A repeated token must be parted from the prefix by a blank.
    same = live.last[..., None] == live.last[:, None]  # (B, K, K)
    parents = live.begins & (live.lengths[..., None] + 1 == live.lengths[:, None])
    parents &= total[:, None] > -math.inf  # (B, K, K) first is the second without its last token
    arrived = torch.where(same, live.blank[..., None], total[..., None])  # (B, K, K)
    arrived = arrived.masked_fill_(~parents, -math.inf).amax(1)  # (B, K), of at most one
    blank = total + log_probs[:, BLANK, None]
    label = torch.logaddexp(live.label, arrived) + log_probs.gather(1, live.last)
    ends = tokens[:, None] == live.last[..., None]  # (B, K, M)
    grown = torch.where(ends, live.blank[..., None], total[..., None]) + scores[:, None]
    reached = torch.bmm(parents.to(scores.dtype), ends.to(scores.dtype)) > 0  # (B, K, M)
    return blank, label, grown.masked_fill_(reached, -math.inf)


def _read(fusion: Fusion, parent: Tensor, token: Tensor, grew: Tensor) -> Fusion:
    """The language model follows (B, K') prefixes, and reads the tokens of those that grew."""
    B, K = len(parent), len(fusion.log_probs) // len(parent)
    starts = torch.arange(0, B * K, K, device=parent.device)[:, None]  # (B, 1)
    rows = grew.flatten().nonzero()[:, 0]
    return fusion.select((starts + parent).flatten()).advance(rows, token.flatten()[rows])


def _select(
    live: Live,
    blank: Tensor,
    label: Tensor,
    lm: Tensor,
    parent: Tensor,
    token: Tensor,
    grew: Tensor,
) -> Live:
    """The prefixes from these (B, K') parents, each with its token if it grew."""
    B, K = live.last.shape
    starts = torch.arange(0, B * K, K, device=parent.device)[:, None]
    tokens = live.tokens.flatten(0, 1)[starts + parent]  # (B, K', U)
    tokens = torch.nn.functional.pad(tokens, (0, 1), value=BLANK)  # (B, K', U + 1)
    lengths = live.lengths.gather(1, parent)  # (B, K')
    pairs = (parent * K)[..., None] + parent[:, None]  # (B, K', K')
    begins = live.begins.flatten(1).gather(1, pairs.flatten(1)).view_as(pairs)
    # One that grew begins another if that goes on with its token. None that stayed begins less.
    following = tokens.gather(2, lengths[:, None].expand_as(pairs)).transpose(1, 2)
    begins &= ~grew[..., None] | (following == token[..., None])
    begins |= torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)
    tokens = tokens.scatter_(2, lengths[..., None], token[..., None])  # BLANK where it stood
    last = torch.where(grew, token, live.last.gather(1, parent))
    return Live(blank, label, lm, tokens, lengths + grew, last, begins)


def _hypotheses(live: Live, fusion: Fusion | None, rules: Rules) -> list[list[Hypothesis]]:
    """What the prefixes are worth after the last frame.

    One whose end the language model excludes is not finished, and counts without its end.
    """
    total = torch.logaddexp(live.blank, live.label)  # (B, K)
    ended = live.lm
    if fusion is not None:
        ended = ended + fusion.log_probs[:, EOS].view_as(ended)
    finished = ended > -math.inf
    lm = torch.where(finished, ended, live.lm)
    score = total + rules.lm_weight * lm + rules.length_bonus * live.lengths
    refuse_nan(score.isnan().any(1).nonzero()[:, 0].tolist())
    columns = zip(
        *(x.tolist() for x in (live.tokens, live.lengths, score, total, lm, finished)), strict=True
    )
    results = []
    for utterance in columns:
        found = [
            Hypothesis(tuple(tokens[:length]), score, total, 0.0, lm, finished)
            for tokens, length, score, total, lm, finished in zip(*utterance, strict=True)
            if score > -math.inf
        ]
        found.sort(key=lambda h: (-h.finished, -h.score))
        nothing = Hypothesis((), -math.inf, -math.inf, 0.0, 0.0, False)
        results.append(found[: rules.nbest or rules.beam] or [nothing])
    return results
