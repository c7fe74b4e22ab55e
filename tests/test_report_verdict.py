"""The words of the answer against the evidence that they rest on."""

import math
import re

import numpy as np
import pytest
import scipy.stats

from asr.report import compare, verdict
from asr.report.runs import group_runs, read_run
from asr.report.verdict import compare_arms, comparisons, detectable_difference
from tests.run_folders import CURVE, made, pair, write_run


def test_a_clear_win_is_called_significant_with_its_cost_ratio(tmp_path):
    slow = tuple((wall, 2 * wer) for wall, wer in CURVE)
    runs = pair(tmp_path, errors=made(0.2), curve=slow, rtf=0.1)
    answer = compare(runs, tmp_path / "out")["answer"][0]
    assert len(answer) == 5
    assert answer[0].startswith("LSTM makes fewer errors than Transformer at equal cost: test WER")
    assert "significant, as the 95 % interval excludes 0" in answer[0]
    assert "LSTM took 0.0556 device-hours (CPU) (3.3 min)" in answer[1]
    assert "Transformer 0.0833 (5.0 min), 1.5 times as much" in answer[1]
    assert "2.0 times as long" in answer[2]
    assert answer[3].startswith("One seed per arm: variation between seeds was not measured")
    assert answer[4].startswith("SYNTHETIC speech, not people. Measured on EPYC (1 device)")


def test_a_tie_names_the_difference_that_would_have_been_found(tmp_path):
    runs = pair(tmp_path, errors=made(0.1, 4000, seed=2))
    write_run(tmp_path / "c", errors=made(0.1, 4000, seed=1))
    answer = compare([tmp_path / "c", runs[1]], tmp_path / "out")["answer"][0][0]
    assert answer.startswith("No difference in errors shown between")
    assert re.search(r"A difference of \d\.\d\d points would be found 4 times in 5", answer)


@pytest.mark.parametrize(
    ("errors", "speakers", "reason"),
    [
        (made(0.1, 40), 10, "the test set has only 400 words"),
        (made(0.3, 400), 3, "the test set has only 3 speakers"),
        ([0] * 400, 10, "no arm made an error on 4,000 words"),
        (made(0.02, 60, seed=4), 10, "could only show a difference above"),
    ],
)
def test_too_little_evidence_says_why(tmp_path, errors, speakers, reason):
    runs = [
        write_run(tmp_path / "a", errors=errors, speakers=speakers),
        write_run(tmp_path / "b", "Transformer", errors=errors[::-1], speakers=speakers),
    ]
    answer = compare(runs, tmp_path / "out")["answer"][0][0]
    assert answer.startswith("Not enough evidence to say whether")
    assert reason in answer


def test_scatter_of_the_seeds_widens_the_interval(tmp_path):
    rates = {"LSTM": (0.10, 0.14, 0.18), "Transformer": (0.12, 0.17, 0.22)}
    runs = [
        read_run(write_run(tmp_path / f"{e}{s}", e, seed=s, errors=made(rate, seed=s)))
        for e, values in rates.items()
        for s, rate in enumerate(values)
    ]
    (group,) = group_runs(runs)
    one = compare_arms(*(type(arm)(arm.label, arm.runs[1:2]) for arm in group.arms))
    all_three = compare_arms(*group.arms)
    assert one.kind == "win"
    assert all_three.kind != "win"
    # Student's t for 4 degrees of freedom, sample deviations of the seeds' WERs
    spread = [np.var([run.wer for run in arm.runs], ddof=1) / 3 for arm in group.arms]
    margin = 2.776 * np.sqrt(sum(spread))
    half = (all_three.interval[1] - all_three.interval[0]) / 2
    assert margin < half < 1.2 * margin


def test_several_arms_are_compared_at_a_corrected_level(tmp_path):
    runs = [*pair(tmp_path), write_run(tmp_path / "c", "Conformer", errors=made(0.3))]
    answer = compare(runs, tmp_path / "out")["answer"][0][0]
    assert "Significantly worse than Transformer: Conformer." in answer
    page = (tmp_path / "out" / "report.md").read_text()
    assert "[98.3 % interval]" in page
    assert "corrected for all 3 pairs of arms (Bonferroni), as the same errors say which" in page


def test_the_level_counts_all_pairs_and_widens_every_part_of_the_interval(tmp_path):
    """Seeds of a wide scatter, so that the interval is all but their Student's t."""
    runs = [
        read_run(write_run(tmp_path / f"{e}{s}", e, seed=s, errors=made(rate, 400)))
        for e in ("LSTM", "Transformer", "Conformer", "CNN")
        for s, rate in enumerate((0.1, 0.5))
    ]
    (group,) = group_runs(runs)
    level = 1 - 0.05 / 6
    found = comparisons(group)
    assert [c.level for c in found] == [level] * 3
    first = found[0]
    spread = sum(np.var([run.wer for run in arm.runs], ddof=1) / 2 for arm in (first.a, first.b))
    margin = scipy.stats.t.ppf((1 + level) / 2, 2) * math.sqrt(spread)
    half = (first.interval[1] - first.interval[0]) / 2
    assert margin * (1 - 1e-9) <= half < 1.01 * margin


@pytest.mark.parametrize("level", [0.95, 1 - 0.05 / 6])
def test_the_detectable_difference_is_found_four_times_in_five(level):
    half = scipy.stats.norm.ppf((1 + level) / 2)  # of an estimate with standard error 1
    difference = detectable_difference((-half, half), level)
    assert scipy.stats.norm.sf(half - difference) == pytest.approx(0.8)


def test_unequal_cost_is_said_and_the_wer_at_equal_cost_is_given(tmp_path):
    longer = (*CURVE, (900, 0.05))
    runs = pair(tmp_path, curve=longer, finished=False)
    answer = compare(runs, tmp_path / "out")["answer"][0]
    assert "at unequal cost (Transformer had 2.0 times the device-hours of LSTM)" in answer[0]
    assert "Not finished: Transformer" in answer[3]
    page = (tmp_path / "out" / "report.md").read_text()
    assert (
        "at equal cost, 0.125 device-hours (CPU) (7.5 min): LSTM 12.0 %, Transformer 12.0 %" in page
    )


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"device_hours": 0.5, "updates": None}, "0.5 device-hours"),
        ({"updates": 300, "audio_hours": 22.0}, "22 audio-hours or 300 updates"),
        ({}, "not stated"),
    ],
)
def test_the_budget_is_said_in_words(tmp_path, budget, said):
    run = read_run(write_run(tmp_path / "a", recipe={"budget": budget}))
    assert verdict.budget(group_runs([run])[0]) == said
