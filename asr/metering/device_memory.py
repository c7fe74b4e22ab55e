"""Turns an out-of-memory error of a device into one line with a remedy."""

import contextlib
from collections.abc import Iterator

import torch

from asr.items import DeviceError


@contextlib.contextmanager
def enough_memory(device: torch.device, remedy: str | None) -> Iterator[None]:
    """Around what may need more memory than a GPU has; a processor's ends the process instead.

    Args:
        device: whose memory it is.
        remedy: what to lower, and what it is now; None: whoever called this knows the remedy, and
            an error passes as it is.

    Raises:
        DeviceError: it did not suffice, with the device and the remedy; or the device has failed.
    """
    if remedy is None:
        yield
        return
    try:
        yield
    except torch.OutOfMemoryError:
        raise DeviceError(f"out of memory on {device}: {remedy}") from None
    except torch.AcceleratorError as error:  # a failed kernel: the device needs a new process
        raise DeviceError(f"{device} has failed ({str(error).splitlines()[0]})") from None
