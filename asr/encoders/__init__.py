"""The table of encoders: those of ``asr.encoders.stacks``, and the one that joins them."""

from asr.encoders.block import Block, Frames
from asr.encoders.encoder import Encoder, EncoderState, state_bytes
from asr.encoders.gate import Memory
from asr.encoders.hybrid import Hybrid
from asr.encoders.stack import Stack
from asr.encoders.stacks import (
    GRU,
    LSTM,
    STACKS,
    Conformer,
    Convolution,
    Hierarchical,
    MinGRU,
    MinLSTM,
    StateSpace,
    Transformer,
    Universal,
)

ENCODERS: dict[str, type[Encoder]] = {**STACKS, "Hybrid": Hybrid}

__all__ = [
    "ENCODERS",
    "GRU",
    "LSTM",
    "MinGRU",
    "MinLSTM",
    "Block",
    "Conformer",
    "Convolution",
    "Encoder",
    "EncoderState",
    "Frames",
    "Hierarchical",
    "Hybrid",
    "Memory",
    "Stack",
    "StateSpace",
    "Transformer",
    "Universal",
    "state_bytes",
]
