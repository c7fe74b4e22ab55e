"""Starts runs as processes, isolates their crashes, and stops them together."""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import reduction
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.05
# Modules that every run imports; the import takes seconds of processor time.
IMPORTED = ["asr.cli", "asr.training.run", "asr.recognition.evaluate"]


class Children:
    """Runs ``asr VERB ...`` in processes forked from one process that has imported all modules.

    The modules are thus imported once per study instead of once per run. Each process has a session
    of its own, so that only this process gets Ctrl-C from the terminal and passes it on. Otherwise
    each run would get the signal twice, and a second signal ends a run without saving.
    """

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(IMPORTED)
        self._running: set[ForkServerProcess] = set()
        # Guards all calls on a process: of two threads that wait for it, only one gets its status.
        self._lock = threading.Lock()
        self.stopped = False  # whether all processes were stopped; then no process is started

    def __call__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        held: list[int],
    ) -> int:
        """Starts a process and waits for its end.

        Args:
            arguments: arguments of ``asr``, beginning with the verb.
            log: file to which the output is appended.
            environment: environment variables of the process.
            held: file descriptors of locks, which the process holds until it ends.

        Returns:
            Exit status; negative if a signal killed the process, 143 if it was not started because
            all processes were stopped.
        """
        with self._lock:
            if self.stopped:
                return 143
            process = self._context.Process(
                target=_begin, args=(list(arguments), log, dict(environment), InheritedLocks(held))
            )
            process.start()
            self._running.add(process)
        try:
            while (status := self._status(process)) is None:
                time.sleep(POLL_SECONDS)
            return status
        finally:
            with self._lock:
                self._running.discard(process)

    def _status(self, process: ForkServerProcess) -> int | None:
        with self._lock:
            return process.exitcode

    def stop(self) -> None:
        """Sends SIGTERM to all processes, which then save and end."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()

    def kill(self) -> None:
        """Kills all processes that still run; their runs can resume from the last checkpoint."""
        with self._lock:
            for process in self._running:
                assert process.pid is not None
                try:
                    os.killpg(process.pid, signal.SIGKILL)  # with the other ranks of its run
                except ProcessLookupError:  # it has no process group of its own yet
                    process.kill()


class InheritedLocks:
    """File descriptors that a process gets from the one that starts it."""

    def __init__(self, numbers: list[int]):
        self.numbers = numbers

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, ([reduction.DupFd(number) for number in self.numbers],)


def _received(copies: list[Any]) -> InheritedLocks:
    return InheritedLocks([copy.detach() for copy in copies])


def _begin(
    arguments: list[str], log: Path, environment: dict[str, str], held: InheritedLocks
) -> None:
    """Runs ``asr`` in the new process, which holds ``held`` open until it ends."""
    os.setsid()
    number = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(number, stream.fileno())
    os.close(number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["asr", *arguments]

    import torch

    # torch read the environment when it was imported, before this process was forked.
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    runpy.run_module("asr", run_name="__main__")
