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
from asr.decoders.decoder import AttentionDecoder
from asr.language_models.language_model import LanguageModel
from asr.search.fusion import Fusion, begin
from asr.search.hypothesis import Hypothesis, Rules, refuse_nan, settled


@dataclass
class OpenUtterance:
    """An utterance whose search goes on.

    Attributes:
        index: position in the batch.
        limit: largest number of tokens.
        live: open hypotheses, best first; all have the same number of tokens.
        parents: position of each open hypothesis, without its last token, at the previous step.
        found: finished hypotheses, best first.
    """

    index: int
    limit: int
    live: list[Hypothesis]
    parents: list[int] = field(default_factory=list)
    found: list[Hypothesis] = field(default_factory=list)

    def grow(self, extensions: list[list[float]], vocabulary: int, rules: Rules) -> bool:
        """Takes one step with the extensions of ``_extensions``; returns whether others follow.

        Of the ``beam`` best extensions, those that end are finished. The ``beam`` best of those
        that have not ended are the new open hypotheses.
        """
        before, self.live, self.parents = self.live, [], []
        for rank, (score, attention, ctc, lm, place) in enumerate(extensions):
            parent, token = divmod(int(place), vocabulary)
            if score == -math.inf:
                break
            tokens = before[parent].tokens
            if token != EOS and len(self.live) < rules.beam:
                self.live.append(Hypothesis((*tokens, token), score, attention, ctc, lm, False))
                self.parents.append(parent)
            elif token == EOS and rank < rules.beam:
                ended = Hypothesis(tokens, score, attention, ctc, lm, True)
                bisect.insort(self.found, ended, key=lambda hypothesis: -hypothesis.score)
        best = self.live[0].score if self.live else -math.inf
        room = self.limit - len(before[0].tokens)
        if settled(self.found, best + max(rules.length_bonus, 0.0) * (room - 1), rules):
            return False
        if room > 0 and self.live:
            return True
        spoken = {hypothesis.tokens for hypothesis in self.found}
        self.found += [hypothesis for hypothesis in before if hypothesis.tokens not in spoken]
        return False


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
    device = encoded.device
    if len(nonempty) < len(results):
        some = torch.tensor(nonempty)
        encoded, lengths = encoded[some.to(device)], lengths[some.to(lengths.device)]
    prefixes = _start_ctc(decoder, encoded, lengths, rules.ctc_weight)
    utterances = _open(nonempty, lengths, prefixes)
    state = decoder.start(encoded, lengths)
    fusion = None if language_model is None else begin(language_model, len(encoded), device)
    # One hypothesis without tokens per utterance: its last token, and its scores so far.
    tokens = torch.full((len(nonempty), 1), EOS, device=device)  # (B, K)
    attention = lm = torch.zeros(tokens.shape, dtype=precision(device), device=device)
    while True:
        log_probs, state = decoder.step(tokens.flatten(), state)  # (B*K, V)
        size = len(utterances[0].live[0].tokens)
        found = _extensions(log_probs, attention, lm, prefixes, fusion, size, rules)
        # torch.topk ranks NaN above every number, so the first extension shows a NaN.
        pairs = list(zip(utterances, found, strict=True))
        refuse_nan([one.index for one, extensions in pairs if math.isnan(extensions[0][0])])
        going = [one.grow(extensions, log_probs.shape[1], rules) for one, extensions in pairs]
        for one, goes_on in zip(utterances, going, strict=True):
            if not goes_on:
                results[one.index] = one.found[: rules.nbest or rules.beam]
        if not any(going):
            return results
        stay = [row for row, goes_on in enumerate(going) if goes_on]
        K, utterances = tokens.shape[1], [utterances[row] for row in stay]
        parents, tokens, attention, lm = _table(utterances, attention)
        hypotheses = (torch.tensor(stay, device=device)[:, None] * K + parents).flatten()
        rows = None if all(going) else torch.tensor(stay, device=device)
        if rows is not None or any(one.parents != list(range(K)) for one in utterances):
            state = state.select(hypotheses, rows)
        if prefixes is not None:
            prefixes = prefixes if rows is None else prefixes.select(rows)
            prefixes = extend(prefixes, parents, tokens)
        if fusion is not None:
            fusion = fusion.follow(hypotheses, tokens.flatten())


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
    """Returns the open utterances, each with its limit on tokens and the empty hypothesis."""
    limits = lengths.tolist()
    if prefixes is not None:
        generous = (2 * expected_length(prefixes) + 10).nan_to_num(nan=math.inf).tolist()
        limits = [int(min(pair)) for pair in zip(limits, generous, strict=True)]
    empty = Hypothesis((), 0.0, 0.0, 0.0, 0.0, False)
    pairs = zip(indices, limits, strict=True)
    return [OpenUtterance(index, limit, [empty]) for index, limit in pairs]


def _extensions(
    log_probs: Tensor,
    attention: Tensor,
    lm: Tensor,
    prefixes: CTCPrefixes | None,
    fusion: Fusion | None,
    size: int,
    rules: Rules,
) -> list[list[list[float]]]:
    """The best extensions of open hypotheses of ``size`` tokens, by (B*K, V) log-probabilities.

    ``attention`` and ``lm`` are the scores (B, K) of the open hypotheses. There are ``beam`` + K
    extensions, so that at least ``beam`` are left without those that end.

    Returns:
        The extensions of each utterance, best first. Each has its score, its log-probabilities
        under the decoder, CTC and the language model (0 without them), and its position in (K, V).
    """
    K, V = attention.shape[1], log_probs.shape[1]
    attention = attention[..., None] + log_probs.view(-1, K, V)  # (B, K, V)
    ctc = torch.zeros_like(attention) if prefixes is None else extension_scores(prefixes)
    if rules.ctc_weight == 0:
        score = attention.clone()
    elif rules.ctc_weight == 1:  # 0 times -inf would be NaN
        score = ctc.masked_fill(attention.isneginf(), -math.inf)
    else:
        score = (1 - rules.ctc_weight) * attention + rules.ctc_weight * ctc
    lm = lm[..., None].expand_as(score)
    if fusion is not None:
        lm = lm + fusion.log_probs.view(-1, K, V)
        score.add_(lm, alpha=rules.lm_weight)
    score += rules.length_bonus * (size + 1)
    score[..., EOS] -= rules.length_bonus
    score[..., BLANK] = -math.inf
    score, place = score.flatten(1).topk(min(rules.beam + K, K * V))  # (B, C)
    terms = [term.flatten(1).gather(1, place) for term in (attention, ctc, lm)]  # (B, C) each
    packed = torch.stack([score, *terms, place.to(score.dtype)], dim=2)  # one transfer to the host
    extensions: list[list[list[float]]] = packed.tolist()
    return extensions


def _table(utterances: list[OpenUtterance], like: Tensor) -> list[Tensor]:
    """Parents, last tokens, attention and LM scores (B, K) of the open hypotheses, on the device.

    Unused places have an attention score of -inf, so that they have no extensions.
    """
    K = max(len(one.live) for one in utterances)
    unused = (0, UNKNOWN, -math.inf, 0.0)
    table = []
    for one in utterances:
        pairs = zip(one.parents, one.live, strict=True)
        used = [(at, own.tokens[-1], own.decoder_score, own.lm_score) for at, own in pairs]
        table.append(used + [unused] * (K - len(used)))
    parents, tokens, attention, lm = like.new_tensor(table).unbind(2)
    return [parents.long(), tokens.long(), attention, lm]
