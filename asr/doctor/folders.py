"""Whether the folders that are written to can be written, and how much room they have."""

import os
import shutil
import tempfile
from pathlib import Path

from asr.doctor.finding import Finding
from asr.files import remedy

LITTLE = 5e9  # bytes; a prepared corpus of a hundred hours and its runs take more


def working_folder() -> list[Finding]:
    """Where runs and corpora go unless an option says otherwise."""
    return [folder("working folder", Path.cwd(), "go to a folder that you may write to")]


def temporary_folder() -> list[Finding]:
    """Where Python puts temporary files; TMPDIR chooses it."""
    found = folder("temporary folder", Path(tempfile.gettempdir()), "set TMPDIR to another folder")
    wanted = os.environ.get("TMPDIR")
    if wanted and not os.path.samefile(wanted, tempfile.gettempdir()):
        detail = f"TMPDIR={wanted} cannot be written, so {found.detail}"
        return [Finding(found.check, "warning", detail, "set TMPDIR to a folder you may write to")]
    return [found]


def folder(check: str, path: Path, otherwise: str) -> Finding:
    """Writes a file into the folder, since root may write where permission bits say no.

    Args:
        check: how the finding is called.
        path: the folder.
        otherwise: the remedy where it cannot be written.
    """
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"asr" * 1000)
            file.flush()
    except OSError as error:
        return Finding(check, "broken", f"{path}: {error.strerror}; {remedy(error)}", otherwise)
    free = shutil.disk_usage(path).free
    detail = f"{path} can be written and has {free / 1e9:.1f} GB free"
    if free < LITTLE:
        return Finding(check, "warning", detail, f"make room, or {otherwise}")
    return Finding(check, "ok", detail)
