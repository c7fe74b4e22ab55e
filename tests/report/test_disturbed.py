"""Comparisons of runs that other programs disturbed, and the units of costs."""

import dataclasses
import json

import pytest
import yaml

from asr.report import compare, verdict
from asr.report.cost_claims import running
from asr.report.disturbed import equal_costs, no_front, resource
from asr.report.evidence import compare_arms
from asr.report.groups import group_runs
from asr.report.probes import read_probes
from asr.report.runs import read_run
from asr.report.training_claim import judged
from asr.statistics.contrast import Contrast
from tests.run_folders import (
    CPU,
    CURVE,
    H200,
    made,
    recorded,
    seeds,
    stream,
    write_probe,
    write_run,
)

COST = Contrast(
    claim="C1", subject="LSTM", reference="Transformer", estimator="cost to a target",
    unit="device_hours", margin=1.1, target=10,
)  # fmt: skip
WAITED = "the run waited for a core during 30 % of the time"


def two_arms(folder, rate, **second):
    """A quiet LSTM, and a Transformer whose runs were disturbed, with five seeds each.

    ``slower`` makes the Transformer do less in its wall time: fewer updates, less audio and CPU.
    """
    runs = [
        *seeds(folder, "LSTM", 0.08, 5, **recorded()),
        *seeds(
            folder, "Transformer", rate, 5, **recorded(second.pop("cpu", 1.0), WAITED), **second
        ),
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    arms = [dataclasses.replace(arm, name=arm.label) for arm in group.arms]
    return dataclasses.replace(group, arms=arms)


def fewer(group, factor):
    """Divides everything but the time that the second arm spent."""
    for run in group.arms[1].runs:
        for name in ("updates", "audio_seconds", "train_flops"):
            run.totals[name] /= factor
        run.totals["cpu_seconds"] = {"step": run.totals["cpu_seconds"]["step"] / factor}


def test_a_disturbed_arm_that_did_less_in_its_time_gets_no_verdict(tmp_path):
    group = two_arms(tmp_path, 0.2)
    fewer(group, 1.3)
    evidence = compare_arms(group, [0.1])
    answer = verdict.answer(evidence)
    assert answer[0].startswith(
        "Not enough evidence to say whether LSTM or Transformer makes fewer errors: runs of "
        "Transformer were disturbed, so equal core-hours are not equal shares of the machine."
    )
    # The Transformer stopped after 346 updates, where the WER lies between 0.1 and 0.12.
    for words in ("updates (346) LSTM 10.9 %, ", "audio-hours (1.92) LSTM", "346 CPU seconds"):
        assert words in answer[1]
    assert answer[1].startswith("To train to 10.0 % validation WER (medians over seeds, not tested")
    assert "CPU-hours" in answer[1]
    assert "core-hours" not in answer[1]
    assert not any("fewer errors than" in line for line in answer)
    errors = dataclasses.replace(COST, estimator="errors", unit="points", target=None)
    told = judged(compare_arms(group, [], contrasts=[errors]), errors).words
    assert told.startswith("not enough evidence: LSTM minus Transformer, test WER")
    assert "(runs of Transformer were disturbed" in told


def test_a_disturbed_arm_that_did_as_much_is_compared_at_what_it_did(tmp_path):
    answer = verdict.answer(compare_arms(two_arms(tmp_path, 0.2), [0.1]))
    assert answer[0].startswith(
        "LSTM makes fewer errors than Transformer at equal updates, audio-hours, training compute "
        "and CPU time (runs of Transformer were disturbed): test WER"
    )


@pytest.mark.parametrize("name", ["updates", "audio_seconds", "train_flops", "cpu_seconds"])
def test_one_unequal_cost_of_a_disturbed_arm_forbids_a_verdict(tmp_path, name):
    group = two_arms(tmp_path, 0.2)
    for run in group.arms[1].runs:
        value = run.totals[name]
        run.totals[name] = {"step": value["step"] / 1.3} if name == "cpu_seconds" else value / 1.3
    assert verdict.answer(compare_arms(group, []))[0].startswith("Not enough evidence")


def test_quiet_and_unknown_runs_are_compared_at_equal_cost(tmp_path):
    for name, facts in (("quiet", recorded()), ("unknown", {})):
        runs = [
            run
            for encoder, rate in (("LSTM", 0.08), ("Transformer", 0.2))
            for run in seeds(tmp_path / name, encoder, rate, 3, **facts)
        ]
        answer = compare(runs, tmp_path / f"{name}-page")["answer"][0]
        assert answer[0].startswith("LSTM makes fewer errors than Transformer at equal cost: test")
        page = (tmp_path / f"{name}-page" / "report.md").read_text()
        for words in ("not recorded | not recorded", "6 runs of 6 did not record whether other"):
            assert (words in page) == (name == "unknown")
        assert "DISTURBED" not in page


def test_costs_of_a_disturbed_arm_decide_nothing_and_are_described_in_cpu_hours(tmp_path):
    group = two_arms(tmp_path, 0.1, slower=1.3)
    evidence = compare_arms(group, [], contrasts=[COST])
    assert resource(group.arms) == "cpu_hours"
    by_cpu = judged(evidence, dataclasses.replace(COST, unit="cpu_hours")).words
    assert by_cpu.startswith(
        "against: LSTM / Transformer, CPU time, hours to 10 % validation WER, 0.77"
    )
    told = judged(evidence, COST).words
    assert told.startswith("not enough evidence: ")
    for run in group.arms[1].runs:  # threads that wait for each other use CPU time
        run.totals["num_threads"] = 2
    assert resource(group.arms) is None
    assert "CPU time" not in equal_costs(group.arms)
    told = judged(evidence, COST).words
    assert told.startswith("not enough evidence: ")
    assert told.endswith("(the runs were disturbed)")


def test_the_page_names_disturbed_runs_and_has_no_best_trade_off(tmp_path):
    runs = [
        write_run(tmp_path / "a", errors=made(0.1, seed=1), **recorded()),
        write_run(tmp_path / "b", "Transformer", errors=made(0.1), **recorded(0.7, WAITED)),
    ]
    compare(runs, tmp_path / "page")
    page = (tmp_path / "page" / "report.md").read_text()
    assert f"DISTURBED RUN: b: {WAITED}." in page
    assert "| runs disturbed by other programs | 0 of 1 | 1 of 1 |" in page
    assert "| CPU time, hours | 0.125 (7.5 min) | 0.0875 (5.2 min) |" in page
    assert "No arm is called a best trade-off, because runs of Transformer were disturbed." in page
    assert "Pareto front)" not in page


def test_speeds_of_recognition_that_waited_for_a_core_are_not_compared(tmp_path):
    runs = [
        write_run(tmp_path / "a", errors=made(0.1), encode=0.001, rtf=0.05),
        write_run(tmp_path / "b", "Transformer", errors=made(0.1), encode=0.002, rtf=0.1),
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    metrics = group.arms[1].runs[0].metrics
    metrics["gpu_shared_share"] = 0.4
    assert "shared the GPU with other processes (Transformer 40.0 %" in no_front(group)
    metrics["gpu_shared_share"] = None
    for share, compared in ((0.05, True), (0.4, False)):
        metrics["core_wait_share"] = share
        evidence = compare_arms(group, [])
        (line,) = [line for line in verdict.answer(evidence) if "In recognition" in line]
        why = "cannot be compared because they waited for a core (Transformer 40.0 % of the time)"
        assert (why in line) is not compared
        assert bool(no_front(group)) is not compared


def test_times_of_a_probe_that_waited_for_a_core_decide_nothing(tmp_path):
    streams = stream("lstm-causal-small", 0.2, 10, 64)
    streams += stream("transformer-chunked-small", 0.6, 900, 64)
    write_probe(tmp_path, "streaming", streams)
    read = read_probes([tmp_path])
    for share, kind in ((0.05, "against"), (0.4, "not enough evidence")):
        probes = {
            name: dataclasses.replace(one, machine={**one.machine, "core_wait_share": share})
            for name, one in read.items()
        }
        found = running([], probes)
        assert found.kind == kind
        assert ("waited for a core during 40 %" in found.words) == (share == 0.4)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"cpu_hours": 0.125}, "at equal CPU time:"),
        ({"updates": 450}, "at equal updates:"),
        ({"audio_hours": 2.5}, "at equal audio-hours:"),
        ({"updates": 450, "device_hours": 1.0}, "at equal cost:"),
    ],
)
def test_the_verdict_names_the_cost_that_the_budgets_limit(tmp_path, budget, words):
    runs = [
        run
        for encoder, rate in (("LSTM", 0.08), ("Transformer", 0.2))
        for run in seeds(tmp_path, encoder, rate, 3, recipe={"budget": budget}, **recorded())
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    assert f"fewer errors than Transformer {words}" in verdict.answer(compare_arms(group, []))[0]


def test_a_run_of_an_earlier_version_is_read_in_core_hours(tmp_path):
    old = write_run(tmp_path / "old", num_threads=2)
    new = write_run(tmp_path / "new", device=CPU | {"num_devices": 2}, **recorded())
    for run in (old, new):
        tree = yaml.safe_load((run / "recipe.yaml").read_text())
        tree["budget"]["device_hours"] = 0.125 if run is old else 0.25
        (run / "recipe.yaml").write_text(yaml.safe_dump(tree))
    read = [read_run(run) for run in (old, new)]
    for name in ("device_hours", "num_devices"):
        assert read[0].totals[name] == read[1].totals[name]
    assert [p.device_hours for p in read[0].points] == [2 * wall / 3600 for wall, _ in CURVE]
    assert {run.recipe["budget.device_hours"] for run in read} == {0.25}
    gpu = read_run(write_run(tmp_path / "gpu", device=H200, num_threads=16))
    assert gpu.totals["device_hours"] == 2 * 450 / 3600
    assert json.loads((old / "ledger.json").read_text())["device_hours"] == 0.125
