import math

import pytest
import torch
from torch import nn

from asr.layers import (
    CrossAttention,
    FeedForward,
    SelfAttention,
    apply_rotary,
    dropout,
    halved,
    halved_lengths,
    initialise,
    rotary_factors,
    sinusoids,
    zero_padding,
)
from tests import tiny


@pytest.mark.parametrize("length", range(1, 41))
def test_halving_twice_divides_a_length_by_four_rounded_up(length):
    assert halved(length, 2) == math.ceil(length / 4)
    assert halved_lengths(halved_lengths(torch.tensor([length]))).item() == math.ceil(length / 4)


def test_zeroing_the_padding_also_removes_nan_and_keeps_real_positions():
    x = torch.arange(12.0).view(2, 3, 2) + 1
    x[0, 2] = torch.nan
    y = zero_padding(x, torch.tensor([2, 3]))
    assert y[0, 2].eq(0).all()
    assert y[0, :2].equal(x[0, :2])
    assert y[1].equal(x[1])


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(probability):
    torch.manual_seed(0)
    x = torch.ones(300, 1001, requires_grad=True)
    y = dropout(x, probability, training=True)
    share = y.eq(0).float().mean()
    assert share.item() == pytest.approx(probability, abs=0.004)  # rounded to 1/256, and chance
    assert y.mean().item() == pytest.approx(1, abs=0.01)
    assert y.unique().numel() == 2
    # Neighbours come from one draw: they must not be dropped together.
    both = (y[:, 1:].eq(0) & y[:, :-1].eq(0)).float().mean()
    assert both.item() == pytest.approx(share.item() ** 2, abs=0.004)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.equal(y)


@pytest.mark.parametrize("probability", [-0.1, 1.5, math.nan])
def test_a_dropout_that_is_not_a_probability_is_refused(probability):
    for training in (True, False):
        with pytest.raises(ValueError, match=f"dropout is {probability}: it must be between 0 and"):
            dropout(torch.ones(3), probability, training=training)


def test_dropout_is_seeded_and_off_in_evaluation():
    x = torch.randn(5, 7)
    torch.manual_seed(3)
    first = dropout(x, 0.5, training=True)
    torch.manual_seed(3)
    assert dropout(x, 0.5, training=True).equal(first)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x


def test_rotary_dot_products_depend_on_distance_only():
    query, key = torch.randn(8), torch.randn(8)
    factors = rotary_factors(torch.tensor([3, 10, 103, 110]), 8)
    q, k = apply_rotary(query.expand(4, 8), factors), apply_rotary(key.expand(4, 8), factors)
    torch.testing.assert_close(q[1] @ k[0], q[3] @ k[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(q.norm(dim=1), query.norm().expand(4))


def test_rotation_turns_each_pair_by_position_times_its_frequency():
    x = torch.randn(4)
    y = apply_rotary(x[None], rotary_factors(torch.tensor([5]), 4))[0]
    for pair, frequency in enumerate((1.0, 10000**-0.5)):
        a, b = x[2 * pair : 2 * pair + 2].tolist()
        cos, sin = math.cos(5 * frequency), math.sin(5 * frequency)
        expected = torch.tensor([a * cos - b * sin, a * sin + b * cos])
        torch.testing.assert_close(y[2 * pair : 2 * pair + 2], expected)


def test_sinusoidal_positions_have_frequencies_from_one_downwards():
    y = sinusoids(torch.arange(3), 4)
    expected = [[math.cos(p), math.sin(p), math.cos(p / 100), math.sin(p / 100)] for p in range(3)]
    torch.testing.assert_close(y, torch.tensor(expected))


@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_equals_that_of_torch(causal):
    ours = SelfAttention(12, heads=3)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.input.weight)
        theirs.in_proj_bias.copy_(ours.input.bias.normal_())
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias.normal_())
    x = torch.randn(2, 5, 12)
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    expected, _ = theirs(x, x, x, attn_mask=hidden, need_weights=False)
    torch.testing.assert_close(ours(x, None, None, causal), expected)


def test_cross_attention_equals_that_of_torch_under_a_padding_mask():
    ours = CrossAttention(12, heads=3)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.memory.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.memory.bias]))
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
    x, encoded = torch.randn(2, 3, 12), torch.randn(2, 5, 12)
    real = torch.arange(5) < torch.tensor([5, 2])[:, None]
    expected, _ = theirs(x, encoded, encoded, key_padding_mask=~real, need_weights=False)
    actual = ours(x, *ours.remember(encoded), real[:, None, None])
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("block", [SelfAttention, CrossAttention])
def test_heads_that_do_not_fit_the_width_are_refused(block):
    with pytest.raises(ValueError, match="width 10 .*heads .*4"):
        block(10, heads=4)


@pytest.mark.parametrize(
    ("block", "run"),
    [
        (SelfAttention(8, heads=2), lambda b: b(torch.zeros(1, 12, 8), None, None, False)),
        (FeedForward(8, inner=24, dropout=0.0), lambda b: b(torch.zeros(1, 12, 8))),
    ],
    ids=["SelfAttention", "FeedForward"],
)
def test_the_flops_of_a_block_equal_the_count_of_torch(block, run):
    assert tiny.counted_flops(lambda: run(block)) == block.flops(12)


def test_the_flops_of_cross_attention_equal_the_count_of_torch():
    block = CrossAttention(8, heads=2)
    x, encoded = torch.zeros(1, 3, 8), torch.zeros(1, 12, 8)
    counted = tiny.counted_flops(lambda: block(x, *block.remember(encoded), None))
    assert counted == block.flops(12, 3)


def test_an_lstm_starts_with_one_forget_bias_and_orthogonal_recurrences():
    lstm = nn.LSTM(5, 4, bidirectional=True)
    initialise(lstm, 1.5)
    for direction in ("", "_reverse"):
        bias = getattr(lstm, f"bias_ih_l0{direction}") + getattr(lstm, f"bias_hh_l0{direction}")
        assert bias.tolist() == [0.0] * 4 + [1.5] * 4 + [0.0] * 8
        for gate in getattr(lstm, f"weight_hh_l0{direction}").chunk(4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(4), rtol=0, atol=1e-5)
