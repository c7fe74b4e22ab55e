"""The pairs of layers that ``scaling`` compares: a layer and its reference implementation."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.encoders import ENCODERS, Block, Frames
from asr.encoders.recurrent import RecurrentBlock, read_padded
from asr.encoders.state_space import selective_scan
from asr.kernels.linear import Linear
from asr.kernels.scan import sequential

HEADS = 4
WINDOW = 100
HEAD_WIDTH, STATE = 32, 64  # the defaults of StateSpace
ONE_WAY = {"bidirectional": False}
HIERARCHY = {"heads": HEADS, "window": WINDOW, "levels": 2}
CAUSAL = {"heads": HEADS, "causal": True}
# Sliding attention attends to as many keys as the two levels of windows of HIERARCHY.
SLIDING = {**CAUSAL, "left_context": 2 * WINDOW - 1}


class Call(nn.Module):
    """A module with the function that calls it."""

    def __init__(self, module: nn.Module, way: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.way = module, way

    def forward(self, x: Tensor) -> Tensor:
        """Processes frames (B, S, D)."""
        return self.way(self.module, x)


def full(x: Tensor) -> Tensor:
    """Returns lengths (B,) for x (B, T, ...) without padding."""
    return torch.full(x.shape[:1], x.shape[1], device=x.device)


def whole(block: Block, x: Tensor) -> Tensor:
    """Applies a block of an encoder to utterances without padding."""
    return block(Frames(x, full(x))).x


def scanned(recurrence: Any, x: Tensor) -> Tensor:
    """Computes a minimal recurrence by a scan, as the encoder does."""
    return recurrence(x)[0]


def looped(recurrence: Any, x: Tensor) -> Tensor:
    """Computes the states of a minimal recurrence one after another."""
    log_kept, entering = recurrence.coefficients(x)
    return sequential(log_kept, entering, torch.zeros_like(entering[:, 0]))


def fused(recurrence: nn.LSTM | nn.GRU, x: Tensor) -> Tensor:
    """Computes the recurrence of an LSTM or GRU encoder, without norm and residual."""
    return read_padded(recurrence, x, full(x))


def cell_by_cell(cell: nn.LSTMCell | nn.GRUCell, x: Tensor) -> Tensor:
    """Calls torch's cell in a loop over frames."""
    state, outputs = None, []
    for frame in x.unbind(1):
        state = cell(frame, state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(outputs, dim=1)


class Selection(nn.Module):
    """The recurrence of StateSpace: a projection to the inputs of the scan, and the scan."""

    def __init__(self, dim: int, scan: Callable[..., tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.scan, self.heads = scan, 2 * dim // HEAD_WIDTH
        self.widths = [self.heads * HEAD_WIDTH, STATE, STATE, self.heads]
        self.input = Linear(dim, sum(self.widths))
        self.decay = nn.Parameter(-torch.linspace(1, 16, self.heads))

    def forward(self, x: Tensor) -> Tensor:
        """Splits frames (B, S, D) into heads, (B, S, heads, HEAD_WIDTH)."""
        u, b, c, sizes = self.input(x).split(self.widths, dim=-1)
        u, sizes = u.unflatten(-1, (self.heads, -1)), F.softplus(sizes - 3)
        state = x.new_zeros(len(x), self.heads, HEAD_WIDTH, STATE)
        return self.scan(u, sizes, self.decay, b, c, state)[0]


def scan_by_loop(
    u: Tensor, sizes: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Computes ``asr.encoders.state_space.selective_scan`` one frame after another."""
    kept, entering, outputs = (sizes * decay).exp(), u * sizes[..., None], []
    for k, new, write, read in zip(*(z.unbind(1) for z in (kept, entering, b, c)), strict=True):
        state = k[..., None, None] * state + new[..., None] * write[:, None, None]
        outputs.append((state @ read[:, None, :, None]).squeeze(-1))
    return torch.stack(outputs, dim=1), state


def layer(name: str, dim: int, **options: Any) -> Block:
    """Makes a block of an encoder, without dropout."""
    encoder: Any = ENCODERS[name](8, dim=dim, layers=1, channels=1, dropout=0.0, **options)
    return encoder.layers[-1]


def loop_of_cells(name: str, dim: int) -> tuple[nn.Module, nn.Module]:
    """The fused recurrence, and a loop of torch's cell with the same weights."""
    block = layer(name, dim, bidirectional=False)
    assert isinstance(block, RecurrentBlock)
    recurrence = block.recurrence
    kind = nn.LSTMCell if isinstance(recurrence, nn.LSTM) else nn.GRUCell
    cell = kind(recurrence.input_size, recurrence.hidden_size)
    cell.load_state_dict({n.removesuffix("_l0"): w for n, w in recurrence.state_dict().items()})
    return Call(recurrence, fused), Call(cell, cell_by_cell)


def loop_of_states(dim: int) -> tuple[nn.Module, nn.Module]:
    """The recurrence of MinLSTM, computed by a scan and by a loop."""
    block: Any = layer("MinLSTM", dim, **ONE_WAY, expansion=1)
    recurrence = block.directions[0]
    return Call(recurrence, scanned), Call(copy.deepcopy(recurrence), looped)


def two_recurrences(dim: int) -> tuple[nn.Module, nn.Module]:
    """The recurrences of MinLSTM and of LSTM, with inputs and states of width D."""
    block: Any = layer("MinLSTM", dim, **ONE_WAY, expansion=1)
    return Call(block.directions[0], scanned), loop_of_cells("LSTM", dim)[0]


def loop_of_selections(dim: int) -> tuple[nn.Module, nn.Module]:
    """The recurrence of StateSpace, computed by the encoder's scan and by a loop."""
    subject, reference = Selection(dim, selective_scan), Selection(dim, scan_by_loop)
    reference.load_state_dict(subject.state_dict())
    return subject, reference


def two_layers(dim: int, attention: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """A layer of hierarchical attention, and a layer of a Transformer."""
    layers = layer("Hierarchical", dim, **HIERARCHY), layer("Transformer", dim, **attention)
    return Call(layers[0], whole), Call(layers[1], whole)


# For each of scaling.COMPARISONS: width D -> subject and reference, both (B, S, D) -> (B, S, D).
BUILD: dict[str, Callable[[int], tuple[nn.Module, nn.Module]]] = {
    "lstm-loop": lambda dim: loop_of_cells("LSTM", dim),
    "gru-loop": lambda dim: loop_of_cells("GRU", dim),
    "minlstm-loop": loop_of_states,
    "minlstm-lstm": two_recurrences,
    "statespace-loop": loop_of_selections,
    "hierarchical-full": lambda dim: two_layers(dim, CAUSAL),
    "hierarchical-window": lambda dim: two_layers(dim, SLIDING),
}
