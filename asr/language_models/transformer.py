"""The Transformer language model (Vaswani et al. 2017; Irie et al. 2019 for speech)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import Cache
from asr.language_models.language_model import LanguageModel
from asr.layers import (
    FEEDFORWARD,
    FeedForward,
    SelfAttention,
    TokenOutput,
    apply_rotary,
    attend,
    dropout,
    inputs,
    modules,
    rotary_factors,
    targets,
)

MIN_TOKENS = 16  # smallest number of tokens that a cache has room for


class Transformer(LanguageModel):
    """A causal Transformer: embedding, pre-norm layers with rotary positions, and a norm.

    Args:
        width: width of the model; it must be a multiple of twice the number of heads.
        layers: number of layers, each self-attention and a feed-forward.
        heads: number of attention heads.
        dropout: dropout probability, on embeddings, on the residual branch of each block and inside
            feed-forwards.
    """

    def __init__(
        self, vocabulary: int, *, width: int, layers: int, heads: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers is {layers}: a Transformer has at least 1")
        self.vocabulary, self.width, self.heads, self.dropout = vocabulary, width, heads, dropout
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = modules(
            LanguageModelLayer(width, heads=heads, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = TokenOutput(width, vocabulary)

    def start(self, rows: int) -> Cache:
        """Keys and values ``past.i`` of each layer, (N, P, 2, H, d), and (N,) tokens ``read``."""
        weight, d = self.embedding.weight, self.width // self.heads
        past = {
            f"past.{index}": weight.new_zeros(rows, 0, 2, self.heads, d)
            for index in range(len(self.layers))
        }
        return {**past, "read": torch.zeros(rows, dtype=torch.int64, device=weight.device)}

    def step(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """See ``LanguageModel.step``."""
        place = cache["read"]  # (N,) position of the new token's keys and values in each row
        room = cache["past.0"].shape[1]
        if int(place.max()) >= room:
            more = max(MIN_TOKENS, room // 2)
            cache = {n: F.pad(v, (0,) * 7 + (more,)) if v.ndim > 1 else v for n, v in cache.items()}
            room += more
        factors = rotary_factors(place, self.width // self.heads)[:, None, None]  # (N, 1, 1, d / 2)
        seen = torch.arange(room, device=place.device) <= place[:, None]  # (N, P)
        x, after = self.embedding(tokens)[:, None], {"read": place + 1}  # (N, 1, width)
        for index, layer in enumerate(self.layers):
            x, after[f"past.{index}"] = layer.step(
                x, factors, cache[f"past.{index}"], place, seen[:, None, None]
            )
        return self.output(self.norm(x[:, 0])), after

    def log_probs(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """See ``LanguageModel.log_probs``."""
        places = torch.arange(tokens.shape[1] + 1, device=tokens.device)
        factors = rotary_factors(places, self.width // self.heads)
        x = dropout(self.embedding(inputs(tokens, lengths)), self.dropout, self.training)
        for layer in self.layers:
            x = layer(x, factors)
        return self.output.of(self.norm(x), targets(tokens, lengths))

    def flops(self, lengths: list[int]) -> int:
        """FLOPs of attention, feed-forward and output layer; see ``LanguageModel.flops``."""
        return sum(
            sum(layer.flops(time) for layer in self.layers) + self.output.flops(time)
            for time in lengths
        )


class LanguageModelLayer(nn.Module):
    """Self-attention and a feed-forward block, each as x + dropout(block(norm(x)))."""

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads=heads)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, inner=FEEDFORWARD * width, dropout=dropout)

    def forward(self, x: Tensor, factors: Tensor) -> Tensor:
        """Processes x (B, U, width)."""
        y = self.attention(self.attention_norm(x), factors, None, causal=True)
        return self._feed(x + dropout(y, self.dropout, self.training))

    def step(
        self, x: Tensor, factors: Tensor, past: Tensor, place: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Processes one token x (N, 1, width); also returns ``past`` with it at ``place``."""
        query, key, value = self.attention.split(self.attention_norm(x), None)  # (N, H, 1, d)
        query, key = apply_rotary(query, factors), apply_rotary(key, factors)
        new = torch.stack([key, value], dim=1).transpose(2, 3)  # (N, 2, 1, H, d)
        where = place[:, None, None, None, None].expand(-1, 1, *past.shape[2:])
        past = past.scatter(1, where, new.transpose(1, 2).to(past.dtype))
        keys, values = past.permute(2, 0, 3, 1, 4)  # (N, H, P, d) each
        y = self.attention.output(attend(query, keys, values, seen))
        return self._feed(x + y), past

    def _feed(self, x: Tensor) -> Tensor:
        y = self.feedforward(self.feedforward_norm(x))
        return x + dropout(y, self.dropout, self.training)

    def flops(self, time: int) -> int:
        """FLOPs of one sequence."""
        return self.attention.flops(time) + self.feedforward.flops(time)
