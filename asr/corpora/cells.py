"""Converts values of tables, JSON and parquet into rows of a corpus."""

import contextlib
import math
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from asr.corpora.corpus import DroppedError, Row
from asr.items import printable

# Characters that no file name can hold, but JSON can: NUL, and surrogates of UTF-16.
NO_FILE_NAME = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")


def text_of(value: Any, column: str = "text") -> str:
    """Returns the text of a value; it is empty if the value is missing.

    None and NaN are missing. A string stays as it is: "null", "NA" and "None" are words. A number
    becomes its digits. A whole number is written without a point, because a table reader turns a
    column of 7, 8 and a missing value into 7.0, 8.0 and NaN.

    Raises:
        DroppedError: the value is a string that is not Unicode, or is neither a string nor a
            number.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            why = "is not UTF-8; convert the file, for instance: iconv -f LATIN1 -t UTF-8"
            if not re.search("[\udc80-\udcff]", value):  # those are escaped bytes
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
    """Returns a finite number of seconds >= 0; None if the value is None, NaN or empty."""
    if value is None or value == "":
        return None
    with contextlib.suppress(TypeError, ValueError):  # tables hold text
        seconds = -1.0 if isinstance(value, bool) else float(value)
        if math.isnan(seconds):
            return None
        if 0 <= seconds < math.inf:
            return seconds
    shown = printable(str(value))
    raise DroppedError("bad_row", f"{column} {shown!r:.60} is not a number of seconds")


def channel_of(value: Any) -> int | None:
    """Returns the number of a channel, counted from 0; None if the value is None, NaN or empty."""
    one = value[0] if isinstance(value, list) and len(value) == 1 else value
    if one is None or one == "" or one != one:
        return None
    with contextlib.suppress(TypeError, ValueError):  # tables hold text
        number = -1.0 if isinstance(one, bool) else float(one)
        if number >= 0 and number.is_integer():
            return int(number)
    shown = printable(str(value))
    raise DroppedError("bad_row", f"channel {shown!r:.60} is not one number, counted from 0")


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
    channel: Any = None,
    sample_rate: int | None = None,
) -> Row:
    """Makes a row from the values that a reader found. A value may be missing or of any type.

    A row that cannot be used is returned with its fault, so that it is counted and does not stop
    the others. ``where`` is the place of the row for error messages, and its id if ``id`` is
    missing. Audio is a path, the bytes of a file, or samples with ``sample_rate`` in Hz. Offset and
    duration are in seconds.
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
            channel=channel_of(channel),
        )
    except DroppedError as error:
        place = where if name == where else f"{name} ({where})"
        return unusable(name, str(error), error.reason, place)


def _name(value: Any, column: str) -> str:
    """Returns a name on one line; the value may be a file name that is not UTF-8."""
    return printable(value if isinstance(value, str) else text_of(value, column)).strip()


def unusable(name: str, why: str, reason: str = "bad_row", place: str = "") -> Row:
    """Makes a row that is counted as dropped; its message begins with ``place`` or ``name``."""
    fault = DroppedError(reason, printable(f"{place or name}: {why}"))
    return Row(id=printable(name), audio=b"", text="", fault=fault)
