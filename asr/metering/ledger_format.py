"""Reads ledgers of this and of earlier versions in the units of this version.

Until format 2 a CPU counted as one device, with any number of threads. From format 3 on, the device
of a CPU is a core, so that an hour on two threads costs two core-hours.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asr.files import read_json, read_json_lines, write_all

log = logging.getLogger(__name__)

FORMAT = 3  # version of ledgers and run folders; version 1 did not store its number
PER_DEVICE = ("device_hours", "device_seconds")


def upgraded(line: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a line of a ledger in the units of this version; a line of this version is unchanged.

    Args:
        line: a line of ``ledger.jsonl``, or the content of ``ledger.json`` or ``heartbeat.json``.
        facts: what the line itself does not say: ``format``, ``device_kind``, and the number of
            threads of a process as ``num_threads`` (``ledger.json``) or ``threads``
            (``environment.json``). A run that did not record its threads counts as having one.
    """
    known = {**facts, **line}
    if known.get("format", 1) >= FORMAT:
        return dict(line)
    new = {**line, "format": FORMAT}
    if known.get("device_kind") != "cpu":
        return new
    threads = known.get("num_threads") or known.get("threads") or 1
    new |= {key: threads * line[key] for key in PER_DEVICE if line.get(key) is not None}
    if (processes := line.get("num_devices")) is not None:
        new |= {"num_devices": threads * processes, "num_processes": processes}
        new["num_threads"] = threads
    return new


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """Reads the lines of a run's ledger, without the incomplete line of a killed session."""
    facts = _facts(folder)
    return [upgraded(line, facts) for line in read_json_lines(folder / "ledger.jsonl")[0]]


def read_totals(folder: Path) -> dict[str, Any]:
    """Reads ``ledger.json``: the last line of a run's ledger, and constants.

    Raises:
        OSError: there is no such file.
        ValueError: the file is damaged.
    """
    return upgraded(read_json(folder / "ledger.json"), _facts(folder))


def read_heartbeat(folder: Path) -> dict[str, Any]:
    """Reads the cost of a run up to its last moment; empty before the first session."""
    path = folder / "heartbeat.json"
    return upgraded(read_json(path), _facts(folder)) if path.is_file() else {}


def upgrade(folder: Path) -> None:
    """Rewrites the ledger of an earlier version, so that a new session can continue it.

    The new session may have another number of threads, so the conversion cannot wait.
    """
    lines, _ = read_json_lines(folder / "ledger.jsonl")
    if all(line.get("format", 1) >= FORMAT for line in lines):
        return
    contents = {}
    for name in ("heartbeat.json", "ledger.json"):
        if (folder / name).is_file():
            new = upgraded(read_json(folder / name), _facts(folder))
            contents[folder / name] = json.dumps(new, indent=1)
    # This file comes last, because its lines tell whether the others are converted.
    contents[folder / "ledger.jsonl"] = "".join(
        json.dumps(line) + "\n" for line in read_ledger(folder)
    )
    write_all(contents)
    log.info(
        "%s: the ledger of an earlier version is converted; hours on a CPU are core-hours, also in "
        "budget.device_hours", folder
    )  # fmt: skip


def _facts(folder: Path) -> dict[str, Any]:
    """Returns what lines of an earlier version do not say."""

    def content(name: str) -> dict[str, Any]:
        return read_json(folder / name) if (folder / name).is_file() else {}

    lines, _ = read_json_lines(folder / "ledger.jsonl")
    first = {"device_kind": lines[0].get("device_kind") if lines else None}
    environment = content("environment.json")
    # The format of ledger.json is not that of the other lines, which are converted after it.
    version = {"format": environment.get("format", 1)}
    return environment | first | content("ledger.json") | version
