"""What a run has of its machine, and the try of the longest batch."""

import math

import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from asr.recipe.schema import TrainerOptions
from asr.training.machine import is_first_process, make_trainer
from asr.training.task import rehearse
from tests.training.test_train import recipe


@pytest.mark.parametrize("gradient", [1.0, math.inf, math.nan])
def test_rehearsing_the_optimizer_changes_neither_weights_nor_later_updates(gradient):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(3, 2) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    optimizers = [torch.optim.AdamW(layer.parameters(), lr=0.1) for layer in layers]
    for parameter in layers[0].parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    rehearse(optimizers[0])
    assert all(parameter.grad is None for parameter in layers[0].parameters())
    x = torch.randn(4, 3)
    for layer, optimizer in zip(layers, optimizers, strict=True):
        layer(x).square().sum().backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        optimizer.step()
    for one, other in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_of_one_process_writes_its_folder_and_logs_under_any_launcher_rank(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # as in the fourth task of a SLURM step
    alone = TrainerOptions(accelerator="cpu")
    assert not is_first_process(TrainerOptions(accelerator="cpu", devices=4))
    assert is_first_process(alone)
    trainer = make_trainer(recipe(tmp_path, trainer={"accelerator": "cpu"}), tmp_path)
    trainer.logger.log_metrics({"loss": 1.0}, step=1)
    trainer.logger.finalize("success")
    assert list(tmp_path.rglob("events.out.tfevents*"))
