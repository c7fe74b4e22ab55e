"""The hierarchical neural attention encoder of "The fall of RNN / LSTM" (Culurciello 2018)."""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from asr.batch import mask
from asr.encoders.attention import Attention
from asr.encoders.gate import Memory
from asr.encoders.gated_hierarchy import GatedAlignedAttention
from asr.encoders.hierarchy import AlignedAttention, DilatedAttention, Pooling
from asr.encoders.stack import Stack
from asr.encoders.transformer import transformer_blocks
from asr.kernels.linear import Linear
from asr.layers import zero_padding
from asr.loss import add_term, collecting


class Hierarchical(Stack):
    """Subsampling, then pre-norm layers of hierarchical attention and feed-forward, then a norm.

    Causal. One layer reaches ``window ** levels`` encoder frames, N layers N times as far.

    Args:
        layers: number of layers, each hierarchical attention and a feed-forward.
        heads: number of attention heads; dim must be a multiple of twice this number.
        window: number of vectors of each level that a frame sees.
        levels: number of levels; 1 is a sliding window.
        variant: aligned (a level holds summaries of complete blocks) or dilated (a level sees every
            window-th output of the level below: the literal reading of the article).
        pooling: summary of a block of the variant aligned: attention (of a learned query), mean or
            last.
        right_context: number of later frames that a frame sees on the lowest level. Above 0 the
            encoder is not causal. The look-aheads of the layers add up.
        next_frame: weight of an auxiliary loss: it predicts the features of the next encoder frame.
        memory: rule that chooses the frames to store, with the variant aligned only. It applies to
            the layers after the first; there, window and levels count stored vectors. null: every
            frame is stored.
        feedforward: inner width of the feed-forward, as a multiple of dim.
        dropout: dropout probability, on the input, on the residual branch of each block and inside
            feed-forwards.
    """

    remedy = "set right_context: 0"

    def __init__(
        self,
        num_mels: int,
        *,
        dim: int,
        layers: int,
        heads: int,
        window: int = 100,
        levels: int = 2,
        variant: Literal["aligned", "dilated"] = "aligned",
        pooling: Pooling = "attention",
        right_context: int = 0,
        next_frame: float = 0.0,
        memory: Memory | None = None,
        feedforward: int = 4,
        dropout: float = 0.1,
        channels: int = 32,
        subsampling: int = 4,
    ) -> None:
        if window < 2 or levels < 1 or right_context < 0:
            raise ValueError(
                f"window {window}, levels {levels}, right_context {right_context}: give a window "
                "of 2 or more, 1 level or more, and a right context of 0 or more"
            )
        if right_context >= window or (right_context and (variant == "dilated" or next_frame)):
            raise ValueError(
                f"right_context {right_context} needs a larger window ({window}), "
                "variant: aligned and next_frame: 0"
            )

        if memory and (variant == "dilated" or right_context or layers < 2):
            raise ValueError(
                f"memory with variant {variant}, right_context {right_context}, layers {layers}: "
                "it needs variant: aligned, right_context: 0 and 2 layers or more, the first of "
                "which stores every frame"
            )

        options: dict[str, Any] = {"heads": heads, "window": window, "levels": levels}

        def attention(layer: int) -> Attention:
            if variant == "dilated":
                return DilatedAttention(dim, **options)
            if memory and layer:
                return GatedAlignedAttention(dim, **options, pooling=pooling, memory=memory)
            return AlignedAttention(dim, **options, pooling=pooling, right_context=right_context)

        blocks = transformer_blocks(dim, layers, attention, memory, feedforward, dropout)
        super().__init__(num_mels, blocks, dim=dim, channels=channels, subsampling=subsampling)
        self.next_frame = next_frame
        self.predict = Linear(dim, self.stride * num_mels) if next_frame else None

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Encoder.forward``; adds the term ``next_frame`` if it has a weight."""
        y, sizes = super().forward(x, lengths)
        if self.predict is not None and collecting():
            features = F.pad(zero_padding(x, lengths), (0, 0, 0, -x.shape[1] % self.stride))
            target = features.unflatten(1, (-1, self.stride)).flatten(2)[:, 1:]  # (B, S - 1, 4F)
            errors = F.smooth_l1_loss(self.predict(y[:, :-1]), target, reduction="none").mean(-1)
            real = mask(sizes, y.shape[1])[:, 1:]
            add_term("next_frame", (errors * real).sum(), real.sum(), self.next_frame)
        return y, sizes
