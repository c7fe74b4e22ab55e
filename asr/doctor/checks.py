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

REPORT = "report this line to the project"
AGAIN = (
    "put right what the lines above say, or install asr again in a new environment, as "
    "scripts/setup does"
)


@dataclass(frozen=True)
class Check:
    """A function that returns findings.

    Attributes:
        name: of the check, in the finding that it failed.
        function: its import path, as module:function.
        remedy: for a failure that the function did not expect.
        seconds: limit for a process of its own, which checks that load compiled code have: it may
            crash, and slow threads may never end. None: it runs in this process.
        late: what it means that the limit was reached.
        quick: whether ``asr doctor --quick`` runs it.
    """

    name: str
    function: str
    remedy: str
    seconds: float | None = None
    late: State = "broken"
    quick: bool = True


# What torch needs comes before torch, which for instance does not load without a temporary folder.
CHECKS = (
    Check("versions", "asr.doctor.packages:versions", AGAIN, seconds=120),
    Check("eSpeak", "asr.doctor.packages:espeak", "pip install --force-reinstall espeakng-loader"),
    Check("processor", "asr.doctor.devices:processor", REPORT),
    Check("memory", "asr.doctor.devices:memory", REPORT),
    Check("working folder", "asr.doctor.folders:working_folder", REPORT),
    Check("temporary folder", "asr.doctor.folders:temporary_folder", REPORT),
    Check("torch, torchaudio", "asr.doctor.packages:pair", AGAIN, seconds=120),
    Check("GPU", "asr.doctor.devices:gpus", AGAIN, seconds=120),
    Check("threads", "asr.doctor.threads:threads", ONE_THREAD, seconds=40, late="warning"),
    Check("audio formats", "asr.doctor.formats:formats", AGAIN, seconds=120),
    Check("training", "asr.doctor.trial:trial", AGAIN, seconds=300, quick=False),
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
    """In the child: writes the findings of a check as JSON; other output goes to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(out, "w") as file:
        json.dump([asdict(finding) for finding in _here(check)], file)
