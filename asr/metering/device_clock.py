"""What a measurement of time on a device needs to know."""

import torch


def wait_for(device: str | torch.device) -> None:
    """Waits until a GPU has finished all its work; returns at once on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def cores_held(device: str | torch.device) -> int:
    """The number of cores that a process holds: those of its threads, or one beside a GPU."""
    return torch.get_num_threads() if torch.device(device).type == "cpu" else 1
