"""Stacked GRU encoder (Cho et al. 2014): bidirectional, causal, or pyramidal."""

from torch import nn

from asr.encoders.recurrent import RecurrentStack


class GRU(RecurrentStack):
    """Subsampling, then layers of x + projection(GRU(norm(x))), then a norm.

    As the ``LSTM`` encoder, with three gates for four. torch has no fused GRU for CPUs: there it
    is slower than the LSTM, which has one.
    """

    kind = nn.GRU
