"""Hierarchical attention against slow references, its reach by gradients, and its memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from asr.batch import mask
from asr.encoders import Frames, Hierarchical
from asr.encoders.hierarchy import AlignedAttention, DilatedAttention
from asr.layers import apply_rotary, rotary_factors
from asr.loss import collected, weighted
from tests import tiny


def aligned(window, levels, dim=8, heads=2, **options):
    torch.manual_seed(0)
    options = {"pooling": "attention", "right_context": 0, **options}
    module = AlignedAttention(dim, heads=heads, window=window, levels=levels, **options)
    for parameter in module.parameters():  # opinions: no bias is zero, no attention is flat
        parameter.data += 0.3 * torch.randn_like(parameter)
    return module.double()


def summary(pool, block):
    """Multi-head attention of a learned query over the vectors of one block (w, D), by hand."""
    heads = []
    for head, weight in enumerate(pool.score.weight):
        rows = slice(head * pool.dim // pool.heads, (head + 1) * pool.dim // pool.heads)
        values = block @ pool.value.weight[rows].T + pool.value.bias[rows]
        heads.append((block @ weight).softmax(0) @ values)
    return torch.cat(heads) @ pool.output.weight.T + pool.output.bias


def reference(module, x):
    """One softmax over L * w keys, query by query and slot by slot, for one utterance (T, D)."""
    width = module.dim // module.heads
    memories = [x]
    for pool in module.pools:
        n = len(memories[-1]) // module.window
        blocks = memories[-1][: n * module.window].view(n, module.window, module.dim)
        memories.append(torch.stack([summary(pool, b) for b in blocks]) if n else x[:0])

    def turned(vector, at):
        return apply_rotary(
            vector.view(module.heads, 1, width), rotary_factors(torch.tensor([at]), width)
        )

    outputs = []
    for t in range(len(x)):
        query = turned(module.query(x[t]), t)[:, 0]
        keys, values = [], []
        for level, memory in enumerate(memories):
            size = module.window**level
            newest = t if level == 0 else t // size - 1
            for j in range(max(0, newest - module.window + 1), newest + 1):
                key, value = module.key_value[level](memory[j]).chunk(2)
                keys.append(turned(key, j * size + size // 2)[:, 0])
                values.append(value.view(module.heads, width))
        scores = (torch.stack(keys) * query).sum(-1) / math.sqrt(width)  # (keys, H)
        shares = scores.softmax(0)[..., None]
        outputs.append(module.output((shares * torch.stack(values)).sum(0).flatten()))
    return torch.stack(outputs)


@pytest.mark.parametrize("time", [1, 3, 4, 17, 90])
@pytest.mark.parametrize(("window", "levels"), [(4, 1), (4, 2), (4, 3), (3, 4), (5, 2)])
def test_blocks_equal_the_definition_in_values_and_gradients(window, levels, time):
    module = aligned(window, levels)
    x = torch.randn(1, time, 8, dtype=torch.float64, requires_grad=True)
    y, expected = module(Frames(x, torch.tensor([time])))[0], reference(module, x[0])
    # Rotations are complex64, as in every attention here.
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
    inputs = [x, *module.parameters()]
    ours, theirs = (
        torch.autograd.grad(z.square().sum(), inputs, materialize_grads=True) for z in (y, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["attention", "mean", "last"])
@pytest.mark.parametrize(("window", "levels"), [(4, 1), (4, 3), (3, 4), (5, 2)])
@torch.no_grad()
def test_streaming_equals_the_blocks_and_its_state_is_bounded(window, levels, pooling):
    module = aligned(window, levels, pooling=pooling)
    x = torch.randn(2, 120, 8, dtype=torch.float64)
    state, outputs = module.initial_state(2), []
    for piece in x.split([1, 7, 50, 2, 60], dim=1):
        y, state = module.step(Frames(piece, torch.tensor([piece.shape[1]])), state)
        outputs.append(y)
        stored = sum(v.shape[1] for name, v in state.items() if name.startswith("stored"))
        unfinished = sum(v.shape[1] for name, v in state.items() if name.startswith("open"))
        assert stored <= levels * window
        assert unfinished <= (levels - 1) * (window - 1)
        for value in state.values():
            assert value.untyped_storage().nbytes() == value.numel() * value.element_size()
    expected = module(Frames(x, torch.tensor([120, 120])))
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_the_streaming_state_of_dilated_attention_holds_one_vector_per_frame_of_its_past():
    torch.manual_seed(0)
    module = DilatedAttention(8, heads=2, window=3, levels=3).double()
    x = torch.randn(1, 40, 8, dtype=torch.float64)
    state, outputs = module.initial_state(1), []
    for piece in x.split([1, 5, 34], dim=1):
        y, state = module.step(Frames(piece, torch.tensor([piece.shape[1]])), state)
        outputs.append(y)
    held = [value.shape[3] for name, value in state.items() if name.startswith("stored")]
    assert sum(held) == 3**3 - 1
    expected = module(Frames(x, torch.tensor([40])))
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-6, atol=1e-6)


def test_padded_frames_without_visible_frames_stay_finite():
    module = aligned(4, 1, right_context=2).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(Frames(torch.randn(2, 30, 8), torch.tensor([30, 3])))
    y.float().sum().backward()
    assert y.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def seen_from(module, time, frame, dim=8):
    """Which frames a frame's output depends on, by gradients."""
    x = torch.randn(1, time, dim, dtype=torch.float64, requires_grad=True)
    y = module(Frames(x, torch.tensor([time])))[0, frame]
    (gradient,) = torch.autograd.grad((y * torch.linspace(-1, 2, dim)).sum(), x)
    return gradient[0].abs().sum(1).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("window", "levels", "time"), [(4, 2, 40), (4, 3, 110), (3, 4, 170), (100, 2, 10_250)]
)
def test_attention_reaches_the_window_to_the_power_of_the_levels(window, levels, time):
    module, lags = aligned(window, levels), set()
    top = window ** (levels - 1)
    frames = [time - 1] if time > 1000 else range(time)
    for t in frames:
        seen = seen_from(module, time, t)
        earliest = max(0, (t // top - window) * top)
        assert seen == list(range(earliest, t + 1))
        if earliest:
            lags.add(t - earliest)
    assert min(lags) >= window**levels
    assert max(lags) <= window**levels + top - 1
    if time < 1000:
        assert {min(lags), max(lags)} == {window**levels, window**levels + top - 1}


@pytest.mark.parametrize(("window", "levels"), [(3, 2), (4, 2), (2, 4)])
def test_dilated_attention_reaches_exactly_the_window_to_the_power_of_the_levels(window, levels):
    torch.manual_seed(0)
    module = DilatedAttention(8, heads=2, window=window, levels=levels).double()
    time = window**levels + 9
    assert seen_from(module, time, time - 1) == list(range(9, time))


@pytest.mark.parametrize("time", [1, 4, 14, 40])
@torch.no_grad()
def test_dilated_levels_equal_gathered_neighbours(time):
    torch.manual_seed(0)
    module = DilatedAttention(8, heads=2, window=3, levels=3).double()
    x = torch.randn(1, time, 8, dtype=torch.float64)
    y = x[0]
    for level, attention in enumerate(module.levels):
        apart, rows = 3**level, []
        for t in range(time):
            at = [t - k * apart for k in range(3) if t - k * apart >= 0][::-1]
            rows.append(attention(Frames(y[at][None], torch.tensor([len(at)])))[0, -1])
        y = torch.stack(rows)
    torch.testing.assert_close(module(Frames(x, torch.tensor([time])))[0], y, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_the_future_changes_nothing_bit_for_bit():
    module = aligned(4, 3)
    x = torch.randn(1, 90, 8, dtype=torch.float64)
    before = module(Frames(x, torch.tensor([90])))
    x[:, 50:] = torch.randn(1, 40, 8, dtype=torch.float64)
    assert module(Frames(x, torch.tensor([90])))[:, :50].equal(before[:, :50])


def test_a_right_context_adds_that_many_future_frames_and_no_padding():
    module = aligned(4, 2, right_context=2)
    for t in range(8, 30):
        assert seen_from(module, 40, t)[-1] == t + 2
    x = torch.randn(2, 30, 8, dtype=torch.float64)
    lengths = torch.tensor([30, 21])
    together = module(Frames(x, lengths))[1, :21]
    torch.testing.assert_close(together, module(Frames(x[1:, :21], lengths[1:]))[0])


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor made within."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
        return result


@pytest.mark.parametrize("variant", ["aligned", "dilated"])
def test_no_tensor_has_the_size_of_time_squared(variant):
    encoder = Hierarchical(8, dim=8, layers=1, heads=1, window=10, variant=variant, channels=4)
    time = 2000
    x = torch.randn(1, 4 * time, 8)
    with Largest() as largest:
        encoder(x, torch.tensor([4 * time]))[0].sum().backward()
    assert largest.elements < time**2 / 10


@torch.no_grad()
def test_the_prediction_loss_covers_the_frames_that_have_a_next_one():
    torch.manual_seed(0)
    encoder = Hierarchical(
        tiny.NUM_MELS, dim=16, layers=1, heads=2, window=4, next_frame=0.5, channels=4
    ).eval()
    x, lengths = tiny.features(19, 40)
    with collected() as terms:
        y, sizes = encoder(x, lengths)
    total, count = 0.0, 0
    for row in range(2):
        for s in range(int(sizes[row]) - 1):
            target = F.pad(x[row], (0, 0, 0, 4))[4 * (s + 1) : 4 * (s + 2)].flatten()
            total += float(F.smooth_l1_loss(encoder.predict(y[row, s]), target))
            count += 1
    assert int(terms["next_frame"].count) == count == 4 + 9
    assert float(terms["next_frame"].sum) == pytest.approx(total, rel=1e-5)
    assert float(weighted(terms)) == pytest.approx(0.5 * total / count, rel=1e-5)
    assert mask(sizes, y.shape[1]).sum() == 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window 1"),
        ({"levels": 0}, "levels 0"),
        ({"window": 4, "right_context": 4}, r"larger window \(4\)"),
        ({"variant": "dilated", "right_context": 2}, "variant: aligned"),
        ({"right_context": 2, "next_frame": 0.1}, "next_frame: 0"),
        ({"heads": 3}, "width 16"),
    ],
)
def test_impossible_hierarchies_are_refused_with_a_message(options, message):
    with pytest.raises(ValueError, match=message):
        Hierarchical(8, **{"dim": 16, "layers": 1, "heads": 2, **options})


def test_levels_that_short_audio_does_not_reach_get_gradients_of_zero_in_training():
    module, x = aligned(4, 3).train(), torch.randn(1, 3, 8, dtype=torch.float64)
    module(Frames(x, torch.tensor([3]))).sum().backward()
    for name, parameter in module.named_parameters():
        reached = name.startswith(("query", "output", "key_value.0"))
        assert parameter.grad is not None, name  # processes that train together wait for it
        assert bool(parameter.grad.abs().sum() > 0) == reached, name
