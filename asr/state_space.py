"""Selective state spaces (Dao & Gu 2024, "Transformers are SSMs"): the scan of Mamba-2.

A head holds a matrix that decays by one factor per frame and takes in an outer product; it is a
linear recurrence, and within a chunk of frames also a masked product of matrices.

In shapes, P is the width of a head, N that of its state, K counts chunks and L their frames.
"""

import importlib
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64  # frames, at most
FUSED_CHUNK = 256  # as published; what a GPU's shared memory likes


def scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt_t a) h_{t-1} + dt_t x_t b_t^T and y_t = h_t c_t + d x_t, for every head.

    In the type of its arguments, whatever autocast says. On a GPU the kernel of the package
    ``mamba_ssm`` does it, where that is installed.

    Args:
        x: (B, T, H, P) what comes in.
        dt: (B, T, H) step sizes, >= 0.
        a: (H,) rates of decay, < 0.
        b: (B, T, N) where it enters the state; for all heads.
        c: (B, T, N) what is read from the state; for all heads.
        d: (H,) what passes by the state.
        initial: (B, H, P, N) the state before the first frame.

    Returns:
        (B, T, H, P) the outputs, (B, H, P, N) the state after the last frame.
    """
    kernel = fused_kernel() if x.is_cuda else None
    with torch.autocast(x.device.type, enabled=False):
        if kernel is not None:
            return fused(kernel, x, dt, a, b, c, d, initial)
        return chunked(x, dt, a, b, c, d, initial)


def chunked(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor]:
    """``scan`` as products of matrices (section 6 of the paper), chunk by chunk."""
    time, heads, width = x.shape[1:]
    chunks, frames = partition(time)

    def cut(y: Tensor) -> Tensor:
        """(B, T, ...) -> (B, K, L, ...); with steps of 0 at the end, which change no state."""
        padding = (0, 0) * (y.dim() - 2) + (0, chunks * frames - time)
        return F.pad(y, padding).unflatten(1, (chunks, frames))

    entering, b, c = cut(x * dt[..., None]), cut(b), cut(c)
    logs = cut(dt * a).cumsum(2)  # (B, K, L, H) of the decay since the chunk began

    # What frames of a chunk give each other.
    each = logs.transpose(2, 3)  # (B, K, H, L)
    later = torch.ones(frames, frames, dtype=torch.bool, device=x.device).triu(1)
    decays = (each[..., None] - each[..., None, :]).masked_fill(later, -torch.inf).exp()
    within = (decays * (c @ b.mT)[:, :, None]) @ entering.transpose(2, 3)  # (B, K, H, L, P)

    # What each chunk leaves, then the states that chunks begin with.
    last = logs[:, :, -1:]
    left = (entering * (last - logs).exp()[..., None]).flatten(3).mT @ b  # (B, K, H * P, N)
    kept, left = last.exp().view(-1, chunks, heads, 1, 1), left.unflatten(2, (heads, width))
    state, before = initial, []
    for k in range(chunks):
        before.append(state)
        state = torch.addcmul(left[:, k], kept[:, k], state)

    carried = c @ torch.stack(before, dim=1).flatten(2, 3).mT  # (B, K, L, H * P)
    carried = carried.unflatten(3, (heads, width)) * logs.exp()[..., None]
    y = (within.transpose(2, 3) + carried).flatten(1, 2)[:, :time]
    return torch.addcmul(y, x, d[:, None]), state


def partition(time: int) -> tuple[int, int]:
    """Frames -> number of chunks and frames in each; equal, so that little is padded."""
    chunks = -(-time // CHUNK)
    return chunks, -(-time // chunks)


def scan_flops(time: int, heads: int, width: int, state: int) -> int:
    """FLOPs of the products in ``chunked``."""
    chunks, frames = partition(time)
    within = frames**2 * (state + heads * width)
    return 2 * chunks * (within + 2 * frames * heads * width * state)


def fused(
    kernel: Callable[..., tuple[Tensor, Tensor]],
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    initial: Tensor,
) -> tuple[Tensor, Tensor]:
    """``scan`` by ``mamba_chunk_scan_combined``, whose b and c have groups of heads: here one."""
    b, c = b[:, :, None], c[:, :, None]
    return kernel(
        x, dt, a, b, c, FUSED_CHUNK, D=d, initial_states=initial, return_final_states=True
    )


@cache
def fused_kernel() -> Callable[..., tuple[Tensor, Tensor]] | None:
    """``mamba_chunk_scan_combined``, or None without the package; a broken one raises."""
    try:
        module = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    except ModuleNotFoundError as error:
        if error.name != "mamba_ssm":
            raise
        return None
    kernel: Callable[..., tuple[Tensor, Tensor]] = module.mamba_chunk_scan_combined
    return kernel
