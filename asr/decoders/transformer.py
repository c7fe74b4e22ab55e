"""Transformer decoder: pre-norm, rotary positions, trained jointly with CTC."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asr.batch import mask
from asr.decoders.ancestry import make_room, unseen, with_newest
from asr.decoders.cross_entropy import CrossEntropyHead, check_ctc_weight
from asr.decoders.ctc import CTCHead
from asr.decoders.decoder import AttentionDecoder, State
from asr.kernels.linear import Linear
from asr.layers import (
    CrossAttention,
    FeedForward,
    SelfAttention,
    dropout,
    inputs,
    modules,
    rotation,
)
from asr.loss import Loss

FEEDFORWARD = 4  # inner width of the feed-forward, in multiples of width (Vaswani et al. 2017)


class Transformer(AttentionDecoder):
    """Layers of causal self-attention, attention to the encoder and feed-forward, then a norm."""

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
        """Builds the decoder.

        Args:
            dim: width D of the encoder's frames.
            vocabulary: tokens V, BLANK included.
            width: of the decoder; frames of another width pass a linear layer first.
            layers: triples of self-attention, cross-attention and feed-forward.
            heads: attention heads; width divides by twice as many.
            ctc_weight: share of the CTC term in the loss; 0 leaves out the CTC head.
            label_smoothing: probability taken from the target, in training.
            dropout: probability, on embeddings, on what each block adds and inside feed-forwards.

        Raises:
            ValueError: a width that does not fit the heads, or a share that is not in [0, 1).
        """
        super().__init__()
        check_ctc_weight(ctc_weight)
        self.dim, self.vocabulary, self.width, self.heads = dim, vocabulary, width, heads
        self.ctc_weight, self.dropout = ctc_weight, dropout
        self.embedding = nn.Embedding(vocabulary, width)
        self.adapt = Linear(dim, width) if width != dim else None
        self.layers = modules(Layer(width, heads=heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = CrossEntropyHead(width, vocabulary, label_smoothing=label_smoothing)
        self.ctc = CTCHead(dim, vocabulary) if ctc_weight else None

    def loss(self, encoded: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Loss:
        """See ``Decoder.loss``; terms ``attention`` and, with a weight, ``ctc``."""
        terms, infeasible = {}, lengths.new_zeros(())
        y = self._teach(encoded, lengths, inputs(tokens, token_lengths))
        terms["attention"] = self.head.loss(y, lengths, tokens, token_lengths, 1 - self.ctc_weight)
        if self.ctc is not None:
            terms["ctc"], infeasible = self.ctc.loss(
                encoded, lengths, tokens, token_lengths, self.ctc_weight
            )
        return Loss(terms, infeasible)

    def _teach(self, encoded: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """(B, S, D), (B,), (B, U) given tokens -> (B, U, width) before the output layer."""
        real = None
        if lengths.is_cuda or bool((lengths < encoded.shape[1]).any()):
            real = mask(lengths.clamp(min=1), encoded.shape[1])[:, None, None]
        encoded = encoded if self.adapt is None else self.adapt(encoded)
        factors = rotation(
            torch.arange(tokens.shape[1], device=tokens.device), self.width // self.heads
        )
        x = dropout(self.embedding(tokens), self.dropout, self.training)
        for layer in self.layers:
            x = layer(x, factors, layer.cross.remember(encoded), real)
        return self.norm(x)

    def start(self, encoded: Tensor, lengths: Tensor) -> State:
        """(B, S, D), (B,) -> each layer's keys and values, of the encoder and, none, of tokens."""
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
        """(B*K,) -> (B*K, V), next state; see ``AttentionDecoder.step``.

        Past keys and values are in ``memory``, one column per token of any hypothesis; see
        ``asr.decoders.ancestry``. The K hypotheses of an utterance are K queries to them.
        """
        memory, names = state.memory, [f"past.{index}" for index in range(len(self.layers))]
        past, ancestry = make_room([memory[name] for name in names], state.cache["ancestry"])
        memory, batch = memory | dict(zip(names, past, strict=True)), len(past[0])
        position = ancestry[:1].sum(1)  # all hypotheses have as many tokens
        factors = rotation(position, self.width // self.heads)
        ancestry = with_newest(ancestry, batch)
        hidden = memory["hidden"][:, None, None]  # (B, 1, 1, S)
        others = unseen(ancestry.view(batch, 1, -1, ancestry.shape[1]), past[0].dtype)
        x = self.embedding(tokens).view(batch, -1, self.width)  # (B, K, width)
        for index, layer in enumerate(self.layers):
            shared = memory[f"key.{index}"], memory[f"value.{index}"]
            columns = past[index][:, :, : ancestry.shape[1]].unflatten(1, (2, self.heads))
            x = layer.step(x, factors, columns, others, shared, hidden)
        return self.head(self.norm(x.flatten(0, 1))), State(memory, {"ancestry": ancestry})

    def ctc_log_probs(self, encoded: Tensor) -> Tensor | None:
        """(B, S, D) -> (B, S, V), or None without a CTC head."""
        return None if self.ctc is None else self.ctc(encoded)

    def flops(self, lengths: Sequence[int], token_lengths: Sequence[int]) -> int:
        """Products of attention, feed-forward and output layers; see ``Decoder.flops``."""
        total = 0
        for time, tokens in zip(lengths, token_lengths, strict=True):
            steps = tokens + 1
            total += sum(layer.flops(time, steps) for layer in self.layers)
            total += self.head.flops(steps)
            if self.adapt is not None:
                total += 2 * self.dim * self.width * time
            if self.ctc is not None:
                total += self.ctc.flops(time)
        return total


class Layer(nn.Module):
    """Self-attention, attention to the encoder, feed-forward: each x + dropout(block(norm(x)))."""

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
        """(B, U, width), keys and values of the encoder -> (B, U, width)."""
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
        """(B, K, width), (B, 2, H, C + K, d) with room for K at its end -> (B, K, width).

        ``others`` (B, 1, K, C + K) and ``hidden`` (B, 1, 1, S) are added to scores.
        """
        x = x + self.attention.step(self.self_norm(x), factors, past, others)
        return self._read(x, memory, hidden)

    def _read(self, x: Tensor, memory: tuple[Tensor, Tensor], real: Tensor | None) -> Tensor:
        """(B, Q, width) -> (B, Q, width): attention to the encoder, then feed-forward."""
        y = self.cross(self.cross_norm(x), *memory, real)
        x = x + dropout(y, self.dropout, self.training)
        y = self.feedforward(self.feedforward_norm(x))
        return x + dropout(y, self.dropout, self.training)

    def flops(self, time: int, steps: int) -> int:
        """FLOPs of one utterance: ``time`` encoder frames, ``steps`` tokens."""
        return (
            self.attention.flops(steps)
            + self.cross.flops(time, steps)
            + self.feedforward.flops(steps)
        )
