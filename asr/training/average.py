"""Averages of the weights, which are validated and saved in place of the weights."""

import copy
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor


class MovingAverage(L.Callback):
    """An exponential moving average of the weights, in a copy of the model.

    Lightning's own callback also averages after skipped updates, and saves the average as model.
    """

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        """Copies the model after it has been moved to its device."""
        model = copy.deepcopy(module.model).eval().requires_grad_(False)
        module.average = (model,)
        # The weights are listed once, because listing them takes 3 ms per update.
        self.averaged: list[Tensor] = list(model.parameters())
        self.trained: list[Tensor] = list(module.model.parameters())

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *batch: Any) -> None:
        """Updates the average after an update of the weights; the decay rises at the beginning."""
        if not (module.update_ended and module.finite):
            return
        before = module.progress.updates - 1
        decay = min(module.recipe.optimizer.ema_decay, (1 + before) / (10 + before))
        torch._foreach_lerp_(self.averaged, self.trained, 1 - decay)


class LastAverage(L.Callback):
    """The average of the weights at the last validations, for the last validation of a run."""

    def __init__(self, number: int) -> None:
        """Averages over so many validations, or all of them if there are fewer."""
        self.number = number
        self.weights: dict[int, dict[str, Tensor]] = {}  # by number of updates

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of the weights at the last validations; the copies are on the CPU."""
        return {"weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the weights."""
        self.weights = state_dict["weights"]

    @torch.no_grad()
    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        """Remembers the weights; makes the average if the run ends with this validation."""
        weights = {name: p.detach().cpu().clone() for name, p in module.model.named_parameters()}
        self.weights[module.progress.updates] = weights
        for update in sorted(self.weights)[: -self.number]:
            del self.weights[update]
        if not trainer.should_stop:
            return
        # A copy of a compiled model would call regions of the original, with its weights.
        model = copy.deepcopy(module.average[0])
        model.load_state_dict(module.model.state_dict())
        for name, parameter in model.named_parameters():
            remembered = torch.stack([one[name] for one in self.weights.values()])
            parameter.copy_(remembered.double().mean(0))
        module.final = (model,)
