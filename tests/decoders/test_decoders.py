"""The contract of decoders, and what their losses are by hand."""

import inspect
import itertools
import math

import pytest
import torch

from asr.batch import BLANK, EOS
from asr.decoders import DECODERS, AttentionLSTM
from asr.decoders.cross_entropy import CrossEntropyHead
from asr.decoders.ctc import CTCHead, frames_needed
from asr.decoders.location_attention import LocationAttention, lstm_cell
from asr.layers import inputs, targets
from asr.loss import Loss, Term
from tests import tiny

NAMES = list(tiny.DECODER_BUILDERS)


def utterances():
    """Encoder frames (B, S, D), lengths, tokens (B, U), token lengths: 3 of different sizes."""
    generator = torch.Generator().manual_seed(2)
    encoded = torch.randn(3, 20, tiny.DIM, generator=generator)
    tokens = torch.randint(EOS + 1, tiny.VOCABULARY, (3, 5), generator=generator)
    return encoded, torch.tensor([20, 11, 14]), tokens, torch.tensor([3, 5, 0])


def terms_of(name):
    """The names of its terms."""
    own = {"attention": tiny.ATTENTION_DECODERS, "transducer": tiny.TRANSDUCERS}
    return {"ctc"} | {term for term, names in own.items() if name in names}


def alone(encoded, lengths, tokens, token_lengths):
    """Each of the utterances without any padding."""
    for row, (frames, length) in enumerate(zip(lengths, token_lengths, strict=True)):
        one = slice(row, row + 1)
        yield encoded[one, :frames], lengths[one], tokens[one, :length], token_lengths[one]


def test_every_entry_of_the_table_has_a_tiny_configuration():
    assert {name.split()[0] for name in NAMES} == set(DECODERS)


@pytest.mark.parametrize("cls", DECODERS.values())
def test_a_constructor_takes_width_and_vocabulary_first_and_at_most_ten_parameters(cls):
    first, second, *others = inspect.signature(cls).parameters.values()
    assert (first.name, second.name) == ("dim", "vocabulary")
    assert len(others) <= 8
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in others)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_loss_of_a_batch_is_the_sum_of_its_utterances(name):
    decoder = tiny.decoder(name)
    encoded, lengths, tokens, token_lengths = utterances()
    singles = [decoder.loss(*one) for one in alone(encoded, lengths, tokens, token_lengths)]
    encoded = tiny.with_garbage(encoded, lengths)
    tokens = torch.where(torch.arange(5) < token_lengths[:, None], tokens, tiny.VOCABULARY - 1)
    together = decoder.loss(encoded, lengths, tokens, token_lengths)
    assert together.terms.keys() == terms_of(name)
    assert sum(term.weight for term in together.terms.values()) == 1
    for term, (total, count, weight) in together.terms.items():
        parts = [single.terms[term] for single in singles]
        assert count == sum(part.count for part in parts)
        assert weight == parts[0].weight
        torch.testing.assert_close(total, sum(p.sum for p in parts), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("decoder_name", NAMES)
@pytest.mark.parametrize("encoder_name", tiny.ENCODER_BUILDERS)
@torch.no_grad()
def test_the_loss_of_any_encoder_and_decoder_does_not_depend_on_padding(encoder_name, decoder_name):
    encoder, decoder = tiny.encoder(encoder_name), tiny.decoder(decoder_name)
    x, lengths = tiny.features(140, 90)
    _, _, tokens, token_lengths = (value[:2] for value in utterances())
    batch = encoder(tiny.with_garbage(x, lengths), lengths)
    together = decoder.loss(*batch, tokens, token_lengths)
    expected = dict.fromkeys(terms_of(decoder_name), 0.0)
    for row in range(2):
        one, length = slice(row, row + 1), lengths[row]
        frames = encoder(x[one, :length], lengths[one])
        loss = decoder.loss(*frames, tokens[one, : token_lengths[row]], token_lengths[one])
        for term, value in loss.terms.items():
            expected[term] += value.sum.item()
    for term, total in expected.items():
        assert together.terms[term].sum.item() == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("name", tiny.ATTENTION_DECODERS)
@torch.no_grad()
def test_the_scores_of_steps_add_up_to_the_loss(name):
    decoder = tiny.decoder(name)
    encoded, lengths, tokens, token_lengths = utterances()
    state = decoder.start(encoded, lengths)
    given, wanted = inputs(tokens, token_lengths), targets(tokens, token_lengths)
    total = torch.zeros(3)
    for position in range(6):
        log_probs, state = decoder.step(given[:, position], state)
        assert log_probs[:, BLANK].eq(-torch.inf).all()
        torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(3))
        score = log_probs.gather(1, wanted[:, position, None])[:, 0]
        total -= score.masked_fill(position > token_lengths, 0.0)
    for row, one in enumerate(alone(encoded, lengths, tokens, token_lengths)):
        expected = decoder.loss(*one).terms["attention"].sum
        torch.testing.assert_close(total[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", tiny.ATTENTION_DECODERS)
@torch.no_grad()
def test_hypotheses_score_the_same_together_and_one_by_one(name):
    decoder = tiny.decoder(name)
    encoded, lengths, _, _ = utterances()
    paths = torch.randint(EOS + 1, tiny.VOCABULARY, (3, 4, 3))  # B, K, U
    paths[:, :, 0] = EOS
    state = decoder.start(encoded, lengths)
    state = state.select(torch.arange(3).repeat_interleave(4))
    for position in range(3):
        together, state = decoder.step(paths[:, :, position].flatten(), state)
    for row, hypothesis in itertools.product(range(3), range(4)):
        one = slice(row, row + 1)
        single = decoder.start(encoded[one, : lengths[row]], lengths[one])
        for token in paths[row, hypothesis]:
            expected, single = decoder.step(token[None], single)
        torch.testing.assert_close(
            together[4 * row + hypothesis], expected[0], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", tiny.ATTENTION_DECODERS)
@torch.no_grad()
def test_a_state_survives_reordering_and_finished_utterances(name):
    decoder = tiny.decoder(name)
    encoded, lengths, _, _ = utterances()
    state = decoder.start(encoded, lengths).select(torch.arange(3).repeat_interleave(2))
    _, state = decoder.step(torch.full((6,), EOS), state)
    _, state = decoder.step(torch.tensor([2, 3, 4, 5, 2, 3]), state)
    after, _ = decoder.step(torch.tensor([3, 3, 4, 4, 5, 5]), state)
    # Utterance 0 leaves, the two hypotheses of utterance 2 swap places.
    kept = state.select(torch.tensor([2, 3, 5, 4]), torch.tensor([1, 2]))
    fewer, _ = decoder.step(torch.tensor([4, 4, 5, 5]), kept)
    torch.testing.assert_close(fewer, after[[2, 3, 5, 4]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", tiny.ATTENTION_DECODERS)
@torch.no_grad()
def test_memory_is_neither_copied_nor_expanded_by_a_step(name):
    decoder = tiny.decoder(name)
    encoded, lengths, _, _ = utterances()
    state = decoder.start(encoded, lengths).select(torch.arange(3).repeat_interleave(4))
    _, after = decoder.step(torch.full((12,), EOS), state)
    before = {key: value.clone() for key, value in after.cache.items()}
    _, later = decoder.step(torch.full((12,), EOS + 1), after)
    assert all(after.cache[key].equal(value) for key, value in before.items())
    assert all(later.memory[key] is value for key, value in after.memory.items())
    assert all(len(value) == 3 for value in after.memory.values())
    assert all(len(value) == 12 for value in after.cache.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_and_the_encoder_receive_a_gradient(name):
    decoder = tiny.decoder(name).train()
    encoded, lengths, tokens, token_lengths = utterances()
    encoded.requires_grad_()
    decoder.loss(encoded, lengths, tokens, token_lengths).total().backward()
    for path, parameter in decoder.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.abs().sum() > 0, path
    for row, length in enumerate(lengths):
        assert encoded.grad[row, :length].abs().sum(1).gt(0).all()
        assert encoded.grad[row, length:].eq(0).all()


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_float32_and_finite_under_bfloat16(name):
    decoder = tiny.decoder(name).train()
    arguments = utterances()
    with torch.autocast("cpu", torch.bfloat16):
        loss = decoder.loss(*arguments)
    assert all(term.sum.dtype == torch.float32 for term in loss.terms.values())
    assert loss.total().isfinite()
    loss.total().backward()
    assert all(parameter.grad.isfinite().all() for parameter in decoder.parameters())


@pytest.mark.parametrize("name", tiny.ATTENTION_DECODERS)
@torch.no_grad()
def test_steps_score_in_float32_under_bfloat16(name):
    decoder = tiny.decoder(name)
    encoded, lengths, _, _ = utterances()
    with torch.autocast("cpu", torch.bfloat16):
        log_probs, state = decoder.step(torch.full((3,), EOS), decoder.start(encoded, lengths))
        log_probs, _ = decoder.step(torch.full((3,), EOS + 1), state)
    assert log_probs.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_counted_flops_equal_the_formula(name):
    decoder = tiny.decoder(name)
    encoded = torch.randn(2, 20, tiny.DIM)
    tokens, full = torch.randint(2, 6, (2, 5)), torch.tensor([20, 20])
    counted = tiny.counted_flops(lambda: decoder.loss(encoded, full, tokens, torch.tensor([5, 5])))
    assert counted == decoder.flops([20, 20], [5, 5])


def test_the_unrolled_attention_has_the_values_and_gradients_of_its_steps():
    torch.manual_seed(0)
    block = LocationAttention(7, 6, 5, channels=3, kernel=5)
    encoded = torch.randn(3, 9, 7, requires_grad=True)
    tokens = torch.randn(3, 4, 24, requires_grad=True)
    real = torch.arange(9) < torch.tensor([9, 4, 7])[:, None]
    weights, leaves = torch.randn(3, 4, 13), [encoded, tokens, *block.parameters()]
    memory = block.remember(encoded, real)
    unrolled = block.unroll(tokens, memory)
    cache, outputs = block.initial_cache(encoded), []
    for token in tokens.unbind(1):
        cache = block(token, memory, cache)
        outputs.append(cache["output"])
    results = []
    for y in (unrolled, torch.stack(outputs, dim=1)):
        gradients = torch.autograd.grad((y * weights).sum(), leaves, retain_graph=True)
        results.append([y, *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_attention_equals_the_additive_formula_of_the_paper():
    torch.manual_seed(0)
    block = LocationAttention(7, 6, 5, channels=3, kernel=5)
    encoded, hidden, before = torch.randn(1, 9, 7), torch.randn(1, 6), torch.rand(1, 9)
    memory = block.remember(encoded, torch.ones(1, 9, dtype=torch.bool))
    context, alignment = block._read(hidden, memory, before)
    place = block.location(before[:, None])[0].T @ block.place  # (S, A)
    energies = block.energy(torch.tanh(block.key(encoded[0]) + block.query(hidden) + place))
    torch.testing.assert_close(alignment[0], energies[:, 0].softmax(0))
    torch.testing.assert_close(context[0], energies[:, 0].softmax(0) @ encoded[0])


@torch.no_grad()
def test_an_lstm_step_equals_that_of_torch():
    torch.manual_seed(0)
    cell = torch.nn.LSTMCell(3, 4)
    x, before = torch.randn(2, 3), (torch.randn(2, 4), torch.randn(2, 4))
    gates = x @ cell.weight_ih.T + before[0] @ cell.weight_hh.T
    actual = lstm_cell(gates + cell.bias_ih + cell.bias_hh, before[1])
    for one, other in zip(actual, cell(x, before), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", tiny.ATTENTION_DECODERS + tiny.TRANSDUCERS)
def test_a_ctc_weight_of_0_leaves_out_the_ctc_head_and_its_loss(name):
    decoder = tiny.DECODER_BUILDERS[name](tiny.DIM, tiny.VOCABULARY, ctc_weight=0)
    loss = decoder.loss(*utterances())
    assert loss.terms.keys() == terms_of(name) - {"ctc"}
    assert all(term.weight == 1 for term in loss.terms.values())
    assert loss.infeasible == 0
    assert decoder.ctc_log_probs(torch.randn(1, 3, tiny.DIM)) is None
    assert not any(path.startswith("ctc") for path, _ in decoder.named_parameters())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_ctc_log_probs_agree_with_the_ctc_loss(name):
    decoder = tiny.decoder(name)
    encoded, lengths, tokens, token_lengths = utterances()
    log_probs = decoder.ctc_log_probs(encoded)
    assert log_probs.shape == (3, 20, tiny.VOCABULARY)
    expected = sum(
        -math.log(ctc_by_hand(log_probs[row, :4].exp(), tokens[row, :2].tolist()))
        for row in range(3)
    )
    short = torch.tensor([4, 4, 4]), tokens[:, :2], torch.tensor([2, 2, 2])
    assert decoder.loss(encoded[:, :4], *short).terms["ctc"].sum.item() == pytest.approx(expected)


def ctc_by_hand(probs, labels):
    """Sum over all paths of (S, V) probabilities that collapse to the labels."""
    total = 0.0
    for path in itertools.product(range(probs.shape[1]), repeat=len(probs)):
        collapsed = [token for token, _ in itertools.groupby(path) if token != BLANK]
        if collapsed == labels:
            total += math.prod(probs[frame, token].item() for frame, token in enumerate(path))
    return total


@pytest.mark.parametrize("frames", [3, 4])
@pytest.mark.parametrize("labels", [[], [1], [1, 2], [1, 1], [2, 1, 2]])
@torch.no_grad()
def test_ctc_loss_is_the_sum_over_all_alignments(frames, labels):
    torch.manual_seed(frames)
    head = CTCHead(5, 3)
    encoded, lengths = torch.randn(1, frames, 5), torch.tensor([frames])
    tokens = torch.tensor([labels], dtype=torch.int64)
    term, infeasible = head.loss(encoded, lengths, tokens, torch.tensor([len(labels)]), 0.3)
    expected = -math.log(ctc_by_hand(head(encoded)[0].exp(), labels))
    assert term.sum.item() == pytest.approx(expected, rel=1e-5)
    assert (term.count.item(), term.weight, infeasible.item()) == (len(labels), 0.3, 0)


def test_infeasible_utterances_are_left_out_and_counted():
    torch.manual_seed(0)
    head = CTCHead(5, 4)
    encoded = torch.randn(4, 3, 5, requires_grad=True)
    tokens = torch.tensor([[1, 2, 3], [1, 1, 2], [2, 2, 2], [1, 3, 3]])
    lengths, token_lengths = torch.tensor([3, 3, 3, 1]), torch.tensor([3, 3, 2, 2])
    assert frames_needed(tokens, token_lengths).tolist() == [3, 4, 3, 2]
    term, infeasible = head.loss(encoded, lengths, tokens, token_lengths, 1.0)
    assert infeasible == 2
    assert term.count == 3 + 2
    rows = [0, 2]
    expected, _ = head.loss(encoded[rows], lengths[rows], tokens[rows], token_lengths[rows], 1.0)
    torch.testing.assert_close(term.sum, expected.sum)
    (gradient,) = torch.autograd.grad(term.sum, encoded)
    assert gradient[[1, 3]].eq(0).all()
    assert gradient[rows].isfinite().all()


def test_repeated_tokens_in_the_padding_need_no_frame():
    tokens = torch.tensor([[2, 3, 3, 3], [2, 2, 0, 0]])
    assert frames_needed(tokens, torch.tensor([2, 2])).tolist() == [2, 3]
    assert frames_needed(tokens, torch.tensor([0, 1])).tolist() == [1, 1]


def test_label_smoothing_spreads_over_the_other_tokens_but_blank():
    torch.manual_seed(0)
    head = CrossEntropyHead(4, 5, label_smoothing=0.2).train()
    x, tokens, frames = torch.randn(1, 3, 4), torch.tensor([[3, 2]]), torch.tensor([1])
    log_probs = head.output(x)[0].log_softmax(-1)  # of the tokens 1, 2, 3, 4
    expected = 0.0
    for position, target in enumerate([3, 2, EOS]):
        for token in range(1, 5):
            share = 0.8 if token == target else 0.2 / 3
            expected -= share * log_probs[position, token - 1].item()
    loss = head.loss(x, frames, tokens, torch.tensor([2]), 1.0)
    assert loss.sum.item() == pytest.approx(expected)
    likelihood = -sum(log_probs[p, t - 1].item() for p, t in enumerate([3, 2, EOS]))
    loss = head.eval().loss(x, frames, tokens, torch.tensor([2]), 1.0)
    assert loss.sum.item() == pytest.approx(likelihood)
    assert loss.count == 3


def test_the_decoder_reads_eos_first_and_predicts_it_last():
    tokens, lengths = torch.tensor([[4, 5, 3], [2, 9, 9]]), torch.tensor([3, 1])
    assert inputs(tokens, lengths).tolist() == [[EOS, 4, 5, 3], [EOS, 2, 0, 0]]
    assert targets(tokens, lengths).tolist() == [[4, 5, 3, EOS], [2, EOS, 0, 0]]


def test_the_total_is_the_weighted_sum_of_means():
    terms = {
        "a": Term(torch.tensor(6.0), torch.tensor(3), 0.5),
        "b": Term(torch.tensor(1.0), torch.tensor(0), 2.0),
    }
    assert Loss(terms, torch.tensor(0)).total() == 0.5 * 2 + 2 * 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ctc_weight": 1.0}, "ctc_weight 1.0"),
        ({"label_smoothing": 1.0}, "label_smoothing 1.0"),
        ({"location_kernel": 4}, "location_kernel 4 is even"),
        ({"vocabulary": 2}, "vocabulary of 2"),
    ],
)
def test_impossible_options_are_refused_with_a_message(options, message):
    with pytest.raises(ValueError, match=message):
        AttentionLSTM(**({"dim": 8, "vocabulary": 6, "width": 8} | options))
