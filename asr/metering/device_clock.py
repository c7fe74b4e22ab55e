"""Waits until a device has finished its work, so that a clock measures it."""

import torch


def wait_for(device: str | torch.device) -> None:
    """Returns when a GPU has done all that it was asked to; at once on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
