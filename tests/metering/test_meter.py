import json
import time

import pytest
import torch

from asr.metering import meter
from asr.metering.gpu import GpuMeter
from asr.metering.ledger_format import read_ledger
from asr.metering.meter import METERS, PEAK_FLOPS, PHASES, Ledger, process_start

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
    book = ledger(tmp_path, clock, num_processes=2)
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
    assert line["device_hours"] == pytest.approx(2 * book.num_threads * 40 / 3600)
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
    starts = [entry for entry in read_ledger(tmp_path) if entry["event"] == "start"]
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
    events = [line["event"] for line in read_ledger(tmp_path)]
    assert events == ["start", "end"]
    assert json.loads((tmp_path / "ledger.json").read_text())["finished"] is True
    book.close()


def test_counters_are_summed_over_processes(tmp_path, clock):
    book = ledger(tmp_path, clock, total=lambda values: [2 * v for v in values])
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
    energy = GpuMeter(CPU)
    assert energy.joules() is None
    assert "cpu" in (energy.note or "")
    book = ledger(tmp_path, clock)
    assert book.line("end")["energy_joules"] is None
    book.close()


class Counter(GpuMeter):
    """A counter of energy that the test sets."""

    value = 5.0

    def joules(self):
        return self.value


def test_joules_are_the_difference_of_the_counter_over_sessions_and_devices(tmp_path, clock):
    book = ledger(tmp_path, clock)
    book.gpu = Counter(CPU)
    book.gpu.value = 70.0
    assert book.line("step")["energy_joules"] == 70.0
    book.close()
    again = ledger(tmp_path, clock, total=lambda values: [2 * v for v in values])
    again.gpu = Counter(CPU)
    assert again.line("step")["energy_joules"] == 80.0
    again.close()


def test_the_start_of_the_process_lies_within_the_last_day():
    assert 0 < time.time() - process_start() < 24 * 3600
    assert set(PHASES) == {
        "startup", "compilation", "step", "data_wait", "validation", "checkpoint"
    }  # fmt: skip
    assert meter.peak_memory(CPU) > 10e6


class Clock:
    """CPU time and waiting that the test sets."""

    note = None

    def __init__(self):
        self.value = (0.0, 0.0)

    def read(self):
        return self.value


def with_clock(book):
    book.clock = Clock()
    return book


def test_cpu_time_and_waiting_are_counted_in_the_phase_that_used_them(tmp_path, clock):
    book = with_clock(ledger(tmp_path, clock, num_processes=2, total=doubled))
    book.clock.value = (3.0, 1.0)
    book.enter("step")
    book.clock.value = (8.0, 2.5)
    clock[0] += 10
    line = book.line("step")
    assert {p: s for p, s in line["cpu_seconds"].items() if s} == {"startup": 6.0, "step": 10.0}
    waited = {p: s for p, s in line["core_wait_seconds"].items() if s}
    assert waited == {"startup": 2.0, "step": 3.0}
    assert line["cpu_note"] is line["core_wait_note"] is None
    book.close()


def doubled(values):
    """The sums over two equal processes."""
    return [2 * value for value in values]


def test_cpu_time_of_a_killed_session_is_paid_for(tmp_path, clock):
    first = with_clock(ledger(tmp_path, clock))
    first.enter("step")
    first.clock.value = (10.0, 4.0)
    saved = json.loads(json.dumps(first.line("checkpoint")))
    first.clock.value = (15.0, 5.0)  # lost
    first.close()

    second = with_clock(ledger(tmp_path, clock))
    second.clock.value = (1.0, 0.0)
    second.enter("step")
    second.restore(saved)
    second.clock.value = (3.0, 0.5)
    line = second.line("end")
    second.close()
    cpu = {p: s for p, s in line["cpu_seconds"].items() if s}
    assert cpu == {"startup": 1.0, "step": 12.0, "wasted": 5.0}
    assert sum(line["core_wait_seconds"].values()) == 5.5
    assert second.cpu_seconds == 18
    beat = json.loads((tmp_path / "heartbeat.json").read_text())
    assert (beat["cpu_seconds"], beat["core_wait_seconds"]) == (18, 5.5)


def test_a_branch_goes_on_with_all_costs_of_its_trunk(tmp_path, clock):
    amounts = dict.fromkeys(METERS, 7.0)
    trunk = with_clock(ledger(tmp_path / "trunk", clock))
    trunk.clock.value = (10.0, 4.0)
    saved = json.loads(json.dumps(trunk.line("checkpoint") | amounts))
    trunk.close()

    for told in (amounts, dict.fromkeys(METERS)):  # known, and not measured
        folder = tmp_path / f"branch {told['energy_joules']}"
        branch = with_clock(ledger(folder, clock))  # it has no heartbeat
        branch.gpu = Counter(CPU)
        branch.gpu.sharing_note = None
        branch.restore(saved | told)
        branch.clock.value = (2.0, 0.5)
        line = branch.line("step")
        branch.close()
        beat = json.loads((folder / "heartbeat.json").read_text())
        for found in (line, beat):
            assert found["gpu_shared_seconds"] == told["gpu_shared_seconds"]
            joules = told["energy_joules"]
            assert found["energy_joules"] == (None if joules is None else joules + 5.0)
        assert sum(line["cpu_seconds"].values()) == beat["cpu_seconds"] == 12.0
        assert line["cpu_seconds"]["wasted"] == 0.0


def test_the_heartbeat_takes_other_processes_to_be_like_this_one_since_the_last_line(
    tmp_path, clock
):
    def total(values):
        return [3 * value for value in values]  # the other process has used twice as much

    book = with_clock(ledger(tmp_path, clock, num_processes=2, total=total))
    book.clock.value = (10.0, 0.0)
    book.line("step")
    book.clock.value = (11.0, 0.0)
    book.close()
    assert json.loads((tmp_path / "heartbeat.json").read_text())["cpu_seconds"] == 32


def test_a_run_of_an_earlier_version_goes_on_in_core_hours_without_its_cpu_time(tmp_path, clock):
    old = {"wall_seconds": 100.0, "device_hours": 2 * 100 / 3600, "wasted_seconds": 0.0}
    old |= {"seconds": {"startup": 10.0, "step": 90.0}, "peak_memory_bytes": 1}
    old |= dict.fromkeys(("audio_seconds", "padded_seconds"), 5.0)
    old |= dict.fromkeys(("train_flops", "padded_train_flops"), 7.0)
    device = {"device_name": "EPYC", "device_kind": "cpu", "num_devices": 2}
    start = {"event": "start", "session": 1, "from_update": 0} | device
    (tmp_path / "ledger.jsonl").write_text(json.dumps(start) + "\n")
    (tmp_path / "ledger.json").write_text(json.dumps(old | device | {"num_threads": 3}))
    (tmp_path / "environment.json").write_text(json.dumps({"format": 2, "threads": 3}))
    beat = {"session": 1, "wall_seconds": 100.0, "device_seconds": 200.0, "energy_joules": None}
    (tmp_path / "heartbeat.json").write_text(json.dumps(beat))

    for _ in range(2):  # a session that ends before its first checkpoint changes nothing
        book = ledger(tmp_path, clock)
        book.close()
    book = ledger(tmp_path, clock)
    book.restore(old)
    clock[0] += 50
    line = book.line("end")
    book.close()
    expected = 2 * 3 * 100 + book.num_threads * 50
    assert line["device_hours"] == pytest.approx(expected / 3600)
    assert line["cpu_seconds"] is None
    assert line["cpu_note"] == "an earlier session did not measure it"
    assert line["core_wait_share"] is None
