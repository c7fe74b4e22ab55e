"""The transducer: its loss by hand, its gradient, its memory, and its state."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from asr.batch import BLANK, EOS
from asr.decoders import Transducer, joint
from asr.decoders.joint import Joint, utterance_groups
from asr.layers import inputs
from tests import tiny

NAMES = tiny.TRANSDUCERS


def utterances(*sizes, seed=2):
    """Encoder frames (B, S, D), lengths, tokens (B, U), token lengths; sizes of (S, U)."""
    generator = torch.Generator().manual_seed(seed)
    lengths, token_lengths = torch.tensor(sizes).unbind(1)
    encoded = torch.randn(len(sizes), int(lengths.max()), tiny.DIM, generator=generator)
    shape = len(sizes), int(token_lengths.max())
    tokens = torch.randint(EOS + 1, tiny.VOCABULARY, shape, generator=generator)
    return encoded, lengths, tokens, token_lengths


def opinionated(name):
    """A decoder far from the uniform distribution, without a CTC head."""
    torch.manual_seed(0)
    decoder = tiny.DECODER_BUILDERS[name](tiny.DIM, tiny.VOCABULARY, ctc_weight=0).eval()
    for parameter in decoder.parameters():
        parameter.data *= 2
    return decoder


def predictions(decoder, tokens):
    """Tokens U -> (U + 1, J), by the steps of a search."""
    cache, found = decoder.begin(1), []
    for token in [EOS, *tokens]:
        prediction, cache = decoder.predict(torch.tensor([token]), cache)
        found.append(prediction[0])
    return torch.stack(found)


def likelihood(log_probs, tokens):
    """The sum over all paths through (S, U + 1, V), each written out."""
    frames, total = len(log_probs), []
    for places in itertools.combinations(range(frames + len(tokens) - 1), len(tokens)):
        time = said = 0
        score = 0.0
        for move in range(frames + len(tokens)):
            says = tokens[said] if move in places else BLANK
            score += log_probs[time, said, says].item()
            time, said = time + (says == BLANK), said + (says != BLANK)
        assert (time, said) == (frames, len(tokens))
        total.append(math.exp(score))
    return math.fsum(total)


def reference(frames, guesses, weight, bias, tokens):
    """-log p(tokens) of (S, J), (U + 1, J) in double precision, and nothing saved of memory."""
    logits = torch.tanh(frames[:, None] + guesses).double() @ weight.double().T + bias.double()
    log_probs = logits.log_softmax(-1)
    before = []
    for time in range(len(frames)):
        now = []
        for said in range(len(guesses)):
            arrivals = []
            if time:
                arrivals.append(before[said] + log_probs[time - 1, said, 0])
            if said:
                arrivals.append(now[-1] + log_probs[time, said - 1, tokens[said - 1] - EOS])
            start = [logits.new_zeros(())] if time == said == 0 else []
            now.append(torch.stack(arrivals + start).logsumexp(0))
        before = now
    return -(before[-1] + log_probs[-1, -1, 0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("frames", "said"), [(1, 0), (1, 1), (1, 3), (2, 2), (3, 0), (3, 1), (4, 3), (6, 4)]
)
@torch.no_grad()
def test_the_loss_sums_the_probabilities_of_join_over_all_paths(name, frames, said):
    decoder = opinionated(name)
    encoded, lengths, tokens, token_lengths = utterances((frames, said))
    labels = tokens[0].tolist()
    projected = decoder.project(encoded)[0]
    log_probs = decoder.join(projected[:, None], predictions(decoder, labels)[None])
    loss = decoder.loss(encoded, lengths, tokens, token_lengths)
    expected = -math.log(likelihood(log_probs.double(), labels))
    assert loss.terms["transducer"].sum.item() == pytest.approx(expected, rel=2e-6, abs=2e-6)
    assert loss.terms["transducer"].count == said + 1
    assert loss.infeasible == 0


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_join_gives_a_distribution_over_all_tokens_but_eos(name):
    decoder = opinionated(name)
    log_probs = decoder.join(torch.randn(3, 1, 10), torch.randn(4, 10))
    assert log_probs.shape == (3, 4, tiny.VOCABULARY)
    assert log_probs[..., EOS].eq(-torch.inf).all()
    assert log_probs[..., [BLANK, *range(EOS + 1, tiny.VOCABULARY)]].isfinite().all()
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 4))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_internal_language_model_is_join_without_audio_and_without_blank(name):
    decoder = opinionated(name)
    guesses = predictions(decoder, [3, 2, 5])
    internal = decoder.internal_lm(guesses)
    silent = decoder.join(decoder.project(torch.zeros(1, 1, tiny.DIM))[0], guesses).exp()
    silent[:, BLANK] = 0
    torch.testing.assert_close(internal.exp(), silent / silent.sum(1, keepdim=True))
    assert internal[:, [BLANK, EOS]].eq(-torch.inf).all()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_steps_predict_the_same_as_the_whole_sequence(name):
    decoder = opinionated(name)
    tokens = torch.tensor([[3, 2, 2, 5, 4], [4, 4, 0, 0, 0]])
    given = inputs(tokens, torch.tensor([5, 2]))
    whole = decoder.joint.prediction(decoder.prediction(given))
    torch.testing.assert_close(whole[0], predictions(decoder, [3, 2, 2, 5, 4]))
    torch.testing.assert_close(whole[1, :3], predictions(decoder, [4, 4]))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_rows_of_a_state_are_independent_and_unchanged(name):
    decoder = opinionated(name)
    cache = decoder.begin(3)
    for tokens in ([EOS, EOS, EOS], [2, 3, 4]):
        _, cache = decoder.predict(torch.tensor(tokens), cache)
    before = {key: value.clone() for key, value in cache.items()}
    whole, _ = decoder.predict(torch.tensor([5, 2, 3]), cache)
    assert all(cache[key].equal(value) for key, value in before.items())
    # Rows 2, 2 and 0, beside one that has read nothing but EOS.
    fresh = decoder.predict(torch.tensor([EOS]), decoder.begin(1))[1]
    rows = torch.tensor([2, 2, 0])
    mixed = {key: torch.cat([value[rows], fresh[key]]) for key, value in cache.items()}
    some, _ = decoder.predict(torch.tensor([3, 5, 5, 2]), mixed)
    torch.testing.assert_close(some[0], whole[2])
    torch.testing.assert_close(some[1], predictions(decoder, [4, 5])[-1])
    torch.testing.assert_close(some[2], whole[0])
    torch.testing.assert_close(some[3], predictions(decoder, [2])[-1])


@torch.no_grad()
def test_a_stateless_network_sees_only_its_context_and_an_lstm_everything():
    one, other = [2, 3, 4, 5], [3, 3, 4, 5]
    for name, differ in (("Transducer", 5), ("Transducer without state", 3)):
        decoder = opinionated(name)
        change = (predictions(decoder, one) - predictions(decoder, other)).abs().amax(1)
        assert change.gt(1e-6).sum() == differ - 1
        assert change[0] == 0
    last = opinionated("Transducer of the last token")
    change = (predictions(last, one) - predictions(last, other)).abs().amax(1)
    assert change.gt(0).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("limit", [1, 300, 10**6])
def test_gradients_equal_those_of_all_lattices_at_once_in_double_precision(monkeypatch, limit):
    monkeypatch.setitem(joint.GROUP, "cpu", limit)  # a group each, some together, all together
    torch.manual_seed(0)
    network = Joint(7, 6, 9, tiny.VOCABULARY)
    _, lengths, tokens, token_lengths = utterances((5, 3), (9, 1), (1, 4), (7, 0), (6, 6))
    frames = torch.randn(5, 9, 9, requires_grad=True)
    guesses = torch.randn(5, 7, 9, requires_grad=True)
    leaves = [frames, guesses, network.output.weight, network.output.bias]
    sizes = lengths.tolist(), token_lengths.tolist()
    total = network.loss(frames, guesses, sizes[0], tokens, sizes[1])
    expected = sum(
        reference(frames[row, :time], guesses[row, : said + 1], *leaves[2:], tokens[row].tolist())
        for row, (time, said) in enumerate(zip(*sizes, strict=True))
    )
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    found = torch.autograd.grad(3 * total, leaves)
    for one, other in zip(found, torch.autograd.grad(3 * expected, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=3e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_equals_finite_differences_of_the_loss(name):
    decoder = opinionated(name)
    encoded, *rest = utterances((5, 3), (8, 2))
    leaves = [encoded.requires_grad_(), *decoder.parameters()]
    gradients = torch.autograd.grad(decoder.loss(encoded, *rest).total(), leaves)
    directions = [torch.randn_like(leaf) for leaf in leaves]
    directions[1][BLANK] = 0  # the first parameter is the embedding; that of BLANK is not learnt
    slope = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
    ends = []
    with torch.no_grad():
        for step in (1e-3, -2e-3):  # there, and from there to the other side
            for leaf, direction in zip(leaves, directions, strict=True):
                leaf += step * direction
            ends.append(decoder.loss(encoded, *rest).total().item())
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=5e-3, abs=5e-3)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple | list) else [results]:
            if isinstance(result, torch.Tensor):
                self.elements = max(self.elements, result.numel())
        return results


def memory(batch, time=40, said=20):
    """Elements of the largest tensor of a training step, and of what waits for its backward."""
    torch.manual_seed(0)
    # Stateless: what the kernel of an LSTM keeps grows with the batch's tokens, as it may.
    decoder = Transducer(4, 12, width=8, joint=32, prediction="stateless", ctc_weight=0)
    encoded = torch.randn(batch, time, 4)
    tokens = torch.randint(2, 12, (batch, said))
    waiting = []

    def keep(tensor):
        waiting.append(tensor.numel())
        return tensor

    largest = Largest()
    with largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sizes = torch.tensor([time] * batch), tokens, torch.tensor([said] * batch)
        decoder.loss(encoded, *sizes).total().backward()
    return largest.elements, sum(waiting)


def test_no_tensor_grows_with_the_batch_and_no_lattice_is_stored_for_the_backward_pass(monkeypatch):
    cells, limit = 40 * 21, 40 * 21 * 32 * 2
    monkeypatch.setitem(joint.GROUP, "cpu", limit)  # two utterances
    assert memory(2)[0] == limit
    assert memory(16)[0] == limit
    growth = (memory(16)[1] - memory(8)[1]) / 8
    assert growth < cells * (32 + 11) / 5


def test_groups_hold_every_utterance_with_frames_once_and_stay_within_the_limit():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 60, (200,), generator=generator).tolist()
    steps = torch.randint(1, 30, (200,), generator=generator).tolist()
    found = list(utterance_groups(lengths, steps, 8, "cpu"))
    assert found == [[row for row in range(200) if lengths[row]]]  # the limit is far
    for limit in (1, 4000, 30000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(joint.GROUP, "cpu", limit)
            found = list(utterance_groups(lengths, steps, 8, "cpu"))
        assert sum(found, []) == [row for row in range(200) if lengths[row]]
        for group in found:
            inner = 8 * sum(lengths[row] * steps[row] for row in group)
            lattice = 2 * len(group) * max(lengths[r] for r in group) * max(steps[r] for r in group)
            assert len(group) == 1 or max(inner, lattice) <= limit
    assert list(utterance_groups([0, 0], [1, 3], 8, "cpu")) == []


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
def test_utterances_without_a_frame_are_left_out_and_counted(ctc_weight):
    torch.manual_seed(0)
    decoder = Transducer(tiny.DIM, tiny.VOCABULARY, width=8, joint=8, ctc_weight=ctc_weight)
    encoded, lengths, tokens, token_lengths = utterances((0, 2), (6, 3), (0, 0))
    encoded = encoded.masked_fill(torch.arange(6)[:, None] >= lengths[:, None, None], torch.nan)
    encoded.requires_grad_()
    decoder.eval()
    loss = decoder.loss(encoded, lengths, tokens, token_lengths)
    row = slice(1, 2)
    alone = decoder.loss(encoded[row], lengths[row], tokens[row], token_lengths[row])
    assert loss.infeasible == 2
    assert loss.terms["transducer"].count == 4
    torch.testing.assert_close(loss.terms["transducer"].sum, alone.terms["transducer"].sum)
    if not ctc_weight:
        loss.total().backward()
        assert encoded.grad[[0, 2]].eq(0).all()
        assert encoded.grad[1].abs().sum(1).gt(0).all()
    nothing = decoder.loss(encoded[:1], lengths[:1], tokens[:1], token_lengths[:1])
    assert nothing.terms["transducer"].sum == 0


def test_more_tokens_than_frames_have_a_finite_loss():
    decoder = opinionated("Transducer")
    loss = decoder.loss(*utterances((1, 30)))
    assert loss.infeasible == 0
    assert loss.total().isfinite()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_search_scores_in_float32_under_bfloat16(name):
    decoder = opinionated(name)
    encoded = torch.randn(1, 3, tiny.DIM)
    with torch.autocast("cpu", torch.bfloat16):
        frames = decoder.project(encoded.bfloat16())
        guess, _ = decoder.predict(torch.tensor([EOS]), decoder.begin(1))
        log_probs = decoder.join(frames[:, 0], guess)
        internal = decoder.internal_lm(guess)
    assert log_probs.dtype == internal.dtype == torch.float32
    expected = decoder.join(decoder.project(encoded.bfloat16().float())[:, 0], guess)
    torch.testing.assert_close(log_probs, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_transducer_learns_to_copy_noisy_tokens(name):
    """Three frames per token, each frame a noisy picture of its token: to be read off."""
    torch.manual_seed(1)
    decoder = tiny.decoder(name).train()
    pictures = torch.randn(tiny.VOCABULARY, tiny.DIM)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.02)
    means = []
    for _ in range(80):
        tokens = torch.randint(EOS + 1, tiny.VOCABULARY, (8, 5))
        encoded = pictures[tokens.repeat_interleave(3, dim=1)] + 0.1 * torch.randn(8, 15, tiny.DIM)
        sizes = torch.full((8,), 15), tokens, torch.full((8,), 5)
        loss = decoder.loss(encoded, *sizes)
        optimizer.zero_grad()
        loss.total().backward()
        optimizer.step()
        means.append(loss.terms["transducer"].sum.item() / loss.terms["transducer"].count.item())
    assert sum(means[-5:]) / 5 < 0.3 * means[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ctc_weight": 1.0}, "ctc_weight 1.0"),
        ({"context": 2}, "context is 2: an LSTM sees all tokens"),
        ({"prediction": "stateless", "layers": 2}, "layers is 2: a stateless network has one"),
        ({"prediction": "stateless", "context": 0}, "context is 0"),
        ({"joint": 0}, "joint is 0: the joint network needs a width of at least 1"),
        ({"width": 0}, "width is 0: the prediction network needs at least 1"),
        ({"width": -2, "prediction": "stateless"}, "width is -2: the prediction network needs"),
        ({"prediction": "gru"}, "prediction is gru: it must be lstm or stateless"),
        ({"layers": 0}, "layers is 0"),
        ({"vocabulary": 2}, "vocabulary of 2"),
    ],
)
def test_impossible_options_are_refused_with_a_message(options, message):
    with pytest.raises(ValueError, match=message):
        Transducer(**({"dim": 8, "vocabulary": 6, "width": 8, "joint": 8} | options))
