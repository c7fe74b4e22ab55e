"""Greedy search and beam search with a transducer.

**Greedy search** loops over tokens, not frames (Bataev et al. 2024, "Label-looping"). Each
utterance skips blanks, several frames at a time, until a token is likelier than the blank. The
prediction network runs once per token for the whole batch.

**Beam search** is alignment-length synchronous (Saon, Tüske and Audhkhasi 2020). At step i every
hypothesis of u tokens is at frame t = i - u. It emits either BLANK, which moves it to frame t + 1,
or a token. Hypotheses with equal tokens are therefore always at the same frame. A hypothesis can be
reached by a blank or by a token from the hypothesis that is one token shorter. Both happen at the
same step, so the search adds their probabilities exactly and holds no hypothesis twice. If the beam
holds every hypothesis, each one has the sum over all its alignments. A search frame by frame would
need an inner loop over the tokens of a frame, and a bound on their number.

**Stopping.** As in ``asr.search.attention``, a search stops when no open hypothesis can overtake
the finished ones. Every path to a longer hypothesis passes through one of its open prefixes, so the
sum over these prefixes is an upper bound. With an internal language model, whose log-probability is
subtracted, a token might raise the score. The bound then holds only while a token costs more than
this correction.

**Limit on tokens.** A transducer may emit more tokens than frames, so the lattice sets no limit,
but a usable model emits fewer than two per frame. Greedy search stops at 2 S + 10 tokens, with
``finished=False``. Beam search allows twice the tokens of the greedy hypothesis plus 10, and a
hypothesis at this limit takes only blanks.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from asr.batch import BLANK, EOS, Cache, mask
from asr.decoders.ctc_prefix import precision
from asr.decoders.decoder import TransducerDecoder
from asr.language_models.language_model import LanguageModel
from asr.search.fusion import Fusion, begin, put, take_rows
from asr.search.hypothesis import Hypothesis, Rules, refuse_nan, settled
from asr.search.prefixes import FIRST_TOKEN, Prefixes, Survivors, listed

AHEAD = 8  # frames per step of greedy search: about one frame in five has a token
NOTHING = Hypothesis((), 0.0, 0.0, 0.0, 0.0, True)  # the result of an utterance without frames


@torch.no_grad()
def greedy(decoder: TransducerDecoder, encoded: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
    """Returns the tokens of the path that takes the likeliest step each time.

    ``decoder_score`` is the log-probability of this one path, not of all paths with these tokens.

    Raises:
        ValueError: scores are NaN.
    """
    ends = lengths.tolist()
    open_ = [index for index, end in enumerate(ends) if end > 0]
    results = [[NOTHING] for _ in ends]
    spoken: list[list[int]] = [[] for _ in ends]
    if not open_:
        return results
    rows = torch.tensor(open_, device=encoded.device)
    projected, lengths = _projected(decoder, encoded, lengths), lengths.to(encoded.device)
    ahead = torch.arange(AHEAD, device=encoded.device)
    at = torch.zeros_like(rows)  # (R,) current frame of each open utterance
    score = torch.zeros(len(rows), dtype=precision(encoded.device), device=encoded.device)
    predictions, cache = decoder.predict(torch.full_like(rows, EOS), decoder.begin(len(rows)))
    while open_:
        frames = at[:, None] + ahead  # (R, A)
        real = frames < lengths[rows, None]
        frames = frames.clamp_(max=projected.shape[1] - 1)
        log_probs = decoder.join(projected[rows[:, None], frames], predictions[:, None])
        best, token = log_probs.max(-1)  # (R, A)
        emits = (token != BLANK) & real
        blanks = (emits.cumsum(1) == 0) & real  # (R, A) before the first token
        passed = blanks.sum(1)  # (R,)
        grows = emits.any(1)  # (R,)
        place = passed.clamp(max=AHEAD - 1)[:, None]
        token, last = token.gather(1, place)[:, 0], best.gather(1, place)[:, 0]
        score = score + best.masked_fill(~blanks, 0).sum(1) + last.masked_fill(~grows, 0)
        at = at + passed
        facts = torch.where(grows, token, EOS), at, (best.isnan() & real).any(1).long()
        emitted, places, broken = torch.stack(facts).tolist()  # waits for the device
        refuse_nan([row for row, bad in zip(open_, broken, strict=True) if bad])
        stay = []
        for number, (row, frame, new) in enumerate(zip(open_, places, emitted, strict=True)):
            if new != EOS:
                spoken[row].append(new)
            cut = len(spoken[row]) >= allowance(ends[row])
            if cut or frame >= ends[row]:
                total = float(score[number])
                results[row] = [
                    Hypothesis(tuple(spoken[row]), total, total, 0.0, 0.0, frame >= ends[row])
                ]
            else:
                stay.append(number)
        growing = [number for number, new in enumerate(emitted) if new != EOS]
        if growing:
            grew = torch.tensor(growing, device=rows.device)
            new_predictions, grown = decoder.predict(token[grew], take_rows(cache, grew))
            predictions = predictions.index_copy(0, grew, new_predictions)
            cache = put(cache, grew, grown)
        if len(stay) < len(open_):
            open_ = [open_[number] for number in stay]
            kept = torch.tensor(stay, dtype=torch.int64, device=rows.device)
            rows, at, score, predictions = rows[kept], at[kept], score[kept], predictions[kept]
            cache = take_rows(cache, kept)
    return results


def _projected(decoder: TransducerDecoder, encoded: Tensor, lengths: Tensor) -> Tensor:
    """Projects frames to (B, S, J), zero in the padding, which the search reads but ignores."""
    padding = ~mask(lengths.to(encoded.device), encoded.shape[1])
    return decoder.project(encoded).masked_fill(padding[..., None], 0.0)


def allowance(frames: int) -> int:
    """Maximum number of tokens that greedy search emits for an utterance of ``frames`` frames."""
    return 2 * frames + 10


@dataclass(frozen=True)
class LiveHypotheses:
    """The K open hypotheses of each utterance at one step; unused places have a score of -inf.

    Attributes:
        score: (B, K) log-probability under the decoder, summed over the alignments so far.
        lm: (B, K) log-probability under the language model; 0 without one.
        internal: (B, K) log-probability under the internal language model; 0 if it is not used.
        prefixes: the tokens of the hypotheses.
        predictions: (B*K, J) output of the prediction network.
        cache: (B*K, ...) states of the prediction network.
    """

    score: Tensor
    lm: Tensor
    internal: Tensor
    prefixes: Prefixes
    predictions: Tensor
    cache: Cache

    def select(self, utterances: Tensor, rows: Tensor) -> "LiveHypotheses":
        """Keeps the utterances at (B',) positions, and their hypotheses at (B' * K,) rows."""
        return LiveHypotheses(
            self.score[utterances],
            self.lm[utterances],
            self.internal[utterances],
            self.prefixes.select(utterances),
            self.predictions[rows],
            take_rows(self.cache, rows),
        )

    def ranks(self, rules: Rules) -> Tensor:
        """Returns the scores (B, K) that rank the hypotheses: the weighted sum of all terms."""
        return (
            self.score
            + rules.lm_weight * self.lm
            - rules.internal_lm_weight * self.internal
            + rules.length_bonus * self.prefixes.lengths
        )

    def hypotheses(self, rules: Rules, finished: bool) -> list[list[Hypothesis]]:
        """Lists the hypotheses that are possible of each utterance, best first."""
        same = torch.full_like(self.score, finished, dtype=torch.bool)
        return listed(self.prefixes, self.ranks(rules), self.score, self.lm, same)


@torch.no_grad()
def search(
    decoder: TransducerDecoder,
    encoded: Tensor,
    lengths: Tensor,
    rules: Rules,
    language_model: LanguageModel | None = None,
) -> list[list[Hypothesis]]:
    """Returns up to ``nbest`` or ``beam`` hypotheses of each utterance, best first.

    Each step runs the joint network once over all hypotheses of all open utterances, and the
    prediction network once over those that grew. The host waits for the device three times per
    step: for the hypotheses that grew, for the finished ones, and for the bounds.

    Raises:
        ValueError: scores are NaN.
    """
    results = greedy(decoder, encoded, lengths)
    ends = lengths.tolist()
    open_ = [index for index, end in enumerate(ends) if end > 0]
    if not open_:
        return results
    limits = [2 * len(best.tokens) + 10 for (best,) in results]
    device = encoded.device
    rows = torch.tensor(open_, device=device)
    projected = _projected(decoder, encoded, lengths)[rows]  # (B, S, J)
    frames, limit = lengths.to(device)[rows], torch.tensor(limits, device=device)[rows]
    live = _empty(decoder, len(open_), precision(device))
    fusion = None if language_model is None else begin(language_model, len(open_), device)
    found: dict[int, list[Hypothesis]] = {index: [] for index in open_}
    step = 0
    while open_:
        at = step - live.prefixes.lengths  # (B, K)
        before = live
        live, fusion, ended = _step(decoder, live, fusion, projected, at, frames, limit, rules)
        _finish(found, open_, ended, rules)
        step += 1
        bounds = _bounds(live, limit, rules).tolist()
        refuse_nan([open_[row] for row, bound in enumerate(bounds) if math.isnan(bound)])
        stay = [
            row
            for row, i in enumerate(open_)
            if not settled(found[i], bounds[row], rules) and bounds[row] > -math.inf
        ]
        if len(stay) < len(open_):
            cut = before.hypotheses(rules, finished=False)  # kept only if none has finished
            for row in set(range(len(open_))) - set(stay):
                results[open_[row]] = (found[open_[row]] or cut[row])[: rules.nbest or rules.beam]
            open_ = [open_[row] for row in stay]
            kept = torch.tensor(stay, dtype=torch.int64, device=device)
            K = live.score.shape[1]
            hypotheses = (kept[:, None] * K + torch.arange(K, device=device)).flatten()
            fusion = None if fusion is None else fusion.select(hypotheses)
            live = live.select(kept, hypotheses)
            projected, frames, limit = projected[kept], frames[kept], limit[kept]
    return results


def _empty(decoder: TransducerDecoder, utterances: int, dtype: torch.dtype) -> LiveHypotheses:
    """The hypothesis without tokens, before the first frame; K = 1."""
    cache = decoder.begin(utterances)
    device = next(iter(cache.values())).device
    prefixes = Prefixes.empty(utterances, device)
    predictions, cache = decoder.predict(prefixes.last[:, 0], cache)
    zero = torch.zeros(utterances, 1, dtype=dtype, device=device)
    return LiveHypotheses(zero, zero, zero, prefixes, predictions, cache)


def _step(
    decoder: TransducerDecoder,
    live: LiveHypotheses,
    fusion: Fusion | None,
    projected: Tensor,
    at: Tensor,
    frames: Tensor,
    limit: Tensor,
    rules: Rules,
) -> tuple[LiveHypotheses, Fusion | None, LiveHypotheses]:
    """Advances the hypotheses by one step through the lattice, from their (B, K) frames ``at``.

    ``projected`` (B, S, J) has ``frames`` (B,) real frames; ``limit`` (B,) bounds the tokens.

    Returns:
        The new hypotheses, their language model states, and the old hypotheses as finished ones:
        with the BLANK of the last frame in ``score`` (-inf at other frames) and EOS in ``lm``.
    """
    B, K = live.score.shape
    utterances = torch.arange(B, device=at.device)[:, None]
    here = projected[utterances, at.clamp(0, projected.shape[1] - 1)]  # (B, K, J)
    log_probs = decoder.join(here, live.predictions.view(B, K, -1))  # (B, K, V)
    log_probs = log_probs.to(live.score.dtype)
    through = live.score + log_probs[..., BLANK]  # (B, K)
    is_last = at == frames[:, None] - 1
    end = 0.0 if fusion is None else fusion.log_probs[:, EOS].view(B, K)
    ended = replace(live, score=through.masked_fill(~is_last, -math.inf), lm=live.lm + end)
    grown = live.score[..., None] + log_probs[..., FIRST_TOKEN:]  # (B, K, M)
    lengths = live.prefixes.lengths
    grown = grown.masked_fill((lengths >= limit[:, None])[..., None], -math.inf)
    stay, grown = _merge(live, through.masked_fill(is_last, -math.inf), grown)
    lm = live.lm[..., None].expand_as(grown)
    if fusion is not None:
        lm = lm + fusion.log_probs.view(B, K, -1)[..., FIRST_TOKEN:]
    internal = live.internal[..., None].expand_as(grown)
    if rules.internal_lm_weight:
        own = decoder.internal_lm(live.predictions).view(B, K, -1)[..., FIRST_TOKEN:]
        internal = internal + own.to(internal.dtype)
    ranks = replace(live, score=stay).ranks(rules)  # (B, K)
    grow = grown + rules.lm_weight * lm - rules.internal_lm_weight * internal
    grow = grow + (rules.length_bonus * (lengths + 1))[..., None]
    survivors = Survivors.best(ranks, grow, rules.beam)
    token = torch.where(survivors.grew, survivors.kind + FIRST_TOKEN, BLANK)  # (B, K')
    score, rows = survivors.of(stay, grown), survivors.rows
    read = (survivors.grew & (score > -math.inf)).flatten()
    predictions, cache = live.predictions[rows], take_rows(live.cache, rows)
    if len(growing := read.nonzero()[:, 0]):
        new, after = decoder.predict(token.flatten()[growing], take_rows(cache, growing))
        predictions, cache = predictions.index_copy(0, growing, new), put(cache, growing, after)
    if fusion is not None:
        fusion = fusion.grow(rows, read, token.flatten())
    lm, internal = survivors.of(live.lm, lm), survivors.of(live.internal, internal)
    prefixes = live.prefixes.follow(survivors, token)
    return LiveHypotheses(score, lm, internal, prefixes, predictions, cache), fusion, ended


def _merge(live: LiveHypotheses, stay: Tensor, grown: Tensor) -> tuple[Tensor, Tensor]:
    """Moves the probability of extensions (B, K, M) that equal a live hypothesis to it, (B, K)."""
    parents = live.prefixes.parents(live.score > -math.inf)  # (B, K, K)
    token = (live.prefixes.last - FIRST_TOKEN).clamp(min=0)[:, None].expand_as(parents)
    arriving = grown.gather(2, token).masked_fill(~parents, -math.inf)  # (B, K, K)
    reached = torch.zeros(grown.shape, dtype=torch.int32, device=grown.device)
    reached.scatter_add_(2, token, parents.int())
    return torch.logaddexp(stay, arriving.amax(1)), grown.masked_fill(reached > 0, -math.inf)


def _finish(
    found: dict[int, list[Hypothesis]], open_: list[int], ended: LiveHypotheses, rules: Rules
) -> None:
    """Adds the hypotheses that took the blank of the last frame to the results in ``found``."""
    if not bool((ended.score > -math.inf).any()):
        return
    for index, more in zip(open_, ended.hypotheses(rules, finished=True), strict=True):
        found[index] = sorted(found[index] + more, key=lambda hypothesis: -hypothesis.score)


def _bounds(live: LiveHypotheses, limit: Tensor, rules: Rules) -> Tensor:
    """Returns upper bounds (B,) of the final scores of open hypotheses and all their extensions."""
    room = limit[:, None] - live.prefixes.lengths  # (B, K)
    bounds = live.ranks(rules) + max(rules.length_bonus, 0.0) * room
    together = bounds[..., None].masked_fill(~live.prefixes.begins, -math.inf)  # (B, K, K)
    return together.logsumexp(1).amax(1)
