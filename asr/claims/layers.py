"""Layers, and the obvious way to do the same or to do without: what a comparison times."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asr.encoders import ENCODERS, Block, Frames
from asr.encoders.recurrent import RecurrentBlock, packed, padded

HEADS = 4
WINDOW = 100
ONE_WAY = {"bidirectional": False}
HIERARCHY = {"heads": HEADS, "window": WINDOW, "levels": 2}
CAUSAL = {"heads": HEADS, "causal": True}
SLIDING = {**CAUSAL, "left_context": 2 * WINDOW - 1}  # as many keys as two levels of windows


class Whole(nn.Module):
    """A block over utterances without padding."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        return self.block(Frames(x, full(x))).x


class StateLoop(nn.Module):
    """A minimal recurrence whose states are computed one after another."""

    def __init__(self, recurrence: Any) -> None:
        super().__init__()
        self.recurrence = recurrence

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        log_kept, entering = self.recurrence.coefficients(x)
        state, states = torch.zeros_like(entering[:, 0]), []
        # Not frame by frame from the whole: the gradient of each x[:, t] is as large as x.
        for kept, new in zip(log_kept.exp().unbind(1), entering.unbind(1), strict=True):
            state = kept * state + new
            states.append(state)
        return torch.stack(states, dim=1)


class FrameByFrame(nn.Module):
    """The same block, fed with one frame after another: the loop over its cell."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        state, outputs = self.block.initial_state(len(x)), []
        for frame in x.split(1, dim=1):
            frames, state = self.block.step(Frames(frame, full(frame)), state)
            outputs.append(frames.x)
        return torch.cat(outputs, dim=1)


class Fused(nn.Module):
    """The recurrence of LSTM and GRU encoders, without norm and residual."""

    def __init__(self, recurrence: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.recurrence = recurrence

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        run = packed if x.is_cuda else padded
        return run(self.recurrence, x, full(x))


class CellLoop(nn.Module):
    """The same recurrence with the same weights: torch's cell in a loop over frames."""

    def __init__(self, recurrence: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        kind = nn.LSTMCell if isinstance(recurrence, nn.LSTM) else nn.GRUCell
        self.cell = kind(recurrence.input_size, recurrence.hidden_size)
        weights = recurrence.state_dict()
        self.cell.load_state_dict({n.removesuffix("_l0"): w for n, w in weights.items()})

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        state, outputs = None, []
        for frame in x.unbind(1):
            state = self.cell(frame, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, dim=1)


def full(x: Tensor) -> Tensor:
    """(B, T, ...) -> (B,) lengths without padding."""
    return torch.full(x.shape[:1], x.shape[1], device=x.device)


def layer(name: str, dim: int, **options: Any) -> Block:
    """One block of an encoder, without dropout.

    Raises:
        ValueError: there is no such encoder.
    """
    if name not in ENCODERS:
        raise ValueError(f"there is no encoder {name}; ENCODERS has {', '.join(ENCODERS)}")
    encoder: Any = ENCODERS[name](8, dim=dim, layers=1, channels=1, dropout=0.0, **options)
    return encoder.layers[-1]


def loop_of_cells(name: str, dim: int) -> tuple[nn.Module, nn.Module]:
    """The fused recurrence and the loop over torch's cell."""
    block = layer(name, dim, bidirectional=False)
    assert isinstance(block, RecurrentBlock)
    return Fused(block.recurrence), CellLoop(block.recurrence)


def loop_of_states(dim: int) -> tuple[nn.Module, nn.Module]:
    """The recurrence of MinLSTM by scan, and by a loop."""
    block: Any = layer("MinLSTM", dim, **ONE_WAY, expansion=1)
    return block.directions[0], StateLoop(copy.deepcopy(block.directions[0]))


def two_recurrences(dim: int) -> tuple[nn.Module, nn.Module]:
    """Those of MinLSTM and of LSTM, from D to D cells."""
    block: Any = layer("MinLSTM", dim, **ONE_WAY, expansion=1)
    return block.directions[0], loop_of_cells("LSTM", dim)[0]


def loop_of_steps(dim: int) -> tuple[nn.Module, nn.Module]:
    """A StateSpace block over all frames at once, and its own steps."""
    block = layer("StateSpace", dim)
    return Whole(block), FrameByFrame(copy.deepcopy(block))


def two_layers(dim: int, attention: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Hierarchical attention and one of a Transformer."""
    return Whole(layer("Hierarchical", dim, **HIERARCHY)), Whole(
        layer("Transformer", dim, **attention)
    )


@dataclass(frozen=True)
class Comparison:
    """One line of the table for each length.

    Attributes:
        subject: in words.
        reference: in words.
        times: encoder frames.
        build: width -> subject and reference, (B, S, D) -> (B, S, D).
    """

    subject: str
    reference: str
    times: tuple[int, ...]
    build: Callable[[int], tuple[nn.Module, nn.Module]]


SHORT, LONG = (200, 1000, 4000), (400, 2000, 10000)

COMPARISONS: dict[str, Comparison] = {
    "lstm-loop": Comparison(
        "fused LSTM", "loop of LSTM cells", SHORT, lambda dim: loop_of_cells("LSTM", dim)
    ),
    "gru-loop": Comparison(
        "fused GRU", "loop of GRU cells", SHORT, lambda dim: loop_of_cells("GRU", dim)
    ),
    "minlstm-loop": Comparison("MinLSTM by scan", "MinLSTM by loop", SHORT, loop_of_states),
    "minlstm-lstm": Comparison("MinLSTM by scan", "fused LSTM", SHORT, two_recurrences),
    "statespace-loop": Comparison(
        "StateSpace by scan", "StateSpace by steps", SHORT, loop_of_steps
    ),
    "hierarchical-full": Comparison(
        "Hierarchical layer",
        "causal attention layer",
        LONG,
        lambda dim: two_layers(dim, CAUSAL),
    ),
    "hierarchical-window": Comparison(
        "Hierarchical layer",
        "sliding-window attention layer",
        LONG,
        lambda dim: two_layers(dim, SLIDING),
    ),
}
