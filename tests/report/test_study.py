"""A study's page: what it registered and cost, and what contradicts that; the probes' files."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from asr.cli import main
from asr.probes import PROBES
from asr.report import compare
from asr.report.costs import cost_to
from asr.report.groups import group_runs
from asr.report.probes import read_probes
from asr.report.runs import read_run
from asr.report.study import checksum, known_by_study, read_record
from asr.report.study_audit import disagreements
from asr.statistics.tuning import expected_best
from tests.run_folders import (
    stream,
    write_context,
    write_horizon,
    write_lines,
    write_probe,
    write_roofline,
    write_run,
    write_study,
    write_threads,
)

POINT = ("point", "failed")  # a failed final run has none
ARMS = {"lstm": "LSTM", "transformer": "Transformer"}


def said(folder: Path) -> list[str]:
    study = read_record(folder)
    return disagreements(study, [read_run(run) for run in study.final_runs], "test", [])


def change(folder: Path, **keys: object) -> None:
    path = folder / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_trials_and_failures_count_in_the_cost(tmp_path):
    folder = write_study(tmp_path / "study", ARMS, failed=1)
    result = compare([], tmp_path / "out", study=folder)
    assert result["disagreements"] == []
    page = (tmp_path / "out" / "report.md").read_text()
    # 4 trials of 0.03 and 2 final runs of 0.125 device-hours; a point is part of a final run
    assert "| lstm | 4 | 0.120 | 2 | 0.250 | 1 (0.0300) | 0.370 |" in page
    assert "| all | 8 | 0.240 | 4 | 0.500 | 2 (0.0600) | 0.740 |" in page
    assert "lstm: trial 1 failed after 0.03 core-hours: diverged." in page
    assert "Results, runs and the registered file agree" in page
    assert json.loads((folder / "study.json").read_text())["study_sha256"] in page


def test_the_expected_best_of_n_trials_equals_that_of_the_statistics(tmp_path):
    folder = write_study(tmp_path / "study", ARMS, failed=1)
    compare([], tmp_path / "out", study=folder)
    page = (tmp_path / "out" / "report.md").read_text()
    best = expected_best([1.0, 0.2, 0.3, 0.4])  # the failed trial has the WER of empty output
    (row,) = [line for line in page.splitlines() if line.startswith("| lstm | 0.0300 |")]
    for value in best:
        assert f"{100 * value:.1f} %" in row
    assert (tmp_path / "out" / "tuning.png").is_file()


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        ("file", "study.json was changed after it was registered"),
        ("hash", "16 of 16 results were made under another file than the registered one"),
        ("recipe", "was not trained as registered: optimizer.lr is 0.5 instead of 0.002"),
        ("wer", "the study's result is a WER of 99.0 %, the run folder now says"),
        ("gone", "is gone: its result has no run"),
        ("data", "other rows than the registered ones in train"),
        ("choice", "lstm: final runs with other settings than those of the best trial: seed 1."),
    ],
)
def test_every_planted_contradiction_is_found(tmp_path, spoil, line):
    folder = write_study(tmp_path / "study", ARMS)
    assert said(folder) == []
    run = folder / "finals" / "lstm" / "full-seed1" / "run"
    if spoil == "file":
        resolved = json.loads((folder / "study.json").read_text())["resolved"]
        resolved["study"]["seeds"] = [1]
        change(folder, resolved=resolved)
    elif spoil == "hash":
        write_lines(
            folder / "results.jsonl", [r | {"study_sha256": "f" * 64} for r in rows(folder)]
        )
    elif spoil == "recipe":
        text = (run / "recipe.yaml").read_text()
        (run / "recipe.yaml").write_text(text.replace("lr: 0.002", "lr: 0.5"))
    elif spoil == "wer":
        spoilt = [r | ({"test_wer": 0.99} if r["role"] == "final" else {}) for r in rows(folder)]
        write_lines(folder / "results.jsonl", spoilt)
    elif spoil == "choice":
        text = (run / "recipe.yaml").read_text()
        (run / "recipe.yaml").write_text(text.replace("lr: 0.002", "lr: 0.5"))
        other = [r | {"settings": {"optimizer.lr": 0.5}} for r in rows(folder)]
        mine = [("finals/lstm/full-seed1" in str(r["run"])) for r in rows(folder)]
        new = [o if is_it else r for o, is_it, r in zip(other, mine, rows(folder), strict=True)]
        write_lines(folder / "results.jsonl", new)
    elif spoil == "gone":
        (folder / "trials" / "lstm" / "01" / "run" / "recipe.yaml").unlink()
    else:
        change(folder, rows_sha256={"train": "a" * 64})
        path = run / "ledger.json"
        corpus = {"rows_sha256": {"train": "b" * 64}}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"corpus": corpus}))
    assert any(line in told for told in said(folder))


def test_failed_final_runs_are_named_before_the_answer(tmp_path):
    folder = write_study(tmp_path / "study", ARMS)
    spoilt = {"status": "failed", "reason": "diverged", "test_wer": None}
    mine = [("finals/lstm/full-seed2" in str(r["run"]), r) for r in rows(folder)]
    write_lines(folder / "results.jsonl", [r | (spoilt if is_it else {}) for is_it, r in mine])
    result = compare([], tmp_path / "out", study=folder)
    page = (tmp_path / "out" / "report.html").read_text()
    assert result["disagreements"] == []
    assert "lstm full seed 2 (diverged)" in page[: page.index('<ul class="answer">')]


def test_a_failed_final_run_reaches_no_target_and_its_cost_counts_in_the_study(tmp_path):
    """Seeds 1 and 2 failed, one after 100 s and one before it had a recipe; seed 3 has 20 %."""
    folder = write_study(tmp_path / "study", ARMS, numbers=3)
    finals = folder / "finals" / "lstm"
    short = finals / "full-seed1" / "run"
    lines = (short / "ledger.jsonl").read_text().splitlines()[:2]  # its start and 50 % at 100 s
    (short / "ledger.jsonl").write_text("".join(line + "\n" for line in lines))
    (short / "ledger.json").unlink()
    shutil.rmtree(finals / "full-seed2")
    spoilt = {"status": "failed", "reason": "out of memory", "test_wer": None, "device_hours": 0.05}
    mine = [(r["arm"], r.get("seed")) in (("lstm", 1), ("lstm", 2)) for r in rows(folder)]
    new = [r | (spoilt if bad else {}) for bad, r in zip(mine, rows(folder), strict=True)]
    write_lines(folder / "results.jsonl", [r for r in new if (r["role"], r["status"]) != POINT])
    compare([], tmp_path / "out", study=folder, targets=[0.2])
    page = (tmp_path / "out" / "report.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith("| 20.0 %: training cost")]
    # One of three is fewer than half; the longest stopped after 450 s.
    assert row.split(" | ")[1].startswith("not reached within 0.125 (7.5 min)")
    assert "1 of 3 seeds" in row.split(" | ")[1]
    assert "3 of 3 seeds" in row.split(" | ")[2]
    assert "A run that failed before the target counts as one that never reached it" in page
    assert "| seeds that failed | 1, 2 | none |" in page
    assert "In the cost to a WER, each counts as a run that never reached it" in page
    study = read_record(folder)
    (group,) = known_by_study(group_runs([read_run(run) for run in study.final_runs]), study)
    assert [run.totals["device_hours"] for run in group.arms[0].failed] == [0.05, 0.05]
    half = cost_to(group.arms[0], 0.5, "device_hours")  # what was reached before failing counts
    assert (half.reached, half.spent[1]) == ([True, True, False], pytest.approx(100 / 3600))


def test_the_csv_has_a_row_for_each_run_that_was_paid_for(tmp_path):
    """A final run and a trial that diverged, and one that left no folder, stand in it as well."""
    folder = write_study(tmp_path / "study", ARMS, failed=1)
    diverged = {"status": "failed", "reason": "diverged at update 7", "device_hours": 0.05}
    mine = [(r["arm"], r["role"], r.get("seed")) == ("lstm", "final", 2) for r in rows(folder)]
    new = [r | (diverged if bad else {}) for bad, r in zip(mine, rows(folder), strict=True)]
    write_lines(folder / "results.jsonl", new)
    shutil.rmtree(folder / "trials" / "transformer" / "01")
    compare([], tmp_path / "out", study=folder)
    with (tmp_path / "out" / "report.csv").open() as file:
        table = list(csv.DictReader(file))
    ended = [r for r in rows(folder) if r["role"] != "point"]
    assert sorted(row["run"] for row in table) == sorted(r["run"] for r in ended)
    assert sum(float(row["device_hours"]) for row in table) == pytest.approx(
        sum(r["device_hours"] for r in ended)
    )
    told = [
        (row["study_arm"], row["role"], row["seed"], row["trial"], row["reason"])
        for row in table
        if row["status"] == "failed"
    ]
    assert told == [
        ("lstm", "trial", "0", "1", "diverged"),
        ("lstm", "final", "2", "", "diverged at update 7"),
        ("transformer", "trial", "0", "1", "diverged"),
    ]
    done = [row for row in table if row["status"] == "done"]
    assert len(done) == len(ended) - 3
    assert {row["group"] for row in done if row["role"] == "final"} == {"1"}
    assert {(row["encoder"], row["wer_percent"]) for row in table if row["role"] == "trial"} == {
        ("LSTM", ""),
        ("Transformer", ""),
    }


def test_arms_of_one_encoder_have_the_names_of_the_study(tmp_path):
    arms = {"shallow": "LSTM", "deep": "LSTM", "attention": "Transformer"}
    folder = write_study(tmp_path / "study", arms)
    for path in folder.glob("finals/deep/*/run/recipe.yaml"):
        recipe = yaml.safe_load(path.read_text())
        recipe["encoder"]["init_args"]["layers"] = 9
        path.write_text(yaml.safe_dump(recipe))
    result = compare([], tmp_path / "out", study=folder)
    assert result["groups"] == [["LSTM shallow", "LSTM deep", "Transformer"]]


def test_each_separate_budget_is_a_comparison_with_its_own_correction(tmp_path):
    arms = {**ARMS, "gru": "GRU"}
    folder = write_study(tmp_path / "study", arms, separate=True)
    result = compare([], tmp_path / "out", study=folder)
    assert result["disagreements"] == []
    assert result["groups"] == [["LSTM", "Transformer", "GRU"]] * 2
    assert result["separation"][1] == ["budget: budget.device_hours is 0.125 instead of 0.06"]
    page = (tmp_path / "out" / "report.md").read_text()
    names = ["Group 1, budget 0.06 core-hours per run", "Group 2, budget 0.125 core-hours per"]
    for name in names:
        assert f"{name}" in page[: page.index("## C1")]
    assert page.count("All 3 pairs of arms at this budget are one family") == 2
    assert page.count("Each budget is a comparison and a family of its own") == 2
    together = write_study(tmp_path / "together", arms)
    assert len(compare([], tmp_path / "one", study=together)["groups"]) == 1
    assert "Each budget is a comparison" not in (tmp_path / "one" / "report.md").read_text()


def test_seeds_added_after_final_runs_are_named_beside_the_answer_and_the_differences(tmp_path):
    folder = write_study(tmp_path / "study", ARMS, numbers=3)
    early = {"time": "2026-02-02", "from_sha256": "d" * 64, "changed": ["study.seeds"]}
    late = {"time": "2026-03-03", "from_sha256": "e" * 64, "changed": ["study.seeds"]}
    change(folder, amendments=[early, late])
    assert not any("optional stopping" in line for line in read_record(folder).remarks())
    new = [r | ({"study_sha256": "e" * 64} if r.get("seed") == 1 else {}) for r in rows(folder)]
    write_lines(folder / "results.jsonl", new)
    said = "The seeds were amended when results could be seen (2026-03-03, after 2 trials and runs)"
    result = compare([], tmp_path / "out", study=folder)
    assert said in result["answer"][0][0]
    assert "significant" in result["answer"][0][0]
    page = (tmp_path / "out" / "report.md").read_text()
    sections = {text.split("\n")[0]: text for text in page.split("\n## ")}
    for title in ("The answer", "Each arm in figures", "The study: registration, tuning and tota"):
        assert any(said in text for head, text in sections.items() if head.startswith(title)), title


@pytest.mark.parametrize("key", ["seeds", "split", "targets", "budgets.full.device_hours"])
def test_a_plan_that_was_amended_after_the_first_trial_is_late(tmp_path, key):
    folder = write_study(tmp_path / "study", ARMS)
    amendment = {"time": "2026-02-02", "from_sha256": "e" * 64, "changed": [f"study.{key}"]}
    change(folder, amendments=[amendment])
    assert read_record(folder).late_plan() == ""  # no run had begun
    change(folder, amendments=[amendment | {"begun": 1}])
    assert "(2026-02-02, after 1 trial or run)" in read_record(folder).late_plan()
    change(folder, amendments=[amendment])
    first, *others = rows(folder)
    assert first["role"] == "trial"
    write_lines(folder / "results.jsonl", [first | {"study_sha256": "e" * 64}, *others])
    name = key.split(".")[0]
    assert read_record(folder).late_plan().startswith(f"The {name} w")


def test_a_contradiction_comes_first_on_the_page(tmp_path):
    folder = write_study(tmp_path / "study", ARMS)
    write_lines(folder / "results.jsonl", [r | {"study_sha256": "f" * 64} for r in rows(folder)])
    line = "16 of 16 results were made under another file than the registered one"
    result = compare([], tmp_path / "out", study=folder)
    page = (tmp_path / "out" / "report.html").read_text()
    assert any(line in told for told in result["disagreements"])
    top = page[: page.index('<ul class="answer">')]
    assert '<p class="warning">RESULTS AND REGISTERED FILE DISAGREE: ' in top


def test_foreign_runs_missing_runs_and_another_split_are_contradictions(tmp_path):
    folder = write_study(tmp_path / "study", ARMS)
    stranger = write_run(tmp_path / "stranger", errors=[1] * 400)
    study = read_record(folder)
    runs = [read_run(run) for run in [*study.final_runs[1:], stranger]]
    told = disagreements(study, runs, "validation", [])
    assert told == [
        f"Runs on this page that are not of the study: {stranger}.",
        f"Final runs of the study that are not on this page: {study.final_runs[0]}.",
        "The registered split is test; this page shows validation.",
    ]


def test_registered_targets_are_those_of_the_page(tmp_path):
    folder = write_study(tmp_path / "study", ARMS)
    resolved = json.loads((folder / "study.json").read_text())["resolved"]
    resolved["study"]["targets"] = [20.0, 40.0]
    change(folder, resolved=resolved, study_sha256=(sha256 := checksum(resolved)))
    write_lines(folder / "results.jsonl", [r | {"study_sha256": sha256} for r in rows(folder)])
    assert compare([], tmp_path / "out", study=folder)["disagreements"] == []
    text = (tmp_path / "out" / "report.md").read_text()
    assert re.findall(r"\| (\S+ %): training cost", text) == ["40.0 %", "20.0 %"]
    told = compare([], tmp_path / "other", study=folder, targets=[0.3])["disagreements"]
    assert told == ["The registered targets are 40.0 % and 20.0 %; this page shows 30.0 %."]


def test_an_amendment_is_reported_and_is_no_contradiction(tmp_path):
    folder = write_study(tmp_path / "study", ARMS)
    amendment = {"time": "2026-02-02", "from_sha256": "e" * 64, "changed": ["study.seeds"]}
    change(folder, amendments=[amendment])
    first, *others = rows(folder)
    write_lines(folder / "results.jsonl", [first | {"study_sha256": "e" * 64}, *others[:-1]])
    assert said(folder) == []
    told = read_record(folder).remarks()
    assert told[:3] == [
        "Amended 2026-02-02: study.seeds.",
        "The seeds were amended when results could be seen (2026-02-02, after 1 trial or run). "
        "If the results were the reason, false differences are more frequent than the level and p "
        "say (optional stopping).",
        "Results made under an earlier version of the file: 1.",
    ]


def test_a_tuned_value_at_an_edge_of_its_range_is_named(tmp_path):
    folder = write_study(tmp_path / "study", ARMS)
    assert read_record(folder).remarks() == []
    own = {"settings": {"optimizer.lr": 0.0095}}
    write_lines(
        folder / "results.jsonl", [r | (own if r["arm"] == "lstm" else {}) for r in rows(folder)]
    )
    assert read_record(folder).remarks() == [
        "lstm: the best optimizer.lr, 0.0095, lies at the upper edge of its range from 0.0001 to "
        "0.01; a wider range may have a better one."
    ]


def test_unfinished_runs_are_reported(tmp_path):
    folder = write_study(tmp_path / "study", ARMS)
    kept = [r for r in rows(folder) if (r["arm"], r.get("seed")) != ("lstm", 2)]
    write_lines(folder / "results.jsonl", kept[1:])
    told = read_record(folder).remarks()
    assert told == ["lstm: 3 of 4 trials have ended.", "lstm: 1 of 2 final runs have ended."]


def test_a_moved_study_finds_its_runs(tmp_path):
    folder = write_study(tmp_path / "study", ARMS)
    folder.rename(tmp_path / "moved")
    assert said(tmp_path / "moved") == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "is not the folder of a study"),
        ("{", "is not JSON"),
        ("{}", "has no name; it was written by another version"),
    ],
)
def test_a_folder_that_is_no_study_is_named(tmp_path, text, error):
    if text is not None:
        (tmp_path / "study.json").write_text(text)
    with pytest.raises(ValueError, match=error):
        read_record(tmp_path)


def test_the_command_line_prints_verdicts_and_contradictions(tmp_path, capsys):
    folder = write_study(tmp_path / "study", {"lstm": "LSTM"})
    resolved = json.loads((folder / "study.json").read_text())["resolved"]
    change(folder, resolved=resolved | {"more": 1})
    claims = str(write_roofline(tmp_path / "claims", ["memory"]))
    options = ["--study", str(folder), "--claims", claims, "--output", str(tmp_path / "out")]
    assert main(["compare", *options]) == 0
    printed = capsys.readouterr().out
    assert "C1: not enough evidence: no study planned a contrast for it" in printed
    assert "C5: not enough evidence: not measured\n" in printed
    assert "results and registered file disagree: study.json was changed" in printed


# --- probes ---


def write_all_probes(folder: Path) -> Path:
    write_horizon(folder, {"lstm, bias 1": 64, "hierarchical": 1024}, [64, 1024])
    write_roofline(folder, ["memory", "latency", "arithmetic"])
    write_threads(folder, [1.0] * 6, [1.5] * 6)
    write_probe(folder, "streaming", stream("lstm-causal-small", 1.0, 100))
    encoder = {"name": "lstm-small", "subject": "training", "error": ""}
    passes = [
        encoder | {"time": t, "batch": 4, "seconds": t / 1e3, "seconds_min": t / 2e3}
        | {"seconds_max": t / 500, "flops": 1000 * t, "flops_per_second": 1e6, "peak_bytes": t}
        for t in (400, 1600, 6400)
    ]  # fmt: skip
    failed = encoder | {"time": 10_000, "batch": 4, "seconds": None, "error": "out of memory"}
    power = {"name": "lstm-small", "subject": "training", "seconds": 1.0, "seconds_error": 0.02}
    write_probe(folder, "scaling", [*passes, failed], exponents=[power])
    point = {"run": "runs/a", "encoder": "LSTM", "decoder": "CTC", "seed": 1, "deletions": 0.01}
    point |= {"mean_words": 5.0, "wer": 0.1, "low": 0.08, "high": 0.12, "unfinished": 0}
    point |= {"recordings": 9, "longest_seconds": 9.0, "errors": 5, "reference_words": 50}
    point |= {"empty": 0, "real_time_factor": 0.1}
    places = [point | {"words": n, "mean_seconds": 2.0 * n} for n in (1, 20)]
    write_context(folder, {"LSTM": 0.64, "Transformer": None})
    ahead = {"run": "runs/a", "encoder": "LSTM", "decoder": "CTC", "seed": 1}
    ahead |= {"mean": None, "wer": 0.1, "low": 0.08, "high": 0.12, "device_hours": 0.1}
    write_probe(folder, "lookahead", [ahead | {"most": most} for most in (0.6, None)])
    return write_probe(folder, "length", places)


def test_probes_are_drawn_and_cited_with_their_files_on_a_self_contained_page(tmp_path):
    run = write_run(tmp_path / "a", errors=[1] * 60)
    result = compare([run], tmp_path / "out", claims=[write_all_probes(tmp_path / "claims")])
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r"https?:|//|@import|<script|<link", page)
    assert len(page) < 3_000_000
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    names = {path.stem for path in result["files"] if path.suffix == ".png"}
    assert {"horizon", "streaming", "scaling", "length", "context"} <= names
    for probe in PROBES.values():
        said = f"From {probe.path(tmp_path / 'claims')}: EPYC" in page
        assert said == (probe.name != "memory")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| lstm-small, training | 6,400 | 4 | 6,400 [3,200 to 12,800] |" in text
    assert "1.00 ± 0.02" in text
    assert "| out of memory |" in text
    assert "| LSTM | CTC | 0.60 s | 1 | 10.0 % |" in text
    assert "| LSTM | CTC | the utterance | 1 | 10.0 % |" in text
    tried = "| latch: lstm, bias 1 | 100,000 | 3 | 0.001 |"
    assert f"{tried} 64 | 64 | 1.00 / 1.00 | 0.10 / 0.10 |" in text
    context = "| 0.64 s [0.64 to all] | 16 | 0.250 s [0.200 to 0.300] | 1.20 |"
    assert context in text
    assert "| exponential (+12.3, in 98 %) |" in text
    assert re.search(
        r"\| Transformer \| Transformer \+ CTC \|.*\| all \[all to all\] \| all \|", text
    )
    assert re.search(r"context.json: EPYC.* Run folders are below runs\.", text)
    with (tmp_path / "out" / "claims.csv").open() as file:
        table = {row["claim"]: row["words"] for row in csv.DictReader(file)}
    assert table == result["claims"]


def test_absolute_and_relative_run_folders_are_shown_as_given(tmp_path):
    run = write_run(tmp_path / "a", errors=[1] * 60)
    claims = write_all_probes(tmp_path / "claims")
    tree = json.loads((claims / "length.json").read_text())
    tree["points"] += [row | {"run": "/data/runs/b"} for row in tree["points"]]
    (claims / "length.json").write_text(json.dumps(tree))
    compare([run], tmp_path / "out", claims=[claims])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "\n| runs/a | LSTM + CTC |" in text
    assert "\n| /data/runs/b | LSTM + CTC |" in text


def test_missing_probes_are_named_with_their_commands(tmp_path):
    compare([write_run(tmp_path / "a", errors=[1] * 60)], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    for probe in PROBES.values():
        assert probe.command in text
    assert text.count("**Verdict: not enough evidence: ") == 7


FIELDS = [field.name for field in dataclasses.fields(PROBES["context"].row)]
POINT = {**dict.fromkeys(FIELDS, 1), "run": "a"}
CONTEXT = json.dumps({"points": [POINT], "plan": {}, "runs": []})


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        (None, "", "holds no output of asr claims"),
        ("length.json", "{", "is not JSON"),
        ("length.json", '{"points": []}', "holds no points; measure it again: asr claims length"),
        ("length.json", '{"points": [{"run": "a"}]}', "points without encoder; measure it again"),
        ("context.json", CONTEXT, "plan, runs: 'split'; measure it again"),
        ("horizon.jsonl", "", "holds no attempt yet"),
        ("horizon.jsonl", '{"arm": "lstm"}\n', "attempts without task; measure it again"),
    ],
)
def test_a_folder_or_file_that_is_no_probe_is_named(tmp_path, name, text, error):
    if name is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=error):
        read_probes([tmp_path])


def test_two_files_of_one_probe_are_refused(tmp_path):
    folders = [write_roofline(tmp_path / name, ["memory"]) for name in "ab"]
    with pytest.raises(ValueError, match="are of one probe; give the folder of one"):
        read_probes(folders)
