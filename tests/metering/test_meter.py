import json
import time

import pytest
import torch

from asr.metering import meter
from asr.metering.meter import PEAK_FLOPS, PHASES, EnergyMeter, Ledger, process_start, read_ledger

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [1000.0]
    monkeypatch.setattr(meter.time, "time", lambda: now[0])
    monkeypatch.setattr(meter.time, "monotonic", lambda: now[0] - 900)
    return now


def ledger(folder, clock, **keys):
    return Ledger(folder, CPU, began=clock[0], **keys)


def test_every_second_is_in_exactly_one_phase(tmp_path, clock):
    book = ledger(tmp_path, clock, num_devices=2)
    for phase, seconds in (("data_wait", 3), ("step", 2), ("data_wait", 5), ("step", 7)):
        book.enter(phase)
        clock[0] += seconds
        if phase == "step":
            with book.during("validation"):
                clock[0] += 11
            clock[0] += 0.5
    line = book.line("end")
    assert line["seconds"] == {
        "startup": 0.0,
        "step": 10.0,
        "compilation": 0.0,
        "data_wait": 8.0,
        "validation": 22.0,
        "checkpoint": 0.0,
    }
    assert line["wall_seconds"] == sum(line["seconds"].values()) == 40.0
    assert line["device_hours"] == pytest.approx(2 * 40 / 3600)
    book.close()


def test_a_killed_session_counts_as_cost_and_its_replayed_work_as_wasted(tmp_path, clock):
    first = ledger(tmp_path, clock)
    first.open(0)
    first.enter("step")
    clock[0] += 100
    first.count(audio_seconds=50, train_flops=7)
    saved = json.loads(json.dumps(first.line("checkpoint")))
    clock[0] += 30  # lost: after the checkpoint
    first.count(audio_seconds=20, train_flops=3)
    first.close()  # the heartbeat of the last second; then the process is killed
    clock[0] += 1000  # nobody pays for the pause

    second = ledger(tmp_path, clock)
    clock[0] += 5
    second.enter("step")
    second.restore(saved)
    second.open(1)
    clock[0] += 40
    second.count(audio_seconds=10, train_flops=1)
    line = second.line("end")
    assert line["wall_seconds"] == 175
    assert line["wasted_seconds"] == 30
    assert sum(line["seconds"].values()) + line["wasted_seconds"] == line["wall_seconds"]
    assert line["audio_seconds"] == 60
    assert line["train_flops"] == 8
    second.close()
    starts = [
        entry for entry in read_ledger(tmp_path / "ledger.jsonl") if entry["event"] == "start"
    ]
    assert [entry["session"] for entry in starts] == [1, 2]


def test_a_session_killed_before_any_checkpoint_counts_as_wasted(tmp_path, clock):
    first = ledger(tmp_path, clock)
    clock[0] += 60
    first.close()
    second = ledger(tmp_path, clock)
    clock[0] += 1
    line = second.line("step")
    assert (line["wasted_seconds"], line["wall_seconds"]) == (60, 61)
    second.close()


def test_the_heartbeat_is_less_than_two_seconds_old(tmp_path):
    book = Ledger(tmp_path, CPU, began=time.time())
    time.sleep(1.5)
    beat = json.loads((tmp_path / "heartbeat.json").read_text())
    assert beat["wall_seconds"] >= 0.9
    book.close()


def test_an_incomplete_line_of_a_killed_session_is_skipped_alone(tmp_path, clock):
    (tmp_path / "ledger.jsonl").write_text('{"event": "start"}\n{"event": "st')
    book = ledger(tmp_path, clock)
    book.write(book.line("end"), finished=True)
    events = [line["event"] for line in read_ledger(tmp_path / "ledger.jsonl")]
    assert events == ["start", "end"]
    assert json.loads((tmp_path / "ledger.json").read_text())["finished"] is True
    book.close()


def test_counters_are_summed_over_processes(tmp_path, clock):
    book = ledger(tmp_path, clock, total=lambda value: 2 * value)
    book.count(audio_seconds=10)
    assert book.line("end")["audio_seconds"] == 20
    book.close()


def test_utilisation_is_over_steps_only_and_null_without_a_known_peak(tmp_path, clock):
    book = ledger(tmp_path, clock)
    assert book.line("end")["model_flops_utilisation"] is None
    book.peak_flops = 1e12
    clock[0] += 50  # startup is not throughput
    book.enter("step")
    clock[0] += 2
    book.count(train_flops=1e12)
    assert book.line("end")["model_flops_utilisation"] == pytest.approx(0.5)
    book.close()


def test_peak_flops_equal_those_of_the_data_sheets():
    assert PEAK_FLOPS["NVIDIA H200"]["bf16"] == 989e12
    assert PEAK_FLOPS["NVIDIA A100-SXM4-80GB"]["float32"] == 19.5e12
    assert PEAK_FLOPS["NVIDIA A100-SXM4-80GB"]["tf32"] == 156e12
    assert "NVIDIA H100 PCIe" not in PEAK_FLOPS


def test_a_cpu_has_no_energy_counter_and_says_so(tmp_path, clock):
    energy = EnergyMeter(CPU)
    assert energy.joules() is None
    assert "cpu" in (energy.note or "")
    book = ledger(tmp_path, clock)
    assert book.line("end")["energy_joules"] is None
    book.close()


def test_joules_are_the_difference_of_the_counter_over_sessions_and_devices(tmp_path, clock):
    class Counter:
        note, value = None, 0.0

        def joules(self):
            return self.value

    book = ledger(tmp_path, clock)
    book.energy = Counter()
    book.energy.value = 70.0
    assert book.line("step")["energy_joules"] == 70.0
    book.close()
    again = ledger(tmp_path, clock, total=lambda joules: 2 * joules)
    again.energy = Counter()
    again.energy.value = 5.0
    assert again.line("step")["energy_joules"] == 80.0
    again.close()


def test_the_start_of_the_process_lies_within_the_last_day():
    assert 0 < time.time() - process_start() < 24 * 3600
    assert set(PHASES) == {
        "startup", "compilation", "step", "data_wait", "validation", "checkpoint"
    }  # fmt: skip
    assert meter.peak_memory(CPU) > 10e6
