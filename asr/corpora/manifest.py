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
    """Reads NeMo's keys: audio_filepath, text, duration; optional offset, speaker, lang, id.

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
        with contextlib.suppress(DroppedError):  # ``row`` reports this error
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
    """Yields numbered lines of a table (.csv, .tsv) or of JSON lines (any other ending)."""
    return read_table(path) if path.suffix.lower() in (".csv", ".tsv") else _objects(path)


def read_table(path: Path) -> Iterator[tuple[int, Line]]:
    """Reads a table with commas and quotes (RFC 4180), or with tabs and no quotes (.tsv).

    Yields the line number and the fields by column, as strings. A line whose fields do not match
    the header, or whose quotes do not match, becomes an error message; reading continues after it.
    """
    form: dict[str, Any] = {"strict": True}
    remedy = "a text with the separator in it goes between quotes"
    if path.suffix.lower() == ".tsv":
        form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        remedy = "a .tsv has no quotes: put a blank for each tab within a text"
    # Lines are read on demand, because a look at the first row must not read hundreds of megabytes.
    # Line ends become newlines, between quotes, too, as in every other text here.
    with open_text(path) as file:
        taken: list[str] = []  # the lines of a row
        again: deque[str] = deque()  # lines to read again, which followed an unmatched quote

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
            elif fields and len(fields) != len(header):  # an empty line has no fields
                yield number, f"{len(fields)} fields, the header has {len(header)}; {remedy}"
            elif fields:
                yield number, dict(zip(header, fields, strict=True))


def open_text(path: Path) -> TextIO:
    """Opens a text file in UTF-8, or in UTF-16 with a byte order mark; skips the mark.

    Bytes that are not UTF-8 become surrogates: a text is then refused, but a file name is right.
    """
    with path.open("rb") as file:
        wide = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    return path.open(encoding="utf-16" if wide else "utf-8-sig", errors="surrogateescape")


def read_text(path: Path) -> str:
    """Reads a whole text file; each line ends in a single newline. See ``open_text``."""
    with open_text(path) as file:
        return file.read()


def _objects(path: Path) -> Iterator[tuple[int, Line]]:
    """Reads JSON, one object per line or one array; numbers stay strings as written."""
    read = partial(json.loads, parse_int=str, parse_float=str)
    # str.splitlines would also cut at separators that may occur inside a text.
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
