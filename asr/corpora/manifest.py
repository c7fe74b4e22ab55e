"""Manifests of a user's recordings: JSON lines, or a table with a header (.csv, .tsv)."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asr.corpora.corpus import Row

MANIFESTS = (".jsonl", ".json", ".csv", ".tsv")
COMMAS: dict[str, Any] = {"strict": True}
TABS: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}


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
    form, remedy = COMMAS, "a text with the separator in it goes between quotes"
    if path.suffix == ".tsv":
        form, remedy = TABS, "a .tsv has no quotes: put a blank for each tab within a text"
    # Read as it is asked for: of hundreds of megabytes, a look at the first row needs no more. Line
    # ends become newlines, also between quotes, as in every other text here.
    with path.open(encoding="utf-8-sig") as file:
        reader = csv.reader(file, **form)
        try:
            header = next(reader, [])
            for fields in filter(None, reader):  # an empty line has none
                if len(fields) != len(header):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {len(fields)} fields, the header has"
                        f" {len(header)}; {remedy}"
                    )
                yield reader.line_num, dict(zip(header, fields, strict=True))
        except csv.Error as error:
            why = f"{error}; check its quotes"
            raise ValueError(f"{path}, line {reader.line_num}: {why}") from None
        except UnicodeDecodeError:
            raise _not_utf8(path) from None


def read_text(path: Path) -> str:
    """A text file, its lines ending in a newline alone, without the mark of Windows' editors.

    Raises:
        ValueError: it is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise _not_utf8(path) from None


def _not_utf8(path: Path) -> ValueError:
    """Names the first line that is not; a decoder that reads piece by piece does not know it."""
    with path.open("rb") as file:
        number = next(n for n, line in enumerate(file, start=1) if not _is_utf8(line))
    return ValueError(
        f"{path}, line {number}: not UTF-8; convert it, for instance: iconv -f LATIN1 -t UTF-8"
    )


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


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
