"""Transformer decoder: pre-norm, rotary positions, trained jointly with CTC."""

import torch
from torch import Tensor, nn

from asr.batch import mask
from asr.decoders.ancestry import make_room, unseen, with_newest
from asr.decoders.cross_entropy import CrossEntropyHead
from asr.decoders.ctc import CTCHead, JointCTC
from asr.decoders.decoder import AttentionDecoder, State
from asr.kernels.linear import Linear
from asr.layers import (
    FEEDFORWARD,
    CrossAttention,
    FeedForward,
    SelfAttention,
    dropout,
    inputs,
    modules,
    rotary_factors,
)
from asr.loss import Term


class Transformer(JointCTC, AttentionDecoder):
    """Layers of causal self-attention, cross-attention and feed-forward, then a norm.

    Args:
        width: width of the decoder; a linear layer maps encoder frames of another width to it.
        layers: number of layers, each self-attention, cross-attention and a feed-forward.
        heads: number of attention heads; width must be a multiple of twice this number.
        label_smoothing: probability moved from the target to the other tokens in training.
        dropout: dropout probability, on embeddings, on the residual branch of each block and inside
            feed-forwards.
    """

    def __init__(
        self,
        dim: int,
        vocabulary: int,
        *,
        width: int,
        layers: int,
        heads: int,
        ctc_weight: float = 0.3,
        label_smoothing: float = 0.1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(dim, vocabulary, ctc_weight)
        self.width, self.heads, self.dropout = width, heads, dropout
        self.embedding = nn.Embedding(vocabulary, width)
        self.adapt = Linear(dim, width) if width != dim else None
        self.layers = modules(
            DecoderLayer(width, heads=heads, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = CrossEntropyHead(width, vocabulary, label_smoothing=label_smoothing)
        self.ctc = CTCHead(dim, vocabulary) if ctc_weight else None

    def regions(self) -> list[nn.Module]:
        """Returns the layers."""
        return list(self.layers)

    def own_terms(
        self, encoded: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> dict[str, Term]:
        """See ``JointCTC.own_terms``; the term is ``attention``."""
        y = self._teach(encoded, lengths, inputs(tokens, token_lengths))
        weight = 1 - self.ctc_weight
        return {"attention": self.head.loss(y, lengths, tokens, token_lengths, weight)}

    def _teach(self, encoded: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Reads (B, U) previous tokens at once; returns (B, U, width) before the output layer."""
        real = None
        if lengths.is_cuda or bool((lengths < encoded.shape[1]).any()):
            real = mask(lengths.clamp(min=1), encoded.shape[1])[:, None, None]
        encoded = encoded if self.adapt is None else self.adapt(encoded)
        factors = rotary_factors(
            torch.arange(tokens.shape[1], device=tokens.device), self.width // self.heads
        )
        x = dropout(self.embedding(tokens), self.dropout, self.training)
        for layer in self.layers:
            x = layer(x, factors, layer.cross.remember(encoded), real)
        return self.norm(x)

    def start(self, encoded: Tensor, lengths: Tensor) -> State:
        """Computes each layer's keys and values of the encoder frames, and an empty cache."""
        real = mask(lengths.clamp(min=1), encoded.shape[1])
        encoded = encoded if self.adapt is None else self.adapt(encoded)
        memory: dict[str, Tensor] = {}
        empty = len(encoded), 2 * self.heads, 0, self.width // self.heads
        for index, layer in enumerate(self.layers):
            key, value = layer.cross.remember(encoded)
            memory |= {f"key.{index}": key.contiguous(), f"value.{index}": value.contiguous()}
            memory[f"past.{index}"] = key.new_zeros(empty)
        memory["hidden"] = unseen(real, key.dtype)  # (B, S)
        return State(memory, {"ancestry": real[:, :0]})

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Scores the next token; see ``AttentionDecoder.step``.

        ``memory`` holds the past keys and values of all K hypotheses of an utterance, one column
        per token; see ``asr.decoders.ancestry``. Each hypothesis is one query to these columns.
        """
        memory, names = state.memory, [f"past.{index}" for index in range(len(self.layers))]
        past, ancestry = make_room([memory[name] for name in names], state.cache["ancestry"])
        memory, batch = memory | dict(zip(names, past, strict=True)), len(past[0])
        position = ancestry[:1].sum(1)  # all hypotheses have the same number of tokens
        factors = rotary_factors(position, self.width // self.heads)
        ancestry = with_newest(ancestry, batch)
        hidden = memory["hidden"][:, None, None]  # (B, 1, 1, S)
        others = unseen(ancestry.view(batch, 1, -1, ancestry.shape[1]), past[0].dtype)
        x = self.embedding(tokens).view(batch, -1, self.width)  # (B, K, width)
        for index, layer in enumerate(self.layers):
            shared = memory[f"key.{index}"], memory[f"value.{index}"]
            columns = past[index][:, :, : ancestry.shape[1]].unflatten(1, (2, self.heads))
            x = layer.step(x, factors, columns, others, shared, hidden)
        return self.head(self.norm(x.flatten(0, 1))), State(memory, {"ancestry": ancestry})

    def own_flops(self, time: int, tokens: int) -> int:
        """Returns the FLOPs of the attention, the feed-forward layers and the output layer.

        ``JointCTC.own_flops`` describes the arguments.
        """
        steps = tokens + 1
        total = sum(layer.flops(time, steps) for layer in self.layers) + self.head.flops(steps)
        return total if self.adapt is None else total + 2 * self.dim * self.width * time


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward; each computes x + dropout(block(norm(x)))."""

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads=heads)
        self.cross_norm = nn.LayerNorm(width)
        self.cross = CrossAttention(width, heads=heads)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, inner=FEEDFORWARD * width, dropout=dropout)

    def forward(
        self, x: Tensor, factors: Tensor, memory: tuple[Tensor, Tensor], real: Tensor | None
    ) -> Tensor:
        """Processes x (B, U, width), given the keys and values of the encoder."""
        y = self.attention(self.self_norm(x), factors, None, causal=True)
        x = x + dropout(y, self.dropout, self.training)
        return self._read(x, memory, real)

    def step(
        self,
        x: Tensor,
        factors: Tensor,
        past: Tensor,
        others: Tensor,
        memory: tuple[Tensor, Tensor],
        hidden: Tensor,
    ) -> Tensor:
        """Processes one token x (B, K, width) of each hypothesis.

        The last K columns of ``past`` are free for the new keys and values. ``others``
        (B, 1, K, C + K) and ``hidden`` (B, 1, 1, S) are additive attention masks.
        """
        x = x + self.attention.step(self.self_norm(x), factors, past, others)
        return self._read(x, memory, hidden)

    def _read(self, x: Tensor, memory: tuple[Tensor, Tensor], real: Tensor | None) -> Tensor:
        """Applies attention to the encoder, then feed-forward, to x (B, Q, width)."""
        y = self.cross(self.cross_norm(x), *memory, real)
        x = x + dropout(y, self.dropout, self.training)
        y = self.feedforward(self.feedforward_norm(x))
        return x + dropout(y, self.dropout, self.training)

    def flops(self, time: int, steps: int) -> int:
        """Returns the FLOPs of one utterance: ``time`` encoder frames, ``steps`` tokens."""
        return (
            self.attention.flops(steps)
            + self.cross.flops(time, steps)
            + self.feedforward.flops(steps)
        )
