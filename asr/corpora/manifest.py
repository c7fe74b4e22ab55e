"""Manifests of a user's recordings: JSON lines, or a table with a header (.csv, .tsv, .parquet)."""

import contextlib
import csv
import gzip
import json
import os
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from asr.corpora import cells
from asr.corpora.corpus import SPLIT_NAMES, DroppedError, Row
from asr.folders import Walk, stored, walk

MANIFESTS = (".jsonl", ".json", ".csv", ".tsv")

COLUMNS = {  # the names of each value, in the order in which they are looked for
    "audio": ("audio_filepath", "file_name", "audio_file", "audio_path", "wav", "audio", "path"),
    "text": ("text", "transcription", "sentence", "transcript"),
    "speaker": ("speaker", "speaker_id", "speaker_name", "client_id"),
    "language": ("lang", "language", "locale"),
    "channel": ("channel", "channel_selector"),
    "offset": ("offset",),
    "duration": ("duration",),
    "id": ("id",),
}

Line = Mapping[str, Any] | str  # the fields of a line by column, or an error message


def read_manifest(path: Path) -> Iterator[Row]:
    """Reads the columns of NeMo, Hugging Face's audiofolder and Coqui, see ``COLUMNS``.

    Audio is relative to the manifest's folder. Duration and offset are in seconds. A line that
    cannot be used is a row with a fault, which names the line.
    """
    for number, line in read_lines(path):
        where = f"{path.name}, line {number}"
        if isinstance(line, str):
            yield cells.unusable(where, line)
            continue
        found = {kind: line[n] for kind, names in COLUMNS.items() for n in names[::-1] if n in line}
        if {"audio", "text"} <= set(found):
            yield _row(path, where, found)
        else:
            why = f"needs audio_filepath and text; it has {', '.join(line) or 'none'}"
            yield cells.unusable(where, f"{why} (use --layout text if this is no manifest)")


def _row(path: Path, where: str, values: dict[str, Any]) -> Row:
    name, audio, text = where, values.pop("audio"), values.pop("text")
    if isinstance(audio, str) and audio:
        name = os.path.splitext(audio)[0]
        with contextlib.suppress(DroppedError):  # ``row`` reports this error
            start = cells.seconds_of(values.get("offset"), "offset")
            name += f"@{start:.3f}" if start else ""
            channel = cells.channel_of(values.get("channel"))
            name += f"-channel{channel}" if channel is not None else ""
    audio = stored(path.parent / audio) if isinstance(audio, str) and audio else None
    return cells.row(where, audio, text, **{**values, "id": values.get("id") or name})


def find(source: Path) -> Walk:
    """Returns a manifest, or those of a folder: any JSON lines and tables, and metadata.parquet.

    The metadata of an audiofolder may also be beside the folder of a split.
    """
    if source.is_file():
        return Walk([source] if source.suffix.lower() in (*MANIFESTS, ".parquet", ".gz") else [])
    found = walk(source, (*MANIFESTS, ".gz", ".parquet"), recursive=False)
    ends = (*MANIFESTS, ".jsonl.gz", ".json.gz", "metadata.parquet")
    found.files = [path for path in found.files if path.name.lower().endswith(ends)]
    is_split = any(source.name.lower() in names for names in SPLIT_NAMES.values())
    if is_split and not found.files:
        above = walk(source.parent, (".csv", ".jsonl", ".parquet"), recursive=False).files
        above = [path for path in above if path.stem.lower() == "metadata"]
        found.files = above if above and not walk(source, {".txt"}).files else []
    return found


def read(source: Path, files: Sequence[Path]) -> Iterator[Row]:
    """Reads the rows of manifests; one beside ``source`` has rows of other folders, too."""
    for path in files:
        for row in read_manifest(path):
            inside = not isinstance(row.audio, Path) or source in row.audio.parents
            if inside or source in (path, path.parent):
                yield row


def read_lines(path: Path) -> Iterator[tuple[int, Line]]:
    """Yields numbered lines of a table (.csv, .tsv, .parquet) or of JSON lines (other endings)."""
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    return read_table(path) if path.suffix.lower() in (".csv", ".tsv") else _objects(path)


def _parquet(path: Path) -> Iterator[tuple[int, Line]]:
    import pyarrow.parquet as pq

    batches = pq.ParquetFile(path).iter_batches()
    return enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), start=1)


def read_table(path: Path) -> Iterator[tuple[int, Line]]:
    """Reads a table with commas and quotes (RFC 4180), or with tabs and no quotes (.tsv).

    A .csv whose header has no comma may have semicolons, or bars (Coqui) and no quotes. LJSpeech
    has bars, the folder wavs, and no header; its normalised text is taken where there is one.
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
        first = file.readline()
        bars = first.rstrip("\n").split("|")
        is_ljspeech = len(bars) in (2, 3) and not {*bars} & {*COLUMNS["audio"], *COLUMNS["text"]}
        is_ljspeech &= (path.parent / "wavs").is_dir()
        if path.suffix.lower() == ".csv" and (is_ljspeech or "," not in first):
            if len(bars) > 1:
                form = {"delimiter": "|", "quoting": csv.QUOTE_NONE}
                remedy = "a text must not hold a bar"
            elif ";" in first:
                form["delimiter"] = ";"
        taken: list[str] = []  # the lines of a row
        again: deque[str] = deque([first])  # lines to read again, which followed an unmatched quote

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
                if not is_ljspeech:
                    continue
            if fields and len(fields) != len(header):  # an empty line has no fields
                yield number, f"{len(fields)} fields, the header has {len(header)}; {remedy}"
            elif fields and is_ljspeech:
                text = fields[-1].strip() or fields[1]
                yield number, {"audio": f"wavs/{fields[0]}.wav", "text": text, "id": fields[0]}
            elif fields:
                yield number, dict(zip(header, fields, strict=True))


def open_text(path: Path) -> TextIO:
    """Opens a text file in UTF-8, or in UTF-16 with a byte order mark; skips the mark.

    A file that is compressed by gzip is read as the text in it.

    Bytes that are not UTF-8 become surrogates: a text is then refused, but a file name is right.
    """
    with path.open("rb") as file:
        head = file.read(2)
    if head == b"\x1f\x8b":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape")
    wide = head in (b"\xff\xfe", b"\xfe\xff")
    return path.open(encoding="utf-16" if wide else "utf-8-sig", errors="surrogateescape")


def read_text(path: Path) -> str:
    """Reads a whole text file; each line ends in a single newline. See ``open_text``."""
    with open_text(path) as file:
        return file.read()


def _objects(path: Path) -> Iterator[tuple[int, Line]]:
    """Reads JSON, one object per line or one array; numbers stay strings as written."""
    read = partial(json.loads, parse_int=str, parse_float=str)
    number = 0
    # str.splitlines would also cut at separators that may occur inside a text.
    with open_text(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                try:
                    if number == 1 and line.lstrip().startswith("["):
                        yield from enumerate(map(_object, read(line + file.read())), start=1)
                    elif line.strip():
                        yield number, _object(read(line))
                except (ValueError, RecursionError):
                    yield number, _object(None)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            yield number + 1, f"cannot be unpacked ({error}); copy the file again"


def _object(value: Any) -> Line:
    return value if isinstance(value, dict) else "not a JSON object; write one a line"
