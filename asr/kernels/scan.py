"""Linear recurrences over time, in parallel: an associative scan in chunks."""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def scan(log_a: Tensor, b: Tensor, initial: Tensor | None = None) -> Tensor:
    """h_t = a_t h_{t-1} + b_t for all t at once, in float32.

    The steps (a, b) compose associatively (Blelloch 1990), so time is cut into chunks of about
    sqrt(T) frames. All chunks are computed at once from a state of zero, then the states between
    chunks. Finally, each frame adds the state before its chunk, times the decay since then. Decays
    are sums of logarithms within one chunk only, because differences of float32 sums over thousands
    of frames would be too inexact.

    log_a (B, T, D), logarithms of the decays, <= 0; b (B, T, D), the inputs; initial (B, D), the
    state before the first frame, zero by default -> (B, T, D), the states.
    """
    log_a, b = log_a.float(), b.float()
    if initial is None:
        initial = b.new_zeros(b.shape[0], b.shape[2])
    states: Tensor = Scan.apply(log_a, b, initial.float())
    return states


def sequential(log_a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
    """Computes ``scan`` frame by frame; used for a few frames and as the reference in tests."""
    states = []
    # unbind, because the gradient of indexing has the size of the whole tensor at every frame.
    for kept, new in zip(log_a.exp().unbind(1), b.unbind(1), strict=True):
        initial = kept * initial + new
        states.append(initial)
    return torch.stack(states, dim=1)


class Scan(torch.autograd.Function):
    """The gradient of a scan is a scan backward in time, which needs only log_a and the states."""

    @staticmethod
    def forward(ctx, log_a: Tensor, b: Tensor, initial: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        """Computes the scan (B, T, D) in chunks."""
        states = chunked(log_a, b, initial)
        ctx.save_for_backward(log_a, initial, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[no-untyped-def]
        """Computes the gradients of log_a, b and initial."""
        log_a, initial, states = ctx.saved_tensors
        a = log_a.exp()
        # g_t = gradient_t + a_{t+1} g_{t+1}
        later = torch.cat([log_a[:, 1:], torch.zeros_like(log_a[:, :1])], dim=1)
        of_b = chunked(later.flip(1), gradient.flip(1), torch.zeros_like(initial)).flip(1)
        before = torch.cat([initial[:, None], states[:, :-1]], dim=1)
        return of_b * before * a, of_b, of_b[:, 0] * a[:, 0]


def chunked(log_a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
    """Computes the scan (B, T, D) in chunks."""
    batch, time, dim = b.shape
    chunk = max(1, math.isqrt(time))
    chunks = -(-time // chunk)
    states = b.new_zeros(batch, chunks * chunk, dim)
    states[:, :time] = b
    logs = b.new_zeros(batch, chunks * chunk, dim)
    logs[:, :time] = log_a
    states, logs = states.unflatten(1, (chunks, chunk)), logs.unflatten(1, (chunks, chunk))
    a = logs.exp()
    for t in range(1, chunk):
        states[:, :, t].addcmul_(a[:, :, t], states[:, :, t - 1])
    decays = logs.cumsum(2).exp_()
    carried = [initial]
    for k in range(chunks - 1):
        carried.append(torch.addcmul(states[:, k, -1], decays[:, k, -1], carried[-1]))
    states.addcmul_(decays, torch.stack(carried, dim=1)[:, :, None])
    return states.flatten(1, 2)[:, :time]
