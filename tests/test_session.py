"""What the training of speech models and of language models have in common."""

import math
import signal

import pytest
import torch

from asr import session


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
