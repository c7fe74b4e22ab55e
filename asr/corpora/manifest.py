"""Manifests of a user's recordings: JSON lines, or a table with a header (.csv, .tsv)."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asr.corpora.corpus import Row

MANIFESTS = (".jsonl", ".json", ".csv", ".tsv")


def read_manifest(path: Path) -> Iterator[Row]:
    """NeMo's keys or columns: audio_filepath, text, duration; optional offset, speaker, lang, id.

    Audio is relative to the manifest's folder; seconds are seconds.

    Raises:
        ValueError: a line is not what the suffix promises, or lacks a key; names the line.
    """
    table = path.suffix in (".csv", ".tsv")
    for number, entry in _rows(path) if table else _objects(path):
        where = f"{path}, line {number}"
        if not {"audio_filepath", "text"} <= set(entry):
            raise ValueError(
                f"{where}: needs audio_filepath and text; it has {', '.join(entry)}"
                " (--layout text, where this is no manifest)"
            )
        audio, offset = Path(str(entry["audio_filepath"])), _seconds(entry, "offset", where)
        identity = f"{audio.with_suffix('')}@{offset:.3f}" if offset else str(audio.with_suffix(""))
        yield Row(
            id=str(entry.get("id", identity)),
            audio=path.parent / audio,
            text=str(entry["text"]),
            speaker_id=str(entry.get("speaker", "")),
            language=str(entry.get("lang", "")),
            start_seconds=offset or 0.0,
            seconds=_seconds(entry, "duration", where),
        )


def read_table(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields by column: commas and quotes (RFC 4180), or tabs and no quotes (.tsv).

    Raises:
        ValueError: a line has other fields than the header, or it is not UTF-8; names the line.
        OSError: it cannot be read.
    """
    form: dict[str, Any] = {"strict": True}
    if path.suffix == ".tsv":
        form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(io.StringIO(read_text(path), newline=""), **form)
    try:
        header = next(reader, [])
        for fields in filter(None, reader):  # an empty line has none
            if len(fields) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields, the header has"
                    f" {len(header)}; a text with the separator in it goes between quotes"
                )
            yield reader.line_num, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}; check its quotes") from None


def read_text(path: Path) -> str:
    """A text file, its lines ending in a newline alone, without the mark of Windows' editors.

    Raises:
        ValueError: it is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8; convert it, for instance: iconv -f LATIN1 -t UTF-8"
        ) from None


def _objects(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # Not splitlines, which would also cut at separators that may stand within a text.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                raise ValueError(f"{path}, line {number}: not a JSON object; write one a line")
            yield number, entry


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """A table's; empty fields are left out but text."""
    for number, row in read_table(path):
        yield number, {key: value for key, value in row.items() if value or key == "text"}


def _seconds(entry: Mapping[str, Any], key: str, where: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    try:
        seconds = float(value)  # a table holds text
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{where}: {key} {value!r} is not a number of seconds")
    return seconds
