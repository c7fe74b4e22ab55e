"""The interface of a corpus, which turns options into rows of audio and text for each split."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asr.folders import Walk

SPLIT_NAMES = {  # other names of each split
    "train": ("train", "training", "train.clean.100"),
    "validation": ("validation", "valid", "dev", "val", "validation.clean"),
    "test": ("test", "testing", "eval", "test.clean"),
}


class DroppedError(ValueError):
    """The error of an unusable row, with the reason that preflight.json counts and a message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Row:
    """One utterance as its corpus publishes it, not yet decoded."""

    id: str  # unique within the corpus
    audio: Path | bytes | np.ndarray  # a file, its bytes, or (N,) samples
    text: str  # the transcript, verbatim
    speaker_id: str = ""  # this and the next two fields are empty if unknown
    chapter_id: str = ""
    language: str = ""
    sample_rate: int | None = None  # Hz, of samples only
    start_seconds: float = 0.0  # start of the utterance in the file
    seconds: float | None = None  # duration; None means to the end of the file
    channel: int | None = None  # channel of the file, from 0; None averages the channels
    fault: DroppedError | None = None  # why the row cannot be used


@dataclass(frozen=True)
class Rows:
    """The rows of a split, read when iterated over."""

    read: Callable[[], Iterator[Row]]  # starts reading
    count: int | None = None  # the number of rows, if it is known beforehand


@dataclass(frozen=True)
class Origin:
    """The origin of a corpus, which is written to corpus.json."""

    name: str
    source: str  # path or address
    licence: str  # licence and authors, or "unknown"
    synthetic: bool = False  # whether no human spoke
    remarks: tuple[str, ...] = ()  # notes for the reader, for instance how splits were made
    # Published numbers of "utterances" and "words" by split, to notice that something is missing.
    expected: dict[str, dict[str, int]] = field(default_factory=dict)


class Corpus(ABC):
    """A public corpus; subclasses are final keyword-only dataclasses whose fields are options."""

    @abstractmethod
    def splits(self) -> dict[str, Rows]:
        """Returns the rows of each split.

        Raises:
            ValueError, OSError: there is no corpus at the path, or it is not complete.
        """

    @abstractmethod
    def origin(self) -> Origin:
        """Returns the origin of the corpus; called after ``splits``."""

    def sources(self) -> Walk:
        """Returns the local files from which the rows are read, and those that were passed over.

        There are none if the corpus is generated or downloaded.

        Raises:
            ValueError, OSError: as ``splits``.
        """
        return Walk()


def parts_of(corpus: Corpus) -> dict[str, list[str]]:
    """Returns the options train, validation, test and test_other, without empty lists."""
    splits = (*SPLIT_NAMES, "test_other")
    return {split: names for split in splits if (names := getattr(corpus, split, None))}


def remarks_on(parts: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Returns a line for each split that names its parts."""
    return tuple(f"{split}: {' + '.join(names)}" for split, names in parts.items())
