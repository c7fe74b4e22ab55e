"""Lists the files of a folder: follows links, and counts the hidden files that it skips."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asr.items import printable

# Files that Windows and macOS add to folders and archives, in lower case.
SYSTEM_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
NUM_EXAMPLES = 3  # number of names of a list that a message gives


@dataclass
class Walk:
    """The files of folders, and the names that were skipped."""

    files: list[Path] = field(default_factory=list)
    # By kind: "hidden files" (and folders), "broken links", "circular links", "unreadable folders"
    # and "special files", which are neither files nor folders.
    passed_over: defaultdict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    def __iadd__(self, other: "Walk") -> "Walk":
        self.files += other.files
        for kind, paths in other.passed_over.items():
            self.passed_over[kind] += paths
        return self


def walk(folder: Path, suffixes: Collection[str] | None = None, recursive: bool = True) -> Walk:
    """The files in a folder in the order of their names; a folder's files precede its subfolders.

    Links are followed. A folder that contains itself through a link is entered only once.

    Args:
        folder: folder to search; raises OSError if it cannot be read.
        suffixes: wanted endings of file names, in lower case; None for all. A broken link with such
            a name is among the files, so that reading it reports the error.
        recursive: whether to search subfolders.
    """
    found = Walk()

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        found.passed_over["unreadable folders"].append(Path(error.filename))

    for place, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        here = Path(place)
        above = [here, *here.parents][: len(here.parts) - len(folder.parts) + 1]
        inside, folders[:] = set(folders), []
        for name in sorted([*inside, *files]):
            path = here / name
            wanted = suffixes is None or path.suffix.lower() in suffixes
            if is_hidden(name):
                found.passed_over["hidden files"].append(path)
            elif name in inside and path.is_symlink() and any(map(path.samefile, above)):
                found.passed_over["circular links"].append(path)
            elif name in inside:
                folders += [name] * recursive
            elif not os.path.exists(path) and not (wanted and suffixes):
                found.passed_over["broken links"].append(path)
            elif wanted and os.path.exists(path) and not os.path.isfile(path):
                found.passed_over["special files"].append(path)
            elif wanted:
                found.files.append(path)
    return found


def is_hidden(name: str) -> bool:
    """Whether a name begins with a dot, or belongs to a file that Windows or macOS added."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def stored(path: Path) -> Path:
    """The path as the disk spells it: é can be one character, or e followed by an accent."""
    if str(path).isascii() or os.path.exists(path):
        return path
    forms = [Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD")]
    return next((form for form in forms if os.path.exists(form)), path)


def examples(names: Sequence[object]) -> str:
    """The first names of a list, for a message."""
    shown = [printable(str(name)) for name in names[:NUM_EXAMPLES]]
    return ", ".join(shown + ["..."] * (len(names) > NUM_EXAMPLES))


def counted(groups: Mapping[str, Sequence[object]]) -> str:
    """The number of names of each kind (a plural noun) and the first names, in one line."""
    return ", ".join(
        f"{len(names)} {kind if len(names) > 1 else kind.removesuffix('s')} ({examples(names)})"
        for kind, names in groups.items()
        if names
    )
