"""The LSTM language model (Mikolov et al. 2010; Sundermeyer, Schlüter and Ney 2012)."""

import torch
from torch import Tensor, nn

from asr.batch import Cache
from asr.language_models.language_model import LanguageModel
from asr.layers import (
    TokenOutput,
    dropout,
    flatten_weights,
    initialise,
    inputs,
    lstm_start,
    lstm_step,
    targets,
)


class LSTM(LanguageModel):
    """Embedding, LSTM layers, and a linear layer to all tokens but BLANK.

    Args:
        width: width of the embeddings and the states.
        layers: number of LSTM layers.
        dropout: dropout probability, on embeddings and on the output of the last layer.
    """

    def __init__(
        self, vocabulary: int, *, width: int, layers: int = 1, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers is {layers}: an LSTM has at least 1")
        self.vocabulary, self.width, self.dropout = vocabulary, width, dropout
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        initialise(self.lstm, 1.0)
        self.output = TokenOutput(width, vocabulary)

    def start(self, rows: int) -> Cache:
        """A state of zeros; see ``lstm_start``."""
        return lstm_start(self.lstm, rows)

    def step(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """See ``LanguageModel.step``."""
        x, cache = lstm_step(self.lstm, self.embedding(tokens), cache)
        return self.output(x), cache

    def log_probs(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """See ``LanguageModel.log_probs``."""
        flatten_weights(self.lstm)
        x = dropout(self.embedding(inputs(tokens, lengths)), self.dropout, self.training)
        # Autocast would run the LSTM in float16 on a GPU, where gradients need to be scaled.
        with torch.autocast(x.device.type, enabled=False):
            y, _ = self.lstm(x)
        return self.output.of(dropout(y, self.dropout, self.training), targets(tokens, lengths))

    def flops(self, lengths: list[int]) -> int:
        """FLOPs of the gates and the output layer; see ``LanguageModel.flops``."""
        per_token = self.lstm.num_layers * 16 * self.width**2 + self.output.flops(1)
        return sum(lengths) * per_token
