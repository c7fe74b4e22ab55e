"""The words of the answer against the evidence that they rest on."""

import re

import numpy as np
import pytest

from asr.report import compare, verdict
from asr.report.evidence import compare_arms
from asr.report.groups import group_runs
from asr.report.runs import read_run
from asr.statistics.bootstrap import bootstrap_interval
from asr.statistics.comparison import compare_all
from asr.statistics.mpsswe import matched_pairs
from tests.run_folders import CURVE, made, pair, seeds, write_lines, write_run


def of_seeds(folder, errors, speakers=10):
    """The group of two arms with 3 runs, by encoder and seed; ``errors`` gives their errors."""
    runs = [
        write_run(folder / f"{name}{seed}", name, seed=seed, errors=some, speakers=speakers)
        for name in ("LSTM", "Transformer")
        for seed in (1, 2, 3)
        for some in [errors(name, seed)]
    ]
    return group_runs([read_run(run) for run in runs])[0]


def test_a_clear_win_of_several_seeds_is_called_significant(tmp_path):
    group = of_seeds(tmp_path, lambda name, seed: made(0.1 + 0.1 * (name != "LSTM"), seed=seed))
    (answer, *_) = verdict.answer(compare_arms(group, []))
    assert answer.startswith("LSTM makes fewer errors than Transformer at equal cost: test WER")
    assert "significant, as the 95 % interval excludes 0" in answer


def test_one_seed_of_each_arm_is_described_without_a_statement(tmp_path):
    slow = tuple((wall, 2 * wer) for wall, wer in CURVE)
    runs = pair(tmp_path, errors=made(0.2), curve=slow, rtf=0.1)
    answer = compare(runs, tmp_path / "out")["answer"][0]
    assert len(answer) == 5
    assert answer[0].startswith("Not enough evidence to say whether LSTM or Transformer makes")
    assert "1 seed of an arm cannot tell encoders apart; 3 seeds of each arm are ne" in answer[0]
    assert "Measured at equal cost: test WER 9." in answer[0]
    assert "3 seeds per arm if seeds scatter by 1.5 % of the error rate and" in answer[0]
    assert "ignifican" not in " ".join(answer)
    assert "LSTM took 0.0556 core-hours (3.3 core-min)" in answer[1]
    assert "Transformer 0.0833 (5.0 min), 1.5 times as much" in answer[1]
    assert "2.0 times as long" in answer[2]
    assert answer[3].startswith(
        "Each arm has one seed: the variation between seeds was not measured"
    )
    assert answer[4].startswith("SYNTHETIC speech, not people. Measured on EPYC (1 core)")


@pytest.mark.parametrize(
    ("encode", "said"),
    [
        (0.002, "without the search 0.0010 and 0.0020 s."),
        (None, "the time without the search was not measured."),
    ],
)
def test_the_cost_to_run_is_given_with_and_without_the_search(tmp_path, encode, said):
    runs = [
        write_run(tmp_path / "a", errors=made(0.1), rtf=0.04, encode=0.001),
        write_run(tmp_path / "b", "Transformer", errors=made(0.1), rtf=0.06, encode=encode),
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    (line,) = [
        line for line in verdict.answer(compare_arms(group, [])) if line.startswith("In recog")
    ]
    assert "LSTM takes 0.040 s per second of audio, Transformer 0.060 s: 1.5 times as long" in line
    assert line.endswith(said)


def test_evaluations_that_cannot_be_compared_name_their_different_settings(tmp_path):
    (group,) = group_runs([read_run(run) for run in pair(tmp_path, rtf=0.1)])
    for device, said in (("EPYC", False), ("NVIDIA H200", True)):
        group.arms[1].runs[0].metrics["device_name"] = device
        (line,) = [
            line for line in verdict.answer(compare_arms(group, [])) if line.startswith("In recog")
        ]
        differ = "device (LSTM: EPYC; Transformer: NVIDIA H200)."
        words = "evaluations cannot be compared because they differ in "
        assert line.endswith(f"{words}{differ}") == said
        assert (words in line) == said


def test_equal_arms_have_no_difference_and_the_detectable_difference_is_given(tmp_path):
    runs = [
        run
        for encoder in ("LSTM", "Transformer")
        for run in seeds(tmp_path, encoder, 0.1, 5, number_of_utterances=4000)
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    answer = verdict.answer(compare_arms(group, [0.1]))[0]
    assert answer.startswith("No difference in errors between LSTM and Transformer at equal cost")
    assert re.search(r"A difference of \d\.\d\d points would be found 4 times in 5", answer)


@pytest.mark.parametrize(
    ("errors", "speakers", "reason"),
    [
        (made(0.3, 400), 3, "the test set has only 3 speakers"),
        ([0] * 400, 10, "no arm made an error on 4,000 words"),
        (made(0.02, 60), 10, "points that count as no difference"),
    ],
)
def test_not_enough_evidence_is_explained(tmp_path, errors, speakers, reason):
    turned = {"LSTM": 1, "Transformer": -1}
    group = of_seeds(tmp_path, lambda name, seed: errors[:: turned[name]], speakers)
    answer = verdict.answer(compare_arms(group, []))[0]
    assert answer.startswith("Not enough evidence to say whether")
    assert reason in answer


def test_every_difference_and_interval_equals_that_of_the_statistics(tmp_path):
    """All three pairs as one family, on errors read from the files by other code."""
    rates = {"LSTM": (0.1, 0.12, 0.1), "Transformer": (0.14, 0.15, 0.1), "Conformer": (0.2,) * 3}
    errors = {
        encoder: np.array([made(rate, seed=s) for s, rate in enumerate(values)])
        for encoder, values in rates.items()
    }
    runs = [
        write_run(tmp_path / f"{encoder}{s}", encoder, seed=s, errors=row.tolist())
        for encoder, rows in errors.items()
        for s, row in enumerate(rows)
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    evidence = compare_arms(group, [])
    words, speakers = np.full(400, 10), [f"s{i % 10}" for i in range(400)]
    expected = compare_all(errors, words, speakers)
    assert {(p.a.label, p.b.label): p.comparison for p in evidence.pairs} == expected
    for arm in group.arms:
        assert evidence.intervals[arm.label] == bootstrap_interval(
            errors[arm.label], words, speakers
        )
    compare(runs, tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    for found in (expected["LSTM", "Transformer"], expected["LSTM", "Conformer"]):
        low, high = (f"{100 * bound:.2f}" for bound in found.difference.interval)
        assert f"{100 * found.difference.value:.2f} points [{low} to {high}]" in page
        assert f"{100 * found.detectable:.2f} points |" in page
    assert "All 3 pairs of arms are one family" in page


def test_two_models_are_also_compared_by_matched_pairs(tmp_path):
    references = ["one two three four", "one two", "six"]
    said = (["one two three four", "one", "nine"], ["one too three for", "one two", "six"])
    runs = []
    for encoder, hypotheses in zip(("LSTM", "Transformer"), said, strict=True):
        run = write_run(tmp_path / encoder, encoder, errors=[1, 1, 1])
        rows = [
            {"id": f"u{i}", "speaker_id": "s", "substitutions": 1, "deletions": 0}
            | {"insertions": 0, "hits": 3, "reference": reference, "hypothesis": hypothesis}
            for i, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True))
        ]
        write_lines(run / "evaluations/test/hypotheses.jsonl", rows)
        runs.append(read_run(run))
    (group,) = group_runs(runs)
    (only,) = compare_arms(group, []).pairs
    assert only.matched == pytest.approx(matched_pairs(references, *said).p)


def test_several_seeds_are_not_compared_by_matched_pairs(tmp_path):
    runs = [*seeds(tmp_path, "LSTM", 0.1, 2), *seeds(tmp_path, "Transformer", 0.1, 2)]
    (group,) = group_runs([read_run(run) for run in runs])
    assert compare_arms(group, []).pairs[0].matched is None


def test_several_arms_are_compared_with_a_correction(tmp_path):
    runs = [
        run
        for name, rate in (("LSTM", 0.1), ("Transformer", 0.12), ("Conformer", 0.3))
        for run in seeds(tmp_path, name, rate, 3)
    ]
    answer = compare(runs, tmp_path / "out")["answer"][0]
    assert "Significantly worse than LSTM: Conformer." in answer[0].replace("Transformer and ", "")
    assert "All their intervals hold at once" in (tmp_path / "out" / "report.md").read_text()


def test_unequal_cost_is_stated_with_the_wer_at_equal_cost(tmp_path):
    longer = (*CURVE, (900, 0.05))
    runs = pair(tmp_path, curve=longer, finished=False)
    answer = compare(runs, tmp_path / "out")["answer"][0]
    assert "at unequal cost (Transformer had 2.0 times the core-hours of LSTM)" in answer[0]
    assert "Arms with unfinished runs: Transformer" in answer[3]
    page = (tmp_path / "out" / "report.md").read_text()
    said = "at equal cost, 0.125 core-hours (7.5 core-min): LSTM not validated within 2 % of it, "
    assert f"{said}Transformer 11.3 %" in page


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"device_hours": 0.5, "updates": None}, "0.5 core-hours"),
        ({"updates": 300, "audio_hours": 22.0}, "22 audio-hours or 300 updates"),
        ({}, "not stated"),
    ],
)
def test_the_budget_is_given_in_words(tmp_path, budget, said):
    run = read_run(write_run(tmp_path / "a", recipe={"budget": budget}))
    assert verdict.budget(group_runs([run])[0]) == said


def test_a_cost_that_not_all_seeds_reached_says_how_many_did(tmp_path):
    """One of two is a median already; the word for the other is not a cost."""
    runs = [
        write_run(tmp_path / f"{encoder}{seed}", encoder, seed=seed, curve=curve, errors=made(0.1))
        for encoder in ("LSTM", "Transformer")
        for seed, curve in ((1, CURVE), (2, CURVE[:2] if encoder == "Transformer" else CURVE))
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    told = verdict.answer(compare_arms(group, [0.1]))[1]
    assert told.startswith(
        "To train to 10.0 % validation WER (medians over seeds, not tested, target chosen after "
    )
    assert re.findall(r"\d of \d seeds", told) == ["1 of 2 seeds"]
    assert told.index("Transformer") < told.index("1 of 2 seeds")
