"""Decoded audio in files of 16-bit samples, which runs, processes and data workers share."""

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from asr.files import remove_stale, write
from asr.locks import waiting_for

log = logging.getLogger(__name__)

FULL_SCALE = 32768  # full scale of 16-bit samples; division by a power of two is exact
ENDING = b"asr samples v1\n\0"  # the last bytes of a complete file


class Samples:
    """The int16 samples of utterances; a file of them, or the same bytes in memory.

    A file holds the samples of all utterances in order, then ``starts``, then ``ENDING``. It is
    read with ``pread``, so that its pages count for the system's cache and not for each process,
    and so that processes may share the open file.

    Attributes:
        starts: (number + 1,) int64, the first sample of each utterance, and the end of the last.
    """

    _file = -1  # descriptor

    def __init__(self, source: Path | bytes, number: int) -> None:
        """Opens the samples of a ``number`` of utterances.

        Raises:
            ValueError: the file is incomplete, damaged or holds another number of utterances.
            OSError: the file cannot be read.
        """
        self._source, self._number = source, number
        if isinstance(source, Path):
            self._file = os.open(source, os.O_RDONLY)
            size = os.fstat(self._file).st_size
        else:
            size = len(source)
        tail = 8 * (number + 1) + len(ENDING)
        end = bytes(self._bytes(max(0, size - tail), tail))
        self.starts = np.frombuffer(end[: -len(ENDING)].ljust(tail, b"\0"), np.int64, number + 1)
        steps = np.diff(self.starts, prepend=0)
        complete = end.endswith(ENDING) and size == 2 * self.starts[-1] + tail
        if not complete or self.starts[0] or (steps < 0).any():
            raise ValueError(f"{source!r:.200} is damaged")

    def __reduce__(self) -> tuple[type, tuple[Path | bytes, int]]:
        """Lets a data worker open the file again."""
        return Samples, (self._source, self._number)

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns the samples (N,) int16 of an utterance."""
        first, end = self.starts[index], self.starts[index + 1]
        found = np.frombuffer(self._bytes(2 * first, 2 * (end - first)), np.int16)
        if len(found) < end - first:
            raise ValueError(f"{self._source!r:.200} was cut off while it was in use; start again")
        return found

    def _bytes(self, first: int, size: int) -> bytes | memoryview:
        """Reads bytes; fewer at the end of the file."""
        if isinstance(self._source, Path):
            return os.pread(self._file, size, first)
        return memoryview(self._source)[first : first + size]

    def tensor(self) -> Tensor:
        """Returns all samples (total,) int16; those of a file are mapped, not read."""
        total = int(self.starts[-1])
        if isinstance(self._source, Path):
            return torch.from_file(str(self._source), False, total, dtype=torch.int16)
        return torch.frombuffer(bytearray(self._source), dtype=torch.int16, count=total)


def shared(
    path: Path, number: int, waves: Callable[[], Iterable[np.ndarray]], current: Iterable[str]
) -> Samples:
    """Opens the file of a ``number`` of utterances; the first process to need it makes it.

    If the folder cannot be written, the samples are kept in memory, and the log says so.

    Args:
        path: file to open or make.
        number: number of utterances.
        waves: decodes the samples (N,) int16 of each utterance in order.
        current: beginnings of the names to keep. Other files of samples are removed, because they
            belong to earlier contents of the corpus.
    """
    with contextlib.suppress(OSError, ValueError):
        return Samples(path, number)
    try:
        path.parent.mkdir(exist_ok=True)
        with waiting_for(path.parent / ".lock"):
            try:  # another process may have made the file meanwhile
                return Samples(path, number)
            except FileNotFoundError:
                log.info("audio is decoded once, into %s", path)
            except ValueError as error:
                log.warning("%s; audio is decoded again", error)
            remove_stale(path.parent)
            for other in path.parent.glob(f"*{path.suffix}"):
                if not other.name.startswith(tuple(current)):
                    other.unlink()
            write(path, lambda file: _write(file, waves()))
            return Samples(path, number)
    except OSError as error:
        log.warning("decoded audio stays in memory, and every run decodes it again: %s", error)
    memory = io.BytesIO()
    _write(memory, waves())
    return Samples(memory.getvalue(), number)


def _write(file: BinaryIO, waves: Iterable[np.ndarray]) -> None:
    starts = [0]
    for wave in waves:
        file.write(wave.tobytes())
        starts.append(starts[-1] + len(wave))
    file.write(np.array(starts, dtype=np.int64).tobytes())
    file.write(ENDING)
