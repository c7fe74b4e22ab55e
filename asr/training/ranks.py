"""Communication between the processes (ranks) of a run."""

from typing import Any

import lightning.pytorch as L
import torch


def summed(trainer: L.Trainer, value: float) -> float:
    """Sums a number over all ranks; call it on every rank."""
    if trainer.world_size == 1:
        return value
    number = torch.tensor(value, dtype=torch.float64, device=trainer.strategy.root_device)
    return float(trainer.strategy.reduce(number, reduce_op="sum"))


def from_rank_zero(trainer: L.Trainer, value: Any) -> Any:
    """Returns the value of rank 0, so that ranks with different clocks and signals act alike."""
    return value if trainer.world_size == 1 else trainer.strategy.broadcast(value)
