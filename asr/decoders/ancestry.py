"""Key-value caches that the hypotheses of a beam share, with a mask of each one's ancestors.

The hypotheses of a beam share most of their tokens. The cache therefore stores the key and value of
each token once per utterance, in a column. A hypothesis is a row of booleans over the columns: true
for the columns of its ancestors and for its own. When the search continues a hypothesis, it copies
only this row.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_COLUMNS = 4  # minimum number of steps between two removals of columns


def make_room(past: list[Tensor], ancestry: Tensor) -> tuple[list[Tensor], Tensor]:
    """Makes room for K new columns.

    Takes the (B, H, P, d) columns of each layer and the (B*K, C) bool ancestry, where the first C
    of the P columns are in use. Returns both with P >= C + K.

    If K columns do not fit, columns without a living descendant are removed, and space for half as
    many columns as remain is added. A step then reads few unused columns, and columns are rarely
    moved. The host waits for the device only here.
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
    taken = [x.flatten(0, 2).index_select(0, places.flatten()) for x in past]
    return [x.view(*places.shape, -1) for x in taken], ancestry


def with_newest(ancestry: Tensor, batch: int) -> Tensor:
    """Extends (B*K, C) by K columns: the new column of each hypothesis belongs to its own row."""
    beam = len(ancestry) // batch
    newest = torch.eye(beam, dtype=torch.bool, device=ancestry.device)
    return torch.cat([ancestry, newest.repeat(batch, 1)], dim=1)


def unseen(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the additive attention mask of ``seen``: 0 where it is true, -inf elsewhere.

    It is made once for all layers; with a boolean mask, attention would convert it in each layer.
    """
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
