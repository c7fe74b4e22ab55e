"""A device whose memory does not suffice: a mistake of a recipe or a call, with a remedy."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def enough_memory(device: torch.device, remedy: str) -> Iterator[None]:
    """Around what may need more memory than a GPU has; a processor's ends the process instead.

    Args:
        device: whose memory it is.
        remedy: what to lower, and what it is now.

    Raises:
        ValueError: it did not suffice; names the device and the remedy.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise ValueError(f"out of memory on {device}: {remedy}") from None
