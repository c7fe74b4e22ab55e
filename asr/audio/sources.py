"""Finds the audio files to transcribe, and names their transcripts."""

import glob
import hashlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from asr.audio.audio_file import SUFFIXES
from asr.folders import counted, is_hidden, walk
from asr.items import printable, reason

log = logging.getLogger(__name__)

STDIN = "-"
NAME_BYTES = 250  # longest name without its ending; a file name can have 255 bytes


@dataclass(frozen=True)
class AudioInput:
    """A recording to transcribe.

    Attributes:
        name: name of the recording in messages, on one line.
        output: unique name of its transcript files, without ending.
        audio: a path, or the bytes of a file.
        error: the reason why there is nothing to transcribe, on one line; None if there is none.
    """

    name: str
    output: str
    audio: Path | bytes
    error: str | None = None

    @property
    def shortened(self) -> bool:
        """Returns whether the name of the recording is too long for its transcript files."""
        return isinstance(self.audio, Path) and self.audio.stem not in self.output


def find(inputs: Iterable[str], recursive: bool = False) -> list[AudioInput]:
    """Finds each recording once in files, folders, globs and ``-``; sorts the files of a folder.

    An input that matches no file becomes an ``AudioInput`` with an error, so that the others are
    still transcribed.

    Raises:
        ValueError: no input matches a file.
    """
    found: dict[Path | str, AudioInput] = {}
    for entry in inputs:
        if entry == STDIN:
            if STDIN not in found:
                found[STDIN] = AudioInput("stdin", "stdin", sys.stdin.buffer.read())
            continue
        try:
            for path in _paths(entry, recursive):
                found.setdefault(path.resolve(), AudioInput(printable(str(path)), str(path), path))
        except Exception as error:
            found[entry] = AudioInput(printable(entry), entry, Path(entry), reason(error))
    errors = [source.error for source in found.values() if source.error is not None]
    if not found:
        raise ValueError("nothing to transcribe: give audio files, folders, globs, or - for stdin")
    if len(errors) == len(found):
        others = f" (and {len(errors) - 1} more inputs without a file)" * (len(errors) > 1)
        raise ValueError(errors[0] + others)
    outputs = output_names([source.output for source in found.values()])
    return [replace(s, output=own) for s, own in zip(found.values(), outputs, strict=True)]


def output_names(names: Sequence[str]) -> list[str]:
    """Makes a unique file name without ending for each input: ``a.wav`` gives ``a``.

    If two names would be equal (ignoring case), as many folders as needed are put before the name
    (``x/a.wav`` gives ``x-a``). If that is not enough, the ending is kept, and then a number is
    added. A name that is too long for the file system is cut and ends with the beginning of its
    SHA-256 checksum.
    """
    left = [_candidates(name) for name in names]
    while True:
        chosen = [own[0] for own in left]
        shared = Counter(name.lower() for name in chosen)
        clashing = [i for i, name in enumerate(chosen) if shared[name.lower()] > 1]
        if not clashing:
            return chosen
        for i in clashing:
            left[i] = left[i][1:] or [_fitted(f"{chosen[i]}-{i + 1}")]


def _paths(entry: str, recursive: bool) -> list[Path]:
    """Returns the files that an input stands for, at least one."""
    path = Path(entry)
    if path.is_dir():
        walked = walk(path, SUFFIXES, recursive)
        if walked.passed_over:
            log.warning("%s: passed over %s", entry, counted(walked.passed_over))
        deeper = [p for p in path.iterdir() if p.is_dir() and not is_hidden(p.name)]
        if deeper and not recursive:
            folders = counted({"folders": deeper})
            log.warning("%s: passed over %s; --recursive looks into them", entry, folders)
        if not walked.files:
            inside = "" if recursive else "; --recursive looks into its folders"
            raise ValueError(f"{entry} holds no audio file ({' '.join(sorted(SUFFIXES))}){inside}")
        return sorted(walked.files)
    if path.exists():
        return [path]
    found = sorted(p for name in glob.glob(entry, recursive=True) if (p := Path(name)).is_file())
    if not found:
        kind = "no file matches this pattern" if glob.has_magic(entry) else "no such file"
        raise ValueError(f"{entry}: {kind}; check the path")
    return found


def _candidates(name: str) -> list[str]:
    path = Path(name)
    folders = [part for part in path.parts[:-1] if part not in ("..", path.anchor)]
    names = ["-".join([*folders[i:], path.stem]) for i in range(len(folders), -1, -1)]
    return [_fitted(name) for name in [*names, "-".join([*folders, path.name])]]


def _fitted(name: str) -> str:
    """Returns the name or, if it is too long, its beginning and a checksum of the whole name."""
    whole = os.fsencode(name)
    if len(whole) <= NAME_BYTES:
        return name
    checksum = hashlib.sha256(whole).hexdigest()[:12]
    begin = whole[: NAME_BYTES - 13].decode(sys.getfilesystemencoding(), "ignore")
    return f"{begin}-{checksum}"
