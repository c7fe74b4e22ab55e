import io
import random

import matplotlib.image
import pytest

from asr.recognition.reliability import diagram, judged
from asr.recognition.transcript import Word
from asr.search.calibration import confidence_measures
from asr.text.scoring import align, hits


def words(text, confidences=None):
    texts = text.split()
    return [
        Word(own, 0.0, 1.0, sure)
        for own, sure in zip(texts, confidences or [0.5] * len(texts), strict=True)
    ]


def lower(text):
    return text.lower()


# --- Which words are correct ---


def test_hits_equal_those_of_the_alignment():
    assert hits(
        ["one two three", "one two", "", "a"], ["one too three four", "two", "one", ""]
    ) == [[True, False, True, False], [True], [False], []]
    assert hits([], []) == []
    with pytest.raises(ValueError, match="1 references but 0 hypotheses"):
        hits(["a"], [])


def test_hits_are_as_many_as_the_error_rate_counts():
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abc", k=draw.randrange(8))) for _ in range(80)]
    references, hypotheses = texts[:40], texts[40:]
    for own, alignment in zip(
        hits(references, hypotheses), align(references, hypotheses)[0], strict=True
    ):
        assert (sum(own), len(own) - sum(own)) == (
            alignment.hits,
            alignment.substitutions + alignment.insertions,
        )


def test_each_judged_word_keeps_its_confidence_and_utterance():
    found = judged(
        [words("One too", [0.9, 0.2]), words(""), words("x", [0.1])],
        ["one two", "gone", ""],
        lower,
    )
    assert found.confidences == [0.9, 0.2, 0.1]
    assert found.correct == [True, False, False]
    assert found.utterances == [0, 0, 2]
    assert found.left_out == 0


def test_a_word_without_confidence_or_without_a_normalised_form_is_left_out():
    def letters(text):
        return " ".join("".join(c for c in word if c.isalpha()) for word in text.split())

    found = judged([words("one, -- two", [0.9, 0.8, None])], ["one two"], letters)
    assert found.confidences == [0.9]
    assert found.correct == [True]
    assert found.left_out == 2


def test_a_word_that_becomes_two_is_correct_if_both_are():
    def split(text):
        return text.replace("-", " ")

    found = judged([words("twenty-one twenty-one")], ["twenty one twenty two"], split)
    assert found.correct == [True, False]


def test_an_utterance_that_can_only_be_normalised_as_a_whole_is_left_out():
    def join(text):
        return text.replace("e mail", "email")

    found = judged([words("e mail"), words("mail")], ["email", "mail"], join)
    assert (found.correct, found.utterances, found.left_out) == ([True], [1], 2)


# --- The diagram ---


@pytest.mark.parametrize(
    ("confidences", "correct"),
    [([0.2, 0.9, 0.95, 0.4], [False, True, True, True]), ([1.0], [True]), ([0.0] * 9, [False] * 9)],
)
def test_the_diagram_shows_every_bin(monkeypatch, confidences, correct):
    drawn = {}

    def keep(self, *arguments, **options):
        drawn["figure"] = self
        return save(self, *arguments, **options)

    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", keep)
    content = diagram(confidence_measures(confidences, correct), "fitted to them")
    picture = matplotlib.image.imread(io.BytesIO(content), format="png")
    assert picture.std() > 0
    upper, lower = drawn["figure"].axes
    assert upper.get_title().endswith("\nfitted to them")
    rows = [row for row in confidence_measures(confidences, correct)["bins"] if row["count"]]
    _, points = upper.get_lines()[:2]
    assert list(points.get_xdata()) == [row["confidence"] for row in rows]
    assert list(points.get_ydata()) == [row["correct"] for row in rows]
    [bars] = upper.containers[0].lines[2]
    for row, segment in zip(rows, bars.get_segments(), strict=True):
        for end in segment[:, 1]:  # solves the equation of Wilson, or is the share itself
            share, count = row["correct"], row["count"]
            assert (share - end) ** 2 <= 1.96**2 * end * (1 - end) / count + 1e-4
            assert end in (0, 1) or (share - end) ** 2 == pytest.approx(
                1.96**2 * end * (1 - end) / count, abs=1e-4
            )
    assert [bar.get_height() for bar in lower.patches] == [row["count"] for row in rows]
    assert {text.get_text() for text in lower.texts} == {str(row["count"]) for row in rows}
