"""A cache of decoded utterances on the device, from which batches are cut."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from asr.batch import mask


def no_room(size: int, device: torch.device) -> str | None:
    """Says why ``size`` bytes should not be cached on the device; None if they may be.

    The cache may take at most half of the free memory, because the model, its optimiser and a batch
    need memory, too. On a CPU nothing is copied, so there is always room.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if 2 * size <= free:
        return None
    return f"{size / 2**30:.2f} GiB are more than half of the {free / 2**30:.2f} GiB free"


class Resident:
    """Sequences of different lengths, concatenated in one tensor on the device.

    Attributes:
        flat: (total,) the concatenated sequences.
        starts: (number + 1,) int64, the first position of each sequence, then the end of the last.
        sizes: (number,) the length of each sequence, on the host.
    """

    def __init__(
        self, flat: Tensor, sizes: Sequence[int] | np.ndarray, device: torch.device
    ) -> None:
        self.flat = flat.to(device)
        self.starts = torch.from_numpy(np.cumsum([0, *sizes])).to(device)
        self.sizes = np.asarray(sizes)

    def cut(self, rows: Sequence[int], fill: int) -> tuple[Tensor, Tensor]:
        """Takes the indices of B sequences -> (B, longest) padded with ``fill``, (B,) lengths."""
        longest = int(self.sizes[rows].max())
        at = torch.tensor(rows, device=self.starts.device)
        first, end = self.starts[at], self.starts[at + 1]
        lengths = end - first
        real = mask(lengths, longest)
        place = first[:, None] + torch.arange(longest, device=first.device)  # (B, longest)
        cut = self.flat[place.masked_fill_(~real, 0)]
        return cut.masked_fill(~real, fill), lengths
