"""The precision of float32 operations on a GPU."""

import contextlib
from collections.abc import Iterator

import torch


def allow_tf32(allowed: bool) -> None:
    """Sets whether all float32 products and kernels of a GPU round their factors to TF32.

    By default cuDNN's recurrent kernels round and matrix products do not, which makes comparisons
    unfair. The function uses torch's older switches, because Lightning reads one of them, which
    fails after the newer ones (``fp32_precision``) have been set.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


@contextlib.contextmanager
def tf32_inside(allowed: bool) -> Iterator[None]:
    """Calls ``allow_tf32`` for the block, and restores the previous setting after it."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        allow_tf32(allowed)
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
