"""Keys and values that all hypotheses of an utterance share, and who descends from whom.

Hypotheses of a beam have most of their tokens in common. Each token's keys and values are kept
once per utterance, in columns that are written in place, and a hypothesis is a row of booleans:
the columns of its ancestors and its own. To follow a hypothesis is to copy that row, no more.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_COLUMNS = 4  # steps, at least, from one removal of columns to the next


def make_room(past: list[Tensor], ancestry: Tensor) -> tuple[list[Tensor], Tensor]:
    """Of each layer (B, H, P, d) columns, and (B*K, C) bool ancestry -> the same, P >= C + K.

    The first C of P columns are in use. Where K more do not fit, those without a living
    descendant leave, and then there is room for half as many as remain: a step reads little more
    than what the hypotheses consist of, and columns move rarely. Only here the host waits for the
    device.
    """
    batch, rows, width, _ = past[0].shape
    beam, used = len(ancestry) // batch, ancestry.shape[1]
    if used + beam <= width:
        return past, ancestry
    ancestry = ancestry.view(batch, beam, used)
    living = ancestry.any(1)  # (B, C)
    remain = int(living.sum(1).amax())
    columns = living.byte().argsort(dim=1, descending=True, stable=True)[:, :remain]  # (B, C')
    ancestry = ancestry.gather(2, columns[:, None].expand(-1, beam, -1)).flatten(0, 1)
    columns = F.pad(columns, (0, max(MIN_COLUMNS * beam, remain // 2)))  # (B, P')
    if used == 0:
        return [x.new_zeros(batch, rows, columns.shape[1], x.shape[3]) for x in past], ancestry
    starts = torch.arange(0, batch * rows * width, width, device=ancestry.device)
    places = starts.view(batch, rows, 1) + columns[:, None]  # (B, H, P')
    return [_rows(x, places) for x in past], ancestry


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """(B, H, P, d), (B, H, P') places in its first three dimensions -> (B, H, P', d)."""
    return x.flatten(0, 2).index_select(0, places.flatten()).view(*places.shape, -1)


def with_newest(ancestry: Tensor, batch: int) -> Tensor:
    """(B*K, C) -> (B*K, C + K): each hypothesis descends from itself, too."""
    beam = len(ancestry) // batch
    newest = torch.eye(beam, dtype=torch.bool, device=ancestry.device)
    return torch.cat([ancestry, newest.repeat(batch, 1)], dim=1)


def unseen(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to attention's scores: 0 where it may look, -inf elsewhere.

    Made once for all layers; attention would make it of booleans in each.
    """
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
