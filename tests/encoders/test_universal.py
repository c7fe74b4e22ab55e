"""Adaptive computation time against a loop per frame; the contract is in test_encoders.py."""

import pytest
import torch

from asr.encoders import Frames, Universal
from asr.encoders.universal import Ponder
from asr.loss import collected, weighted
from tests import tiny


@pytest.mark.parametrize(
    ("probabilities", "weights", "remainder"),
    [
        ([0.2, 0.3, 0.6], [0.2, 0.3, 0.5], 0.5),
        ([0.2, 0.3, 0.6, 0.7], [0.2, 0.3, 0.5, 0], 0.5),
        ([0.995, 0.1, 0.1], [1, 0, 0], 1.0),
        ([0.5, 0.48, 0.3], [0.5, 0.48, 0.02], 0.02),
        ([0.5, 0.495, 0.3], [0.5, 0.5, 0], 0.5),
        ([0.1] * 6, [0.1] * 5 + [0.5], 0.5),
    ],
)
def test_a_frame_halts_by_the_published_rule(probabilities, weights, remainder):
    states = torch.eye(len(weights))  # their mean is the weights
    ponder = Ponder(torch.zeros(1, 1, len(weights)), len(weights))
    for state, p in zip(states, probabilities, strict=True):
        ponder.add(state[None, None], torch.full((1, 1, 1), p))
    steps = sum(weight > 0 for weight in weights)
    torch.testing.assert_close(ponder.y[0, 0], torch.tensor(weights, dtype=torch.float32))
    assert int(ponder.steps) == steps
    assert float(ponder.remainder) == pytest.approx(remainder, abs=1e-6)
    assert ponder.x[0, 0].equal(states[steps - 1])
    assert not ponder.running.any()


def encoder(**options):
    torch.manual_seed(0)
    made = Universal(tiny.NUM_MELS, **{"dim": 16, "heads": 2, "channels": 4, **options}).eval()
    made.layers[-1].halting.weight.data.normal_()
    return made


def varied(**options):
    """A block, and frames unlike enough to halt at different steps."""
    block = encoder(halting_bias=-1.0, **options).layers[-1]
    block.depth.data.normal_()
    return block, 2 * torch.randn(2, 12, 16)


def one_utterance(block, x):
    """Graves 2016 in a loop per frame, all steps: (S, D) -> (S, D), steps, remainders."""
    x, y = x.clone(), torch.zeros_like(x)
    totals, steps, remainders = [0.0] * len(x), [0] * len(x), [0.0] * len(x)
    for depth in block.depth:
        states = block.layer(Frames((x + depth)[None], torch.tensor([len(x)]))).x[0]
        for s, state in enumerate(states):
            if totals[s] > 0.99:
                continue
            p = float(torch.sigmoid(block.halting.weight[0] @ state + block.halting.bias))
            remainders[s] = 1 - totals[s]
            totals[s], steps[s], x[s] = totals[s] + p, steps[s] + 1, state
            last = totals[s] > 0.99 or steps[s] == len(block.depth)
            y[s] += (remainders[s] if last else p) * state
    return y, steps, remainders


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_frames_that_halt_at_different_steps_equal_a_loop_over_them(causal):
    (block, x), sizes = varied(causal=causal), [7, 12]
    with collected() as terms:
        y = block(Frames(x, torch.tensor(sizes))).x
    steps, costs = [], []
    for row, size in enumerate(sizes):
        expected, n, r = one_utterance(block, x[row, :size])
        torch.testing.assert_close(y[row, :size], expected, rtol=1e-4, atol=1e-5)
        steps, costs = [*steps, *n], [*costs, *n, *r]
    assert len(set(steps)) > 2
    assert (int(terms["steps"].sum), terms["steps"].weight) == (sum(steps), 0)
    assert float(terms["ponder"].sum) == pytest.approx(sum(costs), rel=1e-5)
    assert int(terms["ponder"].count) == int(terms["steps"].count) == sum(sizes)
    assert float(weighted(terms)) == pytest.approx(0.01 * sum(costs) / sum(sizes), rel=1e-5)


@torch.no_grad()
def test_streaming_frames_that_halt_at_different_steps_equals_offline_encoding():
    block, x = varied(causal=True)
    state, outputs = block.initial_state(2), []
    for frame in x.split(1, dim=1):
        y, state = block.step(Frames(frame, torch.ones(2, dtype=torch.int64)), state)
        outputs.append(y.x)
    expected = block(Frames(x, torch.tensor([12, 12]))).x
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_that_has_not_halted_adds_no_steps():
    block, x = varied()
    block.halting.weight.copy_(torch.eye(16)[:1])
    x[..., 0] = 50.0
    x[:, 8:, 0] = -50.0  # halts never
    frames = Frames(x, torch.tensor([8, 8]))
    one_step = 2 * block.flops(12) // 6
    assert tiny.counted_flops(lambda: block(frames)) == one_step


def test_a_high_ponder_weight_teaches_the_encoder_to_take_fewer_steps():
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
def test_one_step_equals_one_layer():
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


def test_a_maximum_of_0_steps_is_refused():
    with pytest.raises(ValueError, match="max_steps 0"):
        encoder(max_steps=0)
