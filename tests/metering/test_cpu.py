import contextlib
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from asr.metering.cpu import CpuClock, CpuUse, cpu_pressure, disturbed_seconds, waited_too_long
from asr.metering.environment import cores

BURN = "while True: pass"
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def burn(seconds):
    """Computes until this thread has had so much CPU time."""
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


@pytest.fixture
def clock():
    clock = CpuClock()
    yield clock
    clock.close()


def test_the_clock_counts_the_cpu_time_of_all_threads_also_after_they_ended(clock):
    before = clock.read()[0]
    thread = threading.Thread(target=burn, args=(0.2,))
    thread.start()
    burn(0.1)
    thread.join()
    assert clock.read()[0] - before == pytest.approx(0.3, abs=0.1)


@linux
def test_the_clock_counts_the_cpu_time_of_data_workers_and_not_of_other_processes(clock):
    workers = [
        multiprocessing.get_context("fork").Process(target=burn, args=(9.0,), daemon=daemon)
        for daemon in (True, False)
    ]
    for worker in workers:
        worker.start()
    own, read = time.process_time(), clock.read()[0]
    time.sleep(0.5)
    ran = clock.read()[0] - read - (time.process_time() - own)
    stat = f"/proc/{workers[0].pid}/stat"
    with open(stat) as file:
        ticks = sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))
    for worker in workers:
        worker.kill()
        worker.join()
    assert ran == pytest.approx(ticks / os.sysconf("SC_CLK_TCK"), abs=0.1)
    assert clock.read()[0] >= read + ran  # the time of a worker that ended stays


@linux
def test_the_clock_counts_the_waiting_beside_another_program_on_the_same_core(clock):
    core = next(iter(os.sched_getaffinity(0)))
    allowed = os.sched_getaffinity(0)
    other = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{core}])\n{BURN}"],
        start_new_session=True,
    )
    os.sched_setaffinity(0, [core])
    try:
        time.sleep(0.3)
        (cpu, waited), began = clock.read(), time.monotonic()
        burn(0.3)
        wall, now = time.monotonic() - began, clock.read()
    finally:
        os.sched_setaffinity(0, allowed)
        other.kill()
        other.wait()
    # This thread never sleeps: it runs or waits.
    assert now[0] - cpu + now[1] - waited == pytest.approx(wall, rel=0.2)
    assert now[1] - waited > 0.2 * wall


@linux
def test_waiting_never_falls_when_threads_end(clock):
    before = clock.read()[1]
    for _ in range(3):
        threads = [threading.Thread(target=burn, args=(0.02,)) for _ in range(4)]
        clock._listed = clock._all_read = -math.inf
        for thread in threads:
            thread.start()
        during = clock.read()[1]
        for thread in threads:
            thread.join()
        after = clock.read()[1]
        assert before <= during <= after
        before = after


def test_a_system_without_the_files_has_no_waiting_and_says_so(clock, monkeypatch):
    monkeypatch.setattr("asr.metering.cpu.SCHEDSTAT", "/proc/nothing")
    monkeypatch.setattr("asr.metering.cpu.PRESSURE", sys.modules["pathlib"].Path("/nothing"))
    other = CpuClock()
    assert "has no /proc/nothing" in other.note
    assert other.read()[0] > 0
    assert cpu_pressure() != cpu_pressure()  # NaN
    with contextlib.closing(CpuUse(1)) as use:
        use.begin()
        burn(0.05)
        use.end()
        burn(0.2)  # in no piece
        found = use.facts()
    assert found["core_wait_share"] is None
    assert 0.05 <= found["cpu_seconds"] < 0.15


def test_a_program_that_waits_for_itself_is_not_disturbed():
    all_cores = cores()
    # Twice as many busy threads as cores: all cores work for it, and half of the threads wait.
    assert disturbed_seconds(10.0 * all_cores, 10.0 * all_cores, 10.0, 1) == 0
    # One thread that gets a core for a third of the time.
    assert disturbed_seconds(6.7, 3.3, 10.0, 1) == min(6.7, all_cores * 10 - 3.3)


def test_a_time_with_much_waiting_does_not_compare():
    assert waited_too_long(None) == waited_too_long(0.1) == ""
    assert "23 % of the time" in waited_too_long(0.23)
