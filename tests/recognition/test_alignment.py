import itertools
import math

import pytest
import torch

from asr.batch import BLANK, EOS
from asr.decoders import Transducer
from asr.recognition import alignment
from asr.recognition.alignment import (
    align_words,
    aligns,
    confidence,
    ctc_spans,
    lattice,
    spelled,
    viterbi,
)
from asr.search.calibration import Calibration
from asr.text.tokenizers import Characters, SentencePiece
from tests.tiny import ATTENTION_DECODERS, DECODER_BUILDERS, DIM, TRANSDUCERS, VOCABULARY, decoder

LETTERS = Characters((), alphabet="abc ")  # " " 3, a 4, b 5, c 6
SHORT = Characters((), alphabet="ab ")  # " " 3, a 4, b 5


class Said(torch.nn.Module):
    """A decoder with a CTC head whose frames are what it says: (B, S, V) log-probabilities."""

    aligner = "ctc"

    def ctc_log_probs(self, encoded):
        return encoded


def by_ctc(log_probs, text, frame_seconds=0.04, calibration=None):
    tokens = LETTERS.encode(text)
    return alone(Said(), log_probs[None], tokens, LETTERS, frame_seconds, calibration)


def alone(decoder, encoded, tokens, *rest):
    """The words of one utterance (1, S, D)."""
    [words] = align_words(decoder, encoded, torch.tensor([encoded.shape[1]]), [tokens], *rest)
    return words


def peaks(frames, vocabulary=7, probability=0.9):
    """(S, V): each frame's token has the probability, the others share the rest."""
    rest = (1 - probability) / (vocabulary - 1)
    log_probs = torch.full((len(frames), vocabulary), math.log(rest))
    for frame, token in enumerate(frames):
        log_probs[frame, token] = math.log(probability)
    return log_probs


def test_words_have_the_times_at_which_their_letters_were_emitted():
    #        _  a  a  _  b  _  sp _  c  _
    frames = [0, 4, 4, 0, 5, 0, 3, 0, 6, 0]
    first, second = by_ctc(peaks(frames), "ab c")
    assert (first.text, first.start, first.end) == ("ab", 0.04, 0.2)
    assert (second.text, second.start, second.end) == ("c", 0.32, 0.36)
    assert first.confidence == pytest.approx(0.9 / (1 - 0.1 / 6))
    assert second.confidence == pytest.approx(first.confidence)


def test_a_doubtful_word_has_less_confidence():
    log_probs = peaks([4, 0, 3, 0, 5, 0])
    log_probs[4] = torch.log(torch.tensor([0.1, 0.1, 0.1, 0.1, 0.1, 0.3, 0.2]))
    sure, doubtful = by_ctc(log_probs, "a b")
    assert sure.confidence == pytest.approx(0.9 / (1 - 0.1 / 6))
    assert doubtful.confidence == pytest.approx(0.3 / (1 - 0.1))


def test_a_confidence_is_the_geometric_mean_over_tokens_of_their_best_frames():
    log_probs = peaks([0, 4, 4, 4, 0, 5])
    for frame, row in ((1, [0.5, 0, 0, 0, 0.4, 0.1, 0]), (2, [0.2, 0, 0, 0, 0.6, 0.2, 0])):
        log_probs[frame] = torch.log(torch.tensor(row))
    log_probs[3] = torch.log(torch.tensor([0.3, 0, 0, 0, 0.5, 0.2, 0]))
    log_probs[5] = torch.log(torch.tensor([0.5, 0, 0, 0, 0.1, 0.2, 0.2]))
    [word] = by_ctc(log_probs, "ab")
    assert word.confidence == pytest.approx(math.sqrt(0.6 / 0.8 * 0.2 / 0.5))


def test_a_confidence_is_finite_even_for_vanishing_token_probabilities():
    log_probs = torch.full((3, 7), -math.inf)
    log_probs[:, BLANK] = 0.0
    log_probs[1] = torch.log(torch.tensor([1 - 1e-30, 0, 0, 0, 1e-30, 0, 0]))
    [word] = by_ctc(log_probs, "a")
    assert word.confidence == pytest.approx(1.0)  # nothing else could have been said
    assert confidence([0.0, 1.0]) == 0.0
    assert confidence([1e-200] * 4) == pytest.approx(1e-200)


def test_the_ctc_path_is_the_likeliest_of_all():
    """Every path of 6 frames over 4 symbols that collapses to the tokens, tried one by one."""
    torch.manual_seed(0)
    log_probs = torch.log_softmax(2 * torch.randn(6, 4), dim=-1)
    tokens = [1, 1, 3]
    best, best_path = -math.inf, None
    for path in itertools.product(range(4), repeat=6):
        collapsed = [t for t, _ in itertools.groupby(path) if t]
        total = sum(float(log_probs[i, t]) for i, t in enumerate(path))
        if collapsed == tokens and total > best:
            best, best_path = total, path
    spans = ctc_spans(log_probs, tokens)
    ours = [0] * 6
    for token, span in zip(tokens, spans, strict=True):
        ours[span.start : span.end] = [token] * (span.end - span.start)
    assert tuple(ours) == best_path


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("size", [30, 60])
def test_pieces_and_characters_spell_the_same_words(kind, size):
    texts = ["the cat sat on the mat", "a theatre has seats", "that hat is the cat's", "on  it"]
    pieces = SentencePiece(texts, size=size, kind=kind)
    for tokenizer in (pieces, Characters(texts)):
        for text in texts:
            tokens = tokenizer.encode(text)
            words, places, reached = spelled(tokens, tokenizer)
            assert reached[-1] == len(words[-1])
            assert words == text.split()
            rebuilt = [
                "".join(tokenizer.decode([t]) for t in group) for group in _by(places, tokens)
            ]
            assert [word.strip() for word in rebuilt] == text.split()
            numbers = [place.start for place in places if len(place)]
            assert numbers == sorted(numbers)


def _by(places, tokens):
    number = max(place.stop for place in places)
    return [[t for t, p in zip(tokens, places, strict=True) if n in p] for n in range(number)]


def test_separators_belong_to_no_word():
    tokens = LETTERS.encode(" a  bc ")
    words, places, reached = spelled(tokens, LETTERS)
    assert words == ["a", "bc"]
    assert reached == [0, 1, 1, 1, 1, 2, 2]
    assert [list(place) for place in places] == [[], [0], [], [], [1], [1], []]


def test_an_unknown_token_is_a_word_with_times():
    words = alone(Said(), peaks([2, 0, 3, 0, 4])[None], [2, 3, 4], LETTERS, 0.04)
    assert [word.start for word in words] == [0.0, pytest.approx(0.16)]


@pytest.mark.parametrize(
    ("tokens", "frames", "fits"),
    [
        ([4, 5], 2, True),
        ([4, 4], 2, False),
        ([4, 4], 3, True),
        ([4, 5, 6], 2, False),
        ([], 0, True),
    ],
)
def test_each_token_needs_a_frame_and_equal_neighbours_one_more(tokens, frames, fits):
    log_probs = torch.log_softmax(torch.zeros(frames, 7), dim=-1)
    assert (ctc_spans(log_probs, tokens) is not None) == fits


def test_words_without_enough_frames_get_evenly_spread_times_and_a_mark():
    words = by_ctc(torch.zeros(2, 7), "a b", 0.5)
    assert [(w.text, w.start, w.end, w.confidence) for w in words] == [
        ("a", 0.0, 0.5, None),
        ("b", 0.5, 1.0, None),
    ]


def test_a_calibrated_model_gives_calibrated_confidences():
    calibration = Calibration(0.5, -1.0)
    frames = peaks([4, 0, 3, 0, 5, 0])
    for raw, mended in zip(
        by_ctc(frames, "a b"), by_ctc(frames, "a b", calibration=calibration), strict=True
    ):
        assert (raw.start, raw.end) == (mended.start, mended.end)
        assert mended.confidence == calibration.apply(raw.confidence) != raw.confidence
    guessed = by_ctc(torch.zeros(2, 7), "a b", calibration=calibration)
    assert [word.confidence for word in guessed] == [None, None]


# --- Transducers ---


def paths(frames, tokens):
    """Every path: the frame of each token, never earlier than that of the one before."""
    return itertools.combinations_with_replacement(range(frames), tokens)


def score(blank, emit, path):
    """Walks it cell by cell, as Graves draws it: tokens upwards, BLANK to the right."""
    total, u = 0.0, 0
    for t in range(len(blank)):
        while u < len(path) and path[u] == t:
            total += float(emit[t, u])
            u += 1
        total += float(blank[t, u])
    return total


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("tokens", [0, 1, 3, 4])
@pytest.mark.parametrize("sharpness", [0.3, 3.0])
def test_the_path_through_a_lattice_is_the_likeliest_of_all(frames, tokens, sharpness):
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        shape = (frames, tokens + 1)
        blank = -sharpness * torch.rand(shape, generator=generator, dtype=torch.double)
        emit = -sharpness * torch.rand(shape, generator=generator, dtype=torch.double)[:, :-1]
        best = max(paths(frames, tokens), key=lambda path: score(blank, emit, path))
        found, total = viterbi(blank, emit)
        assert tuple(found.tolist()) == best
        assert float(total) == pytest.approx(score(blank, emit, best))


def test_the_path_through_a_long_lattice_equals_the_plain_recursion():
    generator = torch.Generator().manual_seed(0)
    blank = torch.randn(70, 41, generator=generator).double() - 5
    emit = torch.randn(70, 40, generator=generator).double() - 5
    best = torch.full((70, 41), -torch.inf, dtype=torch.double)
    best[0, 0] = 0
    for t, u in itertools.product(range(70), range(41)):
        if t:
            best[t, u] = torch.maximum(best[t, u], best[t - 1, u] + blank[t - 1, u])
        if u:
            best[t, u] = torch.maximum(best[t, u], best[t, u - 1] + emit[t, u - 1])
    found, total = viterbi(blank, emit)
    assert float(total) == pytest.approx(float(best[-1, -1] + blank[-1, -1]))
    assert score(blank, emit, found.tolist()) == pytest.approx(float(total))


def encoded(frames, seed=1):
    return 2 * torch.randn(1, frames, DIM, generator=torch.Generator().manual_seed(seed))


def predicted(transducer, tokens):
    """(U + 1, J), step by step."""
    cache, steps = transducer.begin(1), []
    for token in [EOS, *tokens]:
        prediction, cache = transducer.predict(torch.tensor([token]), cache)
        steps.append(prediction)
    return torch.cat(steps)


def transducer_spans(transducer, frames, tokens):
    return alignment.transducer_spans(
        transducer, transducer.project(frames)[0], predicted(transducer, tokens), tokens
    )


def cells(transducer, frames, tokens):
    """What the decoder says at each cell, (S, U + 1, V), asked one by one."""
    rows = predicted(transducer, tokens)
    return torch.stack(
        [
            torch.stack([transducer.join(transducer.project(frames[0, t]), row) for row in rows])
            for t in range(frames.shape[1])
        ]
    )


@pytest.mark.parametrize("chunk", [1, 50, 2**22])
@pytest.mark.parametrize("name", TRANSDUCERS)
@torch.inference_mode()
def test_a_lattice_holds_the_scores_that_the_decoder_gives_cell_by_cell(monkeypatch, name, chunk):
    monkeypatch.setattr("asr.recognition.alignment.CHUNK", chunk)
    transducer, frames, tokens = decoder(name), encoded(4), [3, 5, 5]
    said = cells(transducer, frames, tokens)
    projected = transducer.project(frames)[0]
    blank, emit = lattice(transducer, projected, predicted(transducer, tokens), tokens)
    torch.testing.assert_close(blank.float(), said[..., BLANK], atol=1e-5, rtol=0)
    expected = torch.stack([said[:, u, token] for u, token in enumerate(tokens)], 1)
    torch.testing.assert_close(emit.float(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
@torch.inference_mode()
def test_tokens_of_a_transducer_get_times_from_its_own_path_with_or_without_a_ctc_head(ctc_weight):
    torch.manual_seed(2)
    transducer = Transducer(DIM, VOCABULARY, width=12, joint=10, ctc_weight=ctc_weight).eval()
    assert aligns(transducer)
    said = cells(transducer, encoded(5), [3, 4, 3]).exp()
    blank = said[..., BLANK].log()
    emit = torch.stack([said[:, u, token] for u, token in enumerate([3, 4, 3])], 1).log()
    best = max(paths(5, 3), key=lambda path: score(blank, emit, path))
    spans = transducer_spans(transducer, encoded(5), [3, 4, 3])
    for u, (span, frame, token) in enumerate(zip(spans, best, [3, 4, 3], strict=True)):
        assert frame <= span.start < span.end <= frame + 1
        cell = said[frame, u]
        assert span.probability == pytest.approx(float(cell[token] / (1 - cell[BLANK])), abs=1e-5)


@torch.inference_mode()
def test_more_tokens_than_frames_share_the_frames_in_order():
    transducer, tokens = decoder("Transducer"), [3, 4, 5] * 3
    for frames in (1, 2):
        spans = transducer_spans(transducer, encoded(frames), tokens)
        assert len(spans) == 9
        assert all(span.start < span.end <= frames for span in spans)
        for left, right in itertools.pairwise(spans):
            assert left.end <= right.start + 1e-9
    thirds = transducer_spans(transducer, encoded(1), [3, 4, 5])
    assert [span.start for span in thirds] == pytest.approx([0, 1 / 3, 2 / 3])
    [word] = alone(transducer, encoded(1), [3, 4, 5], SHORT, 0.04)
    assert (word.text, word.end) == ("ab", pytest.approx(0.04))
    second, third = (span.probability for span in thirds[1:])
    assert word.confidence == pytest.approx(math.sqrt(second * third))


def test_an_empty_transcript_has_no_words_and_an_utterance_without_frames_no_times():
    transducer = decoder("Transducer")
    assert alone(transducer, encoded(3), [], SHORT, 0.04) == []
    [word] = alone(transducer, encoded(0), [4], SHORT, 0.04)
    assert word.confidence is None


# --- Every decoder ---


@pytest.mark.parametrize("name", DECODER_BUILDERS)
@torch.inference_mode()
def test_every_decoder_with_a_ctc_head_or_a_lattice_gives_times(name):
    assert aligns(decoder(name))
    first, second = alone(decoder(name), encoded(9), [4, 3, 5, 4], SHORT, 0.04)
    assert (first.text, second.text) == ("a", "ba")
    assert 0 <= first.start < first.end <= second.start < second.end <= 9 * 0.04 + 1e-9
    assert 0 < first.confidence < 1


@pytest.mark.parametrize("name", DECODER_BUILDERS)
@torch.inference_mode()
def test_words_are_the_same_alone_and_in_a_batch(name):
    said = [[4, 3, 5, 4], [], [5], [4, 5, 5, 3, 5]]
    lengths = torch.tensor([6, 3, 4, 12])
    frames = encoded(12).repeat(4, 1, 1) * torch.tensor([1.0, 0.5, 2.0, 1.5])[:, None, None]
    together = align_words(decoder(name), frames, lengths, said, SHORT, 0.04)
    for row, length, tokens, words in zip(frames, lengths, said, together, strict=True):
        own = alone(decoder(name), row[None, :length], tokens, SHORT, 0.04)
        assert [(w.text, w.start, w.end) for w in own] == [(w.text, w.start, w.end) for w in words]
        expected = [word.confidence for word in own]
        assert [word.confidence for word in words] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ATTENTION_DECODERS)
def test_attention_without_a_ctc_head_has_no_times(name):
    assert not aligns(DECODER_BUILDERS[name](DIM, VOCABULARY, ctc_weight=0.0).eval())
