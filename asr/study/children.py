"""Runs as processes of their own: crashes stay in them, and they are told to end together."""

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol


class Runner(Protocol):
    """What carries out ``asr VERB ...``."""

    stopped: bool  # told to end

    def __call__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        held: list[int],
    ) -> int:
        """Exit status, negative where a signal killed it.

        Args:
            arguments: verb first.
            log: file that its output is added to.
            environment: of the process.
            held: file descriptors of locks, which it holds as long as it lives.
        """

    def stop(self) -> None:
        """Tells all that run to save and end, and starts none any more."""


class Children:
    """Runs ``python -m asr`` in sessions of their own: a Ctrl-C of the terminal is ours to pass on.

    Otherwise each would hear it twice, and a second signal ends a run without saving.
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def __call__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        held: list[int],
    ) -> int:
        """Starts one and waits for its end; 143 when told to stop before."""
        with self._lock, log.open("ab") as file:
            if self.stopped:
                return 143
            process = subprocess.Popen(
                [sys.executable, "-m", "asr", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                pass_fds=held,
                start_new_session=True,
            )
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._running.discard(process)

    def stop(self) -> None:
        """SIGTERM to all: they save and end."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()
