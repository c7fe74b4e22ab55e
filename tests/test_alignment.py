import itertools
import math

import pytest
import torch

from asr.alignment import align, spelled, token_spans
from asr.text import Characters, SentencePiece

LETTERS = Characters((), alphabet="abc ")  # " " 3, a 4, b 5, c 6


def peaks(frames, vocabulary=7, probability=0.9):
    """(S, V): each frame's token has the probability, the others share the rest."""
    rest = (1 - probability) / (vocabulary - 1)
    log_probs = torch.full((len(frames), vocabulary), math.log(rest))
    for frame, token in enumerate(frames):
        log_probs[frame, token] = math.log(probability)
    return log_probs


def test_words_stand_where_their_letters_were_emitted():
    #        _  a  a  _  b  _  sp _  c  _
    frames = [0, 4, 4, 0, 5, 0, 3, 0, 6, 0]
    first, second = align(peaks(frames), LETTERS.encode("ab c"), LETTERS, 0.04)
    assert (first.text, first.start, first.end) == ("ab", 0.04, 0.2)
    assert (second.text, second.start, second.end) == ("c", 0.32, 0.36)
    assert first.confidence == pytest.approx(0.9)


def test_a_doubtful_word_has_less_confidence():
    log_probs = peaks([4, 0, 3, 0, 5, 0])
    log_probs[4] = torch.log(torch.tensor([0.1, 0.1, 0.1, 0.1, 0.1, 0.3, 0.2]))
    sure, doubtful = align(log_probs, LETTERS.encode("a b"), LETTERS, 0.04)
    assert sure.confidence == pytest.approx(0.9)
    assert doubtful.confidence == pytest.approx(0.3)


def test_the_path_is_the_likeliest_of_all():
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
    spans = token_spans(log_probs, tokens)
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
            words, places = spelled(tokens, tokenizer)
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
    words, places = spelled(tokens, LETTERS)
    assert words == ["a", "bc"]
    assert [list(place) for place in places] == [[], [0], [], [], [1], [1], []]


def test_an_unknown_token_is_a_word_with_times():
    words = align(peaks([2, 0, 3, 0, 4]), [2, 3, 4], LETTERS, 0.04)
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
def test_tokens_need_a_frame_each_and_one_between_equals(tokens, frames, fits):
    log_probs = torch.log_softmax(torch.zeros(frames, 7), dim=-1)
    assert (token_spans(log_probs, tokens) is not None) == fits


def test_words_without_enough_frames_are_spread_and_marked():
    words = align(torch.zeros(2, 7), LETTERS.encode("a b"), LETTERS, 0.5)
    assert [(w.text, w.start, w.end, w.confidence) for w in words] == [
        ("a", 0.0, 0.5, None),
        ("b", 0.5, 1.0, None),
    ]
