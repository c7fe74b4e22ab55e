"""The precision of float32 operations on a GPU."""

import contextlib
from collections.abc import Iterator

import torch


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products and kernels of a GPU, all of them, round their factors to TF32.

    By default cuDNN's recurrent kernels do and matrix products do not: an unfair pair. Set by
    torch's older switches: Lightning asks one of them when it sets up a GPU, and torch does not
    answer after its newer ones (``fp32_precision``) were used.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


@contextlib.contextmanager
def tf32_inside(allowed: bool) -> Iterator[None]:
    """``allow_tf32`` for the code inside; what held before holds again behind it."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        allow_tf32(allowed)
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
