"""Reads the results of the probes from the folders that ``asr claims`` wrote."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asr.metering.cpu import times_disturbed
from asr.probes import PROBES
from asr.probes.probe import Measured

Probes = Mapping[str, Measured]  # by the name of the probe; one that was not run is missing


def read_probes(folders: Sequence[Path]) -> Probes:
    """Reads every file of a probe in the folders.

    Raises:
        ValueError: no such folder, none of the files in it, two files of one probe, or a file that
            the probe did not write.
    """
    found: dict[str, Measured] = {}
    for folder in folders:
        there = [probe for probe in PROBES.values() if probe.path(folder).is_file()]
        if not there:
            raise ValueError(
                f"{folder} holds no output of asr claims ({', '.join(PROBES)}); check the path"
            )
        for probe in there:
            if probe.name in found:
                raise ValueError(
                    f"{found[probe.name].path} and {probe.path(folder)} are of one probe; give the "
                    "folder of one"
                )
            found[probe.name] = probe.read(folder)
    return found


def times_doubted(probes: Probes, name: str) -> str:
    """Why the times of a probe decide nothing; empty if they can."""
    why = times_disturbed(probes[name].machine) if name in probes else ""
    return f"not decided, because {why}" if why else ""


def rows_of(probes: Probes, name: str) -> Sequence[Any]:
    """The measurements of a probe; empty where it was not run."""
    return probes[name].rows if name in probes else []
