"""Windows and chunks against a mask over all pairs."""

import pytest
import torch

from asr.encoders import Frames
from asr.encoders.attention import FrameAttention, windowed
from asr.layers import attend


def pairs(time, left_context, chunk):
    """Which key each query may see, pair by pair."""
    return torch.tensor(
        [
            [q - k <= left_context and k < (q // chunk + 1) * chunk for k in range(time)]
            for q in range(time)
        ]
    )


@pytest.mark.parametrize(("left_context", "chunk"), [(1, 1), (4, 1), (3, 2), (5, 4), (0, 3)])
@pytest.mark.parametrize("time", [1, 7, 33, 50])
def test_windowed_attention_equals_a_mask_over_all_pairs_in_values_and_gradients(
    time, left_context, chunk
):
    torch.manual_seed(0)
    lengths = torch.tensor([time, max(1, time - 3)])
    real = torch.arange(time) < lengths[:, None]
    results = []
    for blocks in (True, False):
        torch.manual_seed(1)
        q, k, v = (torch.randn(2, time, 2, 4, dtype=torch.float64) for _ in range(3))
        q, k, v = (x.transpose(1, 2).requires_grad_() for x in (q, k, v))
        if blocks:
            y = windowed(q, k, v, lengths, left_context, chunk)
        else:
            seen = pairs(time, left_context, chunk) & real[:, None, None]
            y = attend(q, k, v, seen | torch.eye(time, dtype=torch.bool))
        y = y * real[..., None]
        results.append([y, *torch.autograd.grad(y.square().sum(), [q, k, v])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_the_scores_of_windowed_attention_grow_linearly_with_time():
    attention = FrameAttention(8, heads=1, causal=True, left_context=20)
    linear = 8 * 8**2
    scores = [attention.flops(time) - linear * time for time in (1000, 2000, 4000)]
    assert scores[1] == 2 * scores[0]
    assert scores[2] == 4 * scores[0]
    # Forty keys a query, one product for its score and one for its value.
    assert scores[0] == 1000 * 40 * 4 * 8


def test_a_bounded_state_holds_no_more_than_the_left_context():
    attention = FrameAttention(8, heads=2, causal=True, left_context=5, chunk=2).eval()
    state = attention.initial_state(1)
    for _ in range(9):
        _, state = attention.step(Frames(torch.randn(1, 4, 8), torch.tensor([4])), state)
        assert state["keys"].shape[2] <= 5
        assert state["keys"].untyped_storage().nbytes() <= 4 * 5 * 8
    assert int(state["position"]) == 36


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"left_context": 3}, "left_context 3 needs causal: true"),
        ({"chunk": 3}, "chunk 3 needs causal: true"),
        ({"causal": True, "chunk": 0}, "chunk 0"),
        ({"causal": True, "left_context": -1}, "left_context -1"),
    ],
)
def test_impossible_contexts_are_refused_with_a_message(options, message):
    with pytest.raises(ValueError, match=message):
        FrameAttention(8, heads=1, **options)
