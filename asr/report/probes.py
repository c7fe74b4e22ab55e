"""What the probes of ``asr claims`` measured, found by name in the folders that they wrote."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr.files import read_json, read_json_lines
from asr.probes.context_table import Effective, exactness
from asr.probes.horizon_summary import Attempt

Rows = list[dict[str, Any]]

# Of each file: where its rows are, and what one of them must hold for the page to read it.
ROWS = {
    "length": ("points", ("run", "encoder", "decoder", "words", "mean_seconds", "wer", "low")),
    "scaling": ("rows", ("name", "subject", "reference", "time", "batch", "seconds", "error")),
    "streaming": ("points", ("encoder", "position", "chunk", "milliseconds", "state_bytes")),
    "lookahead": ("points", ("run", "encoder", "decoder", "seed", "most", "wer")),
    "memory": ("points", ("run", "encoder", "gate", "setting", "seed", "kept", "wer")),
    "roofline": ("steps", ("width", "batch", "seconds", "flops", "intensity", "bound")),
    "context": ("points", ("run", "encoder", "seed", "context", "loss_ratio", "wer", "low")),
}
COMMANDS = {
    "horizon": "asr claims horizon --output claims",
    "length": "asr claims length RUN ... --output claims",
    "scaling": "asr claims scaling --output claims",
    "streaming": "asr claims streaming --output claims",
    "lookahead": "asr claims lookahead RUN ... --output claims",
    "memory": "asr claims memory RUN ... --output claims",
    "roofline": "asr claims roofline --output claims",
    "context": "asr claims context RUN ... --output claims",
}


@dataclass(frozen=True)
class Probe:
    """One file of a probe.

    Attributes:
        path: it.
        rows: its measurements as written.
        machine: what they were measured on, and the command.
        rest: what stands beside the rows.
    """

    path: Path
    rows: Rows
    machine: dict[str, Any]
    rest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Probes:
    """What was measured; a probe that was not run is missing.

    Attributes:
        found: by the name of the probe, as in ``asr claims NAME``.
        attempts: of the horizon.
        trained: what the contexts of trained models come to.
    """

    found: dict[str, Probe] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    trained: list[Effective] = field(default_factory=list)

    def rows(self, name: str) -> Rows:
        """Measurements of a probe; empty when it was not run."""
        return self.found[name].rows if name in self.found else []


def read_probes(folders: Sequence[Path]) -> Probes:
    """Reads every file of a probe in the folders.

    Raises:
        ValueError: no such folder, none of the files in it, two files of one probe, or a file that
            a probe of this version did not write.
    """
    found: dict[str, Probe] = {}
    attempts: list[Attempt] = []
    for folder in folders:
        paths = [path for name in COMMANDS if (path := _path(folder, name)).is_file()]
        if not paths:
            raise ValueError(
                f"{folder} holds no output of asr claims ({', '.join(COMMANDS)}); check the path"
            )
        for path in paths:
            name = path.stem
            if name in found:
                raise ValueError(
                    f"{found[name].path} and {path} are of one probe; give the folder of one"
                )
            if name == "horizon":
                found[name], attempts = _horizon(path)
            else:
                found[name] = _probe(path)
    return Probes(found, attempts, _trained(found.get("context")))


def _path(folder: Path, name: str) -> Path:
    return folder / (f"{name}.jsonl" if name == "horizon" else f"{name}.json")


def _horizon(path: Path) -> tuple[Probe, list[Attempt]]:
    lines, _ = read_json_lines(path)  # the last may be half, of an attempt that still goes on
    try:
        attempts = [Attempt(**line) for line in lines]
    except TypeError as error:
        raise ValueError(f"{path}: {error}; measure it again") from error
    if not attempts:
        raise ValueError(f"{path} holds no attempt yet; wait, or run: {COMMANDS['horizon']}")
    machine = {"device_name": attempts[0].device_name}
    return Probe(path, lines, machine), attempts


def _trained(probe: Probe | None) -> list[Effective]:
    if probe is None:
        return []
    try:
        exactness(probe.rest["plan"])
        return [Effective(**row) for row in probe.rest["runs"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{probe.path}: plan and runs: {error}; measure it again") from error


def _probe(path: Path) -> Probe:
    key, wanted = ROWS[path.stem]
    tree = read_json(path)
    rows = tree.get(key) if isinstance(tree, dict) else None
    if not rows:
        raise ValueError(f"{path} holds no {key}; measure it again: {COMMANDS[path.stem]}")
    for name in wanted:
        if any(name not in row for row in rows):
            raise ValueError(f"{path}: {key} without {name}; measure it again")
    about = tree["about"] if path.stem == "roofline" else tree.get("machine", {})
    return Probe(path, rows, about, {k: v for k, v in tree.items() if k != key})
