"""Decoded audio in files of 16-bit samples, which all runs and processes share."""

import contextlib
import hashlib
import logging
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from asr.files import OutputError, remove_stale, write
from asr.locks import waiting_for

log = logging.getLogger(__name__)

FULL_SCALE = 32768  # full scale of 16-bit samples; division by a power of two is exact
ENDING = b"asr samples v1\n\0"  # the last bytes of a complete file


class Samples:
    """The int16 samples of utterances in a file: all samples, then ``starts``, then ``ENDING``.

    They are read with ``pread``. So the pages of the file count for the system's cache and not for
    a process, and threads and forked processes may share the open file.

    Attributes:
        starts: (number + 1,) int64, the first sample of each utterance, and the end of the last.
        seconds: time that this process spent on making the file; 0 if the file was there.
    """

    def __init__(self, file: BinaryIO, number: int, seconds: float = 0.0) -> None:
        """Opens the decoded samples of ``number`` utterances; this object closes the file.

        Raises:
            ValueError: the file is incomplete or damaged, or holds another number of utterances.
        """
        self.seconds = seconds
        self._file = os.dup(file.fileno())
        size, tail = os.fstat(self._file).st_size, 8 * (number + 1) + len(ENDING)
        end = os.pread(self._file, tail, max(0, size - tail)).ljust(tail)
        self.starts = np.frombuffer(end, np.int64, number + 1)
        whole = end.endswith(ENDING) and size == 2 * self.starts[-1] + tail
        if not whole or (np.diff(self.starts, prepend=0) < 0).any():
            raise ValueError("the file is damaged")

    def __del__(self) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """Reads the samples (N,) int16 of an utterance."""
        first, end = self.starts[index], self.starts[index + 1]
        found = np.frombuffer(os.pread(self._file, 2 * (end - first), 2 * first), np.int16)
        if len(found) < end - first:
            raise ValueError("a file of decoded audio was cut off while in use; start again")
        return found

    def mapped(self) -> Tensor:
        """Returns all samples (total,) int16, which are read when they are used."""
        pages = mmap.mmap(self._file, 0, access=mmap.ACCESS_COPY)
        return torch.frombuffer(pages, dtype=torch.int16, count=int(self.starts[-1]))


def cache_folders(corpus: Path) -> list[Path]:
    """Returns the folders for decoded audio: in the corpus, else of the user, else temporary."""
    place = corpus.resolve()
    name = f"{place.name}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:12]}"
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    temporary = Path(tempfile.gettempdir()) / f"asr-{os.getuid()}"
    folders = [corpus / "cache"]
    if caches.is_absolute():
        folders.append(caches / "asr" / name)
    if not temporary.exists() or temporary.lstat().st_uid == os.getuid():
        folders.append(temporary / name)
    return folders


def shared(
    paths: Sequence[Path],
    number: int,
    waves: Callable[[], Iterable[np.ndarray]],
    current: Iterable[str],
) -> Samples:
    """Opens the samples of a ``number`` of utterances; the first process to need them makes them.

    The log names the file if it is made, or if it is not at the first place.

    Args:
        paths: places for the file. It is made at the first one that can be written.
        number: number of utterances.
        waves: yields the samples (N,) int16 of each utterance in order.
        current: beginnings of the names to keep. Other files of samples are removed, because they
            belong to earlier contents of the corpus.

    Raises:
        OutputError: no place can be written.
    """
    if (found := _opened(paths, number)) is not None:
        return found
    refused: OSError | None = None
    # An earlier place stays locked, so that a process which waits for it finds the file elsewhere.
    with contextlib.ExitStack() as locks:
        for path in paths:
            try:
                work = f"it decodes audio into {path.parent}"
                locks.enter_context(waiting_for(path.parent / ".lock", work))
                if (found := _opened(paths, number)) is not None:
                    return found
                why = "is damaged and made again" if path.exists() else "is made for all later runs"
                why += f", because {refused}" if refused else ""
                level = logging.WARNING if refused else logging.INFO
                log.log(level, "decoding audio: %s %s", path, why)
                began = time.monotonic()
                _make(path, waves, current)
                with path.open("rb") as file:
                    return Samples(file, number, time.monotonic() - began)
            except OSError as error:
                refused = error
    raise OutputError(f"decoding audio: {refused}; XDG_CACHE_HOME names another place")


def _opened(paths: Sequence[Path], number: int) -> Samples | None:
    """Opens the first complete file; None if there is none."""
    for path in paths:
        with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
            samples = Samples(file, number)
            if path != paths[0]:
                log.info("decoded audio is read from %s", path)
            return samples
    return None


def _make(path: Path, waves: Callable[[], Iterable[np.ndarray]], current: Iterable[str]) -> None:
    """Writes a file of samples, and removes those of earlier contents from its folder."""
    remove_stale(path.parent)
    for other in path.parent.glob(f"*{path.suffix}"):
        if not other.name.startswith(tuple(current)):
            other.unlink()
    write(path, lambda file: _write(file, waves()))


def _write(file: BinaryIO, waves: Iterable[np.ndarray]) -> None:
    starts = [0]
    for wave in waves:
        file.write(wave.tobytes())
        starts.append(starts[-1] + len(wave))
    file.write(np.array(starts, dtype=np.int64).tobytes() + ENDING)
