"""Compares two systems on one test set by the matched-pairs sentence-segment word error test."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jiwer
import numpy as np

from asr.text.scoring import spaced

BOUNDARY = 2  # words that both systems get right end a segment, as in NIST's sc_stats


class MatchedPairs(NamedTuple):
    """Result of the test.

    Attributes:
        segments: (n, 2) errors of A and of B in each segment.
        z: mean of the differences A - B, divided by its standard error; positive if B is better, 0
            if all differences are equal.
        p: two-sided p-value by the normal distribution.
    """

    segments: np.ndarray
    z: float
    p: float


def matched_pairs(
    references: Sequence[str], a: Sequence[str], b: Sequence[str], boundary: int = BOUNDARY
) -> MatchedPairs:
    """Tests whether two systems differ in word errors, by segments with independent errors.

    Gillick and Cox, "Some statistical issues in the comparison of speech recognition algorithms",
    ICASSP 1989; NIST sctk, ``mtchprs.c``. An utterance is cut where both systems recognise
    ``boundary`` or more consecutive words correctly, without insertions between them. The pieces
    with errors are the segments; they are assumed to be independent, because the cut is longer than
    the memory of a language model. The result holds for *these two models* and these speakers, not
    for other seeds or speakers.

    Args:
        references: reference text of each utterance.
        a: hypotheses of the first system.
        b: hypotheses of the second system.
        boundary: number of words that both systems have right at the end of a segment.

    Raises:
        ValueError: the lists differ in length, or fewer than two segments have errors.
    """
    if not len(references) == len(a) == len(b):
        raise ValueError(f"{len(references)} references, {len(a)} and {len(b)} hypotheses")
    pairs = zip(errors_by_place(references, a), errors_by_place(references, b), strict=True)
    found = [piece for first, second in pairs for piece in segment(first, second, boundary)]
    if len(found) < 2:
        raise ValueError(f"{len(found)} segments with errors, so there is nothing to test")
    segments = np.array(found)
    difference = segments[:, 0] - segments[:, 1]
    deviation = difference.std(ddof=1)
    z = float(difference.mean() / deviation * math.sqrt(len(found))) if deviation else 0.0
    return MatchedPairs(segments, z, math.erfc(abs(z) / math.sqrt(2)))


def errors_by_place(references: Sequence[str], hypotheses: Sequence[str]) -> list[np.ndarray]:
    """The errors of each utterance by place: (2 U + 1,) for a reference of U words.

    Place 2 i has the number of words inserted before word i. Place 2 i + 1 is 1 if word i was
    substituted or deleted, otherwise 0.
    """
    if not references:
        return []
    result = jiwer.process_words([*map(spaced, references)], [*map(spaced, hypotheses)])
    places = []
    for reference, chunks in zip(result.references, result.alignments, strict=True):
        errors = np.zeros(2 * len(reference) + 1, dtype=np.int64)
        for chunk in chunks:
            if chunk.type == "insert":
                errors[2 * chunk.ref_start_idx] += chunk.hyp_end_idx - chunk.hyp_start_idx
            elif chunk.type != "equal":
                errors[2 * chunk.ref_start_idx + 1 : 2 * chunk.ref_end_idx : 2] = 1
        places.append(errors)
    return places


def segment(a: np.ndarray, b: np.ndarray, boundary: int = BOUNDARY) -> list[tuple[int, int]]:
    """Returns the errors of A and of B in each segment of one utterance."""
    places = np.flatnonzero(a + b)
    if not len(places):
        return []
    right = places[1:] // 2 - (places[:-1] + 1) // 2  # odd places between neighbours
    starts = np.flatnonzero(np.concatenate([[True], right >= boundary]))
    sums = [np.add.reduceat(errors[places], starts) for errors in (a, b)]
    return [(int(first), int(second)) for first, second in zip(*sums, strict=True)]
