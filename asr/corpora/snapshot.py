"""When the files that a corpus was read from last changed, to notice that they do."""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from asr.folders import counted

# folder -> name -> [bytes, time of the last change in nanoseconds]
Snapshot = Mapping[str, Mapping[str, Sequence[int]]]


def take(files: Iterable[Path]) -> Snapshot:
    """Size and time of each file; one that is not there is left out."""
    found: dict[str, dict[str, list[int]]] = {}
    for path in files:
        try:
            status = path.stat()
        except (OSError, ValueError):  # a manifest may name anything
            continue
        if stat.S_ISREG(status.st_mode):
            names = found.setdefault(str(path.parent), {})
            names[path.name] = [status.st_size, status.st_mtime_ns]
    return found


def changes(before: Snapshot, after: Snapshot) -> str:
    """What differs, in one line; empty where nothing does."""
    old, new = _by_path(before), _by_path(after)
    kinds = {
        "added files": sorted(new.keys() - old.keys()),
        "removed files": sorted(old.keys() - new.keys()),
        "changed files": sorted(path for path in old.keys() & new.keys() if old[path] != new[path]),
    }
    return counted(kinds)


def _by_path(taken: Snapshot) -> dict[str, list[int]]:
    return {
        os.path.join(folder, name): list(facts)
        for folder, names in taken.items()
        for name, facts in names.items()
    }
