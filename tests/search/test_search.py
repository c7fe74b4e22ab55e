"""Search against enumeration of every token sequence and every CTC alignment."""

import itertools
import math

import pytest
import torch
from torch import nn

from asr.batch import BLANK, EOS, mask
from asr.decoders import DECODERS
from asr.decoders.decoder import AttentionDecoder, State
from asr.search import SEARCHES, Beam, Greedy, Search
from tests.alignments import alignments, log, sequential
from tests.table_language_model import TableLanguageModel

DIM = 6


class Recurrent(AttentionDecoder):
    """A random recurrent decoder over the mean of the real frames; weights from a seed."""

    def __init__(self, vocabulary, seed=0, sharpness=1.5, eos=0.0, ctc=True):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.dim, self.vocabulary = DIM, vocabulary
        self.embed = torch.randn(vocabulary, DIM, generator=generator)
        self.mix = torch.randn(DIM, DIM, generator=generator)
        self.read = sharpness * torch.randn(DIM, vocabulary, generator=generator)
        self.head = torch.randn(DIM, vocabulary, generator=generator) if ctc else None
        self.bias = torch.zeros(vocabulary)
        self.bias[BLANK] = -math.inf
        self.bias[EOS] = eos
        self.rows = []  # of every step, for counting work

    def start(self, encoded, lengths):
        real = mask(lengths, encoded.shape[1])[..., None]
        mean = torch.where(real, encoded, 0.0).sum(1) / lengths[:, None]
        return State({"mean": mean}, {"hidden": torch.zeros(len(encoded), DIM)})

    def step(self, tokens, state):
        mean, hidden = state.memory["mean"], state.cache["hidden"]
        assert len(hidden) == len(tokens)
        self.rows.append(len(tokens))
        mean = mean.repeat_interleave(len(tokens) // len(mean), 0)
        hidden = torch.tanh(hidden @ self.mix + self.embed[tokens] + mean)
        log_probs = (hidden @ self.read + self.bias).log_softmax(-1)
        return log_probs, State(state.memory, {"hidden": hidden})

    def ctc_log_probs(self, encoded):
        return None if self.head is None else (encoded @ self.head).log_softmax(-1)

    def loss(self, encoded, lengths, tokens, token_lengths):
        raise NotImplementedError

    def flops(self, lengths, token_lengths):
        raise NotImplementedError


def frames(*lengths, seed=0):
    """Random frames, with garbage in the padding."""
    generator = torch.Generator().manual_seed(seed)
    encoded = torch.randn(len(lengths), max(lengths), DIM, generator=generator)
    lengths = torch.tensor(lengths)
    garbage = ~mask(lengths, encoded.shape[1])
    return encoded.masked_fill(garbage[..., None], math.nan), lengths


@torch.no_grad()
def attention_score(decoder, encoded, lengths, tokens):
    state, total = decoder.start(encoded, lengths), 0.0
    for last, token in itertools.pairwise((EOS, *tokens)):
        log_probs, state = decoder.step(torch.tensor([last]), state)
        total += float(log_probs[0, token])
    return total


def enumerate_hypotheses(decoder, encoded, lengths, search, language_model=None):
    """Every (score, tokens, attention, CTC and LM score) of one utterance, best first."""
    weight = search.ctc_weight
    totals = None if weight == 0 else alignments(decoder.ctc_log_probs(encoded)[0])
    rows = []
    for size in range(int(lengths[0]) + 1):
        for tokens in itertools.product(range(2, decoder.vocabulary), repeat=size):
            attention = attention_score(decoder, encoded, lengths, (*tokens, EOS))
            ctc = 0.0 if totals is None else log(totals.get(tokens, 0.0))
            lm = language_model.score([*tokens, EOS]) if language_model else 0.0
            score = search.length_bonus * size + search.lm_weight * lm
            score += (1 - weight) * attention + (weight * ctc if weight else 0.0)
            if score > -math.inf:
                rows.append((score, tokens, attention, ctc, lm))
    return sorted(rows, key=lambda row: -row[0])


def assert_same(one, other):
    assert [[h.tokens for h in found] for found in one] == [
        [h.tokens for h in found] for found in other
    ]
    for a, b in zip(itertools.chain(*one), itertools.chain(*other), strict=True):
        assert a.finished == b.finished
        assert a.score == pytest.approx(b.score, rel=1e-6, abs=1e-5)
        assert a.ctc_score == pytest.approx(b.ctc_score, abs=1e-5)
        assert a.lm_score == pytest.approx(b.lm_score, abs=1e-5)


def assert_equal_enumeration(found, expected):
    finished = [h for h in found if h.finished]
    assert found[: len(finished)] == finished
    assert [h.tokens for h in finished] == [row[1] for row in expected]
    for hypothesis, (score, _, attention, ctc, lm) in zip(finished, expected, strict=True):
        assert hypothesis.score == pytest.approx(score, abs=1e-5)
        assert hypothesis.decoder_score == pytest.approx(attention, abs=1e-5)
        assert hypothesis.ctc_score == pytest.approx(ctc, abs=1e-5)
        assert hypothesis.lm_score == pytest.approx(lm, abs=1e-5)


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("length_bonus", [0.0, 0.7, -0.5])
@pytest.mark.parametrize(("V", "S"), [(3, 4), (4, 3), (5, 4)])
def test_a_beam_that_holds_every_hypothesis_equals_enumeration(V, S, length_bonus, ctc_weight):
    decoder = Recurrent(V, seed=V + S)
    encoded, lengths = frames(S, seed=S)
    search = Beam(beam=1000, ctc_weight=ctc_weight, length_bonus=length_bonus, nbest=1000)
    expected = enumerate_hypotheses(decoder, encoded, lengths, search)
    assert_equal_enumeration(search(decoder, encoded, lengths)[0], expected)


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("lm_weight", "length_bonus"), [(0.4, 0.0), (1.5, 0.7), (0.8, -0.5)])
def test_a_full_beam_with_a_language_model_equals_enumeration(lm_weight, length_bonus, ctc_weight):
    decoder, language_model = Recurrent(4, seed=2), TableLanguageModel(4, seed=5)
    encoded, lengths = frames(4, seed=3)
    options = {"beam": 200, "ctc_weight": ctc_weight, "length_bonus": length_bonus, "nbest": 200}
    search = Beam(lm_weight=lm_weight, **options)
    expected = enumerate_hypotheses(decoder, encoded, lengths, search, language_model)
    found = search(decoder, encoded, lengths, language_model)[0]
    assert_equal_enumeration(found, expected)
    (without,) = Beam(**options)(decoder, encoded, lengths)
    assert [h.tokens for h in found] != [h.tokens for h in without]


@pytest.mark.parametrize("lm_weight", [0.0, 0.6])
@pytest.mark.parametrize("nbest", [None, 1, 3, 10])
@pytest.mark.parametrize("length_bonus", [0.0, 1.5, -0.5])
def test_stopping_early_gives_the_best_hypotheses_of_the_full_search(
    length_bonus, nbest, lm_weight
):
    for seed in range(8):
        decoder = Recurrent(4, seed=seed, eos=1.0)
        language_model = TableLanguageModel(4, seed=seed) if lm_weight else None
        encoded, lengths = frames(4, seed=seed)
        search = Beam(
            beam=200, ctc_weight=0.3, length_bonus=length_bonus, lm_weight=lm_weight, nbest=nbest
        )
        expected = enumerate_hypotheses(decoder, encoded, lengths, search, language_model)
        found = search(decoder, encoded, lengths, language_model)[0]
        certain = nbest or 1
        assert [h.tokens for h in found[:certain]] == [row[1] for row in expected[:certain]]
        assert nbest is None or len(found) == nbest


def greedy(decoder, encoded, lengths, ctc_weight):
    """Best token at each step; written with Graves' recursion instead of prefix tables."""
    exact = decoder.ctc_log_probs(encoded)[0].double().numpy()
    state, tokens, total = decoder.start(encoded, lengths), [], 0.0
    while True:
        log_probs, state = decoder.step(torch.tensor([(tokens or [EOS])[-1]]), state)
        scores = {}
        for token in range(1, decoder.vocabulary):
            if token == EOS:
                ctc = sequential(exact, tokens)[1] if tokens else exact[:, BLANK].sum()
            else:
                ctc = sequential(exact, [*tokens, token])[0]
            attention = total + float(log_probs[0, token])
            scores[token] = (1 - ctc_weight) * attention + ctc_weight * ctc
        best = max(scores, key=scores.__getitem__)
        if best == EOS or len(tokens) == len(exact):
            return tuple(tokens), scores[best], best == EOS
        total += float(log_probs[0, best])
        tokens.append(best)


@pytest.mark.parametrize("seed", range(12))
def test_greedy_and_a_beam_of_one_take_the_best_token_at_each_step(seed):
    decoder = Recurrent(7, seed=seed)
    encoded, lengths = frames(9, seed=seed)
    tokens, score, finished = greedy(decoder, encoded, lengths, 0.3)
    for search in (Greedy(), Beam(beam=1)):
        (hypothesis,) = search(decoder, encoded, lengths)[0]
        assert hypothesis.tokens == tokens
        assert hypothesis.finished == finished
        assert hypothesis.score == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("beam", "lm_weight"), [(1, 0), (2, 0), (5, 0), (8, 0), (1, 0.5), (5, 2)])
def test_results_do_not_depend_on_the_rest_of_the_batch(beam, lm_weight, ctc_weight):
    decoder = Recurrent(9, seed=1, eos=-0.5)
    language_model = TableLanguageModel(9, seed=1) if lm_weight else None
    encoded, lengths = frames(11, 3, 1, 30, 17, 8, seed=6)
    search = Beam(beam=beam, ctc_weight=ctc_weight, lm_weight=lm_weight, nbest=beam)
    together = search(decoder, encoded, lengths, language_model)
    alone = [
        search(decoder, encoded[row : row + 1, :length], lengths[row : row + 1], language_model)[0]
        for row, length in enumerate(lengths.tolist())
    ]
    assert_same(together, alone)
    order = [3, 0, 5, 1, 4, 2]
    shuffled = search(decoder, encoded[order], lengths[order], language_model)
    assert_same(shuffled, [alone[row] for row in order])


@pytest.mark.parametrize("search", [Greedy(), Beam(beam=4, nbest=4), Beam(ctc_weight=1.0)])
def test_hypotheses_are_distinct_and_sorted_and_their_score_parts_add_up(search):
    decoder = Recurrent(8, seed=3)
    encoded, lengths = frames(12, 9, 20, seed=3)
    for found in search(decoder, encoded, lengths):
        assert len({h.tokens for h in found}) == len(found)
        ranks = [(-h.finished, -h.score) for h in found]
        assert ranks == sorted(ranks)
        for h in found:
            w = 0.3 if search.ctc_weight is None else search.ctc_weight
            assert BLANK not in h.tokens
            assert EOS not in h.tokens
            assert h.score == pytest.approx((1 - w) * h.decoder_score + w * h.ctc_score)


def test_the_length_bonus_is_added_per_token():
    decoder = Recurrent(6, seed=2)
    encoded, lengths = frames(8, seed=2)
    for h in Beam(beam=4, nbest=4, length_bonus=0.9)(decoder, encoded, lengths)[0]:
        plain = 0.7 * h.decoder_score + 0.3 * h.ctc_score
        assert h.score == pytest.approx(plain + 0.9 * len(h.tokens))


def test_the_widest_beam_is_never_beaten():
    for seed in range(6):
        decoder = Recurrent(5, seed=seed)
        encoded, lengths = frames(4, seed=seed)
        tops = [Beam(beam=k)(decoder, encoded, lengths)[0][0] for k in (1, 2, 4, 16, 1000)]
        assert all(h.score <= tops[-1].score + 1e-9 for h in tops)


class Stubborn(Recurrent):
    """Never stops."""

    def step(self, tokens, state):
        log_probs, state = super().step(tokens, state)
        log_probs[:, EOS] = -math.inf
        return log_probs, state


@pytest.mark.parametrize("search", [Greedy(ctc_weight=0), Beam(beam=3, ctc_weight=0, nbest=2)])
def test_a_decoder_that_never_ends_is_truncated_at_the_number_of_frames(search):
    decoder = Stubborn(6, ctc=False)
    encoded, lengths = frames(7, 4)
    for found, length in zip(search(decoder, encoded, lengths), (7, 4), strict=True):
        assert len(found) == (1 if isinstance(search, Greedy) else 2)
        assert {len(h.tokens) for h in found} == {length}
        assert not any(h.finished for h in found)
        assert all(math.isfinite(h.score) for h in found)


@pytest.mark.parametrize("search", [Greedy(), Beam(beam=3), Beam(beam=3, ctc_weight=1.0)])
def test_ctc_ends_a_decoder_that_never_ends_when_frames_run_out(search):
    found = search(Stubborn(6), *frames(5, 9))
    assert not any(h.finished for hypotheses in found for h in hypotheses)
    assert all(len(hypotheses[0].tokens) <= S for hypotheses, S in zip(found, (5, 9), strict=True))


class Endless(TableLanguageModel):
    """Never ends a sentence, and loves one token above all."""

    def __init__(self, vocabulary):
        super().__init__(vocabulary, sharpness=0.1, eos=-math.inf)
        self.bias[2] = 8.0


@pytest.mark.parametrize("beam", [1, 4])
def test_a_language_model_that_never_ends_stops_with_the_frames(beam):
    search = Beam(beam=beam, ctc_weight=0.0, lm_weight=1.0, length_bonus=3.0)
    found = search(Recurrent(6, eos=3.0), *frames(7, 4), Endless(6))
    for hypotheses, length in zip(found, (7, 4), strict=True):
        assert {len(h.tokens) for h in hypotheses} == {length}
        assert not any(h.finished for h in hypotheses)


def heard(labels, V, certainty):
    """Log-probabilities in which a CTC head has heard these labels, a blank after each."""
    path = list(itertools.chain(*((label, BLANK) for label in labels)))
    probabilities = torch.full((len(path), V), (1 - certainty) / (V - 1))
    probabilities[range(len(path)), path] = certainty
    return probabilities.log()


class Hearing(Recurrent):
    """What its CTC head heard is fixed; its attention loops on one token, or ends at once."""

    def __init__(self, labels, bias):
        super().__init__(8, seed=4, sharpness=0.3)
        self.heard = heard(labels, 8, 0.9999)
        for token, value in bias.items():
            self.bias[token] = value

    def ctc_log_probs(self, encoded):
        return self.heard.expand(len(encoded), -1, -1)


@pytest.mark.parametrize("bias", [{2: 4.0}, {2: 4.0, EOS: -8.0}, {EOS: 6.0}, {EOS: -6.0}])
@pytest.mark.parametrize("lm_weight", [0.0, 0.3])
def test_ctc_scores_keep_attention_from_looping_and_from_stopping_early(lm_weight, bias):
    labels = [3, 5, 5, 4, 7, 6, 3, 3, 7, 4]
    search = Beam(beam=8, ctc_weight=0.5, lm_weight=lm_weight)
    language_model = TableLanguageModel(8, seed=1, sharpness=0.2) if lm_weight else None
    (found,) = search(Hearing(labels, bias), *frames(2 * len(labels)), language_model)
    assert found[0].finished
    assert list(found[0].tokens) == labels


class Silent(Stubborn):
    """Never stops, while its CTC head hears little."""

    def ctc_log_probs(self, encoded):
        log_probs = torch.full((*encoded.shape[:2], self.vocabulary), 0.01 / 5).log()
        log_probs[..., BLANK] = math.log(0.99)
        return log_probs


def test_the_maximum_length_follows_the_length_that_ctc_expects():
    (found,) = Greedy()(Silent(6), *frames(400))[0:1]
    limit = int(2 * 400 * 0.01 + 10)
    assert limit - 1 <= len(found[0].tokens) <= limit
    assert not found[0].finished


def test_a_finished_hypothesis_ranks_above_a_better_unfinished_one():
    better = 0
    for seed in range(10):
        decoder = Recurrent(5, seed=seed, ctc=False)
        found = Beam(beam=8, ctc_weight=0, nbest=8)(decoder, *frames(3))[0]
        flags = [h.finished for h in found]
        assert flags == sorted(flags, reverse=True)
        assert all(len(h.tokens) == 3 for h in found if not h.finished)
        worst = min(h.score for h in found if h.finished)
        better += any(h.score > worst for h in found if not h.finished)
    assert better


def test_each_step_scores_only_the_open_hypotheses():
    decoder = Recurrent(6, ctc=False, eos=50.0)
    found = Beam(beam=4, ctc_weight=0)(decoder, *frames(9, 5, 7))
    assert [hypotheses[0].tokens for hypotheses in found] == [(), (), ()]
    assert decoder.rows == [3]  # one row per utterance, one step
    decoder = Stubborn(6, ctc=False)
    Beam(beam=4, ctc_weight=0)(decoder, *frames(2, 4))
    assert decoder.rows == [2, 8, 8, 4, 4]  # widened after the first step; one leaves after two


def test_an_utterance_without_frames_has_the_empty_hypothesis():
    decoder = Recurrent(6, seed=1)
    encoded, _ = frames(4, 4, 4)
    with_empty = Beam(beam=2)(decoder, encoded, torch.tensor([0, 4, 0]))
    assert [h.tokens for h in with_empty[0] + with_empty[2]] == [(), ()]
    assert with_empty[0][0].finished
    assert_same([with_empty[1]], Beam(beam=2)(decoder, encoded[1:2], torch.tensor([4])))
    assert Greedy()(decoder, encoded[:, :0], torch.tensor([0, 0, 0])) == [with_empty[0]] * 3
    assert Greedy()(decoder, encoded[:0], torch.tensor([], dtype=torch.long)) == []


def test_nan_names_the_utterance_and_the_remedy():
    encoded, lengths = frames(4, 4, 4)
    encoded[1] = math.nan
    for ctc_weight in (0.0, 0.3):
        with pytest.raises(ValueError, match=r"NaN for utterances 1 of the batch: check"):
            Beam(beam=2, ctc_weight=ctc_weight)(Recurrent(6), encoded, lengths)


def test_ctc_without_a_head_is_refused():
    with pytest.raises(ValueError, match=r"ctc_weight is 0.3 but the decoder has no CTC head"):
        Greedy(ctc_weight=0.3)(Recurrent(6, ctc=False), *frames(4))


def test_by_default_ctc_takes_part_if_the_decoder_has_a_ctc_head():
    for decoder, weight in ((Recurrent(6), 0.3), (Recurrent(6, ctc=False), 0.0)):
        for search in (Greedy, Beam):
            found = search()(decoder, *frames(7, 4))
            assert found == search(ctc_weight=weight)(decoder, *frames(7, 4))
            assert any(h.ctc_score for (h, *_) in found) == bool(weight)


def test_a_language_model_that_does_not_fit_is_refused():
    decoder, language_model = Recurrent(6), TableLanguageModel(6)
    with pytest.raises(ValueError, match=r"lm_weight is 0.0 and a language model is given; set"):
        Beam()(decoder, *frames(4), language_model)
    with pytest.raises(ValueError, match=r"lm_weight is 0.5 and no language model is given; set"):
        Beam(lm_weight=0.5)(decoder, *frames(4))
    with pytest.raises(ValueError, match=r"has 5 tokens, the decoder 6: take one"):
        Beam(lm_weight=0.5)(decoder, *frames(4), TableLanguageModel(5))
    with pytest.raises(ValueError, match="greedy search takes no language model"):
        Greedy()(decoder, *frames(4), language_model)
    with pytest.raises(ValueError, match=r"internal_lm_weight is 0.2: it is for transducers; Rec"):
        Beam(internal_lm_weight=0.2)(decoder, *frames(4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "beam is 0"),
        ({"ctc_weight": 1.5}, "ctc_weight is 1.5"),
        ({"ctc_weight": math.nan}, "ctc_weight is nan"),
        ({"length_bonus": math.inf}, "length_bonus is inf"),
        ({"lm_weight": -0.1}, "lm_weight is -0.1"),
        ({"internal_lm_weight": math.inf}, "internal_lm_weight is inf"),
        ({"nbest": 0}, "nbest is 0"),
        ({"beam": 4, "nbest": 5}, "nbest is 5"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Beam(**options)


def test_gradients_are_not_recorded_and_weights_stay_usable():
    decoder = Recurrent(6)
    decoder.head = nn.Parameter(decoder.head)
    encoded, lengths = frames(5)
    Greedy()(decoder, encoded, lengths)
    decoder.ctc_log_probs(encoded).sum().backward()
    assert decoder.head.grad is not None


def real_decoder(name):
    torch.manual_seed(4)
    options = {
        "AttentionLSTM": {"attention": 8, "location_kernel": 5},
        "Transformer": {"layers": 2, "heads": 2},
    }
    decoder = DECODERS[name](16, 8, width=16, **options[name]).eval()
    for parameter in decoder.parameters():
        parameter.data *= 1.5  # opinions, not the uniform distribution of a fresh model
    return decoder


ATTENTION = [name for name, cls in DECODERS.items() if issubclass(cls, AttentionDecoder)]


@pytest.mark.parametrize("name", ATTENTION)
def test_with_a_real_decoder_scores_are_those_of_each_hypothesis_alone(name):
    decoder = real_decoder(name)
    lengths = torch.tensor([14, 5, 23, 9])
    encoded = torch.randn(4, 23, 16, generator=torch.Generator().manual_seed(2))
    search = Beam(beam=5, nbest=5)
    together = search(decoder, encoded, lengths)
    for row, length in enumerate(lengths.tolist()):
        frames_here, length_here = encoded[row : row + 1, :length], lengths[row : row + 1]
        assert_same([together[row]], search(decoder, frames_here, length_here))
        log_probs = decoder.ctc_log_probs(frames_here).detach().double().transpose(0, 1)
        for h in together[row]:
            tokens = torch.tensor([h.tokens], dtype=torch.long)
            sizes = torch.tensor([len(h.tokens)])
            loss = torch.nn.functional.ctc_loss(
                log_probs, tokens, length_here, sizes, blank=BLANK, reduction="sum"
            )
            attention = attention_score(decoder, frames_here, length_here, (*h.tokens, EOS))
            assert h.finished
            assert h.ctc_score == pytest.approx(-float(loss), abs=1e-4)
            assert h.decoder_score == pytest.approx(attention, abs=1e-4)


def test_the_table_names_final_searches():
    assert {name: cls.__name__ for name, cls in SEARCHES.items()} == {
        "Beam": "Beam",
        "Greedy": "Greedy",
    }
    assert all(issubclass(cls, Search) and not cls.__subclasses__() for cls in SEARCHES.values())
    assert repr(Beam(beam=4)) == (
        "Beam(beam=4, ctc_weight=None, length_bonus=0.0, lm_weight=0.0, "
        "internal_lm_weight=0.0, nbest=None)"
    )
    assert repr(Greedy(ctc_weight=0.5)) == "Greedy(ctc_weight=0.5)"


def test_a_hypothesis_that_ended_is_not_continued_by_the_unknown_token():
    decoder, search = Recurrent(5, seed=12), Beam(beam=3, ctc_weight=0.3, length_bonus=0.7)
    encoded, lengths = frames(5, 9, 0, 3, 7, seed=12)
    encoded = encoded.nan_to_num()
    together = search(decoder, encoded, lengths)
    alone = [
        search(decoder, one[None, :length], torch.tensor([length]))[0]
        for one, length in zip(encoded, lengths.tolist(), strict=True)
    ]
    assert_same(together, alone)
