"""Utterances that stay on the device, decoded: batches are cut out of them where they are used."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from asr.batch import BLANK, Batch, mask

FULL_SCALE = 32768  # of samples of 16 bits; a power of two, so that dividing by it is exact


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


class ResidentUtterances:
    """The samples and tokens of all utterances of some splits."""

    def __init__(
        self,
        samples: np.ndarray,
        starts: np.ndarray,
        tokens: Sequence[Sequence[int]],
        ids: Sequence[str],
        texts: Sequence[str],
        device: torch.device,
    ) -> None:
        """Copies them to the device.

        Args:
            samples: (total,) int16 of all utterances, one after the other.
            starts: (number + 1,) int64, where each begins, and the end of the last.
            tokens: of each, without EOS.
            ids: of each.
            texts: of each.
            device: where batches are wanted.
        """
        self.samples = Resident(samples, starts, device)
        ends = np.cumsum([0, *map(len, tokens)])
        flat = np.fromiter((token for each in tokens for token in each), dtype=np.int64)
        self.tokens = Resident(flat, ends, device)
        self.ids, self.texts = ids, texts

    def batch(self, rows: Sequence[int]) -> Batch:
        """Equal to ``asr.data.utterances.collate`` of these utterances, bit for bit."""
        samples, wave_lengths = self.samples.cut(rows, 0)
        tokens, token_lengths = self.tokens.cut(rows, BLANK)
        return Batch(
            waves=samples.float() / FULL_SCALE,
            wave_lengths=wave_lengths,
            tokens=tokens,
            token_lengths=token_lengths,
            ids=[self.ids[row] for row in rows],
            texts=[self.texts[row] for row in rows],
        )
