"""The table of encoders; a new one is a file and a line here."""

from asr.encoders.block import Block, Frames
from asr.encoders.conformer import Conformer
from asr.encoders.convolution import Convolution
from asr.encoders.encoder import Encoder, EncoderState, state_bytes
from asr.encoders.gate import Memory
from asr.encoders.gru import GRU
from asr.encoders.hierarchical import Hierarchical
from asr.encoders.hybrid import Hybrid
from asr.encoders.lstm import LSTM
from asr.encoders.min_gru import MinGRU
from asr.encoders.min_lstm import MinLSTM
from asr.encoders.stack import Stack
from asr.encoders.state_space import StateSpace
from asr.encoders.transformer import Transformer
from asr.encoders.universal import Universal

ENCODERS: dict[str, type[Encoder]] = {
    cls.__name__: cls
    for cls in (
        LSTM,
        GRU,
        MinLSTM,
        MinGRU,
        StateSpace,
        Transformer,
        Conformer,
        Universal,
        Hierarchical,
        Convolution,
        Hybrid,
    )
}

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
