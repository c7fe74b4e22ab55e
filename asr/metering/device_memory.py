"""Turns an out-of-memory error of a device into one line with a remedy."""

import contextlib
from collections.abc import Iterator

import torch

from asr.items import DeviceError


@contextlib.contextmanager
def enough_memory(device: torch.device, remedy: str | None) -> Iterator[None]:
    """Gives a clear error if the block needs more memory than a GPU has; no effect on a CPU.

    Args:
        device: device of the computation.
        remedy: advice for the message: the setting to lower, with its value. None: the error passes
            unchanged, because an outer caller knows the remedy.

    Raises:
        DeviceError: the GPU is out of memory (the message gives the remedy), or has failed.
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
