"""Convolutional encoder: depthwise-separable, dilated, with squeeze-and-excitation."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.encoders.block import Block, BlockState, Frames
from asr.encoders.depthwise import Depthwise
from asr.encoders.stack import Stack
from asr.kernels.linear import Linear, xavier
from asr.layers import dropout, modules, zero_padding


class Convolution(Stack):
    """Subsampling, then residual layers of separable convolutions, then a norm.

    QuartzNet's convolutions (Kriman et al. 2020) with the squeeze-and-excitation of ContextNet
    (Han et al. 2020). Both normalise over the batch; here each frame is normalised by itself, so
    that an utterance does not feel what it is batched with, and the norm comes before what a layer
    adds, as in the other encoders. Without squeeze-and-excitation a frame sees 1 + the sum over
    convolutions of (kernel - 1) * dilation encoder frames.

    Args:
        layers: number of residual layers.
        kernel: number of frames under each convolution; it must be odd unless the encoder is
            causal.
        dilations: distance in frames between the inputs of a convolution, one entry per layer; the
            list starts again after its last entry.
        repeats: number of convolutions per layer.
        reduction: dim divided by the inner width of squeeze-and-excitation, which scales channels
            by their mean over the utterance (in a causal encoder over its past). 0: no
            squeeze-and-excitation.
        causal: whether a frame sees only itself and earlier frames.
        dropout: dropout probability, on the output of each layer.
    """

    remedy = "set causal: true"

    def __init__(
        self,
        num_mels: int,
        *,
        dim: int,
        layers: int,
        kernel: int = 15,
        dilations: list[int] = [1],  # noqa: B006  (as it stands in a recipe; never changed)
        repeats: int = 2,
        reduction: int = 8,
        causal: bool = False,
        dropout: float = 0.1,
        channels: int = 32,
        subsampling: int = 4,
    ) -> None:
        if not dilations:
            raise ValueError("dilations is empty; [1] is a convolution without gaps")
        blocks = [
            ConvolutionBlock(
                dim,
                kernel=kernel,
                dilation=dilations[layer % len(dilations)],
                repeats=repeats,
                reduction=reduction,
                causal=causal,
                dropout=dropout,
            )
            for layer in range(layers)
        ]
        super().__init__(num_mels, blocks, dim=dim, channels=channels, subsampling=subsampling)


class ConvolutionBlock(Block):
    """x + dropout(excite(separable(... separable(x)))).

    The order within is that of He et al. 2016: norms and activations come before convolutions, so
    that what is added to x is the output of a product and may have either sign.
    """

    def __init__(
        self,
        dim: int,
        *,
        kernel: int,
        dilation: int,
        repeats: int,
        reduction: int,
        causal: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        if repeats < 1:
            raise ValueError(f"repeats {repeats}: a layer has at least one convolution")
        self.dropout, self.causal = dropout, causal
        self.convolutions = modules(
            Separable(dim, kernel=kernel, dilation=dilation, causal=causal) for _ in range(repeats)
        )
        self.excite = Excitation(dim, reduction=reduction, causal=causal) if reduction else None

    def forward(self, frames: Frames) -> Frames:
        """Processes (B, S, D) frames; the shape does not change."""
        y = frames.x
        for convolution in self.convolutions:
            y = convolution(y, frames.lengths)
        if self.excite is not None:
            y = self.excite(y, frames.lengths)
        return self._join(frames, y)

    def initial_state(self, batch: int) -> BlockState:
        """The frames ``before`` under each convolution; ``sum`` and ``count`` of past frames."""
        state = {
            f"before{index}": convolution.depthwise.initial_state(batch)
            for index, convolution in enumerate(self.convolutions)
        }
        return state if self.excite is None else state | self.excite.initial_state(batch)

    def step(self, frames: Frames, state: BlockState) -> tuple[Frames, BlockState]:
        """See ``Block.step``."""
        y, after = frames.x, {}
        for index, convolution in enumerate(self.convolutions):
            name = f"before{index}"
            y, after[name] = convolution.step(y, state[name])
        if self.excite is not None:
            y, seen = self.excite.step(y, state)
            after |= seen
        return self._join(frames, y), after

    def _join(self, frames: Frames, y: Tensor) -> Frames:
        return replace(frames, x=frames.x + dropout(y, self.dropout, self.training))

    def flops(self, time: int) -> int:
        """FLOPs of one utterance of ``time`` frames."""
        flops = sum(convolution.flops(time) for convolution in self.convolutions)
        return flops if self.excite is None else flops + self.excite.flops(time)


class Separable(nn.Module):
    """Norm, SiLU, a convolution of each channel over time, and a linear map of the channels."""

    def __init__(self, dim: int, *, kernel: int, dilation: int, causal: bool) -> None:
        super().__init__()
        self.dim = dim
        self.norm = nn.LayerNorm(dim)
        self.depthwise = Depthwise(dim, kernel=kernel, dilation=dilation, causal=causal)
        self.pointwise = Linear(dim, dim)
        xavier(self.pointwise)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Convolves (B, S, D) frames within their utterances."""
        return self.pointwise(self.depthwise(F.silu(self.norm(x)), lengths))

    def step(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Depthwise.step``."""
        y, before = self.depthwise.step(F.silu(self.norm(x)), before)
        return self.pointwise(y), before

    def flops(self, time: int) -> int:
        """FLOPs of one utterance of ``time`` frames."""
        return self.depthwise.flops(time) + 2 * self.dim**2 * time


class Excitation(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018): scales channels by a function of their means.

    The means are over the real frames of the utterance. A causal module takes them over the frames
    so far, so it can stream: its state is their sum and their number.
    """

    def __init__(self, dim: int, *, reduction: int, causal: bool) -> None:
        super().__init__()
        if not 1 <= reduction <= dim:
            raise ValueError(f"reduction {reduction}: take 1 to {dim} (dim), or 0 for none")
        self.dim, self.inner, self.causal = dim, dim // reduction, causal
        self.squeeze = Linear(dim, self.inner)
        self.expand = Linear(self.inner, dim)
        xavier(self.squeeze, self.expand)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Scales the channels of (B, S, D) frames."""
        if self.causal:
            return self.step(x, self.initial_state(len(x)))[0]
        total = zero_padding(x, lengths).sum(1, keepdim=True, dtype=torch.float32)
        return self._scale(x, total / lengths.clamp(min=1)[:, None, None])

    def initial_state(self, batch: int) -> BlockState:
        """The state before the first frame: a ``sum`` (B, D) of 0 over a ``count`` of 0 frames."""
        zeros = self.squeeze.weight.new_zeros(batch, self.dim)
        return {"sum": zeros, "count": torch.zeros((), dtype=torch.int64, device=zeros.device)}

    def step(self, x: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """See ``Block.step``."""
        # Over the last dimension, where a cumulative sum takes a quarter of the time.
        sums = x.float().transpose(1, 2).cumsum(2).transpose(1, 2) + state["sum"][:, None]
        counts = state["count"] + torch.arange(1, x.shape[1] + 1, device=x.device)
        return self._scale(x, sums / counts[:, None]), {
            "sum": sums[:, -1].clone(),
            "count": counts[-1].clone(),
        }

    def _scale(self, x: Tensor, means: Tensor) -> Tensor:
        """Scales (B, S, D) frames by a function of the means, (B, 1 or S, D)."""
        return x * self.expand(F.silu(self.squeeze(means.to(self.squeeze.weight.dtype)))).sigmoid()

    def flops(self, time: int) -> int:
        """FLOPs of one utterance of ``time`` frames; a causal module scales each frame anew."""
        return 4 * self.dim * self.inner * (time if self.causal else 1)
