"""The LSTM language model (Mikolov et al. 2010; Sundermeyer, Schlüter and Ney 2012)."""

import torch
from torch import Tensor, nn

from asr.batch import Cache
from asr.language_models.language_model import LanguageModel
from asr.language_models.output import Output, read
from asr.layers import dropout, flatten, initialise


class LSTM(LanguageModel):
    """Embedding, LSTM layers, and a linear layer to all tokens but BLANK."""

    def __init__(
        self, vocabulary: int, *, width: int, layers: int = 1, dropout: float = 0.1
    ) -> None:
        """Builds the language model.

        Args:
            vocabulary: ids, BLANK included.
            width: of embeddings and states.
            layers: LSTM layers.
            dropout: probability, on embeddings and on the last layer's output.

        Raises:
            ValueError: no layer.
        """
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers is {layers}: an LSTM has at least 1")
        self.vocabulary, self.width, self.dropout = vocabulary, width, dropout
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        initialise(self.lstm, 1.0)
        self.output = Output(width, vocabulary)

    def start(self, rows: int) -> Cache:
        """Zeros: ``hidden`` and ``cell`` of (N, layers, width)."""
        zeros = self.embedding.weight.new_zeros(rows, self.lstm.num_layers, self.width)
        return {"hidden": zeros, "cell": zeros}

    def step(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """(N,) -> (N, V), next state; see ``LanguageModel.step``."""
        x, states = self.embedding(tokens), []
        # torch's cell: the fused kernel of whole sequences takes twice its time for one step.
        for layer, weights in enumerate(self.lstm.all_weights):
            before = cache["hidden"][:, layer], cache["cell"][:, layer]
            x, cell = torch.lstm_cell(x, before, *weights)
            states.append((x, cell))
        hidden, cell = (torch.stack(state, dim=1) for state in zip(*states, strict=True))
        return self.output(x), {"hidden": hidden, "cell": cell}

    def log_probs(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(B, U), (B,) -> (B, U + 1); see ``LanguageModel.log_probs``."""
        inputs, targets = read(tokens, lengths)
        flatten(self.lstm)
        x = dropout(self.embedding(inputs), self.dropout, self.training)
        # Autocast would run it in float16 on a GPU, in which gradients need to be scaled.
        with torch.autocast(x.device.type, enabled=False):
            y, _ = self.lstm(x)
        return self.output.of(dropout(y, self.dropout, self.training), targets)

    def flops(self, lengths: list[int]) -> int:
        """Products of gates and output layer; see ``LanguageModel.flops``."""
        per_token = self.lstm.num_layers * 16 * self.width**2 + self.output.flops()
        return sum(lengths) * per_token
