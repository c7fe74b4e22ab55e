"""What the training of speech models and of language models have in common."""

import math
import signal

import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from asr import session
from asr.machine import is_first_process, make_fabric
from asr.recipe import TrainerOptions


@pytest.mark.parametrize("gradient", [1.0, math.inf, math.nan])
def test_a_rehearsal_changes_neither_weights_nor_what_comes_after_it(gradient):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(3, 2) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    optimizers = [torch.optim.AdamW(layer.parameters(), lr=0.1) for layer in layers]
    for parameter in layers[0].parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    session.rehearse(optimizers[0])
    assert all(parameter.grad is None for parameter in layers[0].parameters())
    x = torch.randn(4, 3)
    for layer, optimizer in zip(layers, optimizers, strict=True):
        layer(x).square().sum().backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        optimizer.step()
    for one, other in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_process_that_was_told_to_end_says_by_which_signal():
    with pytest.raises(SystemExit) as left:
        session.leave(signal.SIGTERM, 3)
    assert left.value.code == 128 + signal.SIGTERM


def test_a_run_of_one_process_keeps_its_folder_and_logs_whatever_its_launcher_numbers_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # as in the fourth task of a SLURM step
    alone = TrainerOptions(accelerator="cpu")
    assert not is_first_process(TrainerOptions(accelerator="cpu", devices=4))
    assert is_first_process(alone)
    fabric = make_fabric(alone, tmp_path)
    fabric.log("loss", 1.0)
    fabric.logger.finalize("success")
    assert list(tmp_path.rglob("events.out.tfevents*"))
