"""Greedy and beam search along the lattice of a transducer; pure functions.

**Greedy** loops over tokens, not frames (Bataev et al. 2024, "Label-looping"): an utterance moves
through blanks, several frames at a time, until a token is likelier, and the prediction network runs
once per token and batch.

**Beam search** is alignment-length synchronous (Saon, Tüske and Audhkhasi 2020). At step i every
hypothesis of u tokens stands at frame t = i - u and takes one step through the lattice: BLANK, to
frame t + 1, or a token. Hypotheses with equal tokens therefore stand at the same frame, and the two
ways to reach one - to stay at it through a blank, to grow into it from the hypothesis one token
shorter - meet at the same step: their probabilities are added, exactly, and no hypothesis is held
twice. With a beam that holds every hypothesis, each has the sum over all its alignments. A search
frame by frame would need a bound on the tokens of a frame, and an inner loop over them.

**Where a search stops.** As in ``asr.search.attention``: when no open hypothesis can reach those
that are certain. An open one may still gain what grows into it: at a step every path to some tokens
goes through one of the hypotheses that begin them, so that these together bound them. With an
internal language model, whose share is taken away, a token might raise the score; the bound then
holds as long as tokens cost more than their correction, which is what an internal language model is
about.

**The allowance** is for models that do not want to go on. Tokens may outnumber frames, so no limit
is given; a sane model says fewer than two per frame: greedy search stops at 2 S + 10 tokens, with
``finished=False``. Beam search allows twice the tokens of the greedy hypothesis and 10 more; from
there on a hypothesis only takes blanks.
"""

import math
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from asr.batch import BLANK, EOS, Cache, mask
from asr.decoders.ctc_prefix import precision
from asr.decoders.decoder import TransducerDecoder
from asr.language_models.language_model import LanguageModel
from asr.search.fusion import Fusion, begin, put
from asr.search.hypothesis import Hypothesis, Rules, refuse_nan

FIRST = max(BLANK, EOS) + 1  # of the tokens that a hypothesis may hold
AHEAD = 8  # frames that greedy search looks at together: a token comes about every fifth
NOTHING = Hypothesis((), 0.0, 0.0, 0.0, 0.0, True)  # of an utterance without frames


@torch.no_grad()
def greedy(decoder: TransducerDecoder, encoded: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
    """(B, S, D), (B,) -> the tokens of the path that takes the likeliest step each time.

    ``decoder_score`` is the log-probability of that path alone, of the many that spell the tokens.

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
    at = torch.zeros_like(rows)  # (R,) frame of each utterance that is still heard
    score = torch.zeros(len(rows), dtype=precision(encoded.device), device=encoded.device)
    predictions, cache = decoder.predict(torch.full_like(rows, EOS), decoder.begin(len(rows)))
    while open_:
        frames = at[:, None] + ahead  # (R, A)
        real = frames < lengths[rows, None]
        frames = frames.clamp_(max=projected.shape[1] - 1)
        log_probs = decoder.join(projected[rows[:, None], frames], predictions[:, None])
        best, token = log_probs.max(-1)  # (R, A)
        says = (token != BLANK) & real
        blanks = (says.cumsum(1) == 0) & real  # (R, A) before the first token
        passed = blanks.sum(1)  # (R,)
        grows = says.any(1)  # (R,)
        place = passed.clamp(max=AHEAD - 1)[:, None]
        token, last = token.gather(1, place)[:, 0], best.gather(1, place)[:, 0]
        score = score + best.masked_fill(~blanks, 0).sum(1) + last.masked_fill(~grows, 0)
        at = at + passed
        told = torch.where(grows, token, EOS), at, (best.isnan() & real).any(1).long()
        said, places, broken = torch.stack(told).tolist()  # waits for the device
        refuse_nan([row for row, bad in zip(open_, broken, strict=True) if bad])
        stay = []
        for number, (row, frame, new) in enumerate(zip(open_, places, said, strict=True)):
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
        growing = [number for number, new in enumerate(said) if new != EOS]
        if growing:
            grew = torch.tensor(growing, device=rows.device)
            before = {name: value[grew] for name, value in cache.items()}
            new_predictions, grown = decoder.predict(token[grew], before)
            predictions = predictions.index_copy(0, grew, new_predictions)
            cache = put(cache, grew, grown)
        if len(stay) < len(open_):
            open_ = [open_[number] for number in stay]
            kept = torch.tensor(stay, dtype=torch.int64, device=rows.device)
            rows, at, score, predictions = rows[kept], at[kept], score[kept], predictions[kept]
            cache = {name: value[kept] for name, value in cache.items()}
    return results


def _projected(decoder: TransducerDecoder, encoded: Tensor, lengths: Tensor) -> Tensor:
    """(B, S, D), (B,) -> (B, S, J), zero in the padding, which is looked at and never counts."""
    padding = ~mask(lengths.to(encoded.device), encoded.shape[1])
    return decoder.project(encoded).masked_fill(padding[..., None], 0.0)


def allowance(frames: int) -> int:
    """The most tokens that greedy search takes from so many frames."""
    return 2 * frames + 10


@dataclass(frozen=True)
class Live:
    """The K open hypotheses of each utterance at one step; without one, a row has -inf.

    Attributes:
        score: (B, K) log-probability under the decoder, of the alignments so far.
        lm: (B, K) under the language model; 0 without one.
        internal: (B, K) under the internal language model, where it takes part.
        tokens: (B, K, U) then BLANK.
        lengths: (B, K).
        last: (B, K) last token, EOS of the empty one.
        begins: (B, K, K) whether the first of two begins the second; true of itself.
        predictions: (B*K, J) of the prediction network.
        cache: its states, (B*K, ...).
    """

    score: Tensor
    lm: Tensor
    internal: Tensor
    tokens: Tensor
    lengths: Tensor
    last: Tensor
    begins: Tensor
    predictions: Tensor
    cache: Cache

    def select(self, utterances: Tensor) -> "Live":
        """Keeps these utterances, (B',) positions."""
        K = self.score.shape[1]
        rows = (utterances[:, None] * K + torch.arange(K, device=utterances.device)).flatten()
        values = {
            name: getattr(self, name)[utterances]
            for name in ("score", "lm", "internal", "tokens", "lengths", "last", "begins")
        }
        cache = {name: value[rows] for name, value in self.cache.items()}
        return Live(**values, predictions=self.predictions[rows], cache=cache)

    def ranks(self, rules: Rules) -> Tensor:
        """(B, K) by which they are ranked."""
        return (
            self.score
            + rules.lm_weight * self.lm
            - rules.internal_lm_weight * self.internal
            + rules.length_bonus * self.lengths
        )


@torch.no_grad()
def search(
    decoder: TransducerDecoder,
    encoded: Tensor,
    lengths: Tensor,
    rules: Rules,
    language_model: LanguageModel | None = None,
) -> list[list[Hypothesis]]:
    """(B, S, D), (B,) -> up to ``nbest`` or ``beam`` hypotheses of each utterance, best first.

    A step is one joint network over all hypotheses of all utterances, and one prediction network
    over those that grew; utterances leave when they end. The device is waited for three times per
    step: for those that grew, for what has ended, and for what may still come.

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
        at = step - live.lengths  # (B, K)
        before = live
        live, fusion, ended = _step(decoder, live, fusion, projected, at, frames, limit, rules)
        _finish(found, open_, before, ended, rules)
        step += 1
        bounds = _bounds(live, limit, rules).tolist()
        refuse_nan([open_[row] for row, bound in enumerate(bounds) if math.isnan(bound)])
        stay = [row for row, i in enumerate(open_) if not _settled(found[i], bounds[row], rules)]
        if len(stay) < len(open_):
            for row in set(range(len(open_))) - set(stay):
                results[open_[row]] = _result(found[open_[row]], before, row, rules)
            open_ = [open_[row] for row in stay]
            kept = torch.tensor(stay, dtype=torch.int64, device=device)
            if fusion is not None:
                K = live.score.shape[1]
                fusion = fusion.select(
                    (kept[:, None] * K + torch.arange(K, device=device)).flatten()
                )
            live, projected, frames, limit = (
                live.select(kept), projected[kept], frames[kept], limit[kept],
            )  # fmt: skip
    return results


def _empty(decoder: TransducerDecoder, utterances: int, dtype: torch.dtype) -> Live:
    """The hypothesis of no tokens before the first frame, K = 1."""
    cache = decoder.begin(utterances)
    device = next(iter(cache.values())).device
    end = torch.full((utterances, 1), EOS, device=device)
    predictions, cache = decoder.predict(end[:, 0], cache)
    zero = torch.zeros(utterances, 1, dtype=dtype, device=device)
    begins = torch.ones(utterances, 1, 1, dtype=torch.bool, device=device)
    tokens = end.new_empty(utterances, 1, 0)
    return Live(zero, zero, zero, tokens, end * 0, end, begins, predictions, cache)


@dataclass(frozen=True)
class Ended:
    """What the hypotheses of a step are worth where they take the blank of the last frame.

    Attributes:
        score: (B, K) log-probability under the decoder; -inf where this is not their last frame.
        lm: (B, K) with the probability of EOS.
    """

    score: Tensor
    lm: Tensor


def _step(
    decoder: TransducerDecoder,
    live: Live,
    fusion: Fusion | None,
    projected: Tensor,
    at: Tensor,
    frames: Tensor,
    limit: Tensor,
    rules: Rules,
) -> tuple[Live, Fusion | None, Ended]:
    """One step through the lattice of (B, S, J) frames, of which (B,) are real, from (B, K)."""
    B, K = live.score.shape
    utterances = torch.arange(B, device=at.device)[:, None]
    here = projected[utterances, at.clamp(0, projected.shape[1] - 1)]  # (B, K, J)
    log_probs = decoder.join(here, live.predictions.view(B, K, -1))  # (B, K, V)
    log_probs = log_probs.to(live.score.dtype)
    through = live.score + log_probs[..., BLANK]  # (B, K)
    is_last = at == frames[:, None] - 1
    ended = Ended(
        through.masked_fill(~is_last, -math.inf),
        live.lm if fusion is None else live.lm + fusion.log_probs[:, EOS].view(B, K),
    )
    grown = live.score[..., None] + log_probs[..., FIRST:]  # (B, K, M)
    grown = grown.masked_fill((live.lengths >= limit[:, None])[..., None], -math.inf)
    stay, grown = _merge(live, through.masked_fill(is_last, -math.inf), grown)
    lm = live.lm[..., None].expand_as(grown)
    if fusion is not None:
        lm = lm + fusion.log_probs.view(B, K, -1)[..., FIRST:]
    internal = live.internal[..., None].expand_as(grown)
    if rules.internal_lm_weight:
        own = decoder.internal_lm(live.predictions).view(B, K, -1)[..., FIRST:]
        internal = internal + own.to(internal.dtype)
    ranks = replace(live, score=stay).ranks(rules)  # (B, K)
    grow = grown + rules.lm_weight * lm - rules.internal_lm_weight * internal
    grow = grow + (rules.length_bonus * (live.lengths + 1))[..., None]
    M = grown.shape[2]
    place = torch.cat([ranks, grow.flatten(1)], 1).topk(min(rules.beam, K + K * M)).indices
    grew = place >= K  # (B, K')
    extension = (place - K).clamp_(min=0)  # (B, K') among K * M
    parent = torch.where(grew, extension // max(M, 1), place)  # (B, K')

    def chosen(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(grew, new.flatten(1).gather(1, extension), old.gather(1, parent))

    token = torch.where(grew, extension % max(M, 1) + FIRST, BLANK)  # (B, K')
    values = {
        "score": chosen(stay, grown),
        "lm": chosen(live.lm, lm),
        "internal": chosen(live.internal, internal),
    }
    tokens, begins = follow(live.tokens, live.lengths, live.begins, parent, token, grew)
    rows = (utterances * K + parent).flatten()  # (B*K',)
    grew = grew & (values["score"] > -math.inf)
    read = grew.flatten().nonzero()[:, 0]
    predictions = live.predictions[rows]
    cache = {name: value[rows] for name, value in live.cache.items()}
    if len(read):
        said = token.flatten()[read]
        new, after = decoder.predict(said, {name: value[read] for name, value in cache.items()})
        predictions, cache = predictions.index_copy(0, read, new), put(cache, read, after)
        fusion = None if fusion is None else fusion.select(rows).advance(read, said)
    elif fusion is not None:
        fusion = fusion.select(rows)
    following = Live(
        **values,
        tokens=tokens,
        lengths=live.lengths.gather(1, parent) + grew,
        last=torch.where(grew, token, live.last.gather(1, parent)),
        begins=begins,
        predictions=predictions,
        cache=cache,
    )
    return following, fusion, ended


def _merge(live: Live, stay: Tensor, grown: Tensor) -> tuple[Tensor, Tensor]:
    """Adds to (B, K) what grows into a live hypothesis, and takes it from (B, K, M)."""
    parents = live.begins & (live.lengths[..., None] + 1 == live.lengths[:, None])
    parents &= live.score[:, None] > -math.inf  # (B, K, K) first is the second without its last
    token = (live.last - FIRST).clamp(min=0)[:, None].expand_as(parents)
    arriving = grown.gather(2, token).masked_fill(~parents, -math.inf)  # (B, K, K)
    reached = torch.zeros(grown.shape, dtype=torch.int32, device=grown.device)
    reached.scatter_add_(2, token, parents.int())
    return torch.logaddexp(stay, arriving.amax(1)), grown.masked_fill(reached > 0, -math.inf)


def follow(
    tokens: Tensor, lengths: Tensor, begins: Tensor, parent: Tensor, token: Tensor, grew: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens (B, K', U + 1) of those from (B, K') parents, and which of them begins which.

    One that grew begins another if that goes on with its token; none that stayed begins less.
    """
    K = lengths.shape[1]
    starts = torch.arange(0, len(parent) * K, K, device=parent.device)[:, None]
    tokens = tokens.flatten(0, 1)[starts + parent]  # (B, K', U)
    tokens = torch.nn.functional.pad(tokens, (0, 1), value=BLANK)  # (B, K', U + 1)
    lengths = lengths.gather(1, parent)  # (B, K')
    pairs = (parent * K)[..., None] + parent[:, None]  # (B, K', K')
    begins = begins.flatten(1).gather(1, pairs.flatten(1)).view_as(pairs)
    following = tokens.gather(2, lengths[:, None].expand_as(pairs)).transpose(1, 2)
    begins &= ~grew[..., None] | (following == token[..., None])
    begins |= torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)
    return tokens.scatter(2, lengths[..., None], token[..., None]), begins  # BLANK where it stood


def _finish(
    found: dict[int, list[Hypothesis]], open_: list[int], live: Live, ended: Ended, rules: Rules
) -> None:
    """Gives the utterances those hypotheses that took the blank of the last frame."""
    ranks = replace(live, score=ended.score, lm=ended.lm).ranks(rules)
    total, scores, lms = torch.stack([ranks, ended.score, ended.lm]).tolist()  # one transfer
    places = [
        (row, column)
        for row, column in product(range(len(scores)), range(len(scores[0])))
        if scores[row][column] > -math.inf and lms[row][column] > -math.inf
    ]
    if not places:
        return
    tokens, lengths = live.tokens.tolist(), live.lengths.tolist()
    for row, column in places:
        spoken = tuple(tokens[row][column][: lengths[row][column]])
        found[open_[row]].append(
            Hypothesis(spoken, total[row][column], scores[row][column], 0.0, lms[row][column], True)
        )
    for row in {row for row, _ in places}:
        found[open_[row]].sort(key=lambda hypothesis: -hypothesis.score)


def _bounds(live: Live, limit: Tensor, rules: Rules) -> Tensor:
    """(B,) what no hypothesis that is still open can exceed in the end, nor any it grows into."""
    hopes = live.ranks(rules)
    hopes = hopes + max(rules.length_bonus, 0.0) * (limit[:, None] - live.lengths)  # (B, K)
    together = hopes[..., None].masked_fill(~live.begins, -math.inf)  # (B, K, K)
    return together.logsumexp(1).amax(1)


def _settled(found: list[Hypothesis], bound: float, rules: Rules) -> bool:
    """Whether nothing that is still open matters."""
    needed = rules.nbest or 1
    return bound == -math.inf or (len(found) >= needed and found[needed - 1].score >= bound)


def _result(found: list[Hypothesis], live: Live, row: int, rules: Rules) -> list[Hypothesis]:
    """What an utterance has in the end; open hypotheses only where none has finished."""
    if found:
        return found[: rules.nbest or rules.beam]
    ranks = live.ranks(rules)[row].tolist()
    cut = [
        Hypothesis(
            tuple(live.tokens[row, column, : int(live.lengths[row, column])].tolist()),
            rank,
            float(live.score[row, column]),
            0.0,
            float(live.lm[row, column]),
            False,
        )
        for column, rank in enumerate(ranks)
        if rank > -math.inf
    ]
    cut.sort(key=lambda hypothesis: -hypothesis.score)
    return cut[: rules.nbest or rules.beam]
