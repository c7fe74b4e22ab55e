"""What every corpus is: options in, rows of audio and text per split out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asr.folders import Walk


@dataclass(frozen=True)
class Row:
    """One utterance as its corpus publishes it, not yet decoded.

    Attributes:
        id: unique within the corpus.
        audio: a file's path or its bytes, or (N,) float samples, which need ``sample_rate``.
        text: the transcript, verbatim.
        speaker_id: empty where unknown.
        chapter_id: empty where there is none.
        language: empty where unknown.
        sample_rate: Hz, of samples only.
        start_seconds: where in the file the utterance begins.
        seconds: how long it is; None means to the end of the file.
        fault: why the row cannot be used, a reason and one line; None where it may be tried.
    """

    id: str
    audio: Path | bytes | np.ndarray
    text: str
    speaker_id: str = ""
    chapter_id: str = ""
    language: str = ""
    sample_rate: int | None = None
    start_seconds: float = 0.0
    seconds: float | None = None
    fault: tuple[str, str] | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of a split, read when iterated over.

    Attributes:
        read: starts reading.
        count: how many there will be, where that is known beforehand.
    """

    read: Callable[[], Iterator[Row]]
    count: int | None = None


@dataclass(frozen=True)
class Origin:
    """Where a corpus comes from; written to corpus.json.

    Attributes:
        name: of the corpus.
        source: path or address.
        licence: with its authors, or "unknown".
        synthetic: whether no human spoke.
        remarks: what a reader must know (how splits were made, checksums that are unknown).
        expected: published counts per split (utterances, words), to see that nothing is missing.
    """

    name: str
    source: str
    licence: str
    synthetic: bool = False
    remarks: tuple[str, ...] = ()
    expected: dict[str, dict[str, int]] = field(default_factory=dict)


class Corpus(ABC):
    """A public corpus. Subclasses are final keyword-only dataclasses: fields are its options."""

    @abstractmethod
    def splits(self) -> dict[str, Rows]:
        """The rows of each split.

        Raises:
            ValueError, OSError: the corpus is not where the options say, or not complete.
        """

    @abstractmethod
    def origin(self) -> Origin:
        """Where it comes from; asked for after ``splits``."""

    @abstractmethod
    def sources(self) -> Walk:
        """The files on this machine that the rows are read from, and what was passed over there.

        Nothing where the corpus is made or downloaded.

        Raises:
            ValueError, OSError: as ``splits``.
        """
