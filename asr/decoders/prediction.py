"""Prediction networks of a transducer, which encode the previous tokens as a vector."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import BLANK, Cache
from asr.kernels.linear import Linear, xavier
from asr.layers import dropout, flatten_weights, initialise, lstm_start, lstm_step


class LSTMPrediction(nn.Module):
    """An LSTM over all previous tokens (Graves 2012)."""

    def __init__(self, vocabulary: int, width: int, *, layers: int, dropout: float) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers is {layers}: the prediction network needs at least 1")
        self.width, self.dropout = width, dropout
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        initialise(self.lstm, 1.0)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encodes (B, U) tokens, EOS first, as (B, U, width), each from all tokens so far."""
        flatten_weights(self.lstm)
        x = dropout(self.embedding(tokens), self.dropout, self.training)
        y, _ = self.lstm(x)
        return dropout(y, self.dropout, self.training)

    def begin(self, rows: int) -> Cache:
        """Returns zeros; see ``lstm_start``."""
        return lstm_start(self.lstm, rows)

    def step(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Encodes (N,) last tokens as (N, width); returns the next state, too."""
        return lstm_step(self.lstm, self.embedding(tokens), cache)

    def flops(self, steps: int) -> int:
        """Returns the FLOPs of ``steps`` tokens."""
        return steps * self.lstm.num_layers * 16 * self.width**2


class StatelessPrediction(nn.Module):
    """A convolution over the embeddings of the last few tokens (Ghodsi et al. 2020)."""

    def __init__(self, vocabulary: int, width: int, *, context: int, dropout: float) -> None:
        super().__init__()
        if context < 1:
            raise ValueError(f"context is {context}: the prediction network must see 1 token")
        self.width, self.context, self.dropout = width, context, dropout
        # BLANK fills the context before the first token; its embedding stays zero.
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=BLANK)
        self.convolution = Linear(context * width, width)
        xavier(self.convolution)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encodes (B, U) tokens, EOS first, as (B, U, width) from ``context`` tokens each."""
        before = F.pad(tokens, (self.context - 1, 0), value=BLANK)
        return self._read(before.unfold(1, self.context, 1))  # (B, U, context)

    def begin(self, rows: int) -> Cache:
        """Returns ``tokens`` (N, context - 1), all BLANK, because there is no token yet."""
        device = self.embedding.weight.device
        return {"tokens": torch.full((rows, self.context - 1), BLANK, device=device)}

    def step(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Encodes (N,) last tokens as (N, width); returns the next state, too."""
        window = torch.cat([cache["tokens"], tokens[:, None]], dim=1)  # (N, context)
        return self._read(window), {"tokens": window[:, 1:]}

    def _read(self, windows: Tensor) -> Tensor:
        """Encodes windows (..., context) of tokens as (..., width).

        Without the ReLU, this and the joint network's first layer would be one linear map.
        """
        x = dropout(self.embedding(windows), self.dropout, self.training)
        return dropout(F.relu(self.convolution(x.flatten(-2))), self.dropout, self.training)

    def flops(self, steps: int) -> int:
        """Returns the FLOPs of ``steps`` tokens."""
        return steps * 2 * self.context * self.width**2
