"""Adaptive computation time against a loop per frame; the contract is in test_encoders.py."""

import pytest
import torch

from asr.encoders import Frames, Universal
from asr.encoders.universal import Ponder
from asr.loss import collected, weighted
from tests import tiny


def one_frame(probabilities, states):
    """Graves 2016 for one frame: its output, steps and remainder."""
    total, y = 0.0, 0.0
    for n, (p, state) in enumerate(zip(probabilities, states, strict=True), start=1):
        if total + p > 0.99 or n == len(probabilities):
            return y + (1 - total) * state, n, 1 - total
        total, y = total + p, y + p * state
    raise AssertionError


@pytest.mark.parametrize(
    ("probabilities", "steps", "remainder"),
    [([0.2, 0.3, 0.6], 3, 0.5), ([0.995, 0.1, 0.1], 1, 1.0), ([0.1] * 6, 6, 0.5)],
)
def test_a_frame_halts_as_published(probabilities, steps, remainder):
    states = torch.randn(len(probabilities), 1, 1, 4)
    ponder = Ponder(torch.zeros(1, 1, 4), len(probabilities))
    for state, p in zip(states, probabilities, strict=True):
        ponder.add(state, torch.full((1, 1, 1), p))
    y, n, r = one_frame(probabilities, states)
    assert (int(ponder.steps), float(ponder.remainder)) == (n, pytest.approx(r, abs=1e-6))
    assert (n, r) == (steps, pytest.approx(remainder))
    torch.testing.assert_close(ponder.y, y)
    assert ponder.x.equal(states[steps - 1])
    assert not ponder.running.any()


def encoder(**options):
    torch.manual_seed(0)
    made = Universal(tiny.NUM_MELS, **{"dim": 16, "heads": 2, "channels": 4, **options}).eval()
    made.layers[-1].halting.weight.data.normal_()
    return made


@torch.no_grad()
def test_the_ponder_cost_is_steps_and_remainder_of_real_frames():
    model, (x, lengths) = encoder(max_steps=4), tiny.features(19, 40)
    block, (frames, sizes) = model.layers[-1], model.subsampling(x, lengths)
    with collected() as terms:
        block(Frames(frames, sizes))
    total, count = 0.0, 0
    ponder = Ponder(frames, 4)
    for n in range(4):
        new = block.layer(Frames(ponder.x + block.depth[n], sizes)).x
        ponder.add(new, torch.sigmoid(block.halting(new)))
    for row, size in enumerate(sizes.tolist()):
        total += float((ponder.steps + ponder.remainder)[row, :size].sum())
        count += size
    assert float(terms["ponder"].sum) == pytest.approx(total, rel=1e-5)
    assert int(terms["ponder"].count) == count == 15
    assert terms["steps"].weight == 0
    assert float(weighted(terms)) == pytest.approx(0.01 * total / count, rel=1e-5)


def test_a_costly_ponder_makes_fewer_steps():
    model, (x, lengths) = encoder(ponder_weight=1.0, halting_bias=-2.0), tiny.features(30, 40)
    optimizer, steps = torch.optim.Adam(model.parameters(), 0.02), []
    for _ in range(40):
        with collected() as terms:
            model(x, lengths)
        optimizer.zero_grad()
        steps.append(float(terms["steps"].sum / terms["steps"].count))
        if steps[-1] == 1:  # all halt at once: nothing is left to learn
            break
        weighted(terms).backward()
        optimizer.step()
    assert steps[-1] < steps[0] - 1


@torch.no_grad()
def test_one_step_is_one_layer():
    model, lengths = encoder(max_steps=1), torch.tensor([9])
    block, x = model.layers[-1], torch.randn(1, 9, 16)
    expected = block.layer(Frames(x + block.depth[0], lengths)).x
    torch.testing.assert_close(block(Frames(x, lengths)).x, expected)


@torch.no_grad()
def test_ending_when_all_have_halted_computes_less():
    lazy, eager = encoder(halting_bias=9.0), encoder(halting_bias=-9.0)
    for model in (lazy, eager):
        model.layers[-1].halting.weight.zero_()
    x, lengths = tiny.features(40)
    flops = [tiny.counted_flops(lambda m=m: m(x, lengths)) for m in (lazy, eager)]
    assert flops[1] == eager.flops([40]) == lazy.flops([40])
    per_step = lazy.layers[-1].flops(10) // 6
    assert flops[0] == flops[1] - 5 * per_step


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="max_steps 0"):
        encoder(max_steps=0)
