"""Data folders of Kaldi and ESPnet: wav.scp, text, and tables that are optional."""

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from asr.audio import audio_file
from asr.corpora import cells
from asr.corpora.corpus import Row
from asr.corpora.manifest import read_text
from asr.folders import Walk, stored

REQUIRED = ("wav.scp", "text")
OPTIONAL = ("segments", "utt2spk", "utt2lang", "reco2file_and_channel")


def find(source: Path) -> Walk:
    """Returns the tables of a data folder; none if it has neither wav.scp nor feats.scp."""
    there = any((source / name).is_file() for name in ("wav.scp", "feats.scp"))
    return Walk([source / name for name in (*REQUIRED, *OPTIONAL)] if there else [])


def read(folder: Path, tables: Sequence[Path]) -> Iterator[Row]:
    """Reads the tables of a data folder; runs none of their commands."""
    if not (folder / "wav.scp").is_file() and (folder / "feats.scp").is_file():
        raise ValueError(f"{folder} has features only (feats.scp); asr needs audio, in wav.scp")
    recordings, texts = (dict(_table(folder / name)) for name in REQUIRED)
    segments, speakers, languages, sides = (
        dict(_table(path)) if (path := folder / name).exists() else None for name in OPTIONAL
    )
    cut = segments if segments is not None else {name: name for name in recordings}
    side = functools.cache(channel_of_side)
    for utterance in sorted({*cut, *texts}):
        line = cut.get(utterance, utterance)
        recording, *times = line.split() or [""]
        # A row without an entry gets a path that does not exist, so that preflight counts it.
        where = recordings.get(recording, f"(wav.scp has no {recording})")
        if why := _not_a_file(recording, where):
            yield cells.unusable(utterance, f"wav.scp: {recording} {why}")
            continue
        try:
            begin, end, channel = map(float, [*times, *("0", "-1", "-1")[len(times) :]])
        except ValueError:
            yield cells.unusable(utterance, f"segments: cannot read {f'{utterance} {line}'!r}")
            continue
        audio = located(where, folder)
        named = (sides or {}).get(recording, "").split()[-1:]
        yield cells.row(
            f"{utterance} in {folder.name}/text",
            audio,
            texts.get(utterance),
            id=utterance,
            speaker=(speakers or {}).get(utterance),
            language=(languages or {}).get(utterance),
            offset=begin,
            duration=None if end == -1 else end - begin,  # -1 means the end of the recording
            channel=channel if channel >= 0 else side(named[0], audio) if named else None,
        )


def located(name: str, folder: Path) -> Path:
    """Returns the file that a table in the folder names.

    Kaldi, ESPnet and lhotse write names relative to the folder in which their recipe ran: that is
    the current folder, or one above the table.
    """
    places = (stored(place / name) for place in (folder, Path(), *folder.parents))
    return next((path for path in places if os.path.exists(path)), Path(name))


def channel_of_side(side: str, audio: Path) -> int | None:
    """Returns the channel, counted from 0, of a side of a call: A, B, 1 or 2.

    It is None for a file with one channel, because a tool such as sph2pipe writes each side to a
    file of its own.
    """
    number = int(side) - 1 if side.isdecimal() else ord(side[0].upper()) - ord("A")
    with contextlib.suppress(OSError, ValueError), audio_file.open_sound(audio) as sound:
        return max(number, 0) if sound.channels > 1 else None
    return max(number, 0)  # reading the row reports the error


def _not_a_file(recording: str, where: str) -> str:
    """Says why an entry of wav.scp is not a file; the text is empty if it is one."""
    if where.endswith("|"):
        file = re.sub(r"[^\w.-]", "_", recording) + ".wav"
        command = f"{where[:-1].strip()} > {file}"
        return f"is a command and is not run; run it and name {file} in wav.scp: {command}"
    is_archive = re.search(r"\.ark:\d+$", where)
    remedy = "write wav or flac files (ESPnet: --audio_format flac; Kaldi: wav-copy)"
    return f"is in an archive ({where}), which is not read; {remedy}" if is_archive else ""


def _table(path: Path) -> Iterator[tuple[str, str]]:
    """Reads lines; yields the key of each line and the rest."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: a Kaldi data folder needs wav.scp and text")
    for line in read_text(path).split("\n"):
        if line.strip():
            key, *rest = line.strip().split(maxsplit=1)  # splits at blanks or tabs
            yield key, "".join(rest)
