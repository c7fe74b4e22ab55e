import json

import pytest

from asr.metering.ledger_format import read_heartbeat, read_ledger, read_totals, upgrade, upgraded

START = {"event": "start", "session": 1, "device_name": "EPYC", "device_kind": "cpu"}
STEP = {"event": "step", "updates": 50, "wall_seconds": 1800.0, "device_hours": 1.0}
OLD = {"format": 2, "threads": 3}


def write_old(folder, threads=3, kind="cpu"):
    """A run folder of format 2 with two processes, which has run for half an hour."""
    start = START | {"device_kind": kind, "num_devices": 2, "from_update": 0}
    (folder / "ledger.jsonl").write_text(f"{json.dumps(start)}\n{json.dumps(STEP)}\n{{'torn")
    totals = STEP | {"device_kind": kind, "num_devices": 2, "num_threads": threads}
    (folder / "ledger.json").write_text(json.dumps(totals))
    (folder / "environment.json").write_text(json.dumps(OLD | {"threads": threads}))
    beat = {"session": 1, "wall_seconds": 1810.0, "device_seconds": 3620.0}
    (folder / "heartbeat.json").write_text(json.dumps(beat))


def test_an_old_hour_of_a_cpu_becomes_core_hours_of_all_its_threads(tmp_path):
    write_old(tmp_path)
    start, step = read_ledger(tmp_path)
    assert step["device_hours"] == 2 * 3 * 1800 / 3600
    assert (start["num_devices"], start["num_processes"], start["num_threads"]) == (6, 2, 3)
    totals = read_totals(tmp_path)
    assert (totals["device_hours"], totals["num_devices"], totals["num_processes"]) == (3.0, 6, 2)
    assert read_heartbeat(tmp_path)["device_seconds"] == 2 * 3 * 1810
    assert totals["wall_seconds"] == step["wall_seconds"] == 1800


def test_hours_of_a_gpu_stay_as_they_are(tmp_path):
    write_old(tmp_path, kind="cuda")
    assert read_ledger(tmp_path)[1] == STEP | {"format": 3}
    assert read_totals(tmp_path)["num_devices"] == 2
    assert read_heartbeat(tmp_path)["device_seconds"] == 3620


def test_lines_of_this_version_are_unchanged():
    facts = {"device_kind": "cpu", "num_threads": 2}
    line = {"device_hours": 1.0, "format": 3}
    assert upgraded(line, facts | {"format": 2}) == line
    assert upgraded({"device_hours": 1.0}, facts | {"format": 3}) == {"device_hours": 1.0}
    assert upgraded(line | {"format": 1}, facts)["device_hours"] == 2.0


def test_a_run_without_a_number_of_threads_counts_as_having_one():
    facts = {"device_kind": "cpu"}
    assert upgraded({"num_devices": 2, "device_hours": 1.0}, facts) == {
        "num_devices": 2, "num_processes": 2, "num_threads": 1, "device_hours": 1.0, "format": 3,
    }  # fmt: skip


def test_a_folder_is_converted_once_even_if_the_threads_change_later(tmp_path):
    write_old(tmp_path)
    before = read_ledger(tmp_path), read_totals(tmp_path), read_heartbeat(tmp_path)
    upgrade(tmp_path)
    upgrade(tmp_path)
    environment = {"format": 3, "threads": 1}
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    assert before == (read_ledger(tmp_path), read_totals(tmp_path), read_heartbeat(tmp_path))


def test_a_conversion_that_was_killed_is_completed(tmp_path):
    write_old(tmp_path)
    old = (tmp_path / "ledger.jsonl").read_bytes()
    before = read_ledger(tmp_path), read_totals(tmp_path), read_heartbeat(tmp_path)
    upgrade(tmp_path)
    (tmp_path / "ledger.jsonl").write_bytes(old)  # the file that is replaced last
    upgrade(tmp_path)
    assert before == (read_ledger(tmp_path), read_totals(tmp_path), read_heartbeat(tmp_path))


def test_a_folder_without_a_ledger_has_no_cost(tmp_path):
    upgrade(tmp_path)
    assert (read_ledger(tmp_path), read_heartbeat(tmp_path)) == ([], {})
    with pytest.raises(FileNotFoundError):
        read_totals(tmp_path)
