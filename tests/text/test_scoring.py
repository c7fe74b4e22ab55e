import random

import jiwer
import pytest

from asr.text.scoring import (
    Alignment,
    align,
    align_characters,
    characters,
    hits,
    pooled,
    ranked,
    score,
    telling_metric,
)


@pytest.mark.parametrize(
    ("references", "metric"),
    [
        (["one two three", "seven"], "wer"),
        (["minä menen huomenna kauppaan", "epäjärjestelmällisyys"], "wer"),
        (["今天天气很好我们去公园散步吧", "打开空调"], "cer"),
        (["สวัสดีครับยินดีที่ได้รู้จัก"], "cer"),
        (["今天我们用windows电脑", "我昨天在北京的一家商店里买了一台新的 windows 电脑回家"], "cer"),
        ([], "wer"),
    ],
)
def test_texts_without_spaces_are_scored_by_characters(references, metric):
    assert telling_metric(references) == metric


def test_the_other_rate_breaks_ties():
    first, second, third = ({"wer": w, "cer": c} for w, c in ((1.0, 0.5), (1.0, 0.4), (0.9, 0.6)))
    assert sorted([first, second, third], key=lambda r: ranked(r, "wer")) == [third, second, first]
    assert sorted([first, second, third], key=lambda r: ranked(r, "cer")) == [second, first, third]
    assert ranked({"wer": 0.5}, "wer") < ranked({"wer": 0.5, "cer": None}, "cer")


def scored(references, hypotheses):
    words = align(references, hypotheses)[0]
    return score(words, align_characters(references, hypotheses))


def test_score_equals_jiwer_on_the_pooled_set():
    draw = random.Random(3)
    vocabulary = ["one", "two", "too", "three", "it's", "a"]
    references = [" ".join(draw.choices(vocabulary, k=draw.randint(1, 12))) for _ in range(200)]
    hypotheses = []
    for text in references:
        words = [w if draw.random() > 0.3 else draw.choice(vocabulary) for w in text.split()]
        hypotheses.append(" ".join(w for w in words if draw.random() > 0.1))
    result = scored(references, hypotheses)
    words = jiwer.process_words(references, hypotheses)
    characters = jiwer.process_characters(references, hypotheses)
    assert result["wer"]["rate"] == pytest.approx(words.wer)
    assert result["wer"]["hits"] == words.hits
    assert result["wer"]["substitutions"] == words.substitutions
    assert result["wer"]["deletions"] == words.deletions
    assert result["wer"]["insertions"] == words.insertions
    assert result["cer"]["rate"] == pytest.approx(characters.cer)


@pytest.mark.parametrize(
    ("references", "hypotheses", "rate"),
    [
        (["a b"], [""], 1.0),
        (["a b"], ["a  b "], 0.0),
        (["a\tb"], ["a b"], 0.0),
        (["a"], ["b c d"], 3.0),
        (["", "a"], ["x y", "a"], 2.0),
        (["", "a"], ["", "a"], 0.0),
    ],
)
def test_edge_cases_are_scored_as_documented(references, hypotheses, rate):
    assert scored(references, hypotheses)["wer"]["rate"] == rate


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        ([], [], "no reference words"),
        (["", " "], ["a", ""], "no reference words"),
        (["a"], ["a", "b"], "1 references but 2 hypotheses"),
    ],
)
def test_an_impossible_score_is_refused(references, hypotheses, message):
    with pytest.raises(ValueError, match=message):
        scored(references, hypotheses)


def test_pooling_sums_counts_and_no_alignments_give_zeros():
    assert pooled([]) == characters([], []) == Alignment(0, 0, 0, 0)
    assert pooled([Alignment(1, 2, 3, 4), Alignment(1, 0, 0, 6)]) == Alignment(2, 2, 3, 10)


def test_composed_and_decomposed_characters_are_no_error():
    assert scored(["caf\u00e9 a"], ["cafe\u0301 a"])["cer"]["rate"] == 0
    assert hits(["e\u0301"], ["\u00e9"]) == [[True]]
