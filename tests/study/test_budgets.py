"""The unit of a study's budgets: core-hours, GPU-hours or CPU-hours, never mixed."""

import json

import pytest

from asr.config import strict_yaml
from asr.files import read_json
from asr.report.runs import read_run
from asr.report.study import read_record
from asr.report.study_audit import disagreements
from asr.study import devices, matrix, plan, run_study, status
from tests.run_folders import write_lines
from tests.studies import Fake, study, write_inputs

HOURS = {
    "budgets": {"half": {"device_hours": 0.02}, "full": {"device_hours": 0.04}},
    "tuning": {"trials": 0, "budget": {"device_hours": 0.01}},
}


@pytest.fixture(autouse=True)
def inputs(tmp_path, monkeypatch):
    write_inputs(tmp_path)
    monkeypatch.setattr(devices, "lock_folder", lambda: tmp_path / "devices")
    page = {"files": [tmp_path / "report.html"]}
    monkeypatch.setattr(matrix, "compare", lambda runs, output, **options: page)


def trained(folder):
    """Budgets in the recipes of the final runs."""
    paths = sorted(folder.glob("finals/*/*/run/recipe.yaml"))
    return [strict_yaml.load_file(path)["budget"] for path in paths]


def test_with_workers_on_a_cpu_device_hours_count_as_cpu_hours_until_the_study_ends(tmp_path):
    folder = tmp_path / "study"
    for workers in (1, None):  # the registered unit stays
        fake = Fake(tmp_path / "journal")
        result = run_study(study(**HOURS), folder, workers=workers, runner=fake)
        assert {(b["cpu_hours"], b["device_hours"]) for b in trained(folder)} == {(0.04, None)}
        assert {row["budget_unit"] for row in result["rows"]} == {"cpu_hours"}
    assert not any("changed" in line for line in status(study(**HOURS), folder))
    record = read_record(folder)
    assert record.plan["budgets"]["half"]["cpu_hours"] == 0.02
    assert disagreements(record, [read_run(run) for run in record.final_runs], "test", []) == []


def test_without_workers_and_on_a_gpu_device_hours_stay(tmp_path, monkeypatch):
    alone = run_study(study(**HOURS), tmp_path / "alone", runner=Fake(tmp_path / "journal"))
    assert {row["budget_unit"] for row in alone["rows"]} == {"device_hours"}
    assert {b["device_hours"] for b in trained(tmp_path / "alone")} == {0.04}
    monkeypatch.setattr(plan, "visible_gpus", lambda accelerator: ["0"])
    gpu = run_study(study(**HOURS), tmp_path / "gpu", workers=1, runner=Fake(tmp_path / "journal"))
    assert {row["budget_unit"] for row in gpu["rows"]} == {"device_hours"}
    assert {row["device_kind"] for row in gpu["rows"]} == {"cuda"}


def test_core_hours_and_gpu_hours_are_not_mixed_in_a_study(tmp_path, monkeypatch):
    run_study(study(**HOURS), tmp_path / "study", runner=Fake(tmp_path / "journal"))
    monkeypatch.setattr(plan, "visible_gpus", lambda accelerator: ["0"])
    words = "has runs that cost core-hours, and here they would cost GPU-hours"
    with pytest.raises(ValueError, match=words):
        run_study(study(**HOURS), tmp_path / "study", runner=Fake(tmp_path / "journal"))


def as_before(folder, threads):
    """Turns the folder of a study into that of an earlier version, with runs of some threads."""
    registered = read_json(folder / "study.json")
    for key in ("format", "device_kind", "budget_unit"):
        del registered[key]
    for recipe in registered["resolved"]["recipes"].values():
        recipe["trainer"]["devices"] = 1
    registered["threads"] = threads
    (folder / "study.json").write_text(json.dumps(registered))
    for path in folder.glob("finals/*/*/result.json"):
        rows = [
            {k: v for k, v in row.items() if k not in ("format", "device_kind", "budget_unit")}
            for row in read_json(path)
        ]
        path.write_text(json.dumps([row | {"num_threads": threads} for row in rows]))
        ledger = path.parent / "run" / "ledger.json"
        ledger.write_text(json.dumps(read_json(ledger) | {"num_threads": threads}))


def test_a_study_of_an_earlier_version_continues_in_core_hours(tmp_path, monkeypatch):
    """Its device-hours were hours of a process with two threads."""
    monkeypatch.setattr(devices, "cores", lambda: [0, 1])
    folder, described = tmp_path / "study", study(**HOURS, threads=2)
    before = run_study(described, folder, runner=Fake(tmp_path / "journal"))
    as_before(folder, 2)
    path = folder / "finals" / "lstm" / "full-seed1"
    for name in ("result.json", "run/.first", "run/.second", "run/recipe.yaml"):
        (path / name).unlink()
    fake = Fake(tmp_path / "journal")
    after = run_study(described, folder, runner=fake)
    assert sorted(b["device_hours"] for b in trained(folder)) == [0.04, 0.04, 0.04, 0.08]
    assert {env["OMP_NUM_THREADS"] for env in fake.environments} == {"2"}  # as before
    old, new = (
        {row["run"]: row["device_hours"] for row in result["rows"] if row["role"] == "final"}
        for result in (before, after)
    )
    assert {run: hours / old[run] for run, hours in new.items()} == {
        run: 2 if run != str(path / "run") else 1 for run in old
    }
    record = read_record(folder)
    assert (record.plan["budgets"]["full"]["device_hours"], record.unit) == (0.08, "core-hours")
    write_lines(folder / "results.jsonl", [row for row in record.rows if "format" in row])
    assert read_record(folder).rows == record.rows
    with pytest.raises(ValueError, match="counted a run of 2 threads as one device"):
        run_study(study(**HOURS, threads=2, seeds=[1, 2, 3]), folder, amend=True, runner=fake)
