"""The rules of the verdicts on made-up measurements whose outcome is known, each one reached."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asr.probes import PROBES
from asr.probes.horizon import Attempt
from asr.probes.length import LengthPoint, models, wer_over_runs
from asr.probes.probe import Measured
from asr.report import compare, training_claim
from asr.report.claims import RULES, judge
from asr.report.cost_claims import bandwidth, parallel, running
from asr.report.evidence import Evidence, compare_arms
from asr.report.groups import group_runs
from asr.report.memory_claims import hierarchy, lstm_memory
from asr.report.probes import read_probes
from asr.report.runs import read_run
from asr.report.study import checksum
from asr.report.training_claim import planned
from asr.report.verdict import answer
from asr.statistics.contrast import Contrast, decide
from tests.run_folders import (
    CURVE,
    made,
    seeds,
    stream,
    write_horizon,
    write_lines,
    write_probe,
    write_roofline,
    write_run,
    write_study,
    write_threads,
)

LAGS = [64, 256, 1024, 4096, 16384]
TASKS = ("latch-mixed",)  # of the verdicts on memory
ERRORS = Contrast(
    claim="C1", subject="LSTM", reference="Transformer", estimator="errors", unit="points", margin=2
)
COST = Contrast(
    claim="C1", subject="LSTM", reference="Transformer", estimator="cost to a target",
    unit="device_hours", margin=1.1, target=20,
)  # fmt: skip


def evidence(
    folder: Path, *arms: tuple[Any, ...], contrasts: tuple[Contrast, ...], number: int = 5
) -> Evidence:
    """Arms of (encoder, WER, how much later they reach a target)."""
    runs = [run for e, rate, late in arms for run in seeds(folder, e, rate, number, late)]
    (group,) = group_runs([read_run(run) for run in runs])
    group = replace(group, arms=[replace(arm, name=arm.label) for arm in group.arms])
    return compare_arms(group, [0.2], contrasts=contrasts)


@pytest.mark.parametrize(
    ("low", "high", "margin", "decision"),
    [
        (-0.9, 0.9, 1, "equivalent"),
        (0.1, 0.9, 1, "equivalent"),  # a difference, but too small to matter
        (0.1, 1.5, 1, "for"),
        (-1.5, -0.1, 1, "against"),
        (-0.1, 1.5, 1, "not enough evidence"),
        (-1.5, 1.5, 1, "not enough evidence"),
        (0.0, 0.0, 0, "not enough evidence"),
    ],
)
def test_an_interval_and_its_margin_decide(low, high, margin, decision):
    assert decide(low, high, margin) == decision


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "LSTM"}, "compares an arm with itself"),
        ({"target": 5}, "target 5: errors have none; leave it out"),
        ({"unit": "updates"}, "unit updates does not fit"),
        ({"margin": 0}, "expects points above 0"),
        ({**vars(COST), "margin": 1}, "expects a ratio above 1"),
    ],
)
def test_a_contrast_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Contrast(**{**vars(ERRORS), **changes})


# --- C1 and C7 ---


@pytest.mark.parametrize(
    ("lstm", "transformer", "contrast", "said"),
    [
        (0.2, 0.1, ERRORS, "for: LSTM minus Transformer, test WER, "),
        (0.1, 0.2, ERRORS, "against: LSTM minus Transformer, test WER, "),
        (0.1, 0.1, ERRORS, "equivalent: LSTM minus Transformer, test WER, "),
        (0.13, 0.1, replace(ERRORS, margin=0.01), "for: "),
    ],
)
def test_the_primary_contrast_of_errors_decides(tmp_path, lstm, transformer, contrast, said):
    arms = [("LSTM", lstm, 1.0), ("Transformer", transformer, 1.0)]
    found = evidence(tmp_path, *arms, contrasts=(contrast,))
    words = planned("C1")([found], {}).words
    assert words.startswith(said)
    assert "detectable" in words
    where = "5 seeds, 40 speakers, corpus spoken, 0.125 core-hours per run; EPYC, 1 core"
    assert f" points; {where}" in words
    assert f"] at 95 %, margin {contrast.margin:g}, detectable " in words
    low, high = found.pairs[0].comparison.difference.interval
    sign = 1 if found.pairs[0].b.label == "LSTM" else -1
    assert f"[{100 * min(sign * low, sign * high):.2f} to " in words


def test_a_target_reached_at_the_first_validation_decides_nothing(tmp_path):
    arms = [("LSTM", 0.1, 2.0), ("Transformer", 0.1, 1.0)]
    found = evidence(tmp_path, *arms, contrasts=(replace(COST, target=99),))
    words = planned("C1")([found], {}).words
    assert words.startswith("not enough evidence: ")
    assert "10 runs had reached the target at the first validation" in words


def test_disturbed_runs_are_not_judged_in_another_unit_than_the_registered_one(
    tmp_path, monkeypatch
):
    arms = [("LSTM", 0.1, 2.0), ("Transformer", 0.1, 1.0)]
    found = evidence(tmp_path, *arms, contrasts=(COST,))
    monkeypatch.setattr(training_claim, "resource", lambda arms: "cpu_hours")
    words = planned("C1")([found], {}).words
    assert words.startswith("not enough evidence: ")
    assert words.endswith("(the runs were disturbed)")


@pytest.mark.parametrize(("rate", "early"), [(0.49, False), (0.52, True)])
def test_a_verdict_above_50_percent_says_that_it_is_about_early_training(tmp_path, rate, early):
    arms = [("LSTM", rate + 0.2, 1.0), ("Transformer", rate, 1.0)]
    high = evidence(tmp_path, *arms, contrasts=(ERRORS, replace(COST, target=60, primary=False)))
    verdict = planned("C1")([high], {})
    assert verdict.words.startswith("for: ")
    assert ("points (early training: above 50 % WER); 5 seeds" in verdict.words) == early
    assert "to 60 % validation WER (early training: above 50 % WER)" in verdict.reasons[0]


def test_a_verdict_says_what_was_known_when_its_contrast_was_planned(tmp_path):
    known = replace(ERRORS, planned_after="a first version of two seeds")
    arms = [("LSTM", 0.2, 1.0), ("Transformer", 0.1, 1.0)]
    words = planned("C1")([evidence(tmp_path, *arms, contrasts=(known,))], {}).words
    assert words.endswith("EPYC, 1 core; planned after a first version of two seeds")


@pytest.mark.parametrize(
    ("lstm", "transformer", "number", "said"),
    [
        (2.0, 1.0, 5, "for: LSTM / Transformer, core-hours to 20 % validation WER, 2.0 times ["),
        (1.0, 2.0, 5, "against: LSTM / Transformer, core-hours to 20 % validation WER, 0.5"),
        (1.0, 1.0, 5, "equivalent: "),
        (2.0, 1.0, 3, "for: LSTM / Transformer, core-hours to 20 % validation"),
        (2.0, 1.0, 2, "not enough evidence: LSTM / Transformer, core-hours to 20 % validation"),
    ],
)
def test_the_primary_contrast_of_costs_decides(tmp_path, lstm, transformer, number, said):
    arms = [("LSTM", 0.1, lstm), ("Transformer", 0.1, transformer)]
    found = evidence(tmp_path, *arms, contrasts=(COST,), number=number)
    words = planned("C1")([found], {}).words
    assert words.startswith(said)
    assert words.endswith("(3 seeds of each arm are needed)") == (number == 2)
    where = f"; {number} seeds, corpus spoken, 0.125 core-hours per run; EPYC, 1 core"
    assert where in words
    assert "] at 95 %, margin 1.1 times" in words


def test_other_contrasts_and_pairs_do_not_turn_the_verdict(tmp_path):
    """The secondary contrast and the pair that was not planned say the opposite."""
    arms = [("LSTM", 0.1, 2.0), ("Transformer", 0.2, 1.0), ("GRU", 0.3, 1.0)]
    contrasts = (replace(COST, primary=False), ERRORS)
    found = evidence(tmp_path, *arms, contrasts=contrasts)
    verdict = planned("C1")([found], {})
    assert verdict.kind == "against"
    (beside,) = verdict.reasons
    assert beside.startswith("Also planned: for: LSTM / Transformer, core-hours")
    assert [pair.statement for pair in found.pairs].count("not planned") == 2
    assert found.pairs[0].comparison.difference.level == pytest.approx(0.975)  # two contrasts


def test_a_primary_contrast_without_an_arm_decides_nothing_and_keeps_its_share_of_the_level(
    tmp_path,
):
    """The secondary contrast would be clear; its level is that of two registered contrasts."""
    planned_ = (replace(ERRORS, subject="GRU"), replace(ERRORS, primary=False))
    found = evidence(tmp_path, ("LSTM", 0.2, 1.0), ("Transformer", 0.1, 1.0), contrasts=planned_)
    verdict = planned("C1")([found], {})
    assert verdict.words == "not enough evidence: arm GRU has no finished run"
    assert verdict.reasons[0].startswith("Also planned: for: LSTM minus Transformer")
    assert found.pairs[0].comparison.difference.level == pytest.approx(0.975)
    assert found.level == pytest.approx(0.975)
    alone = evidence(
        tmp_path / "b", ("LSTM", 0.2, 1.0), ("Transformer", 0.1, 1.0), contrasts=planned_[:1]
    )
    assert "no study planned" not in planned("C1")([alone], {}).words


def test_the_first_line_of_the_page_and_the_verdict_agree_within_the_margin(tmp_path):
    """The difference is certain, and too small to matter."""
    arms = [("LSTM", 0.11, 1.0), ("Transformer", 0.1, 1.0)]
    found = evidence(tmp_path, *arms, contrasts=(replace(ERRORS, margin=5),))
    words = planned("C1")([found], {}).words
    assert words.startswith("equivalent: LSTM minus Transformer, test WER, ")
    assert words.endswith("(worse, but within the margin)")
    top = answer(found)[0]
    assert top.startswith(
        "LSTM makes more errors than Transformer, but within the margin, at equal"
    )
    assert "ignificant" not in top
    late = compare_arms(found.group, [0.2], "Amended late.", contrasts=[ERRORS])
    assert planned("C1")([late], {}).words.startswith("not enough evidence: ")
    assert answer(late)[0].startswith("Not enough evidence to say whether")
    assert answer(late)[0].count("Amended late") == 1


@pytest.mark.parametrize(("number", "kind"), [(6, "for"), (5, "not enough evidence")])
def test_a_target_that_some_runs_did_not_reach_is_no_reason_to_leave_them_out(
    tmp_path, number, kind
):
    """No run of the LSTM reached the target, so the ratio has no upper bound."""
    never = tuple((wall, 0.5) for wall, _ in CURVE)
    runs = seeds(tmp_path, "Transformer", 0.1, number)
    runs += [
        write_run(tmp_path / f"never-{seed}", seed=seed, curve=never, errors=made(0.1, 800))
        for seed in range(1, number + 1)
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    group = replace(group, arms=[replace(arm, name=arm.label) for arm in group.arms])
    words = planned("C1")([compare_arms(group, [0.2], contrasts=[COST])], {}).words
    assert words.startswith(f"{kind}: ")
    assert "not reached [" in words
    assert "to inf]" in words
    assert f"seeds that reached the target: LSTM 0 and Transformer {number}" in words
    assert ("6 seeds of each arm are needed" in words) == (number == 5)


def test_a_comparison_that_no_study_planned_has_no_verdict(tmp_path):
    runs = seeds(tmp_path, "LSTM", 0.2, 5) + seeds(tmp_path, "Transformer", 0.1, 5)
    (group,) = group_runs([read_run(run) for run in runs])
    found = compare_arms(group, [0.2])
    assert found.pairs[0].statement == "worse"  # all pairs are one family, as before
    verdict = planned("C1")([found], {})
    assert verdict.words.startswith("not enough evidence: no study planned a contrast")


def planned_study(folder: Path, **options: Any) -> tuple[Path, dict[str, Any], list[Any]]:
    """A study of three arms with a contrast of errors; its folder, registered tree and rows."""
    arms = {"lstm": "LSTM", "transformer": "Transformer", "gru": "GRU"}
    write_study(folder, arms, numbers=3, **options)
    tree = json.loads((folder / "study.json").read_text())
    own = {**vars(ERRORS), "subject": "lstm", "reference": "transformer", "claim": "mine"}
    tree["resolved"]["study"] |= {"contrasts": [own], "targets": [20.0]}
    tree["study_sha256"] = checksum(tree["resolved"])
    (folder / "study.json").write_text(json.dumps(tree))
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    rows = [row | {"study_sha256": tree["study_sha256"]} for row in rows]
    write_lines(folder / "results.jsonl", rows)
    return folder, tree, rows


def test_the_page_of_a_study_shows_its_contrast_and_calls_all_else_description(tmp_path):
    folder, tree, rows = planned_study(tmp_path / "study")
    result = compare([], tmp_path / "out", study=folder)
    assert result["claims"]["mine"].split(": ")[1].startswith("LSTM minus Transformer, test WER")
    page = (tmp_path / "out" / "report.md").read_text()
    (line,) = [row for row in page.splitlines() if row.startswith("| GRU minus LSTM |")]
    assert line.endswith("not planned: description |")
    assert "The study planned 1 of the 3 differences." in page
    assert "No study registered these targets" not in page
    assert "| contrast of mine | lstm (subject) and transformer: errors, points, margin 2 |" in page
    tree["amendments"] = [
        {"time": "2026-03-03", "from_sha256": "e" * 64, "changed": ["study.contrasts"]}
    ]
    (folder / "study.json").write_text(json.dumps(tree))
    rows[0]["study_sha256"] = "e" * 64
    early = [row | {"study_sha256": "e" * 64} if row["role"] == "final" else row for row in rows]
    write_lines(folder / "results.jsonl", early)
    assert "mine" not in compare([], tmp_path / "late", study=folder)["claims"]
    page = (tmp_path / "late" / "report.md").read_text()
    assert "The contrasts were amended when results could be seen (2026-03-03" in page


@pytest.mark.parametrize("spoil", ["missing", "failed", "late"])
def test_a_study_has_no_verdict_unless_all_its_registered_seeds_have_ended(tmp_path, spoil):
    folder, tree, rows = planned_study(tmp_path / "study")
    before = compare([], tmp_path / "before", study=folder)
    assert before["claims"]["mine"].startswith("against: ")
    if spoil == "missing":
        tree["resolved"]["study"]["seeds"] = [1, 2, 3, 4]
        said = "(seeds of LSTM that have not ended: 4; seeds of Transformer that have not ended: 4)"
    elif spoil == "failed":
        tree["resolved"]["study"]["seeds"] = [1, 2, 3, 4]
        failed = [r for r in rows if r["role"] == "final" and r["seed"] == 3]
        lost = {"status": "failed", "reason": "diverged", "test_wer": None, "seed": 4}
        rows += [r | lost | {"run": r["run"].replace("seed3", "seed4")} for r in failed]
        said = "(seeds of LSTM that failed: 4; seeds of Transformer that failed: 4)"
    else:
        tree["amendments"] = [
            {"time": "2026-03-03", "from_sha256": "e" * 64, "changed": ["study.seeds"], "begun": 9}
        ]
        said = "(The seeds were amended when results could be seen (2026-03-03, after 9 trials"
    tree["study_sha256"] = checksum(tree["resolved"])
    (folder / "study.json").write_text(json.dumps(tree))
    write_lines(folder / "results.jsonl", rows)
    result = compare([], tmp_path / "out", study=folder)
    assert result["claims"]["mine"].startswith("not enough evidence: LSTM minus Transformer, test")
    assert said in result["claims"]["mine"]
    assert "significant" not in result["answer"][0][0]


def test_a_contrast_is_tested_at_the_largest_of_separate_budgets_alone(tmp_path):
    folder, *_ = planned_study(tmp_path / "study", separate=True)
    result = compare([], tmp_path / "out", study=folder)
    small, large = (answer[0] for answer in result["answer"])
    assert small.startswith("The study planned no comparison of errors. Measured")
    assert not large.startswith("The study planned no")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "planned 0 of the 3 differences at this budget" in page
    assert "planned 1 of the 3 differences at this budget" in page
    assert page.count("LSTM minus Transformer, test WER") == 2  # at a glance, and its section


# --- C2, C4 and C5 ---


@pytest.mark.parametrize(
    ("lstm", "repeats", "words"),
    [
        (
            4.0,
            6,
            "for: lstm-causal-small / transformer-chunked-small, ms per frame at frame 10,000",
        ),
        (0.5, 6, "against: "),
        (1.05, 6, "equivalent: "),
        (1.1, 6, "for: "),  # the interval begins above 1 and ends above the margin
        (1.0, 5, "not enough evidence: "),
        (1.0, 0, "not enough evidence: lstm-causal-small / transformer-chunked-small, ms per"),
    ],
)
def test_running_is_judged_by_one_pair_of_streams_with_equal_delay(tmp_path, lstm, repeats, words):
    rows = stream("lstm-causal-small", lstm, 100, 64, repeats) + stream("gru-causal-small", 9.0, 9)
    rows += stream("lstm-causal-small", 0.01, 100) + stream("transformer-causal-small", 1.0, 900)
    rows += stream("transformer-chunked-small", 1.0, 900, 64, 6)
    verdict = running([], read_probes([write_probe(tmp_path, "streaming", rows)]))
    assert verdict.words.startswith(words)
    assert "in chunks of 640 ms, batch 1" in verdict.words
    if repeats:
        assert verdict.reasons == ["Does not affect the verdict: state 0.11 times (exact)."]
        assert ("0.50 times [0.500 to 0.500], margin 1.1 times" in verdict.words) == (lstm == 0.5)
    assert ("5 repeats; 6 could decide" in verdict.words) == (repeats == 5)


def test_the_interval_of_a_ratio_is_that_of_pairs_of_repeats(tmp_path):
    rows = stream("lstm-causal-small", 2.0, 1, 64) + stream("transformer-chunked-small", 1.0, 1, 64)
    for row in rows[:2]:
        row["repeats"] = [1.2, 2.0, 2.0, 2.0, 2.0, 3.0]
    for row in rows[2:]:
        row["repeats"] = [1.0, 1.0, 1.0, 1.0, 1.0, 2.0]
    words = running([], read_probes([write_probe(tmp_path, "streaming", rows)])).words
    assert words.startswith("for: ")
    assert "2.0 times [1.20 to 2.00], margin 1.1 times (6 repeats); EPYC, 1 thread" in words


def test_streams_of_other_sizes_positions_or_chunks_are_not_compared(tmp_path):
    lstm = stream("lstm-causal-small", 0.1, 1, 64)
    large = stream("transformer-chunked-large", 1, 9, 64)
    early = stream("transformer-chunked-small", 2.0, 9, 64)[:1]
    verdict = running([], read_probes([write_probe(tmp_path, "streaming", lstm + large)]))
    assert verdict.words.endswith("not measured with one size and position in chunks of 640 ms")
    assert verdict.commands[0].endswith(
        "--encoders lstm-causal-small transformer-chunked-small --chunk 64"
    )
    rows = lstm + large + early
    verdict = running([], read_probes([write_probe(tmp_path / "b", "streaming", rows)]))
    assert "transformer-chunked-small, ms per frame at frame 400 " in verdict.words
    rows = stream("lstm-causal-small", 0.1, 1, 4) + early
    verdict = running([], read_probes([write_probe(tmp_path / "c", "streaming", rows)]))
    assert verdict.kind == "not enough evidence"


@pytest.mark.parametrize(
    ("lstm", "transformer", "words"),
    [
        ([1.0] * 6, [1.9] * 6, "for: speed-up of a Transformer layer / of an LSTM layer from 1 "),
        ([1.9] * 6, [1.0] * 6, "against: "),
        ([1.8] * 6, [1.9] * 6, "equivalent: "),
        ([1.8, 1.8, 1.8, 1.8, 1.8, 1.2], [1.9] * 6, "for: "),
        ([1.8, 1.8, 1.8, 1.8, 2.4, 1.2], [1.9] * 6, "not enough evidence: "),
        ([1.0] * 5, [1.9] * 5, "not enough evidence: "),
    ],
)
def test_parallelism_is_judged_by_the_speed_ups_of_layers_at_one_shape(
    tmp_path, lstm, transformer, words
):
    verdict = parallel([], read_probes([write_threads(tmp_path, lstm, transformer)]))
    assert verdict.words.startswith(words)
    assert "from 1 thread to 2, training passes of equal FLOPs, 16 x 400 frames" in verdict.words
    (beside,) = verdict.reasons
    assert "MinLSTM 1.0 times, a MinLSTM takes 2.0 times as long on 1 thread" in beside


def test_parallelism_is_not_judged_where_the_cores_were_not_free_or_at_another_shape(tmp_path):
    probes = read_probes([write_threads(tmp_path / "a", [1.0] * 6, [1.1] * 6, product=1.4)])
    words = parallel([], probes).words
    assert words.startswith("not enough evidence: speed-up of a Transformer layer")
    assert "(a matrix product gains 1.4 times [1.40 or more], and needs 1.5 times" in words
    rows = [replace(row, frames=100) for row in probes["threads"].rows]
    words = parallel([], {"threads": Measured(rows, {})}).words
    assert words == "not enough evidence: an LSTM of width 320 and 16 x 400 frames not measured"


@pytest.mark.parametrize(
    ("reading", "multiplying", "words"),
    [
        ([0.6] * 6, [0.8] * 6, "for: time to read the weights / time of a step of 5 layers of 512"),
        ([0.2] * 6, [0.3] * 6, "against: "),
        ([0.3] * 6, [0.7] * 6, "not enough evidence: "),  # it depends on how one reads
        ([0.4, 0.6, 0.6, 0.6, 0.6, 0.6], [0.8] * 6, "not enough evidence: "),
        ([0.2] * 6, [0.3] * 5 + [0.6], "not enough evidence: "),
        ([0.9] * 5 + [1.05], [1.1] * 6, "for: "),
        ([0.6] * 5, [0.8] * 5, "not enough evidence: "),
    ],
)
def test_bandwidth_is_judged_by_a_stream_of_five_layers_at_batch_1(
    tmp_path, reading, multiplying, words
):
    step = {"width": 512, "batch": 1, "seconds": 1e-3, "flops": 80 * 512**2, "intensity": 0.5}
    step |= {"bound": "memory", "layers": 5, "bytes": 160 * 512**2, "reading": reading}
    step |= {"multiplying": multiplying}
    others = [step | {"batch": 64, "reading": [0.1] * 6}, step | {"layers": 0, "reading": [2] * 6}]
    machine = {"peak": 5e10, "bandwidth": 4e10, "ridge": 5.0}
    folder = write_probe(tmp_path, "roofline", [*others, step], machine=machine)
    verdict = bandwidth([], read_probes([folder]))
    assert verdict.words.startswith(words)
    assert "threshold 50.0 %" in verdict.words


def test_results_of_earlier_versions_are_read_and_decide_nothing(tmp_path):
    """They have no repeats, no stream of layers and no speed-ups."""
    rows = [row for row in stream("lstm-causal-small", 1.0, 1) if row.pop("repeats")]
    write_probe(tmp_path, "streaming", rows)
    probes = read_probes([write_roofline(tmp_path, ["memory"])])
    for rule in (running, parallel, bandwidth):
        assert "not measured" in rule([], probes).words


# --- C3 and C6 ---


@pytest.mark.parametrize(
    ("horizons", "number", "updates", "words"),
    [
        ({"lstm, bias 1": 1024}, 3, 500, "against: lstm, bias 1, longest lag solved"),
        ({"lstm, bias 1": 256, "transformer": 16384}, 3, 5000, "for: "),
        ({"lstm, bias 1": 256, "transformer": 16384}, 3, 500, "not enough evidence: lstm, bias 1"),
        ({"lstm, bias 1": 256, "transformer": 256}, 3, 5000, "not enough evidence: "),
        ({"lstm, bias 1": 4096}, 2, 5000, "not enough evidence: lstm, bias 1 not measured with 3"),
        ({"lstm, chrono": 4096}, 3, 5000, "not enough evidence: lstm, bias 1 not measured with 3"),
    ],
)
def test_a_lag_not_learnt_decides_only_after_many_updates_and_where_another_arm_learnt_it(
    tmp_path, horizons, number, updates, words
):
    folder = write_horizon(tmp_path, horizons, LAGS, number, ("latch", "latch-mixed"))
    rows = [
        replace(r, budget_updates=updates, updates=updates)
        for r in read_probes([folder])["horizon"].rows
    ]
    verdict = lstm_memory([], {"horizon": Measured(rows, {})})
    assert verdict.words.startswith(words)
    few = updates == 500 and verdict.kind == "not enough evidence"
    assert ("5,000 updates might be enough" in verdict.words) == few
    rows = [replace(r, arm={"lstm, bias 1": "hierarchical"}.get(r.arm, r.arm)) for r in rows]
    other = hierarchy([], {"horizon": Measured(rows, {})})
    assert other.kind in ("not enough evidence", "against")
    assert (other.kind == "against") == (words == "for: ")


def test_a_horizon_at_the_longest_lag_tried_is_no_limit(tmp_path):
    folder = write_horizon(tmp_path, {"lstm, bias 1": 256}, [64, 256], tasks=TASKS)
    assert "no lag of 1,000 or more was tried" in lstm_memory([], read_probes([folder])).words
    folder = write_horizon(tmp_path / "b", {"hierarchical": 16384}, LAGS, tasks=TASKS)
    assert hierarchy([], read_probes([folder])).kind == "for"


@pytest.mark.parametrize(
    ("own", "other", "words"),
    [
        (5000, 5000, "against: "),
        (500, 5000, "5,000 updates might be enough"),  # 5,000 updates at another lag do not count
        (5000, 9000, "no arm solved a lag of 10,000 with equal updates"),
    ],
)
def test_a_missed_lag_is_judged_by_its_own_updates_and_seeds(tmp_path, own, other, words):
    """The hierarchical encoder solves lag 4,096 with 5,000 updates and 5 seeds."""

    def attempts(arm: str, longest: int, lag: int, number: int, updates: int) -> list[Attempt]:
        folder = write_horizon(tmp_path / f"{arm} {lag}", {arm: longest}, [lag], number, TASKS)
        rows = read_probes([folder])["horizon"].rows
        return [replace(row, budget_updates=updates, updates=updates) for row in rows]

    rows = attempts("hierarchical", 4096, 4096, 5, 5000)
    rows += attempts("hierarchical", 4096, 10_000, 3, own)
    rows += attempts("gru", 10_000, 10_000, 3, other)
    verdict = hierarchy([], {"horizon": Measured(rows, {})})
    assert words in verdict.words
    assert "4,096 steps (exact, median of 3 seeds, at most " in verdict.words
    assert f"{own:,} at a lag of 10,000" in verdict.words
    easier = [replace(row, curriculum=[512], updates_here=own - 25) for row in rows]
    few = hierarchy([], {"horizon": Measured(easier, {})}).words
    assert "5,000 updates might be enough" in few  # those at a lag of 512 do not count


# --- nothing measured ---


def test_a_missing_measurement_is_named_with_its_command(tmp_path):
    (group,) = group_runs([read_run(write_run(tmp_path / "a", errors=made(0.1, 60)))])
    verdicts = judge([compare_arms(group, [])], {})
    assert [v.claim for v in verdicts] == list(RULES)
    assert {v.kind for v in verdicts} == {"not enough evidence"}
    told = {v.claim: v.commands for v in verdicts}
    assert told["C3"][0].startswith(PROBES["horizon"].command)
    assert told["C5"] == [PROBES["roofline"].command]
    assert all(told.values())


def test_seeds_of_one_model_are_drawn_as_mean_minimum_and_maximum():
    def row(run, seconds, wer):
        return LengthPoint(
            run, "LSTM", "CTC", 1, 1, 9, 1.0, seconds, seconds, 0, 9, wer, 0.0, 1.0, 0.0, 0, 0, 0.1
        )

    rows = [row("a", 2.0, 0.2), row("a", 1.0, 0.1), row("b", 1.0, 0.3), row("b", 2.0, 0.6)]
    assert list(models(rows)) == ["LSTM + CTC"]
    both = wer_over_runs("LSTM + CTC", rows, "mean_seconds")
    assert both.x == [1.0, 2.0]
    assert both.y == pytest.approx([20, 40])
    assert (both.low, both.high) == (pytest.approx([10, 20]), pytest.approx([30, 60]))
    alone = wer_over_runs("LSTM + CTC", rows[:2], "mean_seconds")
    assert (alone.y, alone.low, alone.high) == (pytest.approx([10, 20]), [0, 0], [100, 100])
