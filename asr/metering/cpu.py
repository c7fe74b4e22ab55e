"""Measures the CPU time that a process gets, and the time that it waits for a core."""

import contextlib
import math
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Readings of threads other than the first are at most this old. Each takes about 15 us.
READ_SECONDS = 0.1
WAIT_LIMIT = 0.1  # share of a time above which other programs or the machine have changed it
# The shares of the time of timed work that other programs or the machine took, in words.
SHARES = {
    "core_wait_share": "waited for a core",
    "gpu_shared_share": "shared the GPU with other processes",
    "gpu_throttled_share": "had a throttled GPU",
}
TASKS = "/proc/self/task"
SCHEDSTAT = "/proc/self/schedstat"
PRESSURE = Path("/proc/pressure/cpu")


class CpuClock:
    """Reads the CPU time of this process and the time for which its threads waited for a core.

    A thread that could run but has no core waits in the run queue of the kernel, which Linux counts
    per thread in ``schedstat``.

    Attributes:
        note: why waiting cannot be measured; None if it can be.
    """

    def __init__(self) -> None:
        self.note = None if os.path.exists(SCHEDSTAT) else f"the system has no {SCHEDSTAT}"
        self._lock = threading.Lock()  # the heartbeat reads in a thread of its own
        self._waited = 0  # ns that all threads waited, ended ones included
        self._last: dict[str, int] = {}  # ns that each living thread had waited when it was read
        self._all_read = -math.inf

    def read(self) -> tuple[float, float]:
        """Returns seconds of CPU time and seconds of waiting since the process began."""
        with self._lock:
            if self.note is None:
                self._read_threads()
            return time.process_time(), self._waited / 1e9

    def _read_threads(self) -> None:
        """Reads the first thread, and all others if their readings are old."""
        now, threads = time.monotonic(), [str(os.getpid())]
        if now - self._all_read >= READ_SECONDS:
            threads, self._all_read = os.listdir(TASKS), now
            self._last = {name: ns for name, ns in self._last.items() if name in threads}
        for name in threads:
            with contextlib.suppress(OSError):  # the thread has ended
                with open(f"{TASKS}/{name}/schedstat", "rb", buffering=0) as file:
                    waited = int(file.read().split()[1])
                self._waited += waited - self._last.get(name, 0)
                self._last[name] = waited


def cpu_pressure() -> float:
    """Returns the seconds since boot in which a thread of the machine waited; NaN if unknown."""
    try:
        return int(PRESSURE.read_text().split("total=")[1].split()[0]) / 1e6
    except (OSError, IndexError):
        return math.nan


def disturbed_seconds(waited: float, cpu: float, wall: float, held: int) -> float:
    """Returns the part of the waiting that is not the waiting of a program for itself.

    A program with more busy threads than cores waits for itself. So the waiting due to others is at
    most the time of the cores that it held minus its CPU time: a program that got all this time has
    lost nothing, although a thread of it may have waited, such as one that reads ahead.

    Args:
        waited: seconds of waiting, summed over threads.
        cpu: seconds of CPU time.
        wall: seconds of wall time.
        held: number of cores that the program was given.
    """
    return min(waited, max(0.0, held * wall - cpu))


def times_disturbed(facts: Mapping[str, Any]) -> str:
    """Returns why times do not compare with others, from their ``SHARES``; empty if they do."""
    told = [
        f"{words} during {100 * share:.0f} % of the time"
        for key, words in SHARES.items()
        if (share := facts.get(key) or 0.0) > WAIT_LIMIT
    ]
    return f"times do not compare: the work {' and '.join(told)}" if told else ""
