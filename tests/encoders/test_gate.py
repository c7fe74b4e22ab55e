"""Gates by what they must do, and what is written down about them."""

import math

import pytest
import torch
import torch.nn.functional as F

from asr.batch import mask
from asr.config import strict_yaml
from asr.encoders.block import Block, Frames, Stored
from asr.encoders.gate import Gate, Memory, is_silent, last_kept, random, ratio_loss, uniform
from asr.encoders.stack import Stack
from asr.loss import collected
from asr.metering.ledger_format import read_ledger
from asr.model import load_model
from asr.recipe.schema import Recipe
from asr.training.run import train
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
def test_gates_keep_the_frames_that_their_rules_select(gate, options, x, expected):
    assert kept_of(gate, x, **options) == expected


def walk(*size, seed=0):
    """Frames that change slowly, each utterance at its own pace."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator).cumsum(1)


@pytest.mark.parametrize("tau", [0.0, 0.5, 0.9, 1.1])
@pytest.mark.parametrize("gap", [1, 5, 100])
def test_last_kept_compares_each_frame_with_the_frame_kept_last(tau, gap):
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
def test_controls_keep_their_share_of_frames(rate):
    for control, tolerance in ((uniform, 1e-3), (random, 0.01)):
        keep = control(torch.arange(20_000), rate)
        assert keep[0]
        assert keep.float().mean().item() == pytest.approx(rate, abs=tolerance)
    # No order in it: neighbours are both kept as often as two independent ones.
    both = (keep[1:] & keep[:-1]).float().mean().item()
    assert both == pytest.approx(rate**2, abs=0.01)


def test_a_random_gate_draws_anew_in_training_and_not_in_evaluation():
    gate, frames = Gate(4, Memory("random")), Frames(torch.randn(2, 50, 4), torch.tensor([50, 50]))
    drawn = [gate(frames).stored.keep for _ in range(2)]
    assert not drawn[0].equal(drawn[1])
    assert all(keep[:, 0].all() for keep in drawn)
    gate.eval()
    assert gate(frames).stored.keep.equal(gate(frames).stored.keep)


@pytest.mark.parametrize("rate", [0.1, 1 / 3, 0.5])
def test_the_ratio_loss_equals_the_formula_of_the_paper_and_is_1_at_its_target(rate):
    n, f, g = 1 / rate, torch.tensor(0.3), torch.tensor(0.45)
    expected = n / (n - 1) * ((1 - f) * (1 - g) + (n - 1) * f * g)
    torch.testing.assert_close(ratio_loss(f, g, rate), expected)
    at = torch.tensor(rate)
    torch.testing.assert_close(ratio_loss(at, at, rate), torch.tensor(1.0))


def test_indices_of_stored_frames_equal_those_worked_out_by_hand():
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
    assert is_silent(loudness).long().tolist() == expected
    gate, lengths = Gate(4, Memory("uniform", rate=0.5)), torch.tensor([8, 4])
    with collected() as terms:
        gate(Frames(torch.randn(2, 8, 4), lengths, loudness))
    shares = {name: (term.sum.item(), term.count.item()) for name, term in terms.items()}
    # Of frames 0, 2, 4, 6: silence are 0 and 2 of the first, 0 of the second.
    assert shares == {"kept": (6, 12), "kept_speech": (3, 6), "kept_silence": (3, 6)}
    assert all(term.weight == 0 for term in terms.values())


def test_the_ratio_loss_of_a_learned_gate_is_taken_per_utterance():
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
def test_gates_keep_the_same_frames_when_streaming_and_in_any_batch(gate):
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
def test_impossible_gates_are_refused_with_a_message(options, message):
    with pytest.raises(ValueError, match=message):
        Memory(**options)


class Halves(Block):
    """Every other frame; remembers what it was given."""

    stride = 2

    def forward(self, frames):
        self.given = frames
        return Frames(frames.x[:, ::2], (frames.lengths + 1) // 2, frames.loudness)

    def initial_state(self, batch): ...
    def step(self, frames, state): ...
    def flops(self, time): ...


@torch.no_grad()
def test_loudness_is_the_mean_of_the_features_that_a_frame_stands_for():
    blocks = [Halves(), Halves()]
    stack = Stack(tiny.NUM_MELS, blocks, dim=4, channels=2)
    x, lengths = tiny.features(21, 30)
    stack(tiny.with_garbage(x, lengths), lengths)
    assert blocks[0].given.loudness is None  # nobody collects
    with collected():
        stack(tiny.with_garbage(x, lengths), lengths)
    for row, length in enumerate(lengths.tolist()):
        quarter = torch.stack([part.mean() for part in x[row, :length].split(4)])
        eighth = torch.stack([part.mean() for part in quarter.split(2)])
        for block, expected in zip(blocks, (quarter, eighth), strict=True):
            loudness = block.given.loudness[row]
            torch.testing.assert_close(loudness[: len(expected)], expected)
            assert loudness[len(expected) :].isnan().all()


def test_the_share_of_stored_frames_is_recorded_in_training_and_validation(tmp_path):
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
    train(strict_yaml.read(Recipe, tree), tmp_path / "run")
    lines = read_ledger(tmp_path / "run")
    (step,) = (line for line in lines if line["event"] == "step")
    (validation,) = (line["validation"] for line in lines if line["event"] == "validation")
    for found in (step["train_terms"], validation):
        low, high = sorted([found["kept_speech"], found["kept_silence"]])
        assert 0 <= low <= found["kept"] <= high <= 1
        assert found["kept"] > 0
    assert step["train_terms"]["gate_ratio"] > 0
    assert validation["gate_ratio_loss"] > 0
    assert load_model(tmp_path / "run").encoder.layers[2].memory == Memory("learned", rate=0.3)
