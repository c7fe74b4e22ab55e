"""Attention to a memory of stored frames against slow references."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from asr.encoders import Hierarchical, Transformer
from asr.encoders.attention import FrameAttention
from asr.encoders.block import Frames, Stored
from asr.encoders.gate import Memory
from asr.encoders.gated import GatedAttention
from asr.encoders.gated_hierarchy import GatedAlignedAttention
from asr.encoders.hierarchy import AlignedAttention
from asr.layers import apply_rotary, rotary_factors
from tests import tiny


def attended(attention, x, keep):
    """One utterance (S, D), pair by pair and group by group; positions are not turned."""
    heads, width = attention.heads, attention.dim // attention.heads
    query, key, value = attention.attention.input(x).unflatten(-1, (3, heads, width)).unbind(1)
    outputs = []
    for t in range(len(x)):
        groups = []
        for s in range(t):
            if keep[s]:
                groups.append([s])
            elif attention.memory.skipped == "merge":
                groups[-1].append(s)
        seen = [[t], *groups[len(groups) - min(len(groups), attention.left_context or t) :]]
        keys = torch.stack([key[group].mean(0) for group in seen])
        values = torch.stack([value[group].mean(0) for group in seen])
        scores = torch.einsum("hd,ghd->hg", query[t], keys) / width**0.5
        sizes = torch.tensor([float(len(group)) for group in seen])
        shares = (scores.exp() * sizes) / (scores.exp() * sizes).sum(1, keepdim=True)
        outputs.append(torch.einsum("hg,ghd->hd", shares, values).flatten())
    return attention.attention.output(torch.stack(outputs))


def frames(x, keep=None, weight=None):
    """(B, S, D) without padding, and what is stored of it."""
    lengths = torch.full((len(x),), x.shape[1])
    return Frames(x, lengths, stored=None if keep is None else Stored.of(keep, weight))


KEEP = torch.tensor(
    [
        [1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
).bool()


def gated(skipped, left_context=None, rotary=False, seed=0):
    torch.manual_seed(seed)
    memory = Memory("last_kept", skipped=skipped)
    attention = GatedAttention(8, heads=2, memory=memory, left_context=left_context, rotary=rotary)
    nn.init.normal_(attention.attention.input.bias)
    return attention.eval()


@pytest.mark.parametrize("left_context", [None, 1, 2, 4, 30])
@pytest.mark.parametrize("skipped", ["drop", "merge"])
def test_gated_attention_equals_attention_of_every_frame_to_its_groups(skipped, left_context):
    keep = KEEP.repeat(1, 3)  # long enough for several windows
    attention, x = gated(skipped, left_context), torch.randn(3, 60, 8, requires_grad=True)
    y = attention(frames(x, keep))
    expected = torch.stack([attended(attention, *each) for each in zip(x, keep, strict=True)])
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    parameters = [x, *attention.parameters()]
    gradients = torch.autograd.grad(y.square().sum(), parameters)
    for one, other in zip(
        gradients, torch.autograd.grad(expected.square().sum(), parameters), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("left_context", [None, 1, 3, 30])
@pytest.mark.parametrize("skipped", ["drop", "merge"])
@torch.no_grad()
def test_with_all_frames_stored_gated_attention_equals_attention_to_frames(
    skipped, left_context, rotary
):
    attention, x = gated(skipped, left_context, rotary), torch.randn(2, 13, 8)
    plain = FrameAttention(8, heads=2, causal=True, left_context=left_context, rotary=rotary)
    plain.load_state_dict(attention.state_dict())
    y = attention(frames(x, torch.ones(2, 13).bool()))
    torch.testing.assert_close(y, plain(frames(x)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_merged_copies_are_weighted_by_their_number():
    x = torch.randn(1, 7, 8).repeat_interleave(torch.tensor([1, 4, 2, 1, 6, 1, 3]), dim=1)
    keep = F.pad(x[:, 1:] != x[:, :-1], (0, 0, 1, 0), value=True).any(-1)
    everything = torch.ones_like(keep)
    merge, drop = gated("merge"), gated("drop")
    unmerged = merge(frames(x, everything))
    torch.testing.assert_close(merge(frames(x, keep)), unmerged, rtol=1e-4, atol=1e-5)
    # Dropped copies do not.
    assert (drop(frames(x, keep)) - unmerged).abs().max() > 1e-2


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("left_context", [None, 1, 4])
@pytest.mark.parametrize("skipped", ["drop", "merge"])
@torch.no_grad()
def test_gated_attention_streams(skipped, left_context, rotary):
    attention, x = gated(skipped, left_context, rotary), torch.randn(3, 20, 8)
    expected = attention(frames(x, KEEP))
    state, outputs = attention.initial_state(3), []
    for piece, keep in zip(x.split(3, dim=1), KEEP.split(3, dim=1), strict=True):
        y, state = attention.step(frames(piece, keep), state)
        outputs.append(y)
        assert state["stored"].shape[1] <= min(left_context or 20, int(state["count"].max()))
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-4, atol=1e-5)
    assert state["count"].tolist() == KEEP.sum(1).tolist()


def test_a_gate_that_stores_all_frames_does_not_change_the_transformer():
    options = {"dim": 16, "layers": 3, "heads": 2, "causal": True, "left_context": 4, "channels": 4}
    for skipped in ("drop", "merge"):
        memory = Memory("last_kept", threshold=1.1, skipped=skipped)
        with_memory = Transformer(8, **options, memory=memory).eval()
        plain = Transformer(8, **options).eval()
        plain.load_state_dict(
            dict(zip(plain.state_dict(), with_memory.state_dict().values(), strict=True))
        )
        x, lengths = tiny.features(70, 97)
        torch.testing.assert_close(with_memory(x, lengths), plain(x, lengths))


def test_flops_grow_with_the_number_of_stored_frames():
    options = {"dim": 16, "layers": 2, "heads": 2, "causal": True, "channels": 4}
    x, lengths = tiny.features(400)
    flops = []
    for threshold in (-1.0, 2.0):
        encoder = Transformer(8, **options, memory=Memory("last_kept", threshold)).eval()
        with torch.no_grad():
            flops.append(tiny.counted_flops(lambda encoder=encoder: encoder(x, lengths)))
    assert flops[1] == encoder.flops([400])
    # 100 frames see 99 complete groups more; heads of 8 are 16 wide with what is seen alone.
    assert flops[1] - flops[0] == 4 * 2 * 16 * 100 * 99


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"causal": False}, "memory with causal False, chunk 1, layers 2: it needs causal"),
        ({"chunk": 2}, "memory with causal True, chunk 2"),
        ({"layers": 1}, "memory with causal True, chunk 1, layers 1"),
        ({"left_context": 0}, "left_context 0: with memory, give 1 vector or more"),
    ],
)
def test_a_memory_without_an_option_that_it_needs_is_refused_with_a_message(options, message):
    options = {"dim": 16, "layers": 2, "heads": 2, "causal": True, **options}
    with pytest.raises(ValueError, match=message):
        Transformer(8, **options, memory=Memory("last_kept"))


def aligned(window, levels, kind=GatedAlignedAttention, **options):
    torch.manual_seed(0)
    options = {"window": window, "levels": levels, "pooling": "attention", **options}
    attention = kind(8, heads=2, **options)
    for parameter in attention.parameters():  # no bias is zero, no attention is flat
        parameter.data += 0.3 * torch.randn_like(parameter)
    return attention.eval()


def hierarchical(attention, x, keep):
    """One utterance (S, D), query by query and slot by slot."""
    window, width, places = attention.window, 4, torch.arange(len(x))
    outputs = []
    for t in places.tolist():
        kept = places[:t][keep[:t]].tolist()
        seen = [(0, x[t], t)]
        vectors = [(x[s], s) for s in kept]
        for level in range(attention.levels):
            if level:
                # Summaries of all but the block that is not complete, each at its middle frame.
                size = window**level
                vectors = [
                    (
                        attention.pools[level - 1](
                            torch.stack([v for v, _ in vectors[window * j :][:window]])
                        ),
                        kept[j * size + size // 2],
                    )
                    for j in range(len(vectors) // window)
                ]
            most = window if level else window - 1
            seen += [(level, v, at) for v, at in vectors[max(0, len(vectors) - most) :]]

        def rotary_at(v, at):
            factors = rotary_factors(torch.tensor([at]), width)
            return apply_rotary(v.view(2, 1, width), factors)[:, 0]

        query = rotary_at(attention.query(x[t]), t)
        both = [attention.key_value[level](v).chunk(2) for level, v, _ in seen]
        keys = torch.stack(
            [rotary_at(k, at) for (k, _), (_, _, at) in zip(both, seen, strict=True)]
        )
        values = torch.stack([v.view(2, width) for _, v in both])
        shares = (torch.einsum("hd,ghd->gh", query, keys) / width**0.5).softmax(0)
        outputs.append(attention.output(torch.einsum("gh,ghd->hd", shares, values).flatten()))
    return torch.stack(outputs)


HIERARCHIES = [(2, 1), (2, 3), (3, 2), (4, 2), (30, 2)]


@pytest.mark.parametrize(("window", "levels"), HIERARCHIES)
def test_gated_hierarchies_equal_the_definition_and_stream(window, levels):
    attention = aligned(window, levels, memory=Memory("last_kept"))
    x = torch.randn(3, 20, 8, requires_grad=True)
    y = attention(frames(x, KEEP))
    expected = torch.stack([hierarchical(attention, *each) for each in zip(x, KEEP, strict=True)])
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in (y, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
    state, outputs = attention.initial_state(3), []
    for piece, keep in zip(x.detach().split(3, dim=1), KEEP.split(3, dim=1), strict=True):
        out, state = attention.step(frames(piece, keep), state)
        outputs.append(out)
        assert all(state[f"stored.{level}"].shape[3] <= window for level in range(levels))
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("window", "levels"), HIERARCHIES)
@torch.no_grad()
def test_with_all_frames_stored_a_gated_hierarchy_equals_the_ungated_one(window, levels):
    attention = aligned(window, levels, memory=Memory("last_kept"))
    plain = aligned(window, levels, AlignedAttention, right_context=0)
    x = torch.randn(2, 27, 8)
    y = attention(frames(x, torch.ones(2, 27).bool()))
    torch.testing.assert_close(y, plain(frames(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "dilated"}, "memory with variant dilated"),
        ({"right_context": 1}, "memory with variant aligned, right_context 1"),
        ({"layers": 1}, "layers 1: it needs variant: aligned"),
        ({"memory": Memory("uniform", skipped="merge")}, "memory.skipped merge: summaries"),
    ],
)
def test_a_hierarchy_with_a_memory_that_does_not_fit_is_refused_with_a_message(options, message):
    options = {"dim": 16, "layers": 2, "heads": 2, "memory": Memory("last_kept"), **options}
    with pytest.raises(ValueError, match=message):
        Hierarchical(8, **options)


@pytest.mark.parametrize("kind", ["drop", "merge", "hierarchy"])
def test_stored_frames_keep_their_values_and_pass_a_gradient_to_the_gate(kind):
    hierarchy = kind == "hierarchy"
    attention = aligned(2, 2, memory=Memory("learned")) if hierarchy else gated(kind)
    x, weight = torch.randn(3, 20, 8), torch.ones(3, 20, requires_grad=True)
    y = attention(frames(x, KEEP, weight))
    torch.testing.assert_close(y, attention(frames(x, KEEP)))
    (gradient,) = torch.autograd.grad(y.square().sum(), weight)
    # All but what is stored last, which nothing sees after it.
    assert gradient[0].ne(0).equal(KEEP[0])
    assert gradient[2].ne(0).equal(KEEP[2] & (torch.arange(20) < 19))


def test_levels_without_enough_stored_frames_get_gradients_of_zero_in_training():
    attention, keep = aligned(3, 2, memory=Memory("last_kept")).train(), torch.arange(20) < 2
    attention(frames(torch.randn(1, 20, 8), keep[None])).sum().backward()
    for name, parameter in attention.named_parameters():
        reached = name.startswith(("query", "output", "key_value.0"))
        assert parameter.grad is not None, name  # processes that train together wait for it
        assert bool(parameter.grad.abs().sum() > 0) == reached, name
