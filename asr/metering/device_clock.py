"""Waits until a device has finished its work, so that a clock measures it."""

import torch


def wait_for(device: str | torch.device) -> None:
    """Waits until a GPU has finished all its work; returns at once on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
