"""Values of tables, JSON and parquet -> rows. Missing values stay missing, and text stays text."""

import contextlib
import math
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from asr.corpora.corpus import DroppedError, Row
from asr.items import printable

# No name of a file holds NUL, or half a character of UTF-16, which JSON can write.
NO_FILE_NAME = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")


def text_of(value: Any, column: str = "text") -> str:
    """The text that a value stands for; empty if it is missing.

    None and NaN are missing. A string is text as it is written: "null", "NA" and "None" are words.
    A number is its digits, and a whole number has no point, as a column of 7, 8 and a gap holds
    7.0, 8.0 and NaN.

    Raises:
        DroppedError: a boolean, a list, a date or another object; or a string that is not Unicode.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            why = "is not UTF-8; convert the file, for instance: iconv -f LATIN1 -t UTF-8"
            if not re.search("[\udc80-\udcff]", value):  # which stand for the bytes of a file
                why = "holds half of a UTF-16 character; write the whole character"
            raise DroppedError("not_utf8", f"{column} {printable(value):.60} {why}") from None
        return value
    if isinstance(value, int | float | Decimal | np.number) and not isinstance(value, bool):
        if value != value:
            return ""
        if math.isfinite(value):
            return f"{value:.0f}" if value == int(value) else str(value)
    why = f"{printable(str(value)):.60} is of type {type(value).__name__}; write a string"
    raise DroppedError(f"{column}_is_not_text", f"{column} {why}")


def seconds_of(value: Any, column: str) -> float | None:
    """A number of seconds, at least 0 and finite; None if it is missing: None, NaN or empty."""
    if value is None or value == "":
        return None
    with contextlib.suppress(TypeError, ValueError):  # a table holds text
        seconds = -1.0 if isinstance(value, bool) else float(value)
        if math.isnan(seconds):
            return None
        if 0 <= seconds < math.inf:
            return seconds
    shown = printable(str(value))
    raise DroppedError("bad_row", f"{column} {shown!r:.60} is not a number of seconds")


def row(
    where: str,
    audio: Path | bytes | np.ndarray | None,
    text: Any,
    *,
    id: Any = None,
    speaker: Any = None,
    chapter: Any = None,
    language: Any = None,
    offset: Any = None,
    duration: Any = None,
    sample_rate: int | None = None,
) -> Row:
    """Makes a row from the values of a reader. Each value may be missing or be of any type.

    A row that cannot be used carries its fault, so that it is counted and ends nothing. ``where``
    is the place of the row, which its message names; it is the id if none is given. Audio is a
    path, bytes or samples (with their rate in Hz). Offset and duration are seconds.
    """
    name = where
    try:
        name = _name(id, "id") or where
        if audio is None:
            raise DroppedError("missing_audio", "no audio is named")
        if isinstance(audio, Path) and NO_FILE_NAME.search(str(audio)):
            raise DroppedError("missing_audio", f"{audio} is not the name of a file")
        return Row(
            id=name,
            audio=audio,
            text=text_of(text),
            speaker_id=_name(speaker, "speaker"),
            chapter_id=_name(chapter, "chapter"),
            language=_name(language, "language"),
            sample_rate=sample_rate,
            start_seconds=seconds_of(offset, "offset") or 0.0,
            seconds=seconds_of(duration, "duration"),
        )
    except DroppedError as error:
        place = where if name == where else f"{name} ({where})"
        return unusable(name, str(error), error.reason, place)


def _name(value: Any, column: str) -> str:
    """A name in one line; names of files need not be UTF-8."""
    return printable(value if isinstance(value, str) else text_of(value, column)).strip()


def unusable(name: str, why: str, reason: str = "bad_row", place: str = "") -> Row:
    """A row that is counted as dropped; its message begins with the place, or else the name."""
    fault = DroppedError(reason, printable(f"{place or name}: {why}"))
    return Row(id=printable(name), audio=b"", text="", fault=fault)
