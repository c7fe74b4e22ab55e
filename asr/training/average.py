"""The moving average of the weights; the average is validated and saved."""

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
