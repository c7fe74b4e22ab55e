"""The list of checks of ``asr doctor``; a check that fails or hangs does not stop the others."""

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

REPORT = "report this line to the project"
AGAIN = (
    "solve the problems in the lines above, or install asr again in a new environment, as "
    "scripts/setup does"
)


@dataclass(frozen=True)
class Check:
    """A function that returns findings."""

    name: str  # the name of the finding if the check itself fails
    function: str  # its import path, as module:function
    remedy: str  # remedy for a failure that the function did not expect
    # A check that loads compiled code may crash or hang, so it runs in its own process with this
    # time limit. With None the check runs in this process.
    seconds: float | None = None
    late: State = "broken"  # the state if the limit is reached
    quick: bool = True  # whether ``asr doctor --quick`` runs it


# Checks of what torch needs come before torch, which does not load without a temporary folder.
CHECKS = (
    Check("versions", "asr.doctor.packages:versions", AGAIN, seconds=120),
    Check("eSpeak", "asr.doctor.packages:espeak", "pip install --force-reinstall espeakng-loader"),
    Check("processor", "asr.doctor.machine:processor", REPORT),
    Check("memory", "asr.doctor.machine:memory", REPORT),
    Check("working folder", "asr.doctor.machine:working_folder", REPORT),
    Check("temporary folder", "asr.doctor.machine:temporary_folder", REPORT),
    Check("torch, torchaudio", "asr.doctor.packages:pair", AGAIN, seconds=120),
    Check("GPU", "asr.doctor.machine:gpus", AGAIN, seconds=120),
    Check("threads", "asr.doctor.threads:threads", ONE_THREAD, seconds=40, late="warning"),
    Check("audio formats", "asr.doctor.formats:formats", AGAIN, seconds=120),
    Check("training", "asr.doctor.trial:trial", AGAIN, seconds=300, quick=False),
)


def examine(quick: bool = False) -> Iterator[Finding]:
    """Runs the checks in order, and yields the findings of each; raises nothing.

    Args:
        quick: leave out training and transcription.
    """
    for check in CHECKS:
        if check.quick or not quick:
            yield from _here(check) if check.seconds is None else _apart(check, check.seconds)


def _here(check: Check) -> list[Finding]:
    module, function = check.function.split(":")
    try:
        return list(getattr(importlib.import_module(module), function)())
    except Exception as error:  # any error becomes a finding
        reason = " ".join(str(error).split())
        return [Finding(check.name, "broken", f"{type(error).__name__}: {reason}", check.remedy)]


def _apart(check: Check, seconds: float) -> list[Finding]:
    """Runs a check in a child process."""
    code = f"from asr.doctor.checks import Check, answer; answer({check!r})"
    # The child has the module path of this process. It has its own process group, which is killed
    # as a whole.
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.curdir for p in sys.path)},
        process_group=0,
    ) as child:
        try:
            out, err = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return [Finding(check.name, check.late, f"no answer in {seconds:g} s", check.remedy)]
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    if child.returncode == 0 and out:
        return [Finding(**finding) for finding in json.loads(out)]
    if child.returncode < 0:
        detail = f"the process was ended by {signal.Signals(-child.returncode).name}"
    else:
        detail = (err.strip().splitlines() or ["the process ended without findings"])[-1]
    return [Finding(check.name, "broken", detail, check.remedy)]


def answer(check: Check) -> None:
    """Runs in the child: writes the findings as JSON to stdout, all other output to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(out, "w") as file:
        json.dump([asdict(finding) for finding in _here(check)], file)
