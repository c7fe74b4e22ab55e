"""Writes files completely or not at all, and appends rows to tables."""

import contextlib
import csv
import errno
import io
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

# Errors that every further file would also cause: those of the disk and of the output folder.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
FOLDER = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR}

ESCAPED = "backslashreplace"
Content = str | bytes | Callable[[BinaryIO], object]

ROOM = "make room or choose another folder"
PATH = "a part of the path is a file; choose another folder"
RIGHTS = "choose a folder that you may write to"
REMEDIES = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: ROOM,
    errno.ENOTDIR: PATH,
    errno.EEXIST: PATH,
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
    errno.EROFS: RIGHTS,
    errno.ENOENT: "check the path",
    errno.EISDIR: "it is a folder; give a file",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class OutputError(OSError):
    """The disk is full or the folder cannot be written, so that no other file can be written."""


def remedy(error: OSError) -> str:
    """The remedy for an error of the operating system."""
    return REMEDIES.get(error.errno or 0, "check the path, its permissions and the space left")


def write(path: Path, content: Content) -> None:
    """Writes a file completely or not at all, even in a crash; see ``write_all``."""
    write_all({path: content})


def write_all(contents: Mapping[Path, Content]) -> None:
    """Writes files that belong together; does all that can fail before it replaces the first file.

    Args:
        contents: text, bytes, or a function that writes into the open file, by path.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
        OSError: a file cannot be written. In both cases no file has changed.
    """
    temporaries: dict[Path, Path] = {}
    ends_job = DISK | FOLDER
    try:
        for path, content in contents.items():
            # A path that is a folder is refused here, before any other file is replaced.
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISDIR(path.stat().st_mode):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            # Short, as the name of the file itself may have as many bytes as a name can have.
            temporaries[path] = path.with_name(f".{os.getpid()}-{secrets.token_hex(6)}.tmp")
            _fill(temporaries[path], content)
        ends_job = DISK  # the folder can be written, so other errors concern one file
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error, ends_job) from None
    finally:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                temporary.unlink()


def remove_stale(path: Path) -> None:
    """Removes the partial files of killed processes from a folder."""
    for temporary in path.rglob(".*.tmp"):
        if f".{os.getpid()}-" not in temporary.name:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Creates a folder and tests it; if the work fails, removes new folders that are empty.

    Raises:
        OutputError: the folder cannot be created, or files cannot be created in it.
    """
    missing = [p for p in (path, *path.parents) if not p.exists()]
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise _unwritable(path, error, DISK | FOLDER) from None
        yield
    except BaseException:
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()
        raise


class _File(io.FileIO):
    """Keeps the system's error of a failed write, which torch replaces by an error of its own."""

    error: OSError | None = None

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            self.error = error
            raise


def _fill(temporary: Path, content: Content) -> None:
    """Writes the content into a new file."""
    with _File(temporary, "x") as file:
        try:
            with io.BufferedWriter(file) as buffered:
                if callable(content):
                    content(buffered)
                else:
                    # Names may hold bytes outside of UTF-8; JSON reads their escapes back.
                    buffered.write(
                        content if isinstance(content, bytes) else content.encode(errors=ESCAPED)
                    )
        except Exception as error:
            raise file.error or error from None


def _unwritable(path: Path, error: OSError, ends_job: Collection[int]) -> OSError:
    kind = OutputError if error.errno in ends_job else OSError
    return kind(f"cannot write {path} ({error.strerror}); {remedy(error)}")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); restore or remove it") from None


def check_format(path: Path, known: int, tree: Any = None) -> None:
    """Refuses a file of a newer format than ``known``; accepts older formats.

    Args:
        path: a JSON file with a key ``format``, which the first format did not have.
        known: number of the newest known format.
        tree: content of the file; by default it is read from the file, if the file exists.

    Raises:
        ValueError: the format is newer.
    """
    if tree is None:
        tree = read_json(path) if path.is_file() else {}
    if (found := tree.get("format", 1)) > known:
        raise ValueError(
            f"{path} has format {found}, and this version of asr knows {known}; install a newer asr"
        )


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a file with one object per line, and the number of incomplete lines.

    There are none of both without the file.
    """
    if not path.is_file():
        return [], 0
    found, torn = [], 0
    with path.open(encoding="utf-8") as file:
        for text in filter(str.strip, file):
            try:
                found.append(json.loads(text))
            except json.JSONDecodeError:
                torn += 1
    return found, torn


def append_csv(path: Path, row: dict[str, float]) -> None:
    """Appends a row to a table; a resumed run appends to the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row.keys())
        if new:
            writer.writeheader()
        writer.writerow(row)
