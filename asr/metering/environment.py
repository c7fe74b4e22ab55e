"""Facts that are needed to repeat a measurement: machine, versions, commit, command."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import asr


def environment() -> dict[str, Any]:
    """The conditions of a measurement other than the recipe: machine, versions, commit, command."""
    packages = ("torch", "torchaudio", "lightning", "datasets", "jiwer", "sentencepiece")
    return {
        "asr": asr.__version__,
        "git_commit": _git_commit(),
        "command": " ".join([Path(sys.argv[0]).name.replace("__main__.py", "asr"), *sys.argv[1:]]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": processor(),
        "cores": cores(),
        **{name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    """The version of a package; None if it is not installed, as ``datasets`` is optional."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of this checkout, marked when it has local changes; None outside of git.

    ``git archive`` writes the commit of what it packs into commit.txt (.gitattributes).
    """
    archived = Path(__file__).with_name("commit.txt").read_text().strip()
    if not archived.startswith("$Format"):
        return archived[:12]
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(asr.__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def processor() -> str:
    """The name of the CPU model."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()
