import contextlib
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from asr.metering.cpu import (
    READ_SECONDS,
    CpuClock,
    cpu_pressure,
    disturbed_seconds,
    times_disturbed,
)
from asr.metering.environment import cores
from asr.metering.use import Use

BURN = "while True: pass"
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def burn(seconds):
    """Computes until this thread has had so much CPU time."""
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


def test_the_clock_counts_the_cpu_time_of_all_threads_also_after_they_ended():
    clock = CpuClock()
    before = clock.read()[0]
    thread = threading.Thread(target=burn, args=(0.2,))
    thread.start()
    burn(0.1)
    thread.join()
    assert clock.read()[0] - before == pytest.approx(0.3, abs=0.1)


@linux
def test_the_clock_counts_no_other_process():
    clock, context = CpuClock(), multiprocessing.get_context("fork")
    workers = [context.Process(target=burn, args=(9.0,), daemon=daemon) for daemon in (True, False)]
    for worker in workers:
        worker.start()
    before = clock.read()[0]
    time.sleep(0.4)
    after = clock.read()[0]
    for worker in workers:
        worker.kill()
        worker.join()
    assert after - before < 0.1


@linux
@pytest.mark.parametrize("own_thread", [False, True])
def test_the_clock_counts_the_waiting_beside_another_program_on_the_same_core(own_thread):
    clock, allowed = CpuClock(), os.sched_getaffinity(0)
    core = next(iter(allowed))
    other = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{core}])\n{BURN}"],
        start_new_session=True,
    )
    os.sched_setaffinity(0, [core])
    try:
        time.sleep(0.3)
        (cpu, waited), began = clock.read(), time.monotonic()
        if own_thread:
            thread = threading.Thread(target=burn, args=(0.3,))  # it has the core of this thread
            thread.start()
            while thread.is_alive():
                thread.join(READ_SECONDS)
                clock.read()  # as the heartbeat does, because the thread's file ends with it
        else:
            burn(0.3)
        wall, now = time.monotonic() - began, clock.read()
    finally:
        os.sched_setaffinity(0, allowed)
        other.kill()
        other.wait()
    # The thread never sleeps: it runs or waits.
    assert now[0] - cpu + now[1] - waited == pytest.approx(wall, rel=0.3)
    assert now[1] - waited > 0.2 * wall


@linux
def test_waiting_never_falls_when_threads_end():
    clock = CpuClock()
    before = clock.read()[1]
    for _ in range(3):
        threads = [threading.Thread(target=burn, args=(0.02,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        clock._all_read = -math.inf
        during = clock.read()[1]
        for thread in threads:
            thread.join()
        clock._all_read = -math.inf
        after = clock.read()[1]
        assert before <= during <= after
        before = after


def test_a_system_without_the_files_has_no_waiting_and_says_so(monkeypatch):
    monkeypatch.setattr("asr.metering.cpu.SCHEDSTAT", "/proc/nothing")
    monkeypatch.setattr("asr.metering.cpu.PRESSURE", sys.modules["pathlib"].Path("/nothing"))
    other = CpuClock()
    assert "has no /proc/nothing" in other.note
    assert other.read()[0] > 0
    assert cpu_pressure() != cpu_pressure()  # NaN
    with contextlib.closing(Use("cpu")) as use:
        use.begin()
        burn(0.05)
        use.end()
        burn(0.2)  # in no piece
        found = use.facts()
    assert found["core_wait_share"] is found["gpu_shared_share"] is None
    assert 0.05 <= found["cpu_seconds"] < 0.15


def test_a_program_that_waits_for_itself_is_not_disturbed():
    all_cores = cores()
    # Twice as many busy threads as cores: all cores work for it, and half of the threads wait.
    assert disturbed_seconds(10.0 * all_cores, 10.0 * all_cores, 10.0, 1) == 0
    # One thread that gets a core for a third of the time.
    assert disturbed_seconds(6.7, 3.3, 10.0, 1) == 6.7
    # One thread that computes all the time, and one that waited before it read ahead.
    assert disturbed_seconds(2.0, 10.5, 10.0, 1) == 0
    # Two held cores, of which the threads got one and a half; a third thread waited, too.
    assert disturbed_seconds(8.0, 15.0, 10.0, 2) == 5


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("core_wait_share", "waited for a core"),
        ("gpu_shared_share", "shared the GPU"),
        ("gpu_throttled_share", "throttled GPU"),
    ],
)
def test_a_time_that_others_changed_by_more_than_a_tenth_does_not_compare(key, words):
    assert times_disturbed({}) == times_disturbed({key: None}) == times_disturbed({key: 0.1}) == ""
    told = times_disturbed({key: 0.23})
    assert words in told
    assert "23 % of the time" in told
