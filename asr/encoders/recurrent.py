"""LSTM and GRU encoders (Cho et al. 2014): bidirectional, causal, or pyramidal (Chan et al. 2016).

They run torch's fused kernels, one or two directions.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.encoders.block import Block, BlockState, Frames
from asr.encoders.stack import Stack
from asr.kernels.cudnn_rules import GPU, MOST_ROWS, NAMES, Call, Choice, algorithm, whole_rows
from asr.kernels.gru_loop import gru
from asr.kernels.linear import Linear
from asr.kernels.low_precision import narrow
from asr.kernels.padded_cudnn import Recurrence, call, cudnn_padded
from asr.kernels.permute import both_directions
from asr.layers import dropout, halved, halved_lengths, initialise, zero_padding

FEW_FRAMES = 4  # on a CPU, a chunk of at most this number of frames in all is read cell by cell


class RecurrentBlock(Block):
    """x + projection(recurrence(norm(x))), and the optional joining of two frames into one.

    Attributes:
        precision: precision of the recurrence in ``forward``; streaming always uses float32.
    """

    precision = torch.float32

    def __init__(
        self,
        dim: int,
        *,
        kind: type[nn.LSTM] | type[nn.GRU],
        cells: int,
        bidirectional: bool,
        dropout: float,
        forget_bias: float,
        reduce: bool,
    ) -> None:
        super().__init__()
        directions = 2 if bidirectional else 1
        if not cells and dim % directions:
            raise ValueError(f"dim {dim} is odd; two directions share it equally")
        cells = cells or dim // directions
        self.dim, self.dropout, self.causal = dim, dropout, not bidirectional
        self.norm = nn.LayerNorm(dim)
        self.recurrence = kind(dim, cells, bidirectional=bidirectional, batch_first=True)
        width = cells * directions
        self.projection = Linear(width, dim) if width != dim else None
        self.reduction = Linear(2 * dim, dim) if reduce else None
        self.stride = 2 if reduce else 1
        initialise(self.recurrence, forget_bias)

    def forward(self, frames: Frames) -> Frames:
        """Processes (B, S, D) frames; a reducing block returns ceil(S / 2) frames."""
        x, lengths = frames.x, frames.lengths
        x = self._join(x, self.read(self.norm(x), lengths))
        if self.reduction is None:
            return replace(frames, x=x)
        x = self._reduce(zero_padding(x, lengths))
        return replace(frames, x=x, lengths=halved_lengths(lengths))

    def read(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Runs the recurrence over (B, S, D) by the fastest kernel available.

        A GPU runs a persistent kernel per direction if torch would choose it, otherwise one call.
        """
        if self.precision == torch.float32:
            return read_padded(self.recurrence, x, lengths)
        kernel = self.kernel(GPU.of(x.device), len(x)) if x.is_cuda else None
        twice = kernel is None or kernel.algorithm == "persistent"
        return narrow(self.recurrence, x, lengths, self.precision, twice=twice)

    def kernel(self, gpu: GPU, batch: int) -> Choice:
        """The cuDNN algorithm for this batch size: the slower of those for forward and backward."""
        call = Call(self.precision, self.dim, self.recurrence.hidden_size, whole_rows(batch))
        passes = [algorithm(call, gpu, backward=backward) for backward in (False, True)]
        return next((choice for choice in passes if choice.algorithm == "standard"), passes[0])

    def initial_state(self, batch: int) -> BlockState:
        """A state of zeros: ``hidden`` and, for an LSTM, ``cell``."""
        zeros = self.norm.weight.new_zeros(batch, self.recurrence.hidden_size)
        is_lstm = isinstance(self.recurrence, nn.LSTM)
        return {"hidden": zeros, "cell": zeros} if is_lstm else {"hidden": zeros}

    def step(self, frames: Frames, state: BlockState) -> tuple[Frames, BlockState]:
        """See ``Block.step``."""
        before = [value[None] for value in state.values()]
        x = self.norm(frames.x).to(before[0].dtype)
        with torch.autocast(x.device.type, enabled=False):  # as in ``cudnn_padded``
            after: tuple[Tensor, ...]
            if isinstance(self.recurrence, nn.GRU):
                y, last = self.recurrence(x, before[0])
                after = (last,)
            elif not x.is_cuda and x.shape[0] * x.shape[1] <= FEW_FRAMES:
                y, after = by_cells(self.recurrence, x, before[0], before[1])
            else:
                y, after = self.recurrence(x, (before[0], before[1]))
        x = self._join(frames.x, y)
        x = x if self.reduction is None else self._reduce(x)
        return replace(frames, x=x), dict(zip(state, [v[0] for v in after], strict=True))

    def _join(self, x: Tensor, y: Tensor) -> Tensor:
        y = y if self.projection is None else self.projection(y)
        return x + dropout(y, self.dropout, self.training)

    def _reduce(self, x: Tensor) -> Tensor:
        """Joins pairs of frames: (B, S, D) -> (B, ceil(S / 2), D). Zeros fill the last pair."""
        assert self.reduction is not None
        x = F.pad(x, (0, 0, 0, x.shape[1] % 2))
        return self.reduction(x.unflatten(1, (-1, 2)).flatten(2))

    def flops(self, time: int) -> int:
        """FLOPs of one utterance of ``time`` frames."""
        gates = 4 if isinstance(self.recurrence, nn.LSTM) else 3
        directions = 2 if self.recurrence.bidirectional else 1
        cells, dim = self.recurrence.hidden_size, self.dim
        flops = directions * time * 2 * gates * cells * (dim + cells)
        if self.projection is not None:
            flops += 2 * directions * cells * dim * time
        if self.reduction is not None:
            flops += 4 * dim**2 * halved(time)
        return flops


class RecurrentStack(Stack):
    """An encoder of torch's recurrent layers; a subclass names their ``kind``.

    Args:
        dim: width D of the encoder's output and of the connections between layers.
        layers: number of recurrent layers.
        bidirectional: whether the layers read the audio in both directions; if false, the encoder
            is causal.
        cells: hidden units per direction. A linear layer projects their output to dim if the widths
            differ. 0: dim units, or dim / 2 units per direction of a bidirectional encoder.
        time_reduction: layers, counted from 1, after which each pair of frames becomes one frame.
        dropout: dropout probability, on the output of each layer.
        forget_bias: initial bias of the forget gates of an LSTM or the update gates of a GRU; a
            gate at 1 keeps the state.
    """

    remedy = "set bidirectional: false"
    kind: type[nn.LSTM] | type[nn.GRU]

    def __init__(
        self,
        num_mels: int,
        *,
        dim: int,
        layers: int,
        bidirectional: bool = True,
        cells: int = 0,
        time_reduction: list[int] = [],  # noqa: B006  (as it stands in a recipe; never changed)
        dropout: float = 0.1,
        forget_bias: float = 1.0,
        channels: int = 32,
        subsampling: int = 4,
    ) -> None:
        for layer in time_reduction:
            if not 1 <= layer <= layers:
                raise ValueError(f"time_reduction after layer {layer}, of {layers} layers")
        blocks = [
            RecurrentBlock(
                dim,
                kind=self.kind,
                cells=cells,
                bidirectional=bidirectional,
                dropout=dropout,
                forget_bias=forget_bias,
                reduce=layer in time_reduction,
            )
            for layer in range(1, layers + 1)
        ]
        super().__init__(num_mels, blocks, dim=dim, channels=channels, subsampling=subsampling)


class LSTM(RecurrentStack):
    """Subsampling, then layers of x + projection(LSTM(norm(x))), then a norm.

    Bidirectional, or causal when ``bidirectional`` is false. With ``time_reduction`` it is the
    pyramid of Listen, Attend and Spell.
    """

    kind = nn.LSTM


class GRU(RecurrentStack):
    """Subsampling, then layers of x + projection(GRU(norm(x))), then a norm.

    As the ``LSTM`` encoder, with three gates for four. torch has no fused GRU for CPUs: there it
    is slower than the LSTM, which has one.
    """

    kind = nn.GRU


def set_recurrent_precision(modules: Iterable[nn.Module], name: str) -> None:
    """Sets the precision of all recurrent blocks in ``modules``: float32, bf16 or fp16."""
    precision = {name: dtype for dtype, name in NAMES.items()}[name]
    for module in modules:
        if isinstance(module, RecurrentBlock):
            module.precision = precision


def recurrent_kernel(modules: Iterable[nn.Module], device: torch.device) -> str | None:
    """Describes the kernel of the recurrent blocks in ``modules``; None if there are none."""
    blocks = [module for module in modules if isinstance(module, RecurrentBlock)]
    if not blocks:
        return None
    precision = NAMES[blocks[0].precision]
    if device.type != "cuda":
        return f"each direction over padded frames, in {precision} on a {device.type}"
    choices = [str(block.kernel(GPU.of(device), MOST_ROWS)) for block in blocks]
    return f"{'; '.join(dict.fromkeys(choices))} (in {precision}, up to {MOST_ROWS} utterances)"


def read_padded(recurrence: Recurrence, x: Tensor, lengths: Tensor) -> Tensor:
    """Runs the layer over padded (B, S, D) in float32, by the fastest kernel."""
    return (cudnn_padded if x.is_cuda else cpu_padded)(recurrence, x, lengths)


def cpu_padded(recurrence: Recurrence, x: Tensor, lengths: Tensor) -> Tensor:
    """Runs each direction over all frames (B, S, D), on a CPU.

    For CPUs: oneDNN's fused LSTM refuses packed sequences, for which torch loops over frames:
    1.32 s forward and backward (16 utterances of 250-400 frames, 128 cells per direction, one
    core of an EPYC) against 0.26 s here, although 27 % of the frames are padding. See
    ``both_directions`` for the backward one.
    """
    if isinstance(recurrence, nn.GRU):
        return gru(recurrence, x, lengths)
    weights = [weight for weight in recurrence._flat_weights if weight is not None]
    ahead = partial(call, recurrence, weights[:4], bidirectional=False)
    if not recurrence.bidirectional:
        return ahead(x)
    back = partial(call, recurrence, weights[4:], bidirectional=False)
    return both_directions(ahead, back, x, lengths)


def by_cells(
    lstm: nn.LSTM, x: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Runs an LSTM layer over (B, C, D) one frame at a time; returns the next states, too.

    oneDNN rearranges the weights at every call. A single frame then takes 1.2 ms (328 cells, one
    core of an EPYC), and 0.1 ms here. From about four frames on, oneDNN is faster.
    """
    weights = [weight for weight in lstm._flat_weights if weight is not None]
    hidden, cell, y = hidden[0], cell[0], []
    for frame in x.unbind(1):
        hidden, cell = torch.lstm_cell(frame, (hidden, cell), *weights)
        y.append(hidden)
    return torch.stack(y, dim=1), (hidden[None], cell[None])
