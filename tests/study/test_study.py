import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from scipy import stats

from asr import cli
from asr.config import strict_yaml
from asr.config.shipped import find
from asr.encoders import ENCODERS
from asr.formatting import digits
from asr.locks import is_taken, take
from asr.study import Selection, devices, matrix, outlook, read_study, results, run_study, status
from asr.study.budgets import plan_of_runs
from asr.study.plan import Plan, draw
from asr.study.processes import Children, InheritedLocks
from asr.study.schema import Range
from tests.corpus import RATE, make_corpus
from tests.studies import STUDY, TASK, Fake, study, wer_of, work, write_inputs
from tests.training.test_train import recipe as real_recipe

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "recipes" / "studies").glob("*.yaml"))
KILLS = int(os.environ.get("ASR_KILLS", "3"))
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["asr.study"])
LOCK_FOLDER = devices.lock_folder
HOUR = {"device_hours": 1.0}
ERRORS = {"claim": "C1", "subject": "lstmz", "reference": "minlstm", "estimator": "errors"}
COST = {"estimator": "cost to a target", "unit": "updates", "margin": 1.1}


def contrasts(*changes):
    """Keys of a study that plans a contrast of errors, or one for each set of changed keys."""
    planned = [ERRORS | {"unit": "points", "margin": 1.0} | some for some in changes or ({},)]
    return {"contrasts": planned}


@pytest.fixture(autouse=True)
def inputs(tmp_path, monkeypatch):
    """In the working directory; the page is the report's to test. No study of elsewhere is seen."""
    write_inputs(tmp_path)
    monkeypatch.setattr(devices, "lock_folder", lambda: tmp_path / "devices")
    monkeypatch.setattr(
        matrix, "compare", lambda runs, output, **options: {"files": [output / "report.html"]}
    )
    return tmp_path


def read_rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def steps(folder: Path) -> list[str]:
    return (folder / "journal").read_text().splitlines()


def without_places(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "run"} for row in rows]


# --- the files ---


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_study_resolves_and_gives_every_arm_the_same_number_of_trials(path):
    shipped = read_study(path)
    assert shipped.name == path.stem
    plan = Plan(shipped)
    by_arm = {arm: [u for u in plan.trials if u.arm == arm] for arm in plan.arms}
    assert {len(trials) for trials in by_arm.values()} == {shipped.tuning.trials}
    for number in range(shipped.tuning.trials):
        for key in shipped.tuning.ranges:  # common random numbers
            assert len({trials[number].settings[key] for trials in by_arm.values()}) == 1
    recipes = [u.recipe for u in plan.trials] + [
        u.recipe for a in plan.arms for u in plan.finals(a, {})
    ]
    alike = ("data", "decoder", "search", "features", "trainer", "tokenizer", "validation")
    for key in alike:
        shared = [
            {k: v for k, v in tree[key].items() if k != "max_batch_seconds"} for tree in recipes
        ]
        assert all(tree == shared[0] for tree in shared), key


def test_the_gpu_study_has_every_architecture_three_budgets_and_five_seeds():
    shipped = strict_yaml.load_file(ROOT / "recipes" / "studies" / "mini_librispeech.yaml")
    files = [find(arm["encoder"], "encoders") for arm in shipped["arms"].values()]
    assert {strict_yaml.load_file(file)["class_path"] for file in files} == set(ENCODERS)
    assert (len(shipped["budgets"]), len(shipped["seeds"])) == (3, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"armz": {}}, "armz: no such key"),
        ({"arms": {"a": {"encoder": "LSTM", "dim": 3}}}, "arms.a.dim: no such key"),
        ({"arms": ["LSTM"]}, "arms: expects a section for each name"),
        ({"arms": {"a/b": {"encoder": "LSTM"}}}, "name 'a/b': expects letters"),
        ({"seeds": []}, "seeds: is empty"),
        ({"seeds": [1, 1]}, "one seed is given twice"),
        ({"seeds": [0, 1]}, "tuning.seed 0: is also the seed of a final run"),
        ({"targets": [0.0]}, "targets 0: expects percent"),
        ({"budgets": {"a": {"updates": 3}, "b": {"device_hours": 1}}}, "the same unit"),
        (
            {"budgets": {"a": {"cpu_hours": 3}}, "tuning": {"trials": 0, "budget": HOUR}},
            "device_hours and cpu_hours in one study cannot be compared",
        ),
        (contrasts(), r"contrasts\.1\.subject lstmz: no such arm; the study has lstm, minlstm"),
        (
            contrasts({"subject": "lstm"}, {"reference": "gru", "primary": False}),
            r"contrasts\.2\.subject lstmz: no such arm",
        ),
        (contrasts({"subject": "lstm"}, {"subject": "lstm"}), "C1 has 2 primary contrasts"),
        (
            contrasts({"subject": "lstm"}, {"subject": "lstm", "primary": False}),
            "lstm and minlstm have two contrasts of errors; keep one",
        ),
        (contrasts({"claim": "C4"}), "asr claims decides C4; a study can decide C1, C7 or a claim"),
        (contrasts({**COST, "target": 5}), "target 5 is not in targets; add it there"),
        (contrasts({"margin": 0}), "expects points above 0"),
        (contrasts({"margin": 50}), "margin 50: expects points above 0, up to 10: a tenth of the"),
        (contrasts({"margin": math.inf}), "margin inf: expects points above 0, up to 10"),
        (contrasts({"claim": ""}), "claim '': expects C1, C7 or a name of your own"),
        (contrasts({"claim": "c1"}), "claim 'c1': expects C1, C7 or a name of your own"),
        (contrasts({"unit": "hours"}), r"contrasts\.1\.unit: expected"),
        ({"contrasts": {}}, "contrasts: expects a list of sections"),
        ({"budgets": {"a": {}}}, "set device_hours, cpu_hours, updates or audio_hours"),
    ],
)
def test_a_mistake_in_a_study_names_the_key(changes, message):
    with pytest.raises(ValueError, match=message):
        Plan(study(**changes))


@pytest.mark.parametrize(
    ("changes", "speakers", "why"),
    [
        ({"seeds": [1, 2]}, 20, "give 3 seeds or more"),
        ({"seeds": [1, 2, 3]}, 4, "give a split with 5 speakers or more"),
        ({"seeds": [1, 2, 3], "targets": [0.01]}, 5, "give more seeds, speakers or words"),
        ({"seeds": [1, 2, 3], "targets": [20]}, 20, ""),
        (contrasts({**COST, "target": 20}) | {"seeds": [1, 2, 3]}, 20, ""),
        (contrasts({**COST, "target": 20}) | {"seeds": [1, 2]}, 20, "give 3 seeds or more"),
    ],
)
def test_a_contrast_that_can_decide_nothing_is_refused_before_anything_runs(
    tmp_path, capsys, changes, speakers, why
):
    described = {"targets": [20.0], **contrasts({"subject": "lstm"}), **changes}
    for contrast in described["contrasts"]:
        contrast["subject"] = "lstm"
    facts = json.loads((tmp_path / "corpus" / "corpus.json").read_text())
    facts["splits"]["test"] = {"rows_sha256": "b" * 64, "speakers": speakers, "words": 5000}
    (tmp_path / "corpus" / "corpus.json").write_text(json.dumps(facts))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(STUDY | described))
    command = ["study", str(tmp_path / "mine.yaml"), "--plan"]
    assert cli.main(command) == bool(why)
    if why:
        with pytest.raises(ValueError, match=f"contrasts: .*: {why}.*or set descriptive: true"):
            run(tmp_path, study(**described))
        assert not list(tmp_path.glob("study/*"))
    run(tmp_path, study(**described, descriptive=bool(why)))
    assert (tmp_path / "study" / "study.json").is_file()
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(STUDY | described | {"descriptive": True}))
    assert cli.main(command) == 0
    assert "descriptive: true: the study may run" in capsys.readouterr().out


def test_a_plan_is_refused_whose_split_the_corpus_lacks(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(STUDY | {"split": "tset"}))
    command = ["study", str(tmp_path / "mine.yaml")]
    for options in (["--plan"], ["--folder", str(tmp_path / "study")]):
        assert cli.main(command + options) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "split tset: corpus has no such split; it has test, train; set split to" in said
    assert not (tmp_path / "study" / "study.json").exists()


@pytest.mark.parametrize(
    ("margin", "said"), [(0.1, "WARNING: it is too large"), (1, "WARNING: it may be"), (10, "")]
)
def test_a_plan_warns_if_the_detectable_difference_is_above_the_margin(tmp_path, margin, said):
    asked = study(seeds=[1, 2, 3], targets=[10], **contrasts({"subject": "lstm", "margin": margin}))
    facts = {"test": {"rows_sha256": "b" * 64, "speakers": 50, "words": 90_000}}
    path = tmp_path / "corpus" / "corpus.json"
    path.write_text(json.dumps({"splits": facts, "normaliser": "none"}))
    first = outlook(Plan(asked))[0][0]
    low, high = map(float, re.search(r"detectable ([\d.]+) to ([\d.]+) points", first).groups())
    assert said in first
    assert ("WARNING" in first) == (high > margin)
    assert ("it is" in first) == (low > margin)
    facts["test"]["speakers"] = 0
    path.write_text(json.dumps({"splits": facts, "normaliser": "none"}))
    lines, refused = outlook(Plan(asked))
    assert "unknown speakers, 90,000 words" in lines[0]
    assert "names the corpus has" in refused[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--plan", "--seeds", "1", "--arms", "lstm"], "--plan describes the whole study; leave"),
        (["--plan", "--budgets", "half"], "leave --budgets out"),
        (["--plan", "--status"], "--plan describes the whole study; leave --status out"),
        (["--status", "--workers", "1"], "leave --workers out"),
    ],
)
def test_what_describes_a_whole_study_takes_no_selection(tmp_path, capsys, options, said):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(STUDY))
    assert cli.main(["study", str(tmp_path / "mine.yaml"), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_contrast_of_a_missing_arm_names_file_number_and_key(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(STUDY | contrasts({"reference": "gru"})))
    assert cli.main(["study", str(tmp_path / "mine.yaml"), "--plan"]) == 2
    assert "mine.yaml: contrasts.1.subject lstmz: no such arm" in capsys.readouterr().err


def test_an_amendment_of_what_a_contrast_promised_is_checked_again(tmp_path):
    planned = {"targets": [20.0], "seeds": [1, 2, 3, 4, 5], **contrasts({"subject": "lstm"})}
    run(tmp_path, study(**planned), selection=Selection(arms=["lstm"], seeds=[1]))
    with pytest.raises(ValueError, match="give 3 seeds or more"):
        run(tmp_path, study(**planned | {"seeds": [1, 2]}), amend=True)
    registered = json.loads((tmp_path / "study" / "study.json").read_text())
    assert registered["amendments"] == []


def test_a_mistake_in_a_recipe_names_the_arm_before_anything_runs(tmp_path):
    arms = {"a": {"encoder": "LSTM", "overrides": ["--encoder.dim=16", "--encoder.layerz=1"]}}
    with pytest.raises(ValueError, match=r"arm a: encoder.layerz: no such key"):
        run_study(study(arms=arms), tmp_path / "study", runner=Fake(tmp_path / "journal"))
    assert not (tmp_path / "study").exists()


def test_a_missing_corpus_is_prepared_once_at_the_rate_of_the_features(tmp_path, monkeypatch):
    made = []

    def prepare(corpus, output, *, sample_rate):
        made.append((type(corpus).__name__, corpus.digits, str(output), sample_rate))
        (tmp_path / "elsewhere").rename(tmp_path / "corpus")

    monkeypatch.setattr(matrix, "prepare", prepare)
    (tmp_path / "corpus").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="corpus is not a prepared corpus"):
        run(tmp_path, study())
    described = study(
        prepare={"class_path": "fsdd", "init_args": {"digits": "1..3"}},
        overrides=["--features.sample_rate=8000"],
    )
    for _ in range(2):
        run(tmp_path, described)
    assert made == [("FSDD", "1..3", "corpus", 8000)]


# --- tuning ---


@pytest.fixture
def tones(tmp_path):
    """The corpus of the study, with audio."""
    shutil.rmtree("corpus")
    make_corpus(tmp_path / "corpus", train=6, validation=2, test=2)
    task = TASK | {"features": {"sample_rate": RATE}}
    (tmp_path / "task.yaml").write_text(json.dumps(task))
    return tmp_path / "corpus" / "cache"


def test_audio_is_decoded_before_the_first_run_and_the_study_says_what_it_took(
    tones, tmp_path, caplog
):
    made = []

    def looks(verb, recipe):
        made.append(len(list(tones.glob("*.pcm"))))
        return 0

    caplog.set_level("INFO")
    result = run_study(study(), tmp_path / "study", runner=Fake(tmp_path / "journal", looks))
    assert set(made) == {2}
    registered = json.loads((tmp_path / "study" / "study.json").read_text())
    seconds = registered["decoding_seconds"]
    assert 0 < seconds < 60
    words = f"Audio was decoded in {seconds:.1f} s before the runs, which do not pay it."
    assert words in result["remarks"]
    assert "which the study is charged for and no run" in caplog.text
    run_study(study(), tmp_path / "study", runner=Fake(tmp_path / "journal"))
    assert json.loads((tmp_path / "study" / "study.json").read_text()) == registered


def test_a_study_goes_on_to_its_runs_if_audio_cannot_be_decoded(tones, tmp_path, caplog):
    next(tones.parent.glob("validation-*.parquet")).unlink()
    run_study(study(), tmp_path / "study", runner=Fake(tmp_path / "journal"))
    assert "audio is not decoded before the first run: " in caplog.text
    assert "0 of 1 files of the split validation" in caplog.text
    assert read_rows(tmp_path / "study")


def test_draws_have_the_distribution_of_their_range_and_reach_both_integer_bounds():
    ranges = {
        "a": Range(low=1e-4, high=1e-2, scale="log"),
        "b": Range(low=0.0, high=0.3),
        "c": Range(low=1, high=4),
    }
    drawn = [draw(ranges, 5, number) for number in range(1000)]
    for key, expected in (("a", stats.loguniform(1e-4, 1e-2)), ("b", stats.uniform(0, 0.3))):
        assert stats.kstest([d[key] for d in drawn], expected.cdf).pvalue > 0.01
    counts = [sum(d["c"] == value for d in drawn) for value in (1, 2, 3, 4)]
    assert sum(counts) == len(drawn)
    assert stats.chisquare(counts).pvalue > 0.01
    assert abs(stats.spearmanr([d["a"] for d in drawn], [d["b"] for d in drawn]).statistic) < 0.1
    assert draw({"b": ranges["b"]}, 5, 7)["b"] == drawn[7]["b"]  # whatever else is drawn


def test_a_study_tunes_each_arm_on_validation_and_trains_its_best_settings_with_every_seed(
    tmp_path,
):
    result = run_study(study(), tmp_path / "study", runner=Fake(tmp_path / "journal"))
    rows = read_rows(tmp_path / "study")
    assert rows == result["rows"]
    assert result["failed"] is False
    for arm in STUDY["arms"]:
        trials = [r for r in rows if (r["arm"], r["role"]) == (arm, "trial")]
        finals = [r for r in rows if (r["arm"], r["role"]) == (arm, "final")]
        assert [r["number"] for r in trials] == [1, 2, 3]
        assert [r["seed"] for r in finals] == [1, 2]
        nearest = min(trials, key=lambda r: r["validation_wer"])["settings"]
        assert all(r["settings"] == nearest for r in finals)
        assert all(r["test_wer"] is None for r in trials)
        for row in finals:
            tree = strict_yaml.load_file(Path(row["run"]) / "recipe.yaml")
            assert tree["optimizer"]["lr"] == nearest["optimizer.lr"]
            assert (tree["seed"], tree["budget"]["updates"]) == (row["seed"], 200)
            assert row["validation_wer"] == pytest.approx(wer_of(tree))
            assert row["device_hours"] == pytest.approx(210 / 3600)
    assert "encoder.forget_bias" in rows[0]["settings"]
    lines = result["table"].splitlines()
    assert len(lines) == 1 + len(STUDY["arms"]) * len(STUDY["budgets"])
    counted = sum(r["device_hours"] for r in rows if r["role"] != "point")
    assert f"Cost of all training: {digits(counted)} core-hours" in result["remarks"][-1]


def test_a_mean_over_seeds_needs_a_value_of_each_run(tmp_path):
    """One seed was not validated at the smaller budget, and another one failed."""
    plan = plan_of_runs(study(), None, None)
    shared = {"arm": "lstm", "status": "done", "validation_wer": 0.2, "device_hours": 0.1}
    runs = [
        shared | {"role": "final", "budget": "full", "test_wer": 0.1, "seed": s} for s in (1, 2)
    ]
    point = shared | {"role": "point", "budget": "half", "test_wer": None, "seed": 1}

    def cells(*rows):
        lines = results.table(plan, rows).splitlines()
        return [line.split("  ") for line in lines if line.startswith("lstm")]

    half, full = (" ".join(row) for row in cells(*runs, point, point | {"seed": 2}))
    assert "20.0 %" in half
    assert "10.0 %" in full
    half, full = (" ".join(row) for row in cells(*runs, point))
    assert "%" not in half
    assert "10.0 %" in full
    failed = runs[1] | {"status": "failed", "test_wer": None}
    assert all("%" not in " ".join(row) for row in cells(runs[0], failed, point))


def test_a_smaller_budget_is_a_point_of_the_curve_and_costs_nothing_extra(tmp_path):
    run_study(study(), tmp_path / "study", runner=Fake(tmp_path / "journal"))
    rows = read_rows(tmp_path / "study")
    for point in (r for r in rows if r["role"] == "point"):
        (final,) = [r for r in rows if r["role"] == "final" and r["run"] == point["run"]]
        assert (point["budget"], point["updates"], point["test_wer"]) == ("half", 100, None)
        assert point["validation_wer"] == pytest.approx(final["validation_wer"] + 0.1)
        assert point["device_hours"] == pytest.approx(100 / 3600)


def test_runs_are_validated_at_the_smaller_budgets_and_a_point_off_its_budget_has_no_rate(
    tmp_path,
):
    """The fake run validates every 50 updates, so not at 120."""
    described = study(budgets={"half": {"updates": 120}, "full": {"updates": 200}})
    run(tmp_path, described)
    rows = [row for row in read_rows(tmp_path / "study") if row["role"] == "point"]
    assert {row["validation_wer"] for row in rows} == {None}
    assert {row["reason"] for row in rows} == {"no validation within 2 % of this budget"}
    (recipe, *_) = sorted(tmp_path.glob("study/finals/*/*/recipe.yaml"))
    assert strict_yaml.load_file(recipe)["validation"]["at_shares"] == [0.6]
    path = tmp_path / "study" / "study.json"
    registered = json.loads(path.read_text())  # as of an earlier version
    for tree in registered["resolved"]["recipes"].values():
        del tree["validation"]["at_shares"]
    (tmp_path / "study").rename(tmp_path / "later")
    (tmp_path / "study").mkdir()
    path.write_text(json.dumps(registered))
    run(tmp_path, described)
    (recipe, *_) = sorted(tmp_path.glob("study/finals/*/*/recipe.yaml"))
    assert strict_yaml.load_file(recipe)["validation"]["at_shares"] == []


def test_separate_budgets_are_runs_of_their_own_each_tested_once(tmp_path):
    described = study(separate_budgets=True)
    run_study(described, tmp_path / "study", runner=Fake(tmp_path / "journal"))
    rows = [r for r in read_rows(tmp_path / "study") if r["role"] != "trial"]
    assert [r["budget"] for r in rows] == ["half"] * 4 + ["full"] * 4
    assert all(r["role"] == "final" and r["test_wer"] is not None for r in rows)
    assert sum(step.endswith(".evaluated") for step in steps(tmp_path)) == 8


def test_a_failed_trial_is_a_result_with_reason_and_cost_and_is_never_chosen(tmp_path):
    best = min(
        (u.recipe for u in plan_of_runs(study(), None, None).trials if u.arm == "lstm"), key=wer_of
    )

    def fails(verb, recipe):
        return 2 * (verb == "train" and recipe == best)

    result = run_study(study(), tmp_path / "study", runner=Fake(tmp_path / "journal", fails))
    failed = [r for r in result["rows"] if r["status"] == "failed"]
    assert [r["arm"] for r in failed] == ["lstm"]
    assert {r["reason"] for r in failed} == {"it went wrong; do this"}
    assert all(r["device_hours"] > 0 for r in failed)
    finals = [r for r in result["rows"] if r["role"] == "final"]
    assert len(finals) == 4
    assert all(f["settings"] != r["settings"] for f in finals for r in failed)
    assert result["failed"]
    assert sum("it went wrong" in remark for remark in result["remarks"]) == len(failed)


def test_the_best_trial_has_the_lowest_rate_of_the_metric_that_chose_its_model(tmp_path):
    runner = Fake(tmp_path / "journal", metric="cer")  # where it is lowest, the WER is highest
    result = run_study(study(), tmp_path / "study", runner=runner)
    rows = result["rows"]
    for arm in ("lstm", "minlstm"):
        trials = [r for r in rows if r["role"] == "trial" and r["arm"] == arm]
        best = min(trials, key=lambda r: r["validation_cer"])
        assert best["validation_wer"] == max(r["validation_wer"] for r in trials)
        finals = [r for r in rows if r["role"] in ("final", "point") and r["arm"] == arm]
        assert all(r["settings"] == best["settings"] for r in finals)
        assert {r["validation_metric"] for r in finals} == {"cer"}
    assert "validation CER" in result["table"]


@pytest.mark.parametrize("damage", ["process", "ledger", "result"])
def test_an_error_in_one_unit_fails_this_unit_alone(tmp_path, damage):
    plan = plan_of_runs(study(), None, None)
    worst = max((u.recipe for u in plan.trials if u.arm == "lstm"), key=wer_of)

    class Breaks(Fake):
        def carry_out(self, arguments, log):
            run = Path(arguments[3] if arguments[0] == "train" else arguments[1])
            mine = strict_yaml.load_file(run.parent / "recipe.yaml") == worst
            if mine and damage == "process":
                raise EOFError("the server of processes is gone")
            status = super().carry_out(arguments, log)
            if mine and damage == "ledger":
                (run / "ledger.json").write_text("{")
            return status

    folder = tmp_path / "study"
    result = run_study(study(), folder, runner=Breaks(tmp_path / "journal"))
    if damage == "result":
        assert not result["failed"]
        whole = result["rows"]
        [place] = [r["run"] for r in whole if r["role"] == "final" and r["seed"] == 1][:1]
        (Path(place).parent / "result.json").write_text('[{"arm"')
        again = run_study(study(), folder, runner=Fake(tmp_path / "journal"))
        assert again["rows"] == whole
        return
    failed = [r for r in result["rows"] if r["status"] == "failed"]
    assert result["failed"]
    assert [r["role"] for r in failed] == ["trial"]
    assert failed[0]["reason"]
    assert len([r for r in result["rows"] if r["role"] == "final"]) == 4


PAGE = {"files": [Path("report.html")]}


def test_a_run_damaged_after_its_unit_ended_does_not_prevent_the_page(tmp_path, monkeypatch):
    folder = tmp_path / "study"
    first = run_study(study(), folder, runner=Fake(tmp_path / "journal"))
    run = Path(next(r["run"] for r in first["rows"] if r["role"] == "final"))
    (run / "ledger.json").write_text("{")
    shown = []
    monkeypatch.setattr(matrix, "compare", lambda runs, *_, **__: shown.extend(runs) or PAGE)
    second = run_study(study(), folder, runner=Fake(tmp_path / "journal"))
    assert second["failed"]
    assert second["report"] == PAGE["files"][0]
    assert run not in shown
    assert len(shown) == 3
    assert second["rows"] == first["rows"]


def test_a_page_that_cannot_be_written_is_reported_and_the_rows_are_kept(
    tmp_path, monkeypatch, caplog
):
    def fails(*_, **__):
        raise KeyError("no colour")

    monkeypatch.setattr(matrix, "compare", fails)
    result = run_study(study(), tmp_path / "study", runner=Fake(tmp_path / "journal"))
    assert result["failed"]
    assert result["report"] is None
    assert "no report: KeyError: 'no colour'" in caplog.text
    assert len([r for r in result["rows"] if r["role"] == "final"]) == 4


def test_an_arm_whose_trials_all_fail_has_no_final_runs_and_says_so(tmp_path):
    def fails(verb, recipe):
        return 2 * (recipe["encoder"]["class_path"] == "LSTM")

    result = run_study(study(), tmp_path / "study", runner=Fake(tmp_path / "journal", fails))
    assert result["blocked"] == ["lstm"]
    assert result["failed"]
    assert "lstm: no final run, since all its trials failed." in result["remarks"]
    assert {r["arm"] for r in result["rows"] if r["role"] == "final"} == {"minlstm"}


def test_failed_units_are_retried_on_request_and_the_first_attempt_still_counts_in_the_cost(
    tmp_path,
):
    def fails(verb, recipe):
        return 2 * (recipe["seed"] == 2)

    first = run_study(study(), tmp_path / "study", runner=Fake(tmp_path / "journal", fails))
    again = run_study(study(), tmp_path / "study", runner=Fake(tmp_path / "journal"))
    assert again["rows"] == first["rows"]  # not by itself
    retried = run_study(study(), tmp_path / "study", retry=True, runner=Fake(tmp_path / "journal"))
    assert not retried["failed"]
    finals = [r for r in retried["rows"] if r["role"] == "final"]
    assert len({r["device_hours"] for r in finals if r["seed"] == 1}) == 1
    assert all(r["device_hours"] > 210 / 3600 for r in finals if r["seed"] == 2)


def test_failures_of_one_arm_alone_are_not_retried_because_all_arms_are_tuned_alike(tmp_path):
    best = min(
        (u.recipe for u in plan_of_runs(study(), None, None).trials if u.arm == "lstm"), key=wer_of
    )

    def fails(verb, recipe):
        return 2 * (verb == "train" and recipe == best)

    first = run_study(study(), tmp_path / "study", runner=Fake(tmp_path / "journal", fails))
    with pytest.raises(ValueError, match="--retry --arms lstm: .* leave --arms out"):
        run_study(study(), tmp_path / "study", retry=True, selection=Selection(arms=["lstm"]))
    assert read_rows(tmp_path / "study") == first["rows"]


def test_a_failed_unit_that_another_process_holds_is_skipped_and_named(
    tmp_path, caplog, monkeypatch
):
    def fails(verb, recipe):
        return 2 * (recipe["seed"] == 2)

    first = run_study(study(), tmp_path / "study", runner=Fake(tmp_path / "journal", fails))
    held = take(tmp_path / "study" / "finals" / "lstm" / "full-seed2" / ".claim")
    monkeypatch.setattr(matrix.Matrix, "work", lambda self, workers, end: None)  # only forget
    again = run_study(study(), tmp_path / "study", retry=True, runner=Fake(tmp_path / "journal"))
    held.close()
    assert "lstm full seed 2 is not repeated: another process works on it" in caplog.text
    assert {r["arm"] for r in first["rows"] if r["status"] == "failed"} == {"lstm", "minlstm"}
    assert {r["arm"] for r in again["rows"] if r["status"] == "failed"} == {"lstm"}


# --- killed, shared, told to end ---


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The rows of a study that nothing happened to."""
    folder = tmp_path_factory.mktemp("unbroken")
    write_inputs(folder)
    process = start(folder)
    process.join(60)
    assert process.exitcode == 0
    return without_places(read_rows(folder / "study"))


def start(folder: Path, seconds: float = 0.02):
    before = Path.cwd()
    os.chdir(folder)
    try:
        process = PROCESSES.Process(target=work, args=(folder, seconds))
        process.start()
    finally:
        os.chdir(before)
    return process


def test_a_study_killed_repeatedly_has_the_rows_of_an_uninterrupted_one(tmp_path, unbroken):
    draw_moment = random.Random(time.time_ns())
    killed = 0
    for kill in range(KILLS):
        process = start(tmp_path, seconds=0.15)
        while process.is_alive() and not (tmp_path / "journal").exists():
            time.sleep(0.01)
        while process.is_alive() and len(steps(tmp_path)) < 4 * kill:
            time.sleep(0.01)
        time.sleep(draw_moment.uniform(0, 0.6))
        process.kill()
        process.join()
        killed += process.exitcode != 0
    assert killed
    process = start(tmp_path)
    process.join(60)
    assert process.exitcode == 0
    assert without_places(read_rows(tmp_path / "study")) == unbroken
    done = steps(tmp_path)  # a kill between a step and its line may lose the line, adds none
    evaluated = [step for step in done if step.endswith(".evaluated")]
    assert len(set(done)) >= len(done) - killed
    assert len(evaluated) <= 4 + killed


def test_two_processes_at_once_do_every_unit_exactly_once(tmp_path, unbroken):
    both = [start(tmp_path, seconds=0.05) for _ in range(2)]
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert without_places(read_rows(tmp_path / "study")) == unbroken
    done = steps(tmp_path)
    assert len(done) == len(set(done)) == 2 * (6 + 4) + 4


def test_a_lock_stays_held_while_a_child_of_its_dead_owner_still_works(tmp_path):
    held = take(tmp_path / "unit" / ".claim")
    assert take(tmp_path / "unit" / ".claim") is None
    with subprocess.Popen(["sleep", "60"], pass_fds=[held.fileno()]) as child:
        held.close()
        assert is_taken(tmp_path / "unit" / ".claim")
        child.kill()
        child.wait()
    assert not is_taken(tmp_path / "unit" / ".claim")


def test_a_study_that_gets_sigterm_loses_nothing_and_resumes(tmp_path, unbroken):
    class Interrupted(Fake):
        def __call__(self, arguments, **options):
            if len(self.environments) == 3 and not self.stopped:
                os.kill(os.getpid(), signal.SIGTERM)
                while not self.stopped:
                    time.sleep(0.01)
                return 143  # of a run that saved and left
            return super().__call__(arguments, **options)

    with pytest.raises(KeyboardInterrupt):
        run_study(study(), tmp_path / "study", runner=Interrupted(tmp_path / "journal"))
    assert any("missing" in line for line in status(study(), tmp_path / "study"))
    run_study(study(), tmp_path / "study", runner=Fake(tmp_path / "journal"))
    rows = read_rows(tmp_path / "study")
    whole, broken = (sum(row["device_hours"] for row in r) for r in (unbroken, rows))
    assert broken > whole  # what the run that was told to end had cost until then is not forgotten
    kept = [{**row, "device_hours": 0} for row in without_places(rows)]
    assert kept == [{**row, "device_hours": 0} for row in unbroken]


@pytest.mark.parametrize("deaf", [False, True])
def test_a_study_stops_at_its_time_limit_and_a_copy_of_its_folder_resumes(tmp_path, unbroken, deaf):
    class Endless(Fake):
        def __call__(self, arguments, **options):
            if len(self.environments) < 3:
                return super().__call__(arguments, **options)
            while not (self.killed if deaf else self.stopped):
                time.sleep(0.01)
            return -9 if deaf else 143

    began = time.monotonic()
    fake = Endless(tmp_path / "journal")
    result = run_study(study(), tmp_path / "study", minutes=0.1, runner=fake)
    assert time.monotonic() - began < 30  # it would go on for ever
    assert fake.killed or not deaf
    assert (result["failed"], result["report"]) == (False, None)
    assert result["left"] == len(Plan(study()).trials) - len(result["rows"])
    shutil.move(tmp_path / "study", tmp_path / "elsewhere")
    result = run_study(
        study(), tmp_path / "elsewhere", minutes=5, runner=Fake(tmp_path / "journal")
    )
    assert result["left"] == 0
    assert result["report"] == tmp_path / "elsewhere" / "report" / "report.html"
    kept = [{**row, "device_hours": 0} for row in without_places(result["rows"])]
    assert kept == [{**row, "device_hours": 0} for row in unbroken]


def test_a_time_limit_of_0_minutes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--minutes 0: expects more than 0"):
        run_study(study(), tmp_path / "study", minutes=0, runner=Fake(tmp_path / "journal"))


@pytest.mark.parametrize(("killings", "ended"), [(2, "done"), (9, "failed")])
def test_a_run_killed_by_a_signal_is_resumed_a_limited_number_of_times(tmp_path, killings, ended):
    left = [killings]

    def killed(verb, recipe):
        if recipe["seed"] == 1 and verb == "train" and left[0]:
            left[0] -= 1
            return -9
        return 0

    described = study(arms={"lstm": STUDY["arms"]["lstm"]})
    fake = Fake(tmp_path / "journal", killed)
    rows = run_study(described, tmp_path / "study", workers=1, runner=fake)["rows"]
    (row,) = [r for r in rows if r["role"] == "final" and r["seed"] == 1]
    assert row["status"] == ended
    if ended == "failed":
        assert row["reason"].startswith("killed by SIGKILL 3 times")


def test_the_cost_of_an_attempt_before_its_first_update_counts_once(tmp_path):
    """The next attempt takes it over from the heartbeat: no line of the ledger tells of it."""

    class Killed(Fake):
        def carry_out(self, arguments, log):
            run = Path(arguments[3])
            if arguments[0] == "evaluate" or run.exists():
                return super().carry_out(arguments, log)
            run.mkdir(parents=True)
            (run / "heartbeat.json").write_text('{"session": 1, "device_seconds": 9.0}')
            return -9

    fake = Killed(tmp_path / "journal")
    for row in run_study(study(), tmp_path / "study", workers=1, runner=fake)["rows"]:
        if row["role"] != "point":
            run = Path(row["run"])
            attempts = (run.parent / "attempts.jsonl").read_text().splitlines()
            assert [json.loads(line)["status"] for line in attempts][:2] == [-9, 0]
            assert (
                row["device_hours"] == json.loads((run / "ledger.json").read_text())["device_hours"]
            )


def test_children_run_the_real_command_and_are_stopped_together(tmp_path):
    children = Children()
    options = {"environment": dict(os.environ), "held": []}
    assert children(["--version"], log=tmp_path / "a.txt", **options) == 0
    assert (tmp_path / "a.txt").read_text().startswith("asr ")
    assert children(["nonsense"], log=tmp_path / "b.txt", **options) == 2
    children.stop()
    assert children(["--version"], log=tmp_path / "c.txt", **options) == 143
    assert not (tmp_path / "c.txt").exists()


def wait_for(path, held):
    while not path.exists():
        time.sleep(0.01)


def test_a_child_holds_the_locks_that_it_is_given(tmp_path):
    held = take(tmp_path / "unit" / ".claim")
    given = (tmp_path / "end", InheritedLocks([held.fileno()]))
    child = multiprocessing.get_context("forkserver").Process(target=wait_for, args=given)
    child.start()
    held.close()
    assert is_taken(tmp_path / "unit" / ".claim")
    (tmp_path / "end").touch()
    child.join(30)
    assert child.exitcode == 0
    assert not is_taken(tmp_path / "unit" / ".claim")


# --- pre-registration ---


def run(folder: Path, described, **options):
    return run_study(described, folder / "study", runner=Fake(folder / "journal"), **options)


def test_a_changed_study_file_is_refused_and_named_also_by_status(tmp_path):
    run(tmp_path, study())
    registered = (tmp_path / "study" / "study.json").read_text()
    changed = study(seeds=[1, 2, 3])
    with pytest.raises(ValueError, match=r"differ in study.seeds.*--amend"):
        run(tmp_path, changed)
    assert (tmp_path / "study" / "study.json").read_text() == registered
    assert (
        "has changed since it was registered (study.seeds)"
        in status(changed, tmp_path / "study")[0]
    )
    (tmp_path / "task.yaml").write_text(
        (tmp_path / "task.yaml").read_text() + "features: {num_mels: 40}\n"
    )
    with pytest.raises(ValueError, match=r"recipes.lstm.features.num_mels"):
        run(tmp_path, study())


def test_a_study_whose_recipes_are_written_differently_is_the_same_study(tmp_path):
    """As one registered with paths in a checkout, before recipes had names."""
    arm = {"encoder": "LSTM", "overrides": ["--encoder.dim=16", "--encoder.layers=1"]}
    before = run(tmp_path, study(arms={"a": arm}))["rows"]
    own = {"class_path": "LSTM", "init_args": {"dim": 16, "layers": 1}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    spelt = study(recipe=str(tmp_path / "task.yaml"), arms={"a": {"encoder": "own.yaml"}})
    assert run(tmp_path, spelt)["rows"] == before
    own["init_args"]["dim"] = 17
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    with pytest.raises(ValueError, match=r"differ in recipes.a.encoder.init_args.dim\)"):
        run(tmp_path, spelt)


def test_every_row_holds_the_hash_of_the_resolved_study(tmp_path):
    shuffled = study(**dict(reversed(STUDY.items())))
    run(tmp_path, study())
    run(tmp_path, shuffled)
    registered = json.loads((tmp_path / "study" / "study.json").read_text())
    assert {r["study_sha256"] for r in read_rows(tmp_path / "study")} == {
        registered["study_sha256"]
    }
    assert registered["amendments"] == []


def test_an_amendment_extends_a_study_and_is_recorded_with_the_rows_it_found(tmp_path):
    before = run(tmp_path, study())["rows"]
    result = run(tmp_path, study(seeds=[1, 2, 3]), amend=True)
    assert len(result["rows"]) == len(before) + 2 * 2  # final and point of each arm
    registered = json.loads((tmp_path / "study" / "study.json").read_text())
    (amendment,) = registered["amendments"]
    assert amendment["changed"] == ["study.seeds"]
    earlier = [r for r in result["rows"] if r["study_sha256"] != registered["study_sha256"]]
    assert earlier == before
    assert f"Results made under an earlier version of the file: {len(before)}." in result["remarks"]
    assert any("The seeds were amended when results could be seen" in r for r in result["remarks"])
    assert any("after 10 trials and runs" in remark for remark in result["remarks"])


def test_an_amendment_names_a_new_arm_by_its_name_alone(tmp_path):
    run(tmp_path, study())
    arms = STUDY["arms"] | {"more.recent": STUDY["arms"]["lstm"]}
    result = run(tmp_path, study(arms=arms), amend=True)
    assert any(r.endswith(": study.arms.more.recent.") for r in result["remarks"])


def test_a_process_whose_study_was_amended_by_another_stops_and_keeps_the_new_results(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(devices, "cores", lambda: [0, 1])

    class Amended(Fake):
        """Another shell amends the study, and ends, while the first final run is trained."""

        def __call__(self, arguments, **options):
            if "finals" in arguments[1] and self.journal.name == "journal":
                self.journal = tmp_path / "journal-after"
                matrix.run_study(
                    study(seeds=[1, 2, 3]),
                    tmp_path / "study",
                    selection=Selection(seeds=[3]),
                    amend=True,
                    runner=Fake(tmp_path / "elsewhere"),
                )
            return super().__call__(arguments, **options)

    with pytest.raises(ValueError, match="another process amended .* start again"):
        run_study(study(), tmp_path / "study", workers=1, runner=Amended(tmp_path / "journal"))
    seeds = {r["seed"] for r in read_rows(tmp_path / "study") if r["role"] == "final"}
    assert seeds == {3}
    rows = run(tmp_path, study(seeds=[1, 2, 3]))["rows"]
    assert sorted(r["seed"] for r in rows if r["role"] == "final") == [1, 1, 2, 2, 3, 3]


def test_an_amendment_that_would_change_finished_runs_is_refused(tmp_path):
    run(tmp_path, study())
    tuning = STUDY["tuning"] | {"budget": {"updates": 150}}
    with pytest.raises(ValueError, match="trained with other settings.*another name"):
        run(tmp_path, study(tuning=tuning), amend=True)
    budgets = STUDY["budgets"] | {"quarter": {"updates": 50}}
    with pytest.raises(ValueError, match="measured at the earlier budgets"):
        run(tmp_path, study(budgets=budgets), amend=True)


def test_another_corpus_is_refused(tmp_path):
    run(tmp_path, study())
    splits = {name: {"rows_sha256": "b" * 64} for name in ("train", "test")}
    facts = {"splits": splits, "normaliser": "none"}
    (tmp_path / "corpus" / "corpus.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="not the corpus that the study began with.*train"):
        run(tmp_path, study())


# --- parts, devices ---


def test_a_selection_is_run_and_the_rest_stays_missing(tmp_path):
    part = Selection(arms=["lstm"], seeds=[2])
    rows = run(tmp_path, study(), selection=part)["rows"]
    assert {(r["arm"], r["seed"]) for r in rows if r["role"] == "final"} == {("lstm", 2)}
    assert status(study(), tmp_path / "study") == [
        "lstm: 3 trials, 3 done; 2 final runs, 1 done, 1 missing",
        "minlstm: 3 trials, 3 missing; 2 final runs, 2 missing",
    ]
    with pytest.raises(ValueError, match="arms gru: not in the study, which has lstm, minlstm"):
        run(tmp_path, study(), selection=Selection(arms=["gru"]))
    with pytest.raises(ValueError, match="points of one run"):
        run(tmp_path, study(), selection=Selection(budgets=["half"]))


def test_runs_have_the_threads_of_the_study_and_no_more_at_a_time_than_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: list(range(5)))
    fake = Fake(tmp_path / "journal", seconds=0.05)
    run_study(study(threads=2), tmp_path / "study", runner=fake)
    assert fake.cores == {2}
    assert fake.most == 2
    with pytest.raises(ValueError, match="--workers 3: this machine has room for 2"):
        run_study(study(threads=2), tmp_path / "study", workers=3, runner=fake)


def test_threads_are_shared_by_the_workers_and_fixed_at_the_first_start(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: list(range(8)))
    part = Selection(arms=["lstm"])
    for workers, selection in ((4, part), (1, Selection())):
        fake = Fake(tmp_path / "journal")
        described = study(threads=None)
        run_study(described, tmp_path / "study", workers=workers, selection=selection, runner=fake)
        assert fake.cores == {2}


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        ({}, ["4", "5", "7"]),
        ({"WORLD_SIZE": "3", "RANK": "4", "LOCAL_RANK": "1"}, ["5"]),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "6", "SLURM_LOCALID": "2"}, ["7"]),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, ["4", "5", "7"]),  # the batch script itself
    ],
)
def test_each_worker_has_a_gpu_to_itself_also_under_a_launcher(monkeypatch, launcher, expected):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in devices.LAUNCHED:
            monkeypatch.delenv(name)
    named_gpus(monkeypatch, {"0": "a", "1": "b", "2": "c"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "8")
    monkeypatch.setenv("OMPI_MCA_plm", "isolated")
    found = devices.slots(real_recipe(Path("corpus"), trainer={"accelerator": "auto"}).trainer, 1)
    assert [slot.devices for slot in found] == expected
    names = {"4": ("gpu-a",), "5": ("gpu-b",), "7": ("gpu-c",)}
    assert [slot.locks for slot in found] == [names[device] for device in expected]
    env = devices.environment(found[-1], 3, os.environ)
    assert (env["CUDA_VISIBLE_DEVICES"], env["OMP_NUM_THREADS"]) == (expected[-1], "3")
    # A run of the study is not one of the launcher's tasks; how MPI is set up it needs to know.
    assert not {*launcher, "OMPI_COMM_WORLD_SIZE"} & set(env)
    assert env["OMPI_MCA_plm"] == "isolated"


def named_gpus(monkeypatch, uuids: dict[str, str]) -> None:
    """GPUs by number, as a process sees them."""
    properties = {int(n): SimpleNamespace(uuid=uuid) for n, uuid in uuids.items()}
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: len(properties))
    monkeypatch.setattr(devices.torch.cuda, "get_device_properties", properties.__getitem__)


def test_two_processes_never_share_a_device():
    free = [devices.Slot(("gpu-a",), "0"), devices.Slot(("gpu-b",), "1")]
    first, second = (devices.take_slot(free) for _ in range(2))
    assert [first[0].devices, second[0].devices] == ["0", "1"]
    assert devices.take_slot(free) is None
    first[1][0].close()
    third = devices.take_slot(free)
    assert third[0].devices == "0"
    release(second, third)


def release(*taken):
    for _, held in taken:
        for lock in held:
            lock.close()


def test_runs_of_many_threads_and_of_few_never_share_a_core(monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: [2, 3, 6])
    options = real_recipe(Path("corpus")).trainer
    narrow, wide = devices.slots(options, 1), devices.slots(options, 2)
    assert [slot.locks for slot in narrow] == [("core2",), ("core3",), ("core6",)]
    assert [slot.locks for slot in wide] == [("core2", "core3")]
    _, held = devices.take_slot(narrow[1:])
    assert devices.take_slot(wide) is None
    given_back = devices.take_slot(narrow)
    assert given_back[0] == narrow[0]
    held[0].close()
    again = devices.take_slot(narrow[1:])
    assert again[0] == narrow[1]
    release(given_back, again)


def test_a_gpu_is_locked_by_its_uuid_whatever_its_number_is_in_a_process(monkeypatch):
    options = real_recipe(Path("corpus"), trainer={"accelerator": "auto"}).trainer
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    taken = []
    for uuids in ({"0": "a"}, {"0": "b"}, {"0": "b", "1": "a"}):
        named_gpus(monkeypatch, uuids)
        taken.append(devices.take_slot(devices.slots(options, 1)))
    assert [found and found[0].devices for found in taken] == ["0", "0", None]
    release(*taken[:2])


def test_device_locks_are_in_one_folder_per_user_and_a_folder_of_another_user_is_refused(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = LOCK_FOLDER()
    assert place.parent == tmp_path
    assert str(os.getuid()) in place.name
    assert place.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(os, "getuid", lambda: 12345)  # to whom what is made does not belong
    with pytest.raises(ValueError, match="belongs to another user; set TMPDIR"):
        LOCK_FOLDER()


def test_a_study_waits_for_the_device_of_another_study_and_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(devices, "cores", lambda: [0])
    caplog.set_level("INFO")
    held = take(tmp_path / "devices" / "core0")
    works = threading.Thread(target=run, args=(tmp_path, study()))
    works.start()
    while "waiting: other processes" not in caplog.text:
        time.sleep(0.01)
    assert not (tmp_path / "journal").exists()
    assert status(study(), tmp_path / "study")[0] == (
        "lstm: 3 trials, 3 missing; 2 final runs, 2 missing"
    )
    held.close()
    works.join(60)
    assert caplog.text.count("waiting: other processes") == 1
    assert len(read_rows(tmp_path / "study")) == 2 * (3 + 2 * 2)


# --- the real thing ---


@pytest.mark.slow
def test_the_study_command_on_tone_speech_writes_the_page(tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(devices, "lock_folder", lambda: tmp_path / "devices")
    os.chdir(tmp_path)
    make_corpus(tmp_path / "tones", train=60, validation=12, test=12)
    strict_yaml.dump(strict_yaml.tree_of(real_recipe(tmp_path / "tones")), tmp_path / "task.yaml")
    arms = {
        name: {"encoder": kind, "overrides": [f"--encoder.{k}={v}" for k, v in options.items()]}
        for name, kind, options in (
            ("lstm", "LSTM", {"dim": 16, "layers": 1}),
            ("minlstm", "MinLSTM", {"dim": 16, "layers": 1}),
        )
    }
    budgets = {"half": {"updates": 6}, "full": {"updates": 12}}
    tuning = STUDY["tuning"] | {"trials": 1, "budget": {"updates": 6}}
    tree = STUDY | {"arms": arms, "budgets": budgets, "tuning": tuning}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree))
    assert cli.main(["study", "study.yaml"]) == 0
    out = capsys.readouterr().out
    place = tmp_path / "runs" / "studies" / "tiny"
    assert (place / "report" / "report.html").is_file()
    assert out.splitlines()[-1] == (
        "written: runs/studies/tiny/results.jsonl, runs/studies/tiny/report/report.html"
    )
    rows = read_rows(place)
    assert len(rows) == 2 * (1 + 2 * 2)
    for row in rows:
        assert row["status"] == "done"
        assert row["num_threads"] == 1
        if row["role"] == "final":
            evaluated = Path(row["run"]) / "evaluations" / "test" / "metrics.json"
            assert json.loads(evaluated.read_text())["wer"]["rate"] == row["test_wer"]
    ledgers = [
        json.loads((Path(r["run"]) / "ledger.json").read_text())["device_hours"]
        for r in rows
        if r["role"] != "point"
    ]
    assert f"Cost of all training: {digits(sum(ledgers))} core-hours" in out
    before = {path: path.stat().st_mtime_ns for path in place.rglob("ledger.json")}
    assert cli.main(["study", "study.yaml"]) == 0
    assert {path: path.stat().st_mtime_ns for path in place.rglob("ledger.json")} == before
    assert read_rows(place) == rows
