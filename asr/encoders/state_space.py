"""Selective state-space encoder: Mamba-2 (Dao and Gu 2024), computed by matrix products."""

import importlib
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.encoders.block import BlockState
from asr.encoders.depthwise import Depthwise
from asr.encoders.directional import DirectionalBlock
from asr.encoders.stack import Stack
from asr.kernels.linear import Linear, xavier

SCAN_CHUNK = 64  # frames whose mutual influence is one matrix; 32 and 128 are slower on a CPU
KERNEL = 4  # of the convolution before the scan, as published


class StateSpace(Stack):
    """Subsampling, then layers of x + projection(scan(norm(x))), then a norm.

    Args:
        layers: number of state-space layers.
        bidirectional: whether the layers read the audio in both directions; if false, the encoder
            is causal.
        expansion: number of channels of the scan, as a multiple of dim. In a bidirectional encoder,
            each direction has half of them.
        heads: number of heads, each with its own decay. In a bidirectional encoder, each direction
            has half of them.
        state: state size of each channel.
        dropout: dropout probability, on the output of each layer.
    """

    remedy = "set bidirectional: false"

    def __init__(
        self,
        num_mels: int,
        *,
        dim: int,
        layers: int,
        bidirectional: bool = True,
        expansion: int = 2,
        heads: int = 8,
        state: int = 64,
        dropout: float = 0.1,
        channels: int = 32,
        subsampling: int = 4,
    ) -> None:
        directions = 2 if bidirectional else 1
        if heads % directions or expansion * dim % heads:
            raise ValueError(
                f"heads {heads}: {expansion} * dim {dim} channels in {directions} directions do "
                "not divide by them; change dim or heads"
            )
        parts = {"inner": expansion * dim // directions, "heads": heads // directions}
        blocks = (
            DirectionalBlock(
                dim,
                [Selective(dim, **parts, state=state) for _ in range(directions)],
                width=expansion * dim,
                dropout=dropout,
            )
            for _ in range(layers)
        )
        super().__init__(num_mels, blocks, dim=dim, channels=channels, subsampling=subsampling)


class Selective(nn.Module):
    """Projection, convolution and SiLU, selective scan, gate and norm: one direction."""

    def __init__(self, dim: int, *, inner: int, heads: int, state: int) -> None:
        super().__init__()
        self.dim, self.inner, self.state, self.heads = dim, inner, state, heads
        self.widths = [inner, inner + 2 * state, self.heads]  # gate; x, B and C; step sizes
        self.input = Linear(dim, sum(self.widths), bias=False)
        self.convolution = Depthwise(inner + 2 * state, kernel=KERNEL, causal=True)
        self.norm = nn.RMSNorm(inner, eps=1e-5)
        # As published: decays of 1 to 16 per unit of a step size of 0.001 to 0.1.
        self.log_decay = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        steps = torch.empty(self.heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.step_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))  # softplus inverted
        self.skip = nn.Parameter(torch.ones(self.heads))
        xavier(self.input)

    def initial_state(self, batch: int) -> BlockState:
        """Zeros."""
        width = self.inner // self.heads
        return {
            "scan": self.skip.new_zeros(batch, self.heads, width, self.state),
            "convolution": self.convolution.initial_state(batch),
        }

    def forward(self, x: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        """Runs the layer over (B, S, D); returns (B, S, inner) and the next state."""
        state = state or self.initial_state(len(x))
        gate, mixed, step = self.input(x).split(self.widths, dim=-1)
        mixed, convolved = self.convolution.step(mixed, state["convolution"])
        mixed = F.silu(mixed)
        with torch.autocast(x.device.type, enabled=False):
            exact = torch.promote_types(mixed.dtype, self.skip.dtype)  # float32 at least
            parts = mixed.to(exact).split([self.inner, self.state, self.state], dim=-1)
            u = parts[0].unflatten(-1, (self.heads, -1))
            sizes = F.softplus(step.to(exact) + self.step_bias)
            y, scanned = selective_scan(
                u, sizes, -self.log_decay.exp(), parts[1], parts[2], state["scan"]
            )
            y = (y + self.skip[:, None] * u).flatten(2)
            y = self.norm(y * F.silu(gate.to(exact)))
        return y.type_as(x), {"scan": scanned, "convolution": convolved}

    def flops(self, time: int) -> int:
        """FLOPs of ``time`` frames."""
        chunks, chunk = partition(time)
        padded = chunks * chunk
        scores = 2 * chunk * (self.state + self.inner)  # among the frames of a chunk
        states = 4 * self.inner * self.state  # into a chunk's state, and out of the one before
        convolution = self.convolution.flops(time)
        return 2 * self.dim * sum(self.widths) * time + convolution + padded * (scores + states)


def selective_scan(
    u: Tensor, sizes: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """h_t = exp(sizes_t * decay) h_{t-1} + sizes_t u_t b_t^T and y_t = h_t c_t, per head.

    Args:
        u: (B, T, H, P) what comes in, in float32 as all others.
        sizes: (B, T, H) step sizes, positive.
        decay: (H,) negative.
        b: (B, T, N) how the state is written, for all heads.
        c: (B, T, N) how it is read.
        state: (B, H, P, N) before the first frame.

    Returns:
        (B, T, H, P) and the state after the last frame. On a GPU by the kernel of the package
        mamba_ssm, if it is installed; else in plain PyTorch.
    """
    kernel = fused() if u.is_cuda else None
    if kernel is None:
        return chunked_scan(u, sizes, decay, b, c, state)
    y, last = kernel(
        u.contiguous(),
        sizes.contiguous(),
        decay,
        b[:, :, None].contiguous(),
        c[:, :, None].contiguous(),
        chunk_size=SCAN_CHUNK,
        initial_states=state.contiguous(),
        return_final_states=True,
    )
    return y, last


def fused() -> Any:
    """The Triton kernel of mamba_ssm; None where it is not installed. A broken one raises."""
    try:
        module = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    except ModuleNotFoundError as error:
        if error.name != "mamba_ssm":
            raise
        return None
    return module.mamba_chunk_scan_combined


def partition(time: int) -> tuple[int, int]:
    """Frames -> number of chunks and frames in each: equal ones, so that little is padded."""
    chunks = -(-time // SCAN_CHUNK)
    return chunks, -(-time // chunks)


def chunked_scan(
    u: Tensor, sizes: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Computes ``selective_scan`` in plain PyTorch (Dao and Gu 2024, section 6).

    Within a chunk the recurrence is a matrix of influences, like attention with a decay; between
    chunks only states are passed on.
    """
    time, heads, width = u.shape[1:]
    chunks, chunk = partition(time)
    later = chunks * chunk - time
    # Steps of size zero change nothing: the state stays, and nothing comes in.
    u, sizes = F.pad(u, (0, 0, 0, 0, 0, later)), F.pad(sizes, (0, 0, 0, later))
    b, c = F.pad(b, (0, 0, 0, later)), F.pad(c, (0, 0, 0, later))
    u, sizes, b, c = (x.unflatten(1, (-1, chunk)) for x in (u, sizes, b, c))
    logs = (sizes * decay).cumsum(2)  # (B, K, C, H): since the chunk began
    moved = u * sizes[..., None]  # (B, K, C, H, P)

    # Within chunks. What lies in the future gets no influence, and no overflow on the way there.
    later_than = torch.ones(chunk, chunk, dtype=torch.bool, device=u.device).triu(1)
    between = logs.permute(0, 1, 3, 2)  # (B, K, H, C)
    between = (between[..., :, None] - between[..., None, :]).masked_fill(later_than, -torch.inf)
    influence = (c @ b.mT)[:, :, None] * between.exp()  # (B, K, H, C, C)
    y = (influence @ moved.transpose(2, 3)).transpose(2, 3)  # (B, K, C, H, P)

    # Between chunks: each leaves a state behind, and reads the one it finds.
    to_end = (logs[:, :, -1:] - logs).exp()  # (B, K, C, H)
    left = (moved * to_end[..., None]).flatten(3).mT @ b  # (B, K, H * P, N)
    left = left.unflatten(2, (heads, width))
    whole = logs[:, :, -1].exp()[..., None, None]  # (B, K, H, 1, 1)
    found = []
    for k in range(logs.shape[1]):
        found.append(state)
        state = whole[:, k] * state + left[:, k]
    read = c @ torch.stack(found, dim=1).flatten(2, 3).mT  # (B, K, C, H * P)
    y = y + read.unflatten(-1, (heads, width)) * logs.exp()[..., None]
    return y.flatten(1, 2)[:, :time], state
