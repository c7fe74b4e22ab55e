"""Stacked LSTM encoder: bidirectional, causal, or pyramidal (Chan et al. 2016)."""

from torch import nn

from asr.encoders.recurrent import RecurrentStack


class LSTM(RecurrentStack):
    """Subsampling, then layers of x + projection(LSTM(norm(x))), then a norm.

    Bidirectional, or causal when ``bidirectional`` is false. With ``time_reduction`` it is the
    pyramid of Listen, Attend and Spell.
    """

    kind = nn.LSTM
