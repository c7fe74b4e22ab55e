"""Hypotheses that stay or grow by one token per step; equal hypotheses are merged.

A hypothesis can be reached in two ways only: it stays, or the hypothesis that is one token shorter
grows into it. To merge both, the search needs to know which hypothesis is a prefix of which other.
A matrix of booleans stores this exactly, and comparisons of tokens keep it up to date.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from asr.batch import BLANK, EOS
from asr.search.hypothesis import Hypothesis

FIRST_TOKEN = max(BLANK, EOS) + 1  # the first token that a hypothesis may hold


@dataclass(frozen=True)
class Survivors:
    """The K' best hypotheses of each utterance, among K that stay and K * M that grow by a token.

    Attributes:
        parent: (B, K') position of the hypothesis before this step.
        rows: (B * K',) position of the same in a batch of B * K rows.
        grew: (B, K') bool, whether the hypothesis grew.
        extension: (B, K') position among the K * M extensions; 0 if the hypothesis stayed.
        kind: (B, K') position of the new token among the M tokens; 0 if the hypothesis stayed.
    """

    parent: Tensor
    rows: Tensor
    grew: Tensor
    extension: Tensor
    kind: Tensor

    @classmethod
    def best(cls, stay: Tensor, grow: Tensor, beam: int) -> "Survivors":
        """Selects by the scores of hypotheses that stay (B, K) and that grow (B, K, M)."""
        K, M = stay.shape[1], max(grow.shape[2], 1)
        ranks = torch.cat([stay, grow.flatten(1)], 1)
        place = ranks.topk(min(beam, ranks.shape[1])).indices
        grew = place >= K
        extension = (place - K).clamp_(min=0)
        parent = torch.where(grew, extension // M, place)
        utterances = torch.arange(len(parent), device=parent.device)[:, None]
        rows = (utterances * K + parent).flatten()
        return cls(parent, rows, grew, extension, extension % M)

    def of(self, stay: Tensor, grow: Tensor) -> Tensor:
        """Selects the values (B, K') of the survivors from (B, K) and (B, K, M) values."""
        grown = grow.flatten(1).gather(1, self.extension)
        return torch.where(self.grew, grown, stay.gather(1, self.parent))


@dataclass(frozen=True)
class Prefixes:
    """The tokens of K hypotheses per utterance.

    Attributes:
        tokens: (B, K, U), padded with BLANK.
        lengths: (B, K) number of tokens.
        last: (B, K) last token; EOS for an empty hypothesis.
        begins: (B, K, K) whether hypothesis i is a prefix of hypothesis j, or equals it.
    """

    tokens: Tensor
    lengths: Tensor
    last: Tensor
    begins: Tensor

    @classmethod
    def empty(cls, utterances: int, device: torch.device) -> "Prefixes":
        """One hypothesis without tokens for each utterance; K = 1."""
        length = torch.zeros(utterances, 1, dtype=torch.int64, device=device)
        tokens = length.new_empty(utterances, 1, 0)
        return cls(tokens, length, length + EOS, length[..., None] == 0)

    def select(self, utterances: Tensor) -> "Prefixes":
        """Keeps the utterances at (B',) positions."""
        return Prefixes(*(getattr(self, field.name)[utterances] for field in fields(self)))

    def parents(self, alive: Tensor) -> Tensor:
        """Returns (B, K, K): whether i is j without its last token, and j is ``alive`` (B, K)."""
        shorter = self.lengths[..., None] + 1 == self.lengths[:, None]
        return self.begins & shorter & alive[:, None]

    def follow(self, survivors: Survivors, token: Tensor) -> "Prefixes":
        """The hypotheses of the survivors; those that grew get their (B, K') ``token``."""
        parent, grew = survivors.parent, survivors.grew
        tokens = self.tokens.flatten(0, 1)[survivors.rows]
        tokens = tokens.unflatten(0, parent.shape)  # (B, K', U)
        tokens = torch.nn.functional.pad(tokens, (0, 1), value=BLANK)  # (B, K', U + 1)
        lengths = self.lengths.gather(1, parent)
        pairs = (parent * self.lengths.shape[1])[..., None] + parent[:, None]  # (B, K', K')
        begins = self.begins.flatten(1).gather(1, pairs.flatten(1)).view_as(pairs)
        # A hypothesis that grew is a prefix of another only if that one has the new token next.
        # If a hypothesis stayed, it is a prefix of the same ones as before.
        following = tokens.gather(2, lengths[:, None].expand_as(pairs)).transpose(1, 2)
        begins &= ~grew[..., None] | (following == token[..., None])
        begins |= torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)
        tokens = tokens.scatter(2, lengths[..., None], token[..., None])  # BLANK where it stayed
        last = torch.where(grew, token, self.last.gather(1, parent))
        return Prefixes(tokens, lengths + grew, last, begins)


def listed(
    prefixes: Prefixes, scores: Tensor, decoder: Tensor, lm: Tensor, finished: Tensor
) -> list[list[Hypothesis]]:
    """Lists the hypotheses of each utterance: the finished ones first, then by their scores.

    ``scores`` (B, K) rank them; places with -inf are unused. ``decoder`` and ``lm`` are the
    log-probabilities under the decoder and the language model.
    """
    columns = (prefixes.tokens, prefixes.lengths, scores, decoder, lm, finished)
    results = []
    for utterance in zip(*(values.tolist() for values in columns), strict=True):
        found = [
            Hypothesis(tuple(tokens[:length]), score, own, 0.0, lm_score, ended)
            for tokens, length, score, own, lm_score, ended in zip(*utterance, strict=True)
            if score > -math.inf
        ]
        results.append(sorted(found, key=lambda h: (-h.finished, -h.score)))
    return results
