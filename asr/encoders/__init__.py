"""The table of encoders; a new one is a file and a line here."""

from asr.encoders.encoder import Encoder, EncoderState
from asr.encoders.lstm import LSTM
from asr.encoders.transformer import Transformer

ENCODERS: dict[str, type[Encoder]] = {cls.__name__: cls for cls in (LSTM, Transformer)}

__all__ = ["ENCODERS", "LSTM", "Encoder", "EncoderState", "Transformer"]
