"""Whether the folders that are written to can be written, and how much room they have."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from asr.doctor.finding import Finding

LITTLE = 5e9  # bytes; a prepared corpus of a hundred hours and its runs take more


def working_folder() -> list[Finding]:
    """Where runs and corpora go unless an option says otherwise."""
    return [folder("working folder", Path.cwd, "go to a folder that you may write to")]


def temporary_folder() -> list[Finding]:
    """Where Python puts temporary files; TMPDIR chooses it."""
    remedy = "set TMPDIR to a folder that you may write to"
    found = folder("temporary folder", lambda: Path(tempfile.gettempdir()), remedy)
    wanted = os.environ.get("TMPDIR")
    if found.state != "broken" and wanted and Path(wanted) != Path(tempfile.gettempdir()):
        detail = f"TMPDIR={wanted} is not usable; {found.detail}"
        return [Finding(found.check, "warning", detail, remedy)]
    return [found]


def folder(check: str, locate: Callable[[], Path], otherwise: str) -> Finding:
    """Writes a file into the folder, since root may write where permission bits say no.

    Args:
        check: how the finding is called.
        locate: gives the folder, or raises OSError where there is none.
        otherwise: the remedy where it cannot be written.
    """
    path = None
    try:
        path = locate()
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"asr" * 1000)
            file.flush()
        free = shutil.disk_usage(path).free
    except OSError as error:
        where = f"{path} cannot be written: " if path else ""
        return Finding(check, "broken", f"{where}{error.strerror}", otherwise)
    detail = f"{path} can be written and has {free / 1e9:.1f} GB free"
    if free < LITTLE:
        return Finding(check, "warning", detail, f"make room there, or {otherwise}")
    return Finding(check, "ok", detail)
