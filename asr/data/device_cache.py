"""Utterances that stay on the device, decoded: batches are cut out of them where they are used."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from asr.batch import mask


def no_room(size: int, device: torch.device) -> str | None:
    """Why so many bytes should not stay on the device; None: they may.

    At most half of what is free: the model, its optimiser and a batch need room, too. A CPU reads
    the audio where it is.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if 2 * size <= free:
        return None
    return f"{size / 2**30:.2f} GiB are more than half of the {free / 2**30:.2f} GiB free"


class Resident:
    """Sequences of different lengths, one after the other in one tensor on the device.

    Attributes:
        flat: (total,) of all sequences.
        starts: (number + 1,) int64, where each begins, and the end of the last.
    """

    def __init__(self, flat: np.ndarray, starts: np.ndarray, device: torch.device) -> None:
        self.flat = torch.from_numpy(flat).to(device)
        self.starts = torch.from_numpy(starts).to(device)
        self.sizes = np.diff(starts)

    def cut(self, rows: Sequence[int], fill: int) -> tuple[Tensor, Tensor]:
        """Numbers of B sequences -> (B, longest), ``fill`` beyond the lengths; (B,) lengths."""
        longest = int(self.sizes[rows].max())
        at = torch.tensor(rows, device=self.starts.device)
        first, end = self.starts[at], self.starts[at + 1]
        lengths = end - first
        real = mask(lengths, longest)
        place = first[:, None] + torch.arange(longest, device=first.device)  # (B, longest)
        cut = self.flat[place.masked_fill_(~real, 0)]
        return cut.masked_fill(~real, fill), lengths
