"""Locks on files, which the operating system releases when the process that holds them ends.

The locks are those of ``flock``. The package filelock does not fit: it does not give its file
descriptor to child processes, and its release unlocks the file for all. Here a child process
inherits the descriptor and holds the lock as well, so that its work stays locked if its parent is
killed. ``flock`` works across machines on file systems that support it (Linux NFS).
"""

import contextlib
import fcntl
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1


def take(path: Path) -> TextIO | None:
    """Locks a file; returns None if any process or thread has locked it already.

    The lock lasts until the file is closed here and in every process that inherited it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def is_taken(path: Path) -> bool:
    """Returns whether a process holds the lock; creates no file."""
    if not path.exists():
        return False
    held = take(path)
    if held is not None:
        held.close()
    return held is None


@contextlib.contextmanager
def waiting_for(path: Path, work: str = "") -> Iterator[None]:
    """Takes a lock as soon as it is free; the log says that it waits for another process's work."""
    while (held := take(path)) is None:
        if work:
            log.info("waiting for another process: %s", work)
        work = ""
        time.sleep(POLL_SECONDS)
    with held:
        yield


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Takes the lock of a folder.

    Raises:
        ValueError: another process holds the lock.
    """
    held = take(path)
    if held is None:
        raise ValueError(
            f"{path.parent} is in use by another process; wait for it or choose another folder"
        )
    with held:
        yield
