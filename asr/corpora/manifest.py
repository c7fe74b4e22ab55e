"""Manifests of a user's recordings: JSON lines, or a table with a header (.csv, .tsv)."""

import contextlib
import csv
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from asr.corpora import cells
from asr.corpora.corpus import DroppedError, Row
from asr.folders import stored

MANIFESTS = (".jsonl", ".json", ".csv", ".tsv")

Line = Mapping[str, Any] | str  # the fields of a line by column, or an error message


def read_manifest(path: Path) -> Iterator[Row]:
    """NeMo's keys or columns: audio_filepath, text, duration; optional offset, speaker, lang, id.

    Audio is relative to the manifest's folder. Duration and offset are in seconds. A line that
    cannot be used is a row with a fault, which names the line.
    """
    for number, line in read_lines(path):
        where = f"{path.name}, line {number}"
        if isinstance(line, str):
            yield cells.unusable(where, line)
        elif not {"audio_filepath", "text"} <= set(line):
            why = f"needs audio_filepath and text; it has {', '.join(line) or 'none'}"
            yield cells.unusable(where, f"{why} (use --layout text if this is no manifest)")
        else:
            yield _row(path, where, line)


def _row(path: Path, where: str, line: Mapping[str, Any]) -> Row:
    name, audio, offset = where, line["audio_filepath"], line.get("offset")
    if isinstance(audio, str) and audio:
        name = os.path.splitext(audio)[0]
        with contextlib.suppress(DroppedError):  # which the row will tell
            name += f"@{start:.3f}" if (start := cells.seconds_of(offset, "offset")) else ""
    return cells.row(
        where,
        stored(path.parent / audio) if isinstance(audio, str) and audio else None,
        line["text"],
        id=line.get("id") or name,
        speaker=line.get("speaker"),
        language=line.get("lang") or line.get("language"),
        offset=offset,
        duration=line.get("duration"),
    )


def read_lines(path: Path) -> Iterator[tuple[int, Line]]:
    """The lines of a table (.csv, .tsv) or of JSON lines (any other ending), with their numbers."""
    return read_table(path) if path.suffix.lower() in (".csv", ".tsv") else _objects(path)


def read_table(path: Path) -> Iterator[tuple[int, Line]]:
    """Line number and fields by column: commas and quotes (RFC 4180), or tabs and no quotes (.tsv).

    Every field is a string as it is written. A line that has other fields than the header, or
    whose quotes do not match, is an error in its place; the lines after it are read.
    """
    form: dict[str, Any] = {"strict": True}
    remedy = "a text with the separator in it goes between quotes"
    if path.suffix.lower() == ".tsv":
        form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        remedy = "a .tsv has no quotes: put a blank for each tab within a text"
    # Read as it is asked for: of hundreds of megabytes, a look at the first row needs no more. Line
    # ends become newlines, also between quotes, as in every other text here.
    with open_text(path) as file:
        taken: list[str] = []  # the lines of a row
        again: deque[str] = deque()  # lines that a quote without a partner took into its field

        def lines() -> Iterator[str]:
            while (line := again.popleft() if again else file.readline()) != "":
                taken.append(line)
                yield line

        reader = csv.reader(lines(), **form)
        header: list[str] = []
        number = 0
        while True:
            taken.clear()
            try:
                fields = next(reader, None)
                number += len(taken)
            except csv.Error as error:
                number += 1
                yield number, f"{error}; check its quotes"
                again.extendleft(reversed(taken[1:]))
                reader = csv.reader(lines(), **form)
                continue
            if fields is None:
                return
            if not header:
                header = [name.strip() for name in fields]
            elif fields and len(fields) != len(header):  # an empty line has none
                yield number, f"{len(fields)} fields, the header has {len(header)}; {remedy}"
            elif fields:
                yield number, dict(zip(header, fields, strict=True))


def open_text(path: Path) -> TextIO:
    """A text file in UTF-8, or in UTF-16 with a byte order mark; the mark is no text.

    Bytes that are not UTF-8 become surrogates, which make a text unusable and a file's name right.
    """
    with path.open("rb") as file:
        wide = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    return path.open(encoding="utf-16" if wide else "utf-8-sig", errors="surrogateescape")


def read_text(path: Path) -> str:
    """A whole text file, its lines ending in a newline alone; see ``open_text``."""
    with open_text(path) as file:
        return file.read()


def _objects(path: Path) -> Iterator[tuple[int, Line]]:
    """JSON, an object a line or all in one array; numbers are strings, as they are written."""
    read = partial(json.loads, parse_int=str, parse_float=str)
    # Lines of a file, not splitlines, which also cuts at separators that may stand within a text.
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                if number == 1 and line.lstrip().startswith("["):
                    yield from enumerate(map(_object, read(line + file.read())), start=1)
                elif line.strip():
                    yield number, _object(read(line))
            except (ValueError, RecursionError):
                yield number, _object(None)


def _object(value: Any) -> Line:
    return value if isinstance(value, dict) else "not a JSON object; write one a line"
