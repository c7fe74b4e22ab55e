"""The description of a probe: its options, rows, tables, figures and files.

The page of a probe and the report of ``asr compare`` show the same tables, which are made from the
JSON file of the probe. The code that measures is in another module, which is imported only to
measure, because it may load torch.
"""

import argparse
import contextlib
import csv
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from asr.document.blocks import Block, Picture, Section, Table, Text, to_markdown
from asr.files import new_folder, read_json, read_json_lines, write_all
from asr.formatting import NONE, digits
from asr.metering.cpu import times_disturbed
from asr.statistics.median import median_interval

log = logging.getLogger(__name__)

Columns = Mapping[str, Callable[[Any], str]]  # heading with unit -> function from row to cell


@dataclass(frozen=True)
class Measured:
    """The result of a probe.

    Attributes:
        rows: the results, each of type ``Probe.row``.
        machine: device, threads, versions, commit and command.
        rest: the other entries of the JSON file, by key.
        path: the file of the results; None before they are written.
        first: encoder classes that come first in figures, so that all figures use equal colours.
    """

    rows: Sequence[Any]
    machine: Mapping[str, Any]
    rest: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    first: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    """A section of the results, on one topic.

    Attributes:
        place: the claim whose section of the report shows the part, or a section title of its own.
        title: heading on the page of the probe.
        draw: makes figures, tables and notes; it returns no blocks if nothing was measured.
        missing: text of the report if nothing was measured; empty if the verdict says so.
    """

    place: str
    title: str
    draw: Callable[[Measured], list[Block]]
    missing: str = ""


@dataclass(frozen=True)
class Option:
    """An option of a probe. If its default is a tuple, the option takes one or more values."""

    name: str
    default: Any
    meaning: str
    kind: Callable[[str], Any] = str  # converts the text of a value
    metavar: str | None = None
    shown: str = ""  # text of the default in the help, if not the value itself
    choices: Sequence[str] | None = None

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Adds the option to a parser, with its default in the help."""
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
    """The description of ``asr claims NAME``.

    Attributes:
        name: name of the command and of the files.
        title: title of the page.
        meaning: what the probe measures, for ``--help``.
        example: example command for ``--help``.
        module: has the generator ``measure(options, device)``, which yields all results so far.
        row: dataclass of a row; a file must have every field that has no default.
        options: options other than ``--device`` and ``--output``.
        parts: sections, in the order of the page.
        takes_runs: whether the arguments are run or model folders.
        key: key of the rows in the JSON file; if empty, ``measure`` writes a file of JSON lines.
        machine_key: key of the machine in the JSON file.
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

    @property
    def command(self) -> str:
        """The command line that runs the probe with default options."""
        return f"asr claims {self.name}{' RUN ...' * self.takes_runs} --output claims"

    def path(self, folder: Path) -> Path:
        """Returns the path of the file that holds all results in a folder."""
        return folder / f"{self.name}.{'json' if self.key else 'jsonl'}"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds the run folders and the options of the probe."""
        if self.takes_runs:
            parser.add_argument("runs", nargs="+", metavar="RUN", help="run or model folders")
        for option in self.options:
            option.add_to(parser)

    def run(self, options: argparse.Namespace, device: str) -> int:
        """Measures, writes the files after each part, prints the page; returns 1 if a row failed.

        Raises:
            ValueError: an option has an invalid value.
            OSError: the folder cannot be written.
        """
        from asr.metering.use import Use
        from asr.probes.instrument import equal_precision

        page, failed, number = "", 0, 0
        timed = contextlib.closing(Use(device))
        with new_folder(options.output), equal_precision(device), timed as use:
            for measured in import_module(self.module).measure(options, device):
                use.end()
                machine = {**use.facts(), **measured.machine}
                page = self.write(replace(measured, machine=machine), options.output)
                use.begin()
                number = len(measured.rows)
                failed = sum(bool(getattr(row, "error", "")) for row in measured.rows)
        print(page, end="")
        beside = f"{self.name}.csv, {self.path(options.output).name}"
        print(f"written: {options.output / self.name}.md (beside it {beside})")
        if failed:
            log.warning("%d of %d rows failed, see above", failed, number)
        return int(failed > 0)

    def write(self, measured: Measured, output: Path) -> str:
        """Writes NAME.json, NAME.csv and NAME.md, all or none; returns the Markdown page.

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
        """The Markdown page: all parts without their figures, and the machine."""
        parts = [(part.title, part.draw(measured)) for part in self.parts]
        sections: list[Section] = [
            (title, [block for block in blocks if not isinstance(block, Picture)])
            for title, blocks in parts
            if blocks
        ]
        return to_markdown(self.title, [*sections, ("Measured on", [source(measured)])])

    def read(self, folder: Path) -> Measured:
        """Reads the results in a folder, which an earlier version may have written.

        Raises:
            ValueError: the file does not have the format of this probe.
        """
        path = self.path(folder)
        if not self.key:
            lines, _ = read_json_lines(path)  # the last line may be incomplete while the probe runs
            tree: Any = {self.key: lines}
        else:
            tree = read_json(path)
        rows = tree.get(self.key) if isinstance(tree, dict) else None
        if not rows:
            lack = (
                f"no {self.key}; measure it again" if self.key else "no attempt yet; wait, or run"
            )
            raise ValueError(f"{path} holds {lack}: {self.command}")
        required = [f.name for f in fields(self.row) if f.default is MISSING]
        for name in required:
            if any(name not in row for row in rows):
                raise ValueError(
                    f"{path}: {self.key or 'attempts'} without {name}; measure it again"
                )
        known = {f.name for f in fields(self.row)}
        typed = [self.row(**{k: v for k, v in row.items() if k in known}) for row in rows]
        rest = {k: v for k, v in tree.items() if k not in (self.key, self.machine_key)}
        machine = tree.get(self.machine_key) or {
            "device_name": getattr(typed[0], "device_name", "")
        }
        measured = Measured(typed, machine, rest, path)
        try:
            self.page(measured)  # needs all that the report needs
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: {', '.join(rest)}: {error}; measure it again") from error
        return measured


def table(rows: Sequence[Any], columns: Columns) -> Table:
    """A table with one line per row."""
    return Table([*columns], [[cell(row) for cell in columns.values()] for row in rows])


def format_interval(values: Sequence[float], scale: float = 1) -> str:
    """``1.9 [1.8 to 2.0]``: the median and its interval, times ``scale``."""
    if not values:
        return NONE
    value, low, high = (digits(scale * one) for one in median_interval(values))
    return f"{value} [{low} to {high}]"


def source(measured: Measured) -> Text:
    """A line that names the file of the results, the machine, and the folder of the runs."""
    about = measured.machine
    words = [str(about.get("device_name") or "device unknown")]
    threads = about.get("threads")
    words += [f"{threads} thread{'s' * (threads != 1)}"] if threads else []
    words += [str(about["precision"])] if "precision" in about else []
    words += [f"torch {about['torch']}"] if "torch" in about else []
    words += [f"commit {about['git_commit']}"] if "git_commit" in about else []
    words += [str(about["command"])] if "command" in about else []
    words += [why] if (why := times_disturbed(about)) else []
    start = f"From {measured.path}: " if measured.path else ""
    below = run_names(measured.rows)[0] if hasattr(measured.rows[0], "run") else ""
    end = f" Run folders are below {below}." if below not in ("", ".") else ""
    return Text([f"{start}{'; '.join(words)}.{end}"], "rule")


def run_names(rows: Sequence[Any]) -> tuple[str, Callable[[Any], str]]:
    """The common folder of all runs, and a function that gives a run's path below this folder.

    If some paths are absolute and some relative, they have no known common folder, and the function
    gives whole paths.
    """
    parents = {Path(row.run).parent for row in rows}
    if len({parent.is_absolute() for parent in parents}) > 1:
        return "", lambda row: str(row.run)
    shared = Path(os.path.commonpath(parents))
    return str(shared), lambda row: str(Path(row.run).relative_to(shared))


def grouped(rows: Sequence[Any], *names: str) -> Iterator[tuple[tuple[Any, ...], list[Any]]]:
    """Groups rows by the values of fields, in the order of the first row of each group."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        found.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
    yield from found.items()
