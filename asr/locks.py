"""Locks on files, which end with the processes that hold them, in whatever way they end.

They are flock's and not those of filelock: that one keeps its descriptor to itself, and unlocks the
file for all when it is released. Here a child that got the descriptor holds the lock as well, so
that nobody takes the work of a child whose parent was killed. flock works across machines on file
systems that support it (NFS of Linux).
"""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

POLL_SECONDS = 0.1


def take(path: Path) -> TextIO | None:
    """Locks a file; None where it is locked already, by whatever process or thread.

    The lock is held until the file is closed here and in every process that got its descriptor.
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
    """Whether somebody holds the lock; makes no file."""
    if not path.exists():
        return False
    held = take(path)
    if held is not None:
        held.close()
    return held is None


@contextlib.contextmanager
def waiting_for(path: Path) -> Iterator[None]:
    """Takes a lock as soon as it is free."""
    while (held := take(path)) is None:
        time.sleep(POLL_SECONDS)
    with held:
        yield


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Takes the lock of a folder.

    Raises:
        ValueError: another process has it.
    """
    held = take(path)
    if held is None:
        raise ValueError(
            f"{path.parent} is in use by another process; wait for it or choose another folder"
        )
    with held:
        yield
