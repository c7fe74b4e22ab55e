"""Measures the CPU time that a process gets, and the time that it waits for a core."""

import contextlib
import math
import multiprocessing
import os
import threading
import time
from pathlib import Path

from asr.metering.environment import cores

LIST_SECONDS = 1.0  # the list of threads is at most this old
READ_SECONDS = 0.02  # so are readings of threads other than the first, each of which takes 3 us
WAIT_LIMIT = 0.1  # share of waiting above which a measured time belongs to other programs, too
SCHEDSTAT = "/proc/self/schedstat"
PRESSURE = Path("/proc/pressure/cpu")


class CpuClock:
    """Reads the CPU time and the waiting time of this process and its data workers.

    A thread that could run but has no core waits in the run queue of the kernel, which Linux counts
    per thread in ``schedstat``. The files stay open, because training reads them twice an update.

    Attributes:
        note: why waiting cannot be measured; None if it can be. Without Linux's files the CPU time
            of data workers is not measured either.
    """

    def __init__(self) -> None:
        self.note = None if os.path.exists(SCHEDSTAT) else f"the system has no {SCHEDSTAT}"
        self._lock = threading.Lock()  # the heartbeat reads in a thread of its own
        self._files: dict[str, int] = {}  # open file of each living thread
        self._last: dict[str, tuple[int, int]] = {}  # ns that it ran (0 in this process) and waited
        self._ended = [0, 0]  # ns of threads that ended
        self._listed = self._all_read = -math.inf
        self._first = f"/proc/self/task/{os.getpid()}/schedstat"

    def read(self) -> tuple[float, float]:
        """Returns seconds of CPU time and seconds of waiting since the processes began."""
        now = time.monotonic()
        with self._lock:
            if now - self._all_read < READ_SECONDS and self._first in self._files:
                self._read_thread(self._first)
            else:
                for name in list(self._files):
                    self._read_thread(name)
                self._all_read = now
            if self.note is None and now - self._listed >= LIST_SECONDS:
                self._list_threads()
                self._listed = now
            ran, waited = (sum(ns) for ns in zip(self._ended, *self._last.values(), strict=True))
            # The clock of this process also counts threads that were never listed.
            return time.process_time() + ran / 1e9, waited / 1e9

    def _list_threads(self) -> None:
        # Processes of a launcher meter themselves; data workers are daemons.
        workers = [p.pid for p in multiprocessing.active_children() if p.daemon]
        for process in ("self", *workers):
            with contextlib.suppress(OSError):  # the process has ended
                for thread in os.listdir(f"/proc/{process}/task"):
                    name = f"/proc/{process}/task/{thread}/schedstat"
                    if name not in self._files:
                        with contextlib.suppress(OSError):  # the thread has ended
                            self._files[name] = os.open(name, os.O_RDONLY)
                            self._read_thread(name)

    def _read_thread(self, name: str) -> None:
        try:
            ran, waited, _ = os.pread(self._files[name], 64, 0).split()
        except OSError:  # the thread has ended; its time stays counted
            os.close(self._files.pop(name))
            for i, ns in enumerate(self._last.pop(name, (0, 0))):
                self._ended[i] += ns
            return
        self._last[name] = (0 if name.startswith("/proc/self/") else int(ran), int(waited))

    def close(self) -> None:
        """Closes all files."""
        with self._lock:
            for file in self._files.values():
                os.close(file)
            self._files.clear()


def cpu_pressure() -> float:
    """Returns the seconds since boot in which a thread of the machine waited; NaN if unknown."""
    try:
        return int(PRESSURE.read_text().split("total=")[1].split()[0]) / 1e6
    except (OSError, IndexError):
        return math.nan


def disturbed_seconds(waited: float, cpu: float, wall: float, held: int) -> float:
    """Returns the part of the waiting that is not the waiting of a program for itself.

    A program with more threads than cores waits for itself, and then uses all cores. So the
    waiting due to others is at most the time of all cores minus the CPU time of the program. It is
    also at most the time of the cores that the program held.

    Args:
        waited: seconds of waiting, summed over threads.
        cpu: seconds of CPU time.
        wall: seconds of wall time.
        held: number of cores that the program was given.
    """
    return min(waited, held * wall, max(0.0, max(cores(), held) * wall - cpu))


class CpuUse:
    """Measures the CPU time and the waiting of timed work, in pieces from ``begin`` to ``end``."""

    def __init__(self, held: int) -> None:
        """``held`` is the number of cores that the work is given."""
        self.held, self.clock = held, CpuClock()
        self._spent = [0.0, 0.0, 0.0]  # wall time, CPU time and waiting in seconds
        self.begin()

    def begin(self) -> None:
        """Begins a piece of work."""
        self._began = (time.perf_counter(), *self.clock.read())

    def end(self) -> None:
        """Ends the piece of work, and adds it to the others."""
        now = (time.perf_counter(), *self.clock.read())
        for i, (end, begin) in enumerate(zip(now, self._began, strict=True)):
            self._spent[i] += end - begin

    def facts(self) -> dict[str, float | None]:
        """Returns ``cpu_seconds`` and ``core_wait_share``.

        The share is that of waiting for cores that other programs used, in the time that the work
        held cores. It is None if waiting cannot be measured.
        """
        wall, cpu, waited = self._spent
        if self.clock.note or not wall:
            return {"cpu_seconds": cpu, "core_wait_share": None}
        lost = disturbed_seconds(waited, cpu, wall, self.held)
        return {"cpu_seconds": cpu, "core_wait_share": lost / (self.held * wall)}

    def close(self) -> None:
        """Closes the files of the clock."""
        self.clock.close()


def waited_too_long(share: float | None) -> str:
    """Returns why a time does not compare with others; empty if it does."""
    if share is None or share <= WAIT_LIMIT:
        return ""
    return f"times do not compare: {100 * share:.0f} % of the time other programs used its cores"
