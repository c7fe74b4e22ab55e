"""Communication between the processes (ranks) of a run."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import torch


def summed(trainer: L.Trainer, value: float) -> float:
    """Sums a number over all ranks; call it on every rank."""
    return summed_all(trainer, [value])[0]


def summed_all(trainer: L.Trainer, values: Sequence[float]) -> Sequence[float]:
    """Sums each of the numbers over all ranks; call it on every rank."""
    if trainer.world_size == 1:
        return values
    numbers = torch.tensor(values, dtype=torch.float64, device=trainer.strategy.root_device)
    total: list[float] = trainer.strategy.reduce(numbers, reduce_op="sum").tolist()
    return total


def from_rank_zero(trainer: L.Trainer, value: Any) -> Any:
    """Returns the value of rank 0, so that ranks with different clocks and signals act alike."""
    return value if trainer.world_size == 1 else trainer.strategy.broadcast(value)
