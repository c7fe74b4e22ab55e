"""The list of checks, each run so that it can fail, crash or hang without stopping the others."""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from asr.doctor.finding import Finding, State
from asr.doctor.threads import REMEDY as ONE_THREAD

REINSTALL = "install the packages again: pip install --force-reinstall asr-equal-cost"


@dataclass(frozen=True)
class Check:
    """A function that returns findings.

    Attributes:
        name: of the check, in the finding that it failed.
        function: its import path, as module:function.
        remedy: for a failure that the function did not expect.
        seconds: limit for a process of its own, which checks that load torch have: compiled code
            may crash, and slow threads may never end. None: it runs in this process.
        late: what it means that the limit was reached.
        quick: whether ``asr doctor --quick`` runs it.
    """

    name: str
    function: str
    remedy: str
    seconds: float | None = None
    late: State = "broken"
    quick: bool = True


CHECKS = (
    Check("versions", "asr.doctor.packages:versions", REINSTALL),
    Check("eSpeak", "asr.doctor.packages:espeak", "pip install --force-reinstall espeakng-loader"),
    Check("torch, torchaudio", "asr.doctor.packages:pair", REINSTALL, seconds=60),
    Check("processor", "asr.doctor.devices:processor", "report this line to the project"),
    Check(
        "GPU", "asr.doctor.devices:gpus", "see the line about torch; check nvidia-smi", seconds=60
    ),
    Check("memory", "asr.doctor.devices:memory", "report this line to the project"),
    Check(
        "working folder",
        "asr.doctor.folders:working_folder",
        "go to a folder that you may write to",
    ),
    Check(
        "temporary folder",
        "asr.doctor.folders:temporary_folder",
        "set TMPDIR to a folder with room",
    ),
    Check("threads", "asr.doctor.threads:threads", ONE_THREAD, seconds=40, late="warning"),
    Check(
        "audio formats", "asr.doctor.formats:formats", "pip install --force-reinstall soundfile av"
    ),
    Check(
        "training",
        "asr.doctor.trial:trial",
        "put the lines above right first",
        seconds=120,
        quick=False,
    ),
)


def examine(quick: bool = False) -> Iterator[Finding]:
    """Findings as the checks end, in the order of CHECKS; it raises nothing.

    Args:
        quick: without training and transcription.
    """
    for check in CHECKS:
        if check.quick or not quick:
            yield from _here(check) if check.seconds is None else _apart(check, check.seconds)


def _here(check: Check) -> list[Finding]:
    module, function = check.function.split(":")
    try:
        found: list[Finding] = getattr(importlib.import_module(module), function)()
    except Exception as error:  # whatever it is, it is what this check found
        reason = " ".join(str(error).split())
        return [Finding(check.name, "broken", f"{type(error).__name__}: {reason}", check.remedy)]
    return found


def _apart(check: Check, seconds: float) -> list[Finding]:
    """The same in a process of its own that is given so many seconds."""
    code = f"from asr.doctor.checks import Check, answer; answer({check!r})"
    # The child finds the modules that this process finds. Its group is its own, and is ended whole.
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.curdir for p in sys.path)},
        process_group=0,
    )
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return [Finding(check.name, check.late, f"no answer in {seconds:g} s", check.remedy)]
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if child.returncode == 0:
        return [Finding(**finding) for finding in json.loads(out)]
    if child.returncode < 0:
        detail = f"the process was ended by {signal.Signals(-child.returncode).name}"
    else:
        detail = (err.strip().splitlines() or ["no message"])[-1]
    return [Finding(check.name, "broken", detail, check.remedy)]


def answer(check: Check) -> None:
    """In the child: writes the findings of a check as JSON; other output goes to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(out, "w") as file:
        json.dump([asdict(finding) for finding in _here(check)], file)
