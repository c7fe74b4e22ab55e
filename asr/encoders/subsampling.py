"""The front end of every encoder: convolutions that join 4 or 8 feature frames into one frame."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.kernels.linear import Linear
from asr.layers import halved, zero_padding


class Subsampling(nn.Module):
    """Convolutions of stride 2 and a linear layer: one output frame per 4 or 8 feature frames.

    Stride 4 has two convolutions. Stride 8 has three, and those after the first are
    depthwise-separable, as in FastConformer (Rekesh et al. 2023, arXiv 2305.05084). The
    convolutions then take about a quarter of the FLOPs.

    With stride N, output frame s depends only on feature frames N s - (N - 1) to N s + (N - 1). So
    it is causal within its chunk of N and suits causal and bidirectional encoders.

    Raises:
        ValueError: ``stride`` is neither 4 nor 8.
    """

    def __init__(self, num_mels: int, dim: int, *, channels: int, stride: int = 4) -> None:
        super().__init__()
        if stride not in (4, 8):
            raise ValueError(f"subsampling {stride}: an encoder frame is 4 or 8 feature frames")
        self.num_mels, self.dim, self.channels, self.stride = num_mels, dim, channels, stride
        self.first = Halving(1, channels)
        self.second = Halving(channels, channels, separable=stride == 8)
        self.third = Halving(channels, channels, separable=True) if stride == 8 else None
        self.project = Linear(channels * halved(num_mels, len(self.convolutions)), dim)

    @property
    def convolutions(self) -> Sequence["Halving"]:
        """The two or three convolutions."""
        return [c for c in (self.first, self.second, self.third) if c is not None]

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Subsamples features (B, T, F) to frames (B, ceil(T / N), D); the padding becomes 0."""
        # Zeros fill whole chunks. The frames of a convolution that a valid output frame sees are
        # then the same in any batch, so they need no mask.
        x = F.pad(zero_padding(x, lengths), (0, 0, 0, -x.shape[1] % self.stride))
        # With channels last, depthwise convolutions take a third less time on a CPU. Stride 4 keeps
        # the other order of channels, because the order changes the rounding.
        x = x[:, None] if self.stride == 4 else x[..., None].permute(0, 3, 1, 2)
        for convolution in self.convolutions:
            x = convolution(x)  # (B, C, T/2, F/2), (B, C, T/4, F/4), ...
        x = self.project(x.transpose(1, 2).flatten(2))  # (B, S, D)
        lengths = -torch.div(-lengths, self.stride, rounding_mode="floor")
        return zero_padding(x, lengths), lengths

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """Returns zeros for the frame before the first of each convolution's input."""
        zeros, inputs = self.project.weight.new_zeros, [1, self.channels, self.channels]
        return {
            f"before{index}": zeros(batch, inputs[index], 1, halved(self.num_mels, index))
            for index in range(len(self.convolutions))
        }

    def step(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Subsamples (B, C, F) new features, where C is a multiple of N."""
        x, after = x[:, None], {}
        for index, convolution in enumerate(self.convolutions):
            # A copy, because a view would keep the chunk in memory and change with it.
            after[f"before{index}"] = x[:, :, -1:].clone()
            x = convolution(x, state[f"before{index}"])
        return self.project(x.transpose(1, 2).flatten(2)), after

    def flops(self, time: int) -> int:
        """Returns the FLOPs of one utterance of ``time`` feature frames."""
        frames, last = -(-time // self.stride), len(self.convolutions)
        total = 2 * self.project.weight.numel() * frames
        for number, convolution in enumerate(self.convolutions, start=1):
            total += convolution.flops(
                frames * 2 ** (last - number) * halved(self.num_mels, number)
            )
        return total


class Halving(nn.Conv2d):
    """A convolution of kernel 3 and stride 2 over time and mel bins, and ReLU.

    A separable one convolves each channel by itself and then mixes the channels.
    """

    def __init__(self, inputs: int, channels: int, *, separable: bool = False) -> None:
        groups = inputs if separable else 1
        super().__init__(inputs, channels, 3, stride=2, padding=1, groups=groups)
        self.pointwise = nn.Conv2d(channels, channels, 1) if separable else None

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """(B, C, T, F) with T even -> (B, C', T / 2, F / 2 rounded up).

        ``before`` is the frame before the first, (B, C, 1, F); None: zeros.
        """
        if before is None:
            x = super().forward(x)
        else:
            x = torch.cat([before.to(x.dtype), x], dim=2)
            x = F.conv2d(x, self.weight, self.bias, 2, (0, 1), groups=self.groups)
        return F.relu(x if self.pointwise is None else self.pointwise(x), inplace=True)

    def flops(self, pixels: int) -> int:
        """Returns the FLOPs of this number of output frames times mel bins."""
        mixing = 0 if self.pointwise is None else self.pointwise.weight.numel()
        return 2 * (self.weight.numel() + mixing) * pixels
