import math
import re

import numpy as np
import pytest

from asr.statistics.mpsswe import errors_by_place, matched_pairs, segment

REFERENCES = [
    "the cat sat on the mat and looked at the big red dog",
    "one two three four five six",
    "a b c d e f g h i j",
    "yes",
    "turn the light off in the kitchen please",
    "seven eight nine",
]
A = [
    "the cat sat on a mat and looked at big red red dog",
    "one two tree four five six",
    "a x c d e y g h i j",
    "yes",
    "turn the light of in kitchen please",
    "seven eight nine nine",
]
B = [
    "the cat sat on the mat and looked at the big dead dog",
    "one two three four five six",
    "a b c d e f g h q j z",
    "yes yes",
    "turn the light off in the kitchen please",
    "seven eight nine",
]


def test_the_result_equals_that_of_the_nist_program():
    """sc_stats of sctk 2.4.10, -t mapsswe, given these alignments: 9 segments, Z 1.348."""
    found = matched_pairs(REFERENCES, A, B)
    assert len(found.segments) == 9
    assert list(found.segments.sum(axis=0)) == [9, 4]
    assert found.z == pytest.approx(1.348, abs=5e-4)
    assert found.p == pytest.approx(math.erfc(1.3484 / math.sqrt(2)), abs=1e-4)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("a b c d e f", "a b c d e f", []),
        ("x b c d e y", "a b c d e f", [(1, 0), (1, 0)]),  # four right between
        ("a x c d y f", "a b c d e f", [(1, 0), (1, 0)]),  # two right between
        ("a x c y e f", "a b c d e f", [(2, 0)]),  # one right between
        ("a x c d e f", "a b c z e f", [(1, 1)]),  # each system breaks the other's run
        ("a x c q d y f", "a b c d e f", [(3, 0)]),  # an insertion breaks a run of two
        ("a b c d e f g g", "h a b c d e f", [(2, 0), (0, 1)][::-1]),  # insertions at both ends
        ("", "a b c d e f", [(6, 0)]),
    ],
)
def test_segments_end_at_two_words_that_both_systems_have_right(a, b, expected):
    places = [errors_by_place(["a b c d e f"], [text])[0] for text in (a, b)]
    assert segment(*places) == expected


def test_segments_equal_those_cut_by_a_regular_expression():
    """Right words are g, errors are letters of their own; two g in a row are cut at."""
    random = np.random.default_rng(0)
    for boundary in (1, 2, 3):
        for _ in range(300):
            a, b = random.random((2, 2 * random.integers(0, 15) + 1)) < 0.2
            a, b = a.astype(int), b.astype(int)
            word = np.arange(len(a)) % 2 == 1
            text = "".join(
                "NABC"[x + 2 * y] if x or y else ("g" if w else "")
                for x, y, w in zip(a, b, word, strict=True)
            )
            pieces = [p for p in re.split(f"g{{{boundary},}}", text) if p.strip("g")]
            expected = [(p.count("A") + p.count("C"), p.count("B") + p.count("C")) for p in pieces]
            assert segment(a, b, boundary) == expected


def test_equal_systems_are_called_different_in_one_test_of_twenty():
    random = np.random.default_rng(1)
    words = [" ".join(f"w{n}" for n in range(20))] * 60

    def misheard():
        return [
            " ".join("x" if random.random() < 0.1 else word for word in text.split())
            for text in words
        ]

    wrong = sum(matched_pairs(words, misheard(), misheard()).p < 0.05 for _ in range(300))
    assert wrong / 300 == pytest.approx(0.05, abs=0.035)


def test_exchanging_the_systems_changes_only_the_sign():
    ab, ba = matched_pairs(REFERENCES, A, B), matched_pairs(REFERENCES, B, A)
    assert ab.z == -ba.z
    assert ab.p == ba.p


def test_inputs_that_cannot_be_tested_are_refused():
    with pytest.raises(ValueError, match="0 segments with errors"):
        matched_pairs(REFERENCES, REFERENCES, REFERENCES)
    with pytest.raises(ValueError, match="6 references, 5 and 6"):
        matched_pairs(REFERENCES, A[1:], B)
