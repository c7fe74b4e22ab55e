"""Gates by what they must do, and a memory of stored frames against slow references."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from asr import config
from asr.batch import mask
from asr.encoders import Hierarchical, Transformer
from asr.encoders.attention import FrameAttention
from asr.encoders.block import Frames, Stored
from asr.encoders.gate import (
    Gate,
    Memory,
    last_kept,
    random,
    ratio_loss,
    silent,
    uniform,
)
from asr.encoders.gated import GatedAttention
from asr.encoders.gated_hierarchy import GatedAlignedAttention
from asr.encoders.hierarchy import AlignedAttention
from asr.layers import rotate, rotation
from asr.loss import collected
from asr.meter import read_ledger
from asr.model import load_model
from asr.recipe import Recipe
from asr.train import train
from tests import tiny
from tests.corpus import RATE, make_corpus


def reference(h, tau, gap):
    """The rule of the article, frame by frame and utterance by utterance."""
    keep = []
    for utterance in h:
        kept = []
        for t, x in enumerate(utterance):
            differs = bool(kept) and F.cosine_similarity(x, utterance[kept[-1]], dim=0) < tau
            if not kept or differs or t - kept[-1] >= gap:
                kept.append(t)
        keep.append([t in kept for t in range(len(utterance))])
    return torch.tensor(keep)


def kept_of(gate, x, **options):
    """How many of the frames (S, D) of one utterance a gate stores."""
    block = Gate(x.shape[-1], Memory(gate, **options)).eval()
    return int(block(Frames(x[None], torch.tensor([len(x)]))).stored.keep.sum())


def drift(time):
    """Unit vectors (time, 4) of mean 0 that turn by pi, so that a layer norm only scales them."""
    angle = torch.linspace(0, math.pi, time)
    plane = torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]]) / 2**0.5
    return torch.stack([angle.cos(), angle.sin()], dim=1) @ plane


CONSTANT = drift(1).expand(1000, -1)
ALTERNATING = drift(3)[[0, 1] * 500]
OPPOSITE = drift(2)[[0, 1] * 500]


@pytest.mark.parametrize(
    ("gate", "options", "x", "expected"),
    [
        ("last_kept", {"gap": 1000}, drift(1000), 7),  # pi / arccos 0.9
        ("last_kept", {"gap": 1000}, CONSTANT, 1),
        ("last_kept", {}, CONSTANT, 10),
        ("last_kept", {}, ALTERNATING, 1000),
        ("previous", {}, drift(1000), 1),  # two neighbours never differ
        ("previous", {}, CONSTANT, 1),
        ("previous", {}, ALTERNATING, 1000),
        ("learned", {}, CONSTANT, 1),
        ("learned", {}, OPPOSITE, 1000),
        ("uniform", {"rate": 1 / 3}, CONSTANT, 334),
        ("uniform", {"rate": 1.0}, CONSTANT, 1000),
        ("random", {"rate": 1.0}, CONSTANT, 1000),
    ],
)
def test_gates_keep_what_their_rules_say(gate, options, x, expected):
    assert kept_of(gate, x, **options) == expected


def walk(*size, seed=0):
    """Frames that change slowly, each utterance at its own pace."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator).cumsum(1)


@pytest.mark.parametrize("tau", [0.0, 0.5, 0.9, 1.1])
@pytest.mark.parametrize("gap", [1, 5, 100])
def test_last_kept_is_the_rule_frame_by_frame(tau, gap):
    x = walk(3, 40, 6)
    keep, last, age = last_kept(x, tau, gap, torch.zeros(3, 6), torch.full((3,), gap))
    assert keep.equal(reference(x, tau, gap))
    assert 3 < keep.sum() < 120 or gap == 1 or tau > 1
    for row in range(3):
        newest = keep[row].nonzero()[-1].item()
        torch.testing.assert_close(last[row], F.normalize(x[row, newest], dim=0))
        assert age[row] == 39 - newest


def test_uniform_keeps_every_nth():
    for n in range(1, 60):
        assert uniform(torch.arange(500), 1 / n).nonzero().flatten().tolist() == [*range(0, 500, n)]


@pytest.mark.parametrize("rate", [0.1, 0.37, 0.8])
def test_controls_keep_their_share(rate):
    for control, tolerance in ((uniform, 1e-3), (random, 0.01)):
        keep = control(torch.arange(20_000), rate)
        assert keep[0]
        assert keep.float().mean().item() == pytest.approx(rate, abs=tolerance)
    # No order in it: neighbours are both kept as often as two independent ones.
    both = (keep[1:] & keep[:-1]).float().mean().item()
    assert both == pytest.approx(rate**2, abs=0.01)


def test_random_draws_anew_in_training_and_not_in_evaluation():
    gate, frames = Gate(4, Memory("random")), Frames(torch.randn(2, 50, 4), torch.tensor([50, 50]))
    drawn = [gate(frames).stored.keep for _ in range(2)]
    assert not drawn[0].equal(drawn[1])
    assert all(keep[:, 0].all() for keep in drawn)
    gate.eval()
    assert gate(frames).stored.keep.equal(gate(frames).stored.keep)


@pytest.mark.parametrize("rate", [0.1, 1 / 3, 0.5])
def test_the_ratio_loss_is_that_of_the_paper_and_1_at_its_target(rate):
    n, f, g = 1 / rate, torch.tensor(0.3), torch.tensor(0.45)
    expected = n / (n - 1) * ((1 - f) * (1 - g) + (n - 1) * f * g)
    torch.testing.assert_close(ratio_loss(f, g, rate), expected)
    at = torch.tensor(rate)
    torch.testing.assert_close(ratio_loss(at, at, rate), torch.tensor(1.0))


def test_stored_by_hand():
    keep = torch.tensor([[1, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]).bool()
    stored = Stored.of(keep)
    assert stored.before.tolist() == [[0, 1, 1, 2, 3, 3], [0, 1, 1, 1, 1, 1]]
    assert stored.began.tolist() == [[0, 0, 2, 3, 3, 3], [0] * 6]
    assert stored.frames[0].tolist() == [0, 2, 3]
    assert stored.frames[1, 0] == 0
    assert stored.frames.shape == (2, 3)


def test_shares_of_speech_and_silence_are_counted_apart():
    loudness = torch.tensor([[0.0, 10, 0, 10, 10, 4, 6, 0], [1, 9, 9, 1, *[math.nan] * 4]])
    expected = [[1, 0, 1, 0, 0, 1, 0, 1], [1, 0, 0, 1, 0, 0, 0, 0]]
    assert silent(loudness).long().tolist() == expected
    gate, lengths = Gate(4, Memory("uniform", rate=0.5)), torch.tensor([8, 4])
    with collected() as terms:
        gate(Frames(torch.randn(2, 8, 4), lengths, loudness))
    shares = {name: (term.sum.item(), term.count.item()) for name, term in terms.items()}
    # Of frames 0, 2, 4, 6: silence are 0 and 2 of the first, 0 of the second.
    assert shares == {"kept": (6, 12), "kept_speech": (3, 6), "kept_silence": (3, 6)}
    assert all(term.weight == 0 for term in terms.values())


def test_a_learned_gate_is_held_to_its_rate_utterance_by_utterance():
    gate = Gate(4, Memory("learned", rate=0.25))
    x, lengths = walk(2, 30, 4), torch.tensor([30, 12])
    terms = []
    for rows, time in ((slice(0, 2), 30), (slice(0, 1), 30), (slice(1, 2), 12)):
        with collected() as found:
            gate(Frames(x[rows, :time], lengths[rows]))
        terms.append(found["gate_ratio"])
    both, *each = terms
    assert both.weight == 0.03
    torch.testing.assert_close(both.sum, each[0].sum + each[1].sum)
    assert both.count == 42
    (gradient,) = torch.autograd.grad(both.sum, gate.query.weight)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("gate", ["last_kept", "previous", "learned", "uniform", "random"])
def test_gates_decide_the_same_in_pieces_and_in_any_batch(gate):
    block = Gate(6, Memory(gate, rate=0.4, gap=7)).eval()
    x, lengths = walk(2, 40, 6), torch.tensor([40, 23])
    whole = block(Frames(x, lengths)).stored.keep
    assert whole.equal(whole & mask(lengths, 40))
    assert whole[:, 0].all()
    alone = block(Frames(x[1:, :23], lengths[1:])).stored.keep
    assert alone[0].equal(whole[1, :23])
    state, pieces = block.initial_state(1), []
    for piece in x[:1].split(3, dim=1):
        frames, state = block.step(Frames(piece, lengths[:1]), state)
        pieces.append(frames.stored.keep)
    assert torch.cat(pieces, 1)[0].equal(whole[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"gate": "uniform", "rate": 0.0},
            "memory.rate 0.0: give a share of frames above 0 and 1 at",
        ),
        ({"gate": "random", "rate": 1.5}, "memory.rate 1.5"),
        (
            {"gate": "learned", "rate": 1.0},
            "memory.rate 1.0: give a share of frames above 0 and below 1",
        ),
        ({"gate": "last_kept", "gap": 0}, "memory.gap 0: give 1 frame or more"),
    ],
)
def test_impossible_gates_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        Memory(**options)


def attended(attention, x, keep, weight=None):
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
def test_gated_attention_is_that_of_every_frame_to_its_groups(skipped, left_context):
    attention, x = gated(skipped, left_context), torch.randn(3, 20, 8, requires_grad=True)
    y = attention(x, Stored.of(KEEP))
    expected = torch.stack([attended(attention, *each) for each in zip(x, KEEP, strict=True)])
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
def test_where_all_is_stored_it_is_attention_to_frames(skipped, left_context, rotary):
    attention, x = gated(skipped, left_context, rotary), torch.randn(2, 13, 8)
    plain = FrameAttention(8, heads=2, causal=True, left_context=left_context, rotary=rotary)
    plain.load_state_dict(attention.state_dict())
    y = attention(x, Stored.of(torch.ones(2, 13).bool()))
    torch.testing.assert_close(y, plain(x, torch.tensor([13, 13])), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_merged_copies_count_as_often_as_they_were_seen():
    x = torch.randn(1, 7, 8).repeat_interleave(torch.tensor([1, 4, 2, 1, 6, 1, 3]), dim=1)
    keep = F.pad(x[:, 1:] != x[:, :-1], (0, 0, 1, 0), value=True).any(-1)
    everything = torch.ones_like(keep)
    merge, drop = gated("merge"), gated("drop")
    unmerged = merge(x, Stored.of(everything))
    torch.testing.assert_close(merge(x, Stored.of(keep)), unmerged, rtol=1e-4, atol=1e-5)
    # Dropped copies do not.
    assert (drop(x, Stored.of(keep)) - unmerged).abs().max() > 1e-2


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("left_context", [None, 1, 4])
@pytest.mark.parametrize("skipped", ["drop", "merge"])
@torch.no_grad()
def test_gated_attention_streams(skipped, left_context, rotary):
    attention, x = gated(skipped, left_context, rotary), torch.randn(3, 20, 8)
    expected = attention(x, Stored.of(KEEP))
    state, outputs = attention.initial_state(3), []
    for piece, keep in zip(x.split(3, dim=1), KEEP.split(3, dim=1), strict=True):
        y, state = attention.step(piece, Stored.of(keep), state)
        outputs.append(y)
        assert state["stored"].shape[1] <= min(left_context or 20, int(state["count"].max()))
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-4, atol=1e-5)
    assert state["count"].tolist() == KEEP.sum(1).tolist()


def test_a_gate_that_stores_all_leaves_the_transformer_as_it_is():
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


def test_work_grows_with_what_is_stored():
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
def test_a_memory_without_what_it_needs_is_refused_in_words(options, message):
    options = {"dim": 16, "layers": 2, "heads": 2, "causal": True, **options}
    with pytest.raises(ValueError, match=message):
        Transformer(8, **options, memory=Memory("last_kept"))


def test_what_is_stored_is_written_down_in_training_and_validation(tmp_path):
    make_corpus(tmp_path / "tones", train=12, validation=4, test=1)
    memory = {"gate": "learned", "rate": 0.3}
    encoder = {"dim": 16, "layers": 2, "heads": 2, "causal": True, "channels": 4, "memory": memory}
    tree = {
        "data": {"corpus": str(tmp_path / "tones"), "max_batch_seconds": 12.0},
        "features": {"sample_rate": RATE, "num_mels": 8},
        "encoder": {"class_path": "Transformer", "init_args": encoder},
        "decoder": {"class_path": "AttentionLSTM", "init_args": {"width": 12, "attention": 8}},
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 2},
        "budget": {"updates": 2},
    }
    train(config.read(Recipe, tree), tmp_path / "run")
    lines = read_ledger(tmp_path / "run" / "ledger.jsonl")
    (step,) = (line for line in lines if line["event"] == "step")
    (validation,) = (line["validation"] for line in lines if line["event"] == "validation")
    for found in (step["train_terms"], validation):
        low, high = sorted([found["kept_speech"], found["kept_silence"]])
        assert 0 <= low <= found["kept"] <= high <= 1
        assert found["kept"] > 0
    assert step["train_terms"]["gate_ratio"] > 0
    assert validation["gate_ratio_loss"] > 0
    assert load_model(tmp_path / "run").encoder.layers[2].memory == Memory("learned", rate=0.3)


def aligned(window, levels, kind=GatedAlignedAttention, **options):
    torch.manual_seed(0)
    options = {"window": window, "levels": levels, "pooling": "attention", **options}
    attention = kind(8, heads=2, **options)
    for parameter in attention.parameters():  # no bias is zero, no attention is flat
        parameter.data += 0.3 * torch.randn_like(parameter)
    return attention.eval()


def hierarchical(attention, x, keep):
    """One utterance (S, D), query by query and slot by slot."""
    window, width, frames = attention.window, 4, torch.arange(len(x))
    outputs = []
    for t in frames.tolist():
        kept = frames[:t][keep[:t]].tolist()
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

        def turn(v, at):
            factors = rotation(torch.tensor([at]), width)
            return rotate(v.view(2, 1, width), factors)[:, 0]

        query = turn(attention.query(x[t]), t)
        both = [attention.key_value[level](v).chunk(2) for level, v, _ in seen]
        keys = torch.stack([turn(k, at) for (k, _), (_, _, at) in zip(both, seen, strict=True)])
        values = torch.stack([v.view(2, width) for _, v in both])
        shares = (torch.einsum("hd,ghd->gh", query, keys) / width**0.5).softmax(0)
        outputs.append(attention.output(torch.einsum("gh,ghd->hd", shares, values).flatten()))
    return torch.stack(outputs)


HIERARCHIES = [(2, 1), (2, 3), (3, 2), (4, 2), (30, 2)]


@pytest.mark.parametrize(("window", "levels"), HIERARCHIES)
def test_gated_hierarchies_equal_the_definition_and_stream(window, levels):
    attention = aligned(window, levels, memory=Memory("last_kept"))
    x = torch.randn(3, 20, 8, requires_grad=True)
    y = attention(x, Stored.of(KEEP))
    expected = torch.stack([hierarchical(attention, *each) for each in zip(x, KEEP, strict=True)])
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in (y, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
    state, outputs = attention.initial_state(3), []
    for piece, keep in zip(x.detach().split(3, dim=1), KEEP.split(3, dim=1), strict=True):
        out, state = attention.step(piece, Stored.of(keep), state)
        outputs.append(out)
        assert all(state[f"stored.{level}"].shape[3] <= window for level in range(levels))
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("window", "levels"), HIERARCHIES)
@torch.no_grad()
def test_where_all_is_stored_a_hierarchy_is_that_of_frames(window, levels):
    attention = aligned(window, levels, memory=Memory("last_kept"))
    plain = aligned(window, levels, AlignedAttention, right_context=0)
    x, lengths = torch.randn(2, 27, 8), torch.tensor([27, 27])
    y = attention(x, Stored.of(torch.ones(2, 27).bool()))
    torch.testing.assert_close(y, plain(x, lengths), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "dilated"}, "memory with variant dilated"),
        ({"right_context": 1}, "memory with variant aligned, right_context 1"),
        ({"layers": 1}, "layers 1: it needs variant: aligned"),
        ({"memory": Memory("uniform", skipped="merge")}, "memory.skipped merge: summaries"),
    ],
)
def test_a_hierarchy_with_a_memory_that_does_not_fit_is_refused_in_words(options, message):
    options = {"dim": 16, "layers": 2, "heads": 2, "memory": Memory("last_kept"), **options}
    with pytest.raises(ValueError, match=message):
        Hierarchical(8, **options)


@pytest.mark.parametrize("kind", ["drop", "merge", "hierarchy"])
def test_what_is_stored_gives_the_gate_a_gradient_and_keeps_its_value(kind):
    hierarchy = kind == "hierarchy"
    attention = aligned(2, 2, memory=Memory("learned")) if hierarchy else gated(kind)
    x, weight = torch.randn(3, 20, 8), torch.ones(3, 20, requires_grad=True)
    y = attention(x, Stored.of(KEEP, weight))
    torch.testing.assert_close(y, attention(x, Stored.of(KEEP)))
    (gradient,) = torch.autograd.grad(y.square().sum(), weight)
    # All but what is stored last, which nothing sees after it.
    assert gradient[0].ne(0).equal(KEEP[0])
    assert gradient[2].ne(0).equal(KEEP[2] & (torch.arange(20) < 19))
