"""The table of encoders: those of ``asr.encoders.parts``, and the one that joins them."""

from asr.encoders.block import Block, Frames
from asr.encoders.encoder import Encoder, EncoderState, state_bytes
from asr.encoders.gate import Memory
from asr.encoders.hybrid import Hybrid
from asr.encoders.parts import (
    GRU,
    LSTM,
    PARTS,
    Conformer,
    Convolution,
    Hierarchical,
    MinGRU,
    MinLSTM,
    StateSpace,
    Transformer,
    Universal,
)
from asr.encoders.stack import Stack

ENCODERS: dict[str, type[Encoder]] = {**PARTS, "Hybrid": Hybrid}

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
