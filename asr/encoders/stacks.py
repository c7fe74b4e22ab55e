"""The table of encoders that a ``Hybrid`` can combine."""

from asr.encoders.conformer import Conformer
from asr.encoders.convolution import Convolution
from asr.encoders.hierarchical import Hierarchical
from asr.encoders.minimal import MinGRU, MinLSTM
from asr.encoders.recurrent import GRU, LSTM
from asr.encoders.stack import Stack
from asr.encoders.state_space import StateSpace
from asr.encoders.transformer import Transformer
from asr.encoders.universal import Universal

STACKS: dict[str, type[Stack]] = {
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
    )
}
