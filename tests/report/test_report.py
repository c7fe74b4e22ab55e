"""The report's figures against values worked out by hand; what is missing; what may be compared."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from asr.data.utterances import DataOptions
from asr.formatting import digits, hours, percent, percent_interval, prefixed
from asr.recipe.schema import Recipe, TrainerOptions
from asr.report import compare
from asr.report.costs import cost_to, default_targets, pareto, wer_at
from asr.report.groups import INCIDENTAL, SHARED, group_runs
from asr.report.plots import (
    mean_curve,
    phase_hours,
)
from asr.report.runs import flatten, read_run
from asr.report.verdict import inequalities
from tests.run_folders import (
    CPU,
    CURVE,
    H200,
    line,
    made,
    pair,
    write_best,
    write_lines,
    write_run,
)


def table(output: Path) -> list[dict[str, str]]:
    with (output / "report.csv").open() as file:
        return list(csv.DictReader(file))


# --- numbers ---


def test_every_number_of_the_table_equals_that_worked_out_by_hand(tmp_path):
    run = write_run(tmp_path / "a", errors=[1] * 100, wasted_seconds=45.0)
    compare([run], tmp_path / "out", targets=[0.2, 0.05])
    (row,) = table(tmp_path / "out")
    expected = {
        "wer_percent": 10,
        "wer_low_percent": 8,
        "wer_high_percent": 12,
        "cer_percent": 5,
        "best_validation_wer_percent": 10,
        "encoder_parameters": 1000,
        "parameters": 1500,
        "device_hours": 0.125,  # 450 s on one device
        "wasted_device_hours": 0.0125,
        "startup_seconds": 10,
        "step_seconds": 352,  # 80 % of 440 s
        "train_flop": 450e9,
        "audio_hours": 2.5,  # 20 s of audio in each of 450 s
        "audio_hours_per_device_hour": 20,
        "target_1_wer_percent": 20,
        "target_1_device_hours": 200 / 3600,
        "target_1_train_flop": 200e9,
        "target_1_audio_hours": 4000 / 3600,
        "real_time_factor_seconds_per_second": 0.05,
        "updates": 450,
    }
    assert {name: float(row[name]) for name in expected} == pytest.approx(expected)
    assert row["target_2_device_hours"] == row["energy_joules"] == ""
    text = (tmp_path / "out" / "report.md").read_text()
    for said in ("10.0 % [8.0 to 12.0]", "0.125 (7.5 min)", "450 GFLOP", "300 MiB", "| 2.50 |"):
        assert said in text
    assert "not reached within 0.125 (7.5 min)" in text


def test_devices_are_summed_and_phases_add_up_to_the_cost(tmp_path):
    run = read_run(write_run(tmp_path / "a", device=H200, errors=[1] * 60))
    (group,) = group_runs([run])
    spent = phase_hours(group.arms[0])
    assert sum(spent.values()) == pytest.approx(2 * 450 / 3600)
    assert spent["step"] == pytest.approx(2 * 352 / 3600)


def test_default_targets_are_multiples_of_the_weaker_arms_best(tmp_path):
    slow = tuple((wall, 2 * wer) for wall, wer in CURVE)
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", "Transformer", curve=slow)]
    (group,) = group_runs([read_run(run) for run in runs])
    assert default_targets(group) == pytest.approx([0.3, 0.23, 0.2])
    costs = [cost_to(arm, 0.2, "device_hours").value for arm in group.arms]
    assert costs == pytest.approx([200 / 3600, 300 / 3600])


def test_default_targets_near_100_percent_are_left_out(tmp_path):
    run = read_run(write_run(tmp_path / "a", curve=((100, 0.9), (200, 0.8))))
    assert default_targets(group_runs([run])[0]) == pytest.approx([0.92, 0.8])


def test_a_run_that_misses_the_target_is_censored_not_dropped(tmp_path):
    never = tuple((wall, wer + 0.5) for wall, wer in CURVE)
    curves = [CURVE, CURVE, never]
    runs = [
        read_run(write_run(tmp_path / str(s), seed=s, curve=c)) for s, c in enumerate(curves, 1)
    ]
    cost = cost_to(group_runs(runs)[0].arms[0], 0.1, "device_hours")
    assert cost.reached == [True, True, False]
    assert cost.value == pytest.approx(300 / 3600)  # the median of 300, 300 and infinity
    assert cost.limit == pytest.approx(450 / 3600)
    assert cost.interval == (pytest.approx(300 / 3600), float("inf"))
    runs.append(read_run(write_run(tmp_path / "4", seed=4, curve=never)))
    cost = cost_to(group_runs(runs[1:])[0].arms[0], 0.1, "device_hours")
    assert cost.value == float("inf")  # one of three is fewer than half


def test_a_wer_at_a_cost_lies_between_validations_and_never_beyond_them(tmp_path):
    curve = ((100, 0.5), (200, 0.3))
    (group,) = group_runs([read_run(write_run(tmp_path / "a", curve=curve))])
    (arm,) = group.arms
    rates = {100: 0.5, 150: 0.4, 200: 0.3, 203: 0.3, 99: 0.5, 205: None, 97: None, 300: None}
    for updates, rate in rates.items():
        found = wer_at(arm, updates, "updates")
        assert found == (None if rate is None else pytest.approx(rate))


def test_curves_of_seeds_are_averaged_where_all_of_them_have_values(tmp_path):
    shifted = tuple((wall + 50, wer + 0.1) for wall, wer in CURVE)
    runs = [write_run(tmp_path / "1", seed=1), write_run(tmp_path / "2", seed=2, curve=shifted)]
    (arm,) = group_runs([read_run(run) for run in runs])[0].arms
    x, middle, low, high = mean_curve(arm, "device_hours")
    assert (x[0], x[-1]) == pytest.approx((150 / 3600, 400 / 3600))
    # at 150 s the first seed is half-way from 50 to 20 %, the second at 60 %
    assert (low[0], middle[0], high[0]) == pytest.approx((35, 47.5, 60))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (digits(0.012345), "0.0123"),
        (digits(12345.6), "12,346"),
        (digits(None), "not measured"),
        (percent(0.0512), "5.12 %"),
        (percent(0.512), "51.2 %"),
        (percent_interval(0.05, (0.04, 0.061)), "5.00 % [4.00 to 6.10]"),
        (prefixed(1.5e15, "FLOP"), "1.50 PFLOP"),
        (prefixed(420, "J"), "420 J"),
        (hours(0.25, "h"), "0.250 h (15 min)"),
        (hours(2), "2.00"),
        (hours(0.25, "core-hours"), "0.250 core-hours (15 core-min)"),
        (digits(0.9996), "1.00"),
        (digits(1.0004), "1.00"),
        (digits(9.999), "10.0"),
        (digits(0.0099996), "0.0100"),
    ],
)
def test_numbers_have_sensible_digits_and_units(said, expected):
    assert said == expected


def test_the_front_holds_the_points_that_no_other_point_beats(tmp_path):
    runs = [
        write_run(tmp_path / "a", "LSTM", errors=[1] * 100, rtf=0.05),
        write_run(tmp_path / "b", "Transformer", errors=[2] * 100, rtf=0.02),
        write_run(tmp_path / "c", "Conformer", errors=[2] * 100, rtf=0.06),
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    assert [arm.label for arm in pareto(group)] == ["LSTM", "Transformer"]


# --- crashes and missing pieces ---


def test_a_validation_lost_to_a_crash_counts_in_the_cost_but_not_in_the_curve(tmp_path):
    folder = write_run(tmp_path / "a")
    first = {"event": "start", **CPU, "from_update": 0}
    again = {"event": "start", **CPU, "from_update": 150}
    lines = [first, line(100, 0.5), line(200, 0.2), again]
    lines += [line(300, 0.2, updates=200, wasted_seconds=50.0)]
    write_lines(folder / "ledger.jsonl", lines)
    run = read_run(folder)
    assert [(p.updates, p.wer) for p in run.points] == [(100, 0.5), (200, 0.2)]
    assert run.points[-1].device_hours == pytest.approx(300 / 3600)
    assert "validations lost to a crash and left out of the curve: 1" in run.notes


def test_an_incomplete_line_of_a_killed_session_is_noted_and_skipped(tmp_path):
    folder = write_run(tmp_path / "a")
    lines = (folder / "ledger.jsonl").read_text().split("\n")
    (folder / "ledger.jsonl").write_text("\n".join([*lines[:2], lines[2][:40], *lines[3:]]))
    run = read_run(folder)
    assert len(run.points) == len(CURVE) - 1
    assert "1 line of ledger.jsonl cut short by a crash" in run.notes


@pytest.mark.parametrize(("headline", "noted"), [("cer", True), ("wer", False)])
def test_a_run_on_texts_without_spaces_is_noted(tmp_path, headline, noted):
    folder = write_run(tmp_path / "a", errors=[1] * 10)
    path = folder / "evaluations" / "test" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"headline": headline}))
    assert any("read the CER" in note for note in read_run(folder).notes) == noted


def test_the_cost_of_a_killed_run_is_that_of_its_heartbeat(tmp_path):
    folder = write_run(tmp_path / "a", finished=False)
    (folder / "heartbeat.json").write_text('{"wall_seconds": 440.0, "device_seconds": 440.0}')
    run = read_run(folder)
    assert run.totals["device_hours"] == pytest.approx(440 / 3600)
    spent = phase_hours(group_runs([run])[0].arms[0])
    assert spent["other"] == pytest.approx(40 / 3600)  # the last line was at 400 s
    assert any(note.startswith("the run is not finished") for note in run.notes)


@pytest.mark.parametrize("missing", ["ledger", "evaluation", "hypotheses", "everything"])
def test_missing_files_are_stated_and_not_fatal(tmp_path, missing):
    runs = pair(tmp_path, errors=made(0.2))
    names = {
        "ledger": ["ledger.jsonl", "ledger.json"],
        "evaluation": ["evaluations/test/metrics.json", "evaluations/test/hypotheses.jsonl"],
        "hypotheses": ["evaluations/test/hypotheses.jsonl"],
    }
    gone = sum(names.values(), []) if missing == "everything" else names[missing]
    for name in set(gone):
        (runs[1] / name).unlink()
    answer = compare(runs, tmp_path / "out")["answer"][0]
    page = (tmp_path / "out" / "report.html").read_text()
    stated = {
        "ledger": "the ledger is empty",
        "evaluation": "not evaluated yet; run: asr evaluate",
        "hypotheses": "hypotheses.jsonl is missing",
        "everything": "the ledger is empty",
    }
    assert stated[missing] in page
    assert ("Measured" in answer[0]) == (missing == "ledger")
    assert "nan" not in page.lower().split()


def test_an_empty_ledger_and_no_evaluation_still_make_a_page(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "recipe.yaml").write_text("encoder: {class_path: LSTM}\n")
    result = compare([tmp_path / "a"], tmp_path / "out")
    assert result["answer"][0][0].startswith("There is only one arm, LSTM")
    assert "the run has not written its first entry" in (tmp_path / "out/report.md").read_text()


@pytest.mark.parametrize("updates", [300, 400])
def test_an_evaluation_of_a_model_other_than_the_best_is_left_out(tmp_path, updates):
    runs = pair(tmp_path)
    write_best(runs[0], updates)  # both were evaluated after 300
    result = compare(runs, tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    said = "out: it is of the model after 300 updates, but best/ has the model after 400; run: "
    assert (f"**{runs[0]}: the test evaluation is left {said}" in page) == (updates == 400)
    assert ("out of date" in result["answer"][0][0]) == (updates == 400)
    assert (table(tmp_path / "out")[0]["wer_percent"] == "") == (updates == 400)


def test_utterances_left_out_of_the_ctc_term_are_stated(tmp_path):
    runs = pair(tmp_path, infeasible_utterances=1234)
    compare(runs, tmp_path / "out")
    compare(runs[:1], tmp_path / "none")
    words = "left out of the CTC term (repetitions counted) | not measured | 1,234 |"
    assert words in (tmp_path / "out" / "report.md").read_text()
    assert "CTC term" not in (tmp_path / "none" / "report.md").read_text()


def test_the_cost_of_a_run_before_its_first_line_is_that_of_its_heartbeat(tmp_path):
    folder = write_run(tmp_path / "a", curve=(), finished=False)
    (folder / "ledger.json").unlink()
    (folder / "heartbeat.json").write_text('{"wall_seconds": 36.0, "device_seconds": 36.0}')
    run = read_run(folder)
    assert run.totals["device_hours"] == pytest.approx(0.01)
    assert run.best_validation_wer is None
    assert "the ledger is empty: the run has not written its first entry" in run.notes


# --- mistakes ---


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("evaluations/test/hypotheses.jsonl", "has 1 lines that are not JSON; run: asr evaluate"),
        ("best/model.safetensors", "is damaged .*; restore it or train again"),
    ],
)
def test_a_damaged_file_is_named_with_the_remedy(tmp_path, name, said):
    folder = write_run(tmp_path / "a", errors=made(0.1))
    write_best(folder, 300)
    (folder / name).write_text('{"half": ')
    with pytest.raises(ValueError, match=said):
        read_run(folder)


def test_a_folder_that_is_no_run_is_named_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"nothing is not a run folder .*asr train wrote"):
        compare([tmp_path / "nothing"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", [5.0, 0.0, -0.1])
def test_a_target_that_is_no_rate_is_refused(tmp_path, target):
    with pytest.raises(ValueError, match="is not between 0 and 100 %"):
        compare([write_run(tmp_path / "a")], tmp_path / "out", targets=[target])


def test_a_run_given_twice_a_file_as_output_and_no_run_are_refused(tmp_path):
    run = write_run(tmp_path / "a")
    with pytest.raises(ValueError, match="given twice"):
        compare([run, tmp_path / "." / "a"], tmp_path / "out")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        compare([run], run / "recipe.yaml")
    with pytest.raises(ValueError, match="no run to compare"):
        compare([], tmp_path / "out")


# --- what may be compared ---


def rows(digit: str) -> dict[str, Any]:
    checksums = dict.fromkeys(("train", "validation"), 64 * digit)
    return {"name": "spoken", "path": "data/spoken", "rows_sha256": checksums}


def test_seeds_trained_on_different_data_are_different_arms(tmp_path):
    """Only what both say can be in conflict: an older run is compared, and called unknown."""
    runs = [
        read_run(write_run(tmp_path / str(seed), seed=seed, **facts))
        for seed, facts in enumerate([{"corpus": rows("a")}, {"corpus": rows("b")}, {}])
    ]
    groups = group_runs(runs)
    assert [[len(arm.runs) for arm in group.arms] for group in groups] == [[1, 1], [1]]
    known, unknown = (arm.label for arm in groups[0].arms)
    assert known == "LSTM rows=train aaaaaaaa, validation aaaaaaaa"
    assert unknown == "LSTM rows=unknown"
    stated = (
        "data.rows",
        f"data.rows: {known} train aaaaaaaa, validation aaaaaaaa, {unknown} unknown.",
    )
    assert stated in inequalities(groups[0])
    compare([run.path for run in runs[::2]], tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| trained on | train aaaaaaaa, validation aaaaaaaa (0); unknown (2) |" in page


def test_thread_counts_matter_on_a_cpu_only(tmp_path):
    runs = [
        read_run(write_run(tmp_path / str(n), seed=n, device=H200, num_threads=n, errors=made(0.1)))
        for n in (2, 8)
    ]
    (group,) = group_runs(runs)
    compare([run.path for run in runs], tmp_path / "out")
    assert "| threads | 2 (2); 8 (8) |" in (tmp_path / "out" / "report.md").read_text()
    assert [row["num_threads"] for row in table(tmp_path / "out")] == ["2", "8"]


def test_runs_of_several_commits_or_thread_counts_are_named_at_the_top(tmp_path):
    runs = [
        write_run(tmp_path / f"{n}", e, seed=n, device=H200, num_threads=t, errors=made(0.1))
        for n, (e, t) in enumerate([("LSTM", 2), ("LSTM", 8), ("Transformer", 8)])
    ]
    answer = compare(runs, tmp_path / "a")["answer"][0]
    assert any("The runs differ in their number of threads (below)." in line for line in answer)
    page = (tmp_path / "a" / "report.md").read_text()
    threads = (
        "differ in their number of threads: 2 (1 of LSTM) and 8 (1 of LSTM and 1 of Transformer)."
    )
    assert threads in page
    assert "in their commit" not in page
    made_by = json.loads((runs[0] / "environment.json").read_text()) | {"git_commit": "def5678"}
    (runs[0] / "environment.json").write_text(json.dumps(made_by))
    answer = compare(runs, tmp_path / "b")["answer"][0]
    assert any("differ in their commit and number of threads (below)." in line for line in answer)


def test_a_seed_trained_twice_counts_once_and_both_folders_are_named(tmp_path):
    runs = [write_run(tmp_path / name, seed=1) for name in ("first", "again")]
    with pytest.raises(ValueError, match=r"again and .*first both have seed 1 of LSTM.*give one"):
        compare(runs, tmp_path / "out")
    other = write_run(tmp_path / "other", "Transformer", seed=1)
    assert compare([runs[0], other], tmp_path / "out")["groups"] == [["LSTM", "Transformer"]]


def test_every_key_that_the_report_reads_exists_in_a_recipe():
    fields = {f.name for f in dataclasses.fields(Recipe)}
    data = {f"data.{f.name}" for f in dataclasses.fields(DataOptions)}
    data |= {f"trainer.{f.name}" for f in dataclasses.fields(TrainerOptions)}
    assert set(INCIDENTAL).union(*SHARED.values()) <= fields | data


def test_runs_that_log_and_save_at_other_times_are_one_arm(tmp_path):
    trainer = {"log_every_n_steps": 1, "checkpoint_every_seconds": 5, "keep_checkpoints_every": 4}
    runs = [
        write_run(tmp_path / "a", seed=1),
        write_run(tmp_path / "b", seed=2, recipe={"trainer": trainer}),
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    assert [arm.label for arm in group.arms] == ["LSTM"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recipe": {"decoder": {"class_path": "AttentionLSTM"}}}, "decoder is AttentionLSTM inst"),
        ({"recipe": {"features": {"num_mels": 40}}}, "features.num_mels is 40 instead of 80"),
        ({"recipe": {"tokenizer": {"size": 99}}}, "tokenizer: tokenizer.size is 99"),
        ({"recipe": {"search": {"class_path": "Beam"}}}, "search: search is Beam instead of Greed"),
        ({"errors": [1] * 90}, "corpus: data/spoken with other utterances"),
        ({"recipe": {"data": {"corpus": "data/fsdd", "train": ["train"]}}}, "instead of data/spok"),
        ({"device": CPU | {"device_name": "Xeon"}}, "device: Xeon instead of EPYC"),
        ({"device": H200}, "kind of device: cuda instead of cpu"),
        ({"device": CPU | {"num_devices": 2}}, "number of devices: 16 instead of 8"),
        ({"num_threads": 2}, "number of threads: 2 instead of 8"),
        ({"corpus": rows("b")}, "training data: train bbbbbbbb, validation bbbbbbbb instead of"),
    ],
)
def test_runs_that_are_not_comparable_are_grouped_separately_with_the_reason(
    tmp_path, change, reason
):
    usual = {"num_threads": 8, "corpus": rows("a")}
    options = usual | {"errors": None if "fsdd" in str(change) else made(0.1)} | change
    runs = [
        write_run(tmp_path / "a", errors=made(0.1), **usual),
        write_run(tmp_path / "b", **options),
    ]
    groups = group_runs([read_run(run) for run in runs])
    assert [len(group.runs) for group in groups] == [1, 1]
    assert any(reason in sentence for sentence in groups[1].separation)


def test_groups_have_answers_and_figures_of_their_own(tmp_path):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", device=H200)]
    result = compare(runs, tmp_path / "out")
    assert result["separation"][0] == []
    assert "Only runs of the same group" in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "wer_against_device_hours-group2.png").exists()
    assert [row["group"] for row in table(tmp_path / "out")] == ["1", "2"]


def test_a_corpus_at_another_path_is_the_same_when_its_checksum_is(tmp_path):
    elsewhere = {"data": {"corpus": "/other/spoken", "train": ["train"], "max_batch_seconds": 60.0}}
    groups = group_runs([read_run(run) for run in pair(tmp_path, recipe=elsewhere)])
    assert [arm.label for arm in groups[0].arms] == ["LSTM", "Transformer"]
    assert inequalities(groups[0]) == []


def test_seeds_share_an_arm_and_options_tell_arms_apart(tmp_path):
    wide = {"encoder": {"class_path": "asr.encoders.LSTM", "init_args": {"dim": 128}}}
    runs = [write_run(tmp_path / f"s{s}", seed=s) for s in (2, 1)]
    runs.append(write_run(tmp_path / "wide", recipe=wide))
    (group,) = group_runs([read_run(run) for run in runs])
    assert [arm.label for arm in group.arms] == ["LSTM dim=64", "LSTM dim=128"]
    assert [run.seed for run in group.arms[0].runs] == [1, 2]


def test_arms_that_differ_in_a_fourth_key_alone_have_labels_of_their_own(tmp_path):
    """Folders of a study are all called run; evidence is kept by label."""
    options = {"a": (1, 2, 3, 4), "b": (1, 2, 3, 5), "c": (6, 7, 8, 4)}
    runs = [
        write_run(
            tmp_path / arm / f"full-seed{seed}" / "run",
            seed=seed,
            recipe={
                "encoder": {
                    "class_path": "LSTM",
                    "init_args": dict(zip("pqrs", given, strict=True)),
                }
            },
        )
        for arm, given in options.items()
        for seed in (1, 2)
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    assert [arm.label for arm in group.arms] == [
        "LSTM p=1 q=2 r=3 (a/full-seed1/run)",
        "LSTM p=1 q=2 r=3 (b/full-seed1/run)",
        "LSTM p=6 q=7 r=8",
    ]


def test_parameters_settings_and_budgets_that_differ_are_stated(tmp_path):
    other = {"optimizer": {"lr": 0.0003}, "budget": {"device_hours": 0.5, "updates": None}}
    (group,) = group_runs([read_run(r) for r in pair(tmp_path, recipe=other, parameters=1060)])
    assert sorted(inequalities(group)) == [
        ("budget.device_hours", "budget.device_hours: LSTM 0.125, Transformer 0.5."),
        ("optimizer.lr", "optimizer.lr: LSTM 0.001, Transformer 0.0003."),
        ("parameters", "The encoders' parameters differ by 6 %: LSTM 1,000, Transformer 1,060."),
    ]


def test_components_are_flattened_to_class_and_options():
    tree = {"encoder": {"class_path": "a.b.LSTM", "init_args": {"dim": 1}}, "data": {"train": [1]}}
    assert flatten(tree) == {"encoder": "LSTM", "encoder.dim": 1, "data.train": [1]}
