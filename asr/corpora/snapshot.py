"""When the files that a corpus was read from last changed, to notice that they do."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from asr.folders import counted

Snapshot = Mapping[str, list[int]]  # path -> [bytes, time of the last change in nanoseconds]


def take(files: Iterable[Path], output: Path) -> Snapshot:
    """Size and time of each file; one that is not there, or is in ``output``, is left out."""
    found = {}
    inside = os.path.join(os.path.abspath(output), "")
    for path in files:
        if os.path.isfile(path) and not os.path.abspath(path).startswith(inside):
            status = path.stat()
            found[str(path)] = [status.st_size, status.st_mtime_ns]
    return found


def changes(old: Snapshot, new: Snapshot) -> str:
    """What differs, in one line; empty where nothing does."""
    kinds = {
        "added files": sorted(new.keys() - old.keys()),
        "removed files": sorted(old.keys() - new.keys()),
        "changed files": sorted(path for path in old.keys() & new.keys() if old[path] != new[path]),
    }
    return counted(kinds)
