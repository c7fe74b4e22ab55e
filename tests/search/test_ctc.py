"""Search over CTC alone against every alignment, and against a search over dictionaries."""

import math
from collections import defaultdict

import pytest
import torch

from asr.batch import BLANK, EOS, mask
from asr.decoders.decoder import Decoder
from asr.search import Beam, Greedy
from tests.alignments import alignments, collapse, log
from tests.table_language_model import TableLanguageModel


class Head(Decoder):
    """A CTC head whose logits are the encoder's frames."""

    def __init__(self, vocabulary):
        super().__init__()
        self.dim = self.vocabulary = vocabulary

    def ctc_log_probs(self, encoded):
        return encoded.log_softmax(-1)

    def loss(self, encoded, lengths, tokens, token_lengths):
        raise NotImplementedError

    def flops(self, lengths, token_lengths):
        raise NotImplementedError


def frames(*lengths, V, seed=0, sharpness=1.0):
    """Random logits (B, S, V) with garbage in the padding, and lengths."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(len(lengths), max(lengths), V, generator=generator)
    lengths = torch.tensor(lengths)
    return logits.masked_fill(~mask(lengths, logits.shape[1])[..., None], math.nan), lengths


def enumerate_hypotheses(logits, search, language_model=None):
    """Every (score, tokens, CTC and LM score), best first, from (S, V)."""
    rows = []
    for tokens, probability in alignments(logits.log_softmax(-1)).items():
        if EOS in tokens:
            continue
        lm = language_model.score([*tokens, EOS]) if language_model else 0.0
        score = log(probability) + search.lm_weight * lm + search.length_bonus * len(tokens)
        rows.append((score, tokens, log(probability), lm))
    return sorted(rows, key=lambda row: -row[0])


def by_dictionaries(logits, search, language_model=None):
    """Hannun's algorithm as it is written: prefixes are keys, and every token is tried."""

    def rank(prefix, parts, ended=()):
        lm = language_model.score([*prefix, *ended]) if language_model else 0.0
        return log(sum(parts)) + search.lm_weight * lm + search.length_bonus * len(prefix)

    live = {(): (1.0, 0.0)}
    for probabilities in logits.double().softmax(-1).tolist():
        after = defaultdict(lambda: [0.0, 0.0])
        for prefix, (blank, label) in live.items():
            after[prefix][0] += (blank + label) * probabilities[BLANK]
            if prefix:
                after[prefix][1] += label * probabilities[prefix[-1]]
            for token in range(2, len(probabilities)):
                arrived = blank if prefix[-1:] == (token,) else blank + label
                after[(*prefix, token)][1] += arrived * probabilities[token]
        best = sorted(after, key=lambda prefix: -rank(prefix, after[prefix]))
        live = {prefix: tuple(after[prefix]) for prefix in best[: search.beam]}
    rows = [
        (rank(prefix, parts, (EOS,)), prefix, log(sum(parts))) for prefix, parts in live.items()
    ]
    return sorted(rows, key=lambda row: -row[0])


def assert_same(one, other):
    for found, expected in zip(one, other, strict=True):
        assert [h.tokens for h in found] == [h.tokens for h in expected]
        for a, b in zip(found, expected, strict=True):
            assert a.score == pytest.approx(b.score, abs=1e-5)
            assert a.decoder_score == pytest.approx(b.decoder_score, abs=1e-5)
            assert a.lm_score == pytest.approx(b.lm_score, abs=1e-5)
            assert a.finished == b.finished


@pytest.mark.parametrize(
    ("lm_weight", "length_bonus"), [(0.0, 0.0), (0.0, 0.8), (0.5, 0.0), (1.5, -0.6)]
)
@pytest.mark.parametrize(("V", "S"), [(3, 1), (3, 6), (4, 5), (5, 4)])
def test_a_beam_that_holds_every_prefix_equals_the_sum_over_all_alignments(
    V, S, lm_weight, length_bonus
):
    logits, lengths = frames(S, V=V, seed=V * S)
    language_model = TableLanguageModel(V, seed=S) if lm_weight else None
    search = Beam(beam=400, length_bonus=length_bonus, lm_weight=lm_weight)
    expected = enumerate_hypotheses(logits[0], search, language_model)
    (found,) = search(Head(V), logits, lengths, language_model)
    assert [h.tokens for h in found] == [row[1] for row in expected]
    for hypothesis, (score, _, ctc, lm) in zip(found, expected, strict=True):
        assert hypothesis.finished
        assert hypothesis.ctc_score == 0.0
        assert hypothesis.score == pytest.approx(score, abs=1e-6)
        assert hypothesis.decoder_score == pytest.approx(ctc, abs=1e-6)
        assert hypothesis.lm_score == pytest.approx(lm, abs=1e-5)


@pytest.mark.parametrize("lm_weight", [0.0, 0.7])
@pytest.mark.parametrize("beam", [1, 2, 3, 6, 17])
def test_a_narrow_beam_keeps_what_a_search_over_dictionaries_keeps(beam, lm_weight):
    for seed in range(6):
        V = (4, 30)[seed % 2]  # with few tokens prefixes leave, come back, and meet their children
        logits, lengths = frames(14, V=V, seed=seed, sharpness=0.7 + seed / 2)
        language_model = TableLanguageModel(V, seed=seed, sharpness=0.5) if lm_weight else None
        search = Beam(beam=beam, length_bonus=0.3, lm_weight=lm_weight)
        expected = by_dictionaries(logits[0], search, language_model)
        (found,) = search(Head(V), logits, lengths, language_model)
        assert [h.tokens for h in found] == [row[1] for row in expected]
        for hypothesis, (score, _, ctc) in zip(found, expected, strict=True):
            assert hypothesis.score == pytest.approx(score, abs=1e-5)
            assert hypothesis.decoder_score == pytest.approx(ctc, abs=1e-6)


@pytest.mark.parametrize("lm_weight", [0.0, 0.7])
@pytest.mark.parametrize("beam", [1, 4, 8])
def test_results_do_not_depend_on_the_rest_of_the_batch(beam, lm_weight):
    logits, lengths = frames(9, 1, 25, 4, 16, V=7, seed=5)
    language_model = TableLanguageModel(7, seed=2) if lm_weight else None
    search, decoder = Beam(beam=beam, lm_weight=lm_weight), Head(7)
    alone = [
        search(decoder, logits[row : row + 1, :length], lengths[row : row + 1], language_model)[0]
        for row, length in enumerate(lengths.tolist())
    ]
    assert_same(search(decoder, logits, lengths, language_model), alone)
    order = [3, 0, 4, 1, 2]
    shuffled = search(decoder, logits[order], lengths[order], language_model)
    assert_same(shuffled, [alone[row] for row in order])
    if not lm_weight:
        greedy = Greedy()(decoder, logits, lengths)
        for row, length in enumerate(lengths.tolist()):
            here = Greedy()(decoder, logits[row : row + 1, :length], lengths[row : row + 1])
            assert_same([greedy[row]], here)


@pytest.mark.parametrize("lm_weight", [0.0, 0.4])
def test_hypotheses_are_distinct_and_sorted_and_their_score_parts_add_up(lm_weight):
    logits, lengths = frames(30, 12, V=6, seed=1, sharpness=0.5)
    logits[..., EOS] += 5  # what the head must never say
    language_model = TableLanguageModel(6) if lm_weight else None
    search = Beam(beam=12, nbest=10, length_bonus=0.2, lm_weight=lm_weight)
    for found in search(Head(6), logits, lengths, language_model):
        assert len(found) == len({h.tokens for h in found}) == 10
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        for h in found:
            assert not {BLANK, EOS} & {*h.tokens}
            total = h.decoder_score + lm_weight * h.lm_score + 0.2 * len(h.tokens)
            assert h.score == pytest.approx(total)
            if language_model:
                expected = language_model.score([*h.tokens, EOS])
                assert h.lm_score == pytest.approx(expected, abs=1e-4)
    for (h,) in Greedy()(Head(6), logits, lengths):
        assert not {BLANK, EOS} & {*h.tokens}


def test_scores_approach_the_likelihood_from_below():
    logits, lengths = frames(40, V=6, seed=3, sharpness=3.0)
    before = -math.inf
    for beam in (1, 4, 32, 256):
        best = Beam(beam=beam)(Head(6), logits, lengths)[0][0]
        loss = torch.nn.functional.ctc_loss(
            logits.double().log_softmax(-1).transpose(0, 1),
            torch.tensor([best.tokens]),
            lengths,
            torch.tensor([len(best.tokens)]),
            blank=BLANK,
            reduction="sum",
        )
        assert before - 1e-9 <= best.decoder_score <= -float(loss) + 1e-9
        before = best.decoder_score
    assert best.decoder_score == pytest.approx(-float(loss), abs=0.1)


def test_greedy_search_collapses_the_likeliest_path():
    logits, lengths = frames(50, 31, 1, V=5, seed=2)
    found = Greedy()(Head(5), logits, lengths)
    for row, length in enumerate(lengths.tolist()):
        log_probs = logits[row, :length].log_softmax(-1)
        log_probs[:, EOS] = -math.inf
        (hypothesis,) = found[row]
        assert hypothesis.tokens == collapse(log_probs.argmax(-1).tolist())
        assert hypothesis.score == pytest.approx(float(log_probs.amax(-1).sum()), rel=1e-5)
        assert hypothesis.decoder_score == hypothesis.score
        assert hypothesis.finished


class Endless(TableLanguageModel):
    """Never ends a sentence, and loves one token above all."""

    def __init__(self, vocabulary, sharpness=0.1):
        super().__init__(vocabulary, sharpness=sharpness, eos=-math.inf)
        self.bias[2] = 5.0


@pytest.mark.parametrize("search", [Greedy(), Beam(), Beam(beam=3, lm_weight=0.3)])
def test_every_spoken_token_is_recognised_exactly_once(search):
    V, labels = 12, [3, 3, 2, 2, 2, *range(2, 12), 5, 5] * 12
    for gap in (1, 2, 7):
        path = [label for spoken in labels for label in (spoken, *[BLANK] * gap)]
        logits = 12 * torch.nn.functional.one_hot(torch.tensor([path]), V).float()
        language_model = Endless(V, sharpness=0.0) if getattr(search, "lm_weight", 0) else None
        (found,) = search(Head(V), logits, torch.tensor([len(path)]), language_model)
        assert list(found[0].tokens) == labels


def test_a_hypothesis_that_the_language_model_cannot_end_is_unfinished():
    logits, lengths = frames(5, 3, V=4, seed=1)
    for found in Beam(beam=3, lm_weight=0.5)(Head(4), logits, lengths, Endless(4)):
        assert len(found) == 3
        for h in found:
            assert not h.finished
            assert h.score == pytest.approx(h.decoder_score + 0.5 * h.lm_score)
            assert h.lm_score == pytest.approx(Endless(4).score(h.tokens), abs=1e-5)


def test_the_language_model_advances_only_hypotheses_that_grew():
    V, path = 6, [BLANK, BLANK, 3, BLANK, BLANK, BLANK]
    logits = 30 * torch.nn.functional.one_hot(torch.tensor([path, path]), V).float()
    language_model = TableLanguageModel(V)
    Beam(beam=1, lm_weight=0.1)(Head(V), logits, torch.tensor([6, 6]), language_model)
    assert language_model.rows == [2, 2]


def test_an_utterance_without_frames_has_the_empty_hypothesis():
    logits, lengths = frames(4, 4, V=5)
    lengths = torch.tensor([4, 0])
    for search, language_model in (
        (Greedy(), None),
        (Beam(beam=3), None),
        (Beam(beam=3, lm_weight=0.5), TableLanguageModel(5)),
    ):
        decoder = Head(5)
        ((h,),) = search(decoder, logits, lengths, *[language_model][: bool(language_model)])[1:]
        assert (h.tokens, h.decoder_score, h.finished) == ((), 0.0, True)
        assert search(decoder, logits[:0], lengths[:0], language_model) == []
        ((h,), _) = search(decoder, logits[:, :0], torch.tensor([0, 0]), language_model)
        assert h.tokens == ()


def test_nan_names_the_utterance_and_the_remedy():
    logits, lengths = frames(4, 4, 4, V=5)
    logits[1, 2, 3] = math.nan
    for search in (Greedy(), Beam()):
        with pytest.raises(ValueError, match=r"NaN for utterances 1 of the batch: check"):
            search(Head(5), logits, lengths)


def test_options_of_other_decoders_are_refused():
    logits, lengths = frames(4, V=5)
    for search in (Greedy(ctc_weight=0.3), Beam(ctc_weight=0.3)):
        with pytest.raises(ValueError, match=r"ctc_weight is 0.3: it is for attention decoders; H"):
            search(Head(5), logits, lengths)
