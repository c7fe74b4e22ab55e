"""The table of decoders; a new decoder needs a file and a line here."""

from asr.decoders.attention_lstm import AttentionLSTM
from asr.decoders.ctc import CTC
from asr.decoders.decoder import AttentionDecoder, Decoder, State, TransducerDecoder
from asr.decoders.transducer import Transducer
from asr.decoders.transformer import Transformer

DECODERS: dict[str, type[Decoder]] = {
    cls.__name__: cls for cls in (AttentionLSTM, Transformer, Transducer, CTC)
}

__all__ = [
    "CTC",
    "DECODERS",
    "AttentionDecoder",
    "AttentionLSTM",
    "Decoder",
    "State",
    "Transducer",
    "TransducerDecoder",
    "Transformer",
]
