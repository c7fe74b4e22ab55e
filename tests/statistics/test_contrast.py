"""A planned contrast decides by its interval alone."""

import numpy as np
import pytest

from asr.statistics.contrast import Contrast, decide

PLAN = Contrast("C1", "LSTM", "Transformer", "errors", "points of WER", 0.02)


@pytest.mark.parametrize(
    ("low", "high", "decision"),
    [
        (-0.01, 0.019, "equivalent"),
        (0.005, 0.015, "equivalent"),  # a difference too small to matter decides nothing else
        (0.005, 0.03, "for"),
        (-0.03, -0.005, "against"),
        (-0.01, 0.03, "not enough evidence"),
    ],
)
def test_the_decision_follows_from_the_interval_and_the_margin(low, high, decision):
    assert decide(PLAN, low, high) == decision


def test_false_decisions_are_no_more_frequent_than_the_level_allows():
    """The true value is 0: for or against; the true value is the margin: equivalent."""
    random = np.random.default_rng(0)
    wrong = {0.0: 0, 0.02: 0}
    for truth in wrong:
        for _ in range(4000):
            at = truth + 0.005 * random.normal()
            found = decide(PLAN, at - 1.96 * 0.005, at + 1.96 * 0.005)
            wrong[truth] += found in ({"for", "against"} if truth == 0 else {"equivalent"})
    assert max(wrong.values()) / 4000 < 0.06


@pytest.mark.parametrize("change", [{"margin": 0.0}, {"family": 0}, {"target": 0.1}])
def test_an_incomplete_plan_is_refused(change):
    with pytest.raises(ValueError, match="give|need"):
        Contrast(**{**vars(PLAN), **change})
