"""The description of a probe: its options, rows, tables, figures and files.

The page of a probe and the report of ``asr compare`` show the same tables, which are made from the
JSON file of the probe. The code that measures is in another module, which is imported only to
measure, because it may load torch.
"""

import argparse
import csv
import io
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from asr.document.blocks import Block, Picture, Section, Table, Text, to_markdown
from asr.files import new_folder, read_json, read_json_lines, write_all

log = logging.getLogger(__name__)

Columns = Mapping[str, Callable[[Any], str]]  # heading with its unit -> the cell of a row


@dataclass(frozen=True)
class Measured:
    """What a probe measured.

    Attributes:
        rows: of the probe's type.
        machine: device, threads, versions, commit and command.
        rest: what stands beside the rows in the JSON file, by key.
        path: the file that it was read from; None before it is written.
        first: classes of encoders that a figure draws first, so that each looks the same in all.
    """

    rows: Sequence[Any]
    machine: Mapping[str, Any]
    rest: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    first: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    """What a probe has to say on one matter.

    Attributes:
        place: the claim of the report that it stands under, or the title of a section of its own.
        title: its heading on the page of the probe.
        draw: figure, tables and notes; none where nothing on this matter was measured.
        missing: what the report says without a measurement; empty where the verdict says it.
    """

    place: str
    title: str
    draw: Callable[[Measured], list[Block]]
    missing: str = ""


@dataclass(frozen=True)
class Option:
    """An option of a probe; one with a tuple by default takes one value or more."""

    name: str
    default: Any
    meaning: str
    kind: Callable[[str], Any] = str  # of a value
    metavar: str | None = None
    shown: str = ""  # the default in words, where the value does not say it
    choices: Sequence[str] | None = None

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Adds it with its default in the help."""
        many = isinstance(self.default, tuple)
        values = self.default if many else [self.default]
        shown = self.shown or " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
        parser.add_argument(
            f"--{self.name}", type=self.kind, default=self.default, nargs="+" if many else None,
            metavar=self.metavar, choices=self.choices,
            help=f"{self.meaning} (default: {shown})".replace("%", "%%"),
        )  # fmt: skip


@dataclass(frozen=True)
class Probe:
    """What ``asr claims NAME`` measures.

    Attributes:
        name: in commands, and of the files.
        title: of its page.
        meaning: what it measures, in a sentence for ``--help``.
        example: a command.
        module: has ``measure(options, device)``, which yields what is measured so far.
        row: type of a row; a field without a default must be in a file for it to be read.
        options: those beside the run folders, ``--device`` and ``--output``.
        parts: in the order of the page.
        takes_runs: whether it measures run or model folders.
        key: of the rows in the JSON file; empty: the file is JSON lines, which ``measure`` writes.
        machine_key: of the machine in the JSON file.
        check: raises KeyError or TypeError where the rest of a file is not what ``parts`` need.
    """

    name: str
    title: str
    meaning: str
    example: str
    module: str
    row: type
    options: tuple[Option, ...]
    parts: tuple[Part, ...]
    takes_runs: bool = False
    key: str = "points"
    machine_key: str = "machine"
    check: Callable[[Mapping[str, Any]], object] = len

    @property
    def command(self) -> str:
        """What measures it with the options that it has by default."""
        return f"asr claims {self.name}{' RUN ...' * self.takes_runs} --output claims"

    def path(self, folder: Path) -> Path:
        """The file that holds all it measured."""
        return folder / f"{self.name}.{'json' if self.key else 'jsonl'}"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds the run folders and the options of the probe."""
        if self.takes_runs:
            parser.add_argument("runs", nargs="+", metavar="RUN", help="run or model folders")
        for option in self.options:
            option.add_to(parser)

    def run(self, options: argparse.Namespace, device: str) -> int:
        """Measures, writes the files after each part and prints the page; 1 if a row failed.

        Raises:
            ValueError: an option is wrong.
            OSError: the folder cannot be written.
        """
        from asr.probes.instrument import equal_precision

        page, failed, number = "", 0, 0
        with new_folder(options.output), equal_precision(device):
            for measured in import_module(self.module).measure(options, device):
                page = self.write(measured, options.output)
                number = len(measured.rows)
                failed = sum(bool(getattr(row, "error", "")) for row in measured.rows)
        print(page, end="")
        beside = f"{self.name}.csv, {self.path(options.output).name}"
        print(f"written: {options.output / self.name}.md (beside it {beside})")
        if failed:
            log.warning("%d of %d rows failed, see above", failed, number)
        return int(failed > 0)

    def write(self, measured: Measured, output: Path) -> str:
        """Writes NAME.json, NAME.csv and NAME.md into a folder, all or none; returns the last.

        Raises:
            OSError: the folder cannot be written.
        """
        rows = [asdict(row) for row in measured.rows]
        page = self.page(measured)
        contents = {output / f"{self.name}.csv": self._csv(rows), output / f"{self.name}.md": page}
        if self.key:
            tree = {self.machine_key: measured.machine, **measured.rest, self.key: rows}
            contents[self.path(output)] = json.dumps(tree, indent=1) + "\n"
        write_all(contents)
        return page

    def _csv(self, rows: Sequence[Mapping[str, Any]]) -> str:
        text = io.StringIO()
        lists = {name for row in rows for name, v in row.items() if isinstance(v, (list, tuple))}
        names = [f.name for f in fields(self.row) if f.name not in lists]
        writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def page(self, measured: Measured) -> str:
        """The Markdown page: the parts without their figures, and where they were measured."""
        parts = [(part.title, part.draw(measured)) for part in self.parts]
        sections: list[Section] = [
            (title, [block for block in blocks if not isinstance(block, Picture)])
            for title, blocks in parts
            if blocks
        ]
        return to_markdown(self.title, [*sections, ("Measured on", [source(measured)])])

    def read(self, folder: Path) -> Measured:
        """What the probe wrote into a folder, today or in an earlier version.

        Raises:
            ValueError: the file is not what the probe writes.
        """
        path = self.path(folder)
        if not self.key:
            lines, _ = read_json_lines(path)  # the last may be half, of a row that is being written
            tree: Any = {self.key: lines}
        else:
            tree = read_json(path)
        rows = tree.get(self.key) if isinstance(tree, dict) else None
        if not rows:
            said = (
                f"no {self.key}; measure it again" if self.key else "no attempt yet; wait, or run"
            )
            raise ValueError(f"{path} holds {said}: {self.command}")
        wanted = [f.name for f in fields(self.row) if f.default is MISSING]
        for name in wanted:
            if any(name not in row for row in rows):
                raise ValueError(
                    f"{path}: {self.key or 'attempts'} without {name}; measure it again"
                )
        known = {f.name for f in fields(self.row)}
        typed = [self.row(**{k: v for k, v in row.items() if k in known}) for row in rows]
        rest = {k: v for k, v in tree.items() if k not in (self.key, self.machine_key)}
        try:
            self.check(rest)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: {', '.join(rest)}: {error}; measure it again") from error
        machine = tree.get(self.machine_key) or {
            "device_name": getattr(typed[0], "device_name", "")
        }
        return Measured(typed, machine, rest, path)


def table(rows: Sequence[Any], columns: Columns) -> Table:
    """A line for each row."""
    return Table([*columns], [[cell(row) for cell in columns.values()] for row in rows])


def source(measured: Measured) -> Text:
    """The file that the figures come from, what it was measured on, and where its runs are."""
    about = measured.machine
    words = [str(about.get("device_name") or "device unknown")]
    threads = about.get("threads")
    words += [f"{threads} thread{'s' * (threads != 1)}"] if threads else []
    words += [str(about["precision"])] if "precision" in about else []
    words += [f"torch {about['torch']}"] if "torch" in about else []
    words += [f"commit {about['git_commit']}"] if "git_commit" in about else []
    words += [str(about["command"])] if "command" in about else []
    start = f"From {measured.path}: " if measured.path else ""
    below = run_names(measured.rows)[0] if hasattr(measured.rows[0], "run") else ""
    end = f" Run folders are below {below}." if below not in ("", ".") else ""
    return Text([f"{start}{'; '.join(words)}.{end}"], "rule")


def run_names(rows: Sequence[Any]) -> tuple[str, Callable[[Any], str]]:
    """The folder that holds all runs of the rows, and the name below it of a row's run.

    Where some paths are absolute and some relative, no folder is known to hold all of them, and
    the paths stay whole.
    """
    parents = {Path(row.run).parent for row in rows}
    if len({parent.is_absolute() for parent in parents}) > 1:
        return "", lambda row: str(row.run)
    shared = Path(os.path.commonpath(parents))
    return str(shared), lambda row: str(Path(row.run).relative_to(shared))


# --- types of options ---


def whole_number(text: str) -> int:
    """A whole number above zero."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def duration(text: str) -> float:
    """A number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return value


def positive_duration(text: str) -> float:
    """A number of seconds above 0."""
    value = duration(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def grouped(rows: Sequence[Any], *names: str) -> Iterator[tuple[tuple[Any, ...], list[Any]]]:
    """Rows that share the values of these fields, in the order in which the values first come."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        found.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
    yield from found.items()
