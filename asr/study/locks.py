"""Who works on what: locks that end with the processes that hold them, in whatever way they end."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from asr.files import locked

POLL_SECONDS = 0.1


class Claim:
    """A lock that is held; ``number`` is its file descriptor, for children to hold it as well.

    A child whose parent was killed works on: while it does, nobody else may take its unit. The
    locks are flock's, which work across machines on file systems that support it (NFS of Linux).
    """

    def __init__(self, stack: ExitStack, number: int):
        self._stack, self.number = stack, number

    def release(self) -> None:
        """Lets others have it."""
        self._stack.close()


def claim(path: Path) -> Claim | None:
    """Takes a lock; None where another process, or another worker of this one, holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stack = ExitStack()
    try:
        file = stack.enter_context(locked(path))
    except ValueError:
        return None
    return Claim(stack, file.fileno())


def is_claimed(path: Path) -> bool:
    """Whether somebody holds the lock; makes no file."""
    if not path.exists():
        return False
    held = claim(path)
    if held is not None:
        held.release()
    return held is None


@contextlib.contextmanager
def waiting_for(path: Path) -> Iterator[None]:
    """Takes a lock as soon as it is free."""
    while (held := claim(path)) is None:
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        held.release()
