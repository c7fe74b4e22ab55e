"""Decoded audio in files of 16-bit samples, which all runs and processes share."""

import contextlib
import logging
import mmap
import os
import tempfile
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
    """The int16 samples of utterances in a file: all samples, then ``starts``, then ``ENDING``.

    They are read with ``pread``. So the pages of the file count for the system's cache and not for
    a process, and threads and forked processes may share the open file.

    Attributes:
        starts: (number + 1,) int64, the first sample of each utterance, and the end of the last.
    """

    def __init__(self, file: BinaryIO, number: int) -> None:
        """Takes over a file of a ``number`` of utterances.

        Raises:
            ValueError: the file is incomplete or damaged, or holds another number of utterances.
        """
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


def shared(
    path: Path, number: int, waves: Callable[[], Iterable[np.ndarray]], current: Iterable[str]
) -> Samples:
    """Opens the samples of a ``number`` of utterances; the first process to need them makes them.

    If the folder of ``path`` cannot be written, the samples go to a temporary file that only this
    process has, and the log says so.

    Args:
        path: file of the samples.
        number: number of utterances.
        waves: yields the samples (N,) int16 of each utterance in order.
        current: beginnings of the names to keep. Other files of samples are removed, because they
            belong to earlier contents of the corpus.
    """
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        return Samples(file, number)
    try:
        path.parent.mkdir(exist_ok=True)
        with waiting_for(path.parent / ".lock"):
            # Another process may have made the file meanwhile.
            with contextlib.suppress(FileNotFoundError, ValueError), path.open("rb") as file:
                return Samples(file, number)
            why = "is damaged and made again" if path.exists() else "is made for all later runs"
            log.info("decoding audio: %s %s", path, why)
            remove_stale(path.parent)
            for other in path.parent.glob(f"*{path.suffix}"):
                if not other.name.startswith(tuple(current)):
                    other.unlink()
            write(path, lambda file: _write(file, waves()))
            with path.open("rb") as file:
                return Samples(file, number)
    except OSError as error:
        log.warning("decoding audio to a temporary file, for this run alone: %s", error)
    with tempfile.TemporaryFile() as temporary:
        _write(temporary, waves())
        temporary.flush()
        return Samples(temporary, number)


def _write(file: BinaryIO, waves: Iterable[np.ndarray]) -> None:
    starts = [0]
    for wave in waves:
        file.write(wave.tobytes())
        starts.append(starts[-1] + len(wave))
    file.write(np.array(starts, dtype=np.int64).tobytes() + ENDING)
