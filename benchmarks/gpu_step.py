"""One command of a slice under a time limit: told to end in time, and none of it left running."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GRACE_SECONDS = 25.0  # from SIGTERM to SIGKILL: a study ends the step at hand and saves


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        status: "done" with exit status 0, "cut" when it was told to end, else "failed".
        code: exit status, negative where a signal killed it.
        seconds: that it ran.
    """

    status: str
    code: int
    seconds: float


def run(
    command: Sequence[str], log: Path, environment: Mapping[str, str], seconds: float
) -> Outcome:
    """Runs until it ends, or for ``seconds`` and the grace; its output is added to ``log``.

    SIGTERM goes to the command alone: what it started is its own to tell. After the grace, or its
    end, all that it left is killed. An interruption of this process ends it as the limit does.
    """
    began = time.monotonic()
    with log.open("ab") as file:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
    family: dict[int, int] = {}
    told = False
    try:
        told = not _ended(process, seconds, family)
    finally:  # an interruption of this process, too
        if process.poll() is None:
            process.terminate()
            if not _ended(process, GRACE_SECONDS, family):
                process.kill()
                process.wait()
        for number, born in family.items():
            if (found := _parent_and_birth(number)) and found[1] == born:
                os.kill(number, signal.SIGKILL)
    code = process.returncode
    status = "done" if code == 0 else "cut" if told else "failed"
    return Outcome(status, code, time.monotonic() - began)


def _ended(process: "subprocess.Popen[bytes]", seconds: float, family: dict[int, int]) -> bool:
    """Waits for its end; adds all that it starts meanwhile to ``family``."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        family |= descendants(process.pid)
        if (left := deadline - time.monotonic()) <= 0:
            return False
        time.sleep(min(0.25, left))
    return True


def descendants(root: int) -> dict[int, int]:
    """Processes that descend from one, in whatever session, with their start in clock ticks.

    From /proc, so that it needs no package; a number that was given anew has another start.
    """
    children: dict[int, list[tuple[int, int]]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := _parent_and_birth(int(entry.name))):
            children.setdefault(found[0], []).append((int(entry.name), found[1]))
    family: dict[int, int] = {}
    waiting = [root]
    while waiting:
        for number, born in children.get(waiting.pop(), []):
            family[number] = born
            waiting.append(number)
    return family


def _parent_and_birth(number: int) -> tuple[int, int] | None:
    """None for a process that has ended; one that nobody has waited for has ended, too."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else (int(fields[1]), int(fields[19]))
