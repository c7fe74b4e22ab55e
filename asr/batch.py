"""A batch of utterances, the mask of its valid positions, and the meaning of shape letters.

Legend, used in every docstring and shape comment of this project:

    B  utterances in a batch          K  hypotheses (beams) per utterance
    N  samples of a waveform          T  feature frames
    S  encoder frames, ceil(T/stride) F  mel bins
    D  model width                    H  attention heads
    U  label tokens                   V  vocabulary, blank included

The order of dimensions is (batch, time, feature). Lengths are int64 counts, and are the second
positional argument after their tensor. Masks are True at valid positions and False at padding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

BLANK = 0  # CTC's blank; never emitted by a seq2seq decoder
EOS = 1  # end of sentence; also the first input token of a decoder
UNKNOWN = 2  # a character or piece that the tokenizer does not have

# The state of a network that reads tokens one by one: tensors (N, ...) with a row per hypothesis.
# Rows are independent: they may be selected, repeated and concatenated. The second dimension may
# grow from step to step (keys and values); zeros at the end of a row have no effect.
Cache = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Utterances padded to a common length; values in the padding must have no effect.

    Attributes:
        waves: (B, N) float32 in [-1, 1], mono, at the model's sample rate.
        wave_lengths: (B,) int64, samples.
        tokens: (B, U) int64, without EOS; padded with BLANK.
        token_lengths: (B,) int64.
        num_samples: B lengths of the waves on the host; reading them does not wait for a GPU.
        ids: utterance ids.
        texts: normalised transcripts.
    """

    waves: Tensor
    wave_lengths: Tensor
    tokens: Tensor
    token_lengths: Tensor
    num_samples: list[int]
    ids: list[str]
    texts: list[str]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Returns the batch with its tensors on ``device``."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Returns the batch in page-locked memory, for an asynchronous copy to a GPU."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


class Share(NamedTuple):
    """The rows of a batch that one process (rank) trains on.

    Attributes:
        items: items of the data set, one per row.
        rows: places of these rows in the whole batch.
        total: number of rows of the whole batch.
        idle: whether the batch has too few rows for this rank. Then the rank repeats the shortest
            row with weight 0, because all ranks compute gradients together.
    """

    items: list[int]
    rows: list[int]
    total: int
    idle: bool = False


def mask(lengths: Tensor, time: int) -> Tensor:
    """Returns the mask (B, time) of (B,) lengths: True at valid positions."""
    return torch.arange(time, device=lengths.device) < lengths[:, None]


def padded(rows: Sequence[Tensor], fill: int = 0) -> tuple[Tensor, Tensor]:
    """Pads B rows with ``fill``; returns them (B, longest) and their lengths (B,) int64."""
    lengths = torch.tensor([len(row) for row in rows])
    return pad_sequence(list(rows), batch_first=True, padding_value=fill), lengths
