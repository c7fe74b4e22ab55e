"""Hypotheses that stay or grow by one token per step; equal hypotheses are merged.

A hypothesis can be reached in two ways only: it stays, or the hypothesis that is one token shorter
grows into it. To merge both, the search needs to know which hypothesis is a prefix of which other.
A matrix of booleans stores this exactly, and comparisons of tokens keep it up to date.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from asr.batch import BLANK, EOS

FIRST_TOKEN = max(BLANK, EOS) + 1  # of the tokens that a hypothesis may hold


@dataclass(frozen=True)
class Survivors:
    """The best of the hypotheses that stay (B, K) or grow by a token (B, K, M), K' per utterance.

    Attributes:
        parent: (B, K') position of the hypothesis that it was.
        grew: (B, K') bool.
        extension: (B, K') which of the K * M it is; 0 where it stayed.
        kind: (B, K') which of the M tokens it grew by; 0 where it stayed.
    """

    parent: Tensor
    grew: Tensor
    extension: Tensor
    kind: Tensor

    @classmethod
    def best(cls, stay: Tensor, grow: Tensor, beam: int) -> "Survivors":
        """By the ranks of those that stay (B, K) and of those that grow (B, K, M)."""
        K, M = stay.shape[1], max(grow.shape[2], 1)
        ranks = torch.cat([stay, grow.flatten(1)], 1)
        place = ranks.topk(min(beam, ranks.shape[1])).indices
        grew = place >= K
        extension = (place - K).clamp_(min=0)
        parent = torch.where(grew, extension // M, place)
        return cls(parent, grew, extension, extension % M)

    def of(self, stay: Tensor, grow: Tensor) -> Tensor:
        """(B, K) and (B, K, M) values -> (B, K'), those of what was chosen."""
        grown = grow.flatten(1).gather(1, self.extension)
        return torch.where(self.grew, grown, stay.gather(1, self.parent))

    def rows(self, hypotheses: int) -> Tensor:
        """(B * K',) rows of the parents among B times K ``hypotheses``."""
        utterances = torch.arange(len(self.parent), device=self.parent.device)[:, None]
        return (utterances * hypotheses + self.parent).flatten()


@dataclass(frozen=True)
class Prefixes:
    """The tokens of K hypotheses per utterance.

    Attributes:
        tokens: (B, K, U) then BLANK.
        lengths: (B, K).
        last: (B, K) last token, EOS of the empty one.
        begins: (B, K, K) whether the first of two begins the second; true of itself.
    """

    tokens: Tensor
    lengths: Tensor
    last: Tensor
    begins: Tensor

    @classmethod
    def empty(cls, utterances: int, device: torch.device) -> "Prefixes":
        """The hypothesis of no tokens, K = 1."""
        length = torch.zeros(utterances, 1, dtype=torch.int64, device=device)
        tokens = length.new_empty(utterances, 1, 0)
        return cls(tokens, length, length + EOS, length[..., None] == 0)

    def select(self, utterances: Tensor) -> "Prefixes":
        """Keeps these utterances, (B',) positions."""
        return Prefixes(*(getattr(self, field.name)[utterances] for field in fields(self)))

    def parents(self, alive: Tensor) -> Tensor:
        """(B, K) bool -> (B, K, K): the first is the second, a live one, without its last token."""
        shorter = self.lengths[..., None] + 1 == self.lengths[:, None]
        return self.begins & shorter & alive[:, None]

    def follow(self, survivors: Survivors, token: Tensor) -> "Prefixes":
        """The hypotheses that were chosen, each with its (B, K') token if it grew."""
        parent, grew = survivors.parent, survivors.grew
        tokens = self.tokens.flatten(0, 1)[survivors.rows(self.lengths.shape[1])]
        tokens = tokens.unflatten(0, parent.shape)  # (B, K', U)
        tokens = torch.nn.functional.pad(tokens, (0, 1), value=BLANK)  # (B, K', U + 1)
        lengths = self.lengths.gather(1, parent)
        pairs = (parent * self.lengths.shape[1])[..., None] + parent[:, None]  # (B, K', K')
        begins = self.begins.flatten(1).gather(1, pairs.flatten(1)).view_as(pairs)
        # One that grew begins another if that goes on with its token. One that stayed begins as
        # many as before.
        following = tokens.gather(2, lengths[:, None].expand_as(pairs)).transpose(1, 2)
        begins &= ~grew[..., None] | (following == token[..., None])
        begins |= torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)
        tokens = tokens.scatter(2, lengths[..., None], token[..., None])  # BLANK where it stayed
        last = torch.where(grew, token, self.last.gather(1, parent))
        return Prefixes(tokens, lengths + grew, last, begins)
