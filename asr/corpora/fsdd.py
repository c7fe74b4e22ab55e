"""Free Spoken Digit Dataset: single digits, or strings concatenated from one speaker's takes."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from asr.audio import audio_file
from asr.corpora import download
from asr.corpora.corpus import Corpus, Origin, Row, Rows
from asr.folders import Walk, walk

T = TypeVar("T")

URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip"
LICENCE = "CC BY-SA 4.0 (Free Spoken Digit Dataset, Z. Jackson et al.)"
NAME = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")  # {digit}_{speaker}_{take}.wav
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
USES = {"train": 5, "validation": 4, "test": 4}  # number of strings that use a take


class Take(NamedTuple):
    """One recording of one digit."""

    digit: int
    speaker: str
    number: int
    path: Path


def split_of(number: int) -> str:
    """Returns the split of a take: 0-4 are the official test set, and we validate on 5-9."""
    if number < 5:
        return "test"
    return "validation" if number < 10 else "train"


@dataclass(frozen=True, kw_only=True)
class FSDD(Corpus):
    """Real digits by 6 speakers at 8 kHz, 3,000 takes (Z. Jackson et al., CC BY-SA 4.0).

    Every take of a split is used equally often, give or take one, and strings stay within a split.

    Args:
        path: folder "recordings", or a folder that contains it; by default it is downloaded.
        digits: number of digits in a string, as "1" or as a range "1..7".
        train: number of strings in the split train; by default each recording is used 5 times.
        validation: number of strings in the split validation; by default each recording is used 4
            times.
        test: number of strings in the split test; by default each recording is used 4 times.
        pause_seconds: longest silence between two digits, in seconds; each silence is drawn
            uniformly from 0 to it.
        seed: random seed of the strings and pauses.
        held_out: speaker of the test split, which uses each take about once; the other splits have
            the other speakers. By default all splits have all speakers.
        download: folder to download to.
        url: archive to download.
    """

    path: Path | None = None
    digits: str = "1..7"
    train: int | None = None
    validation: int | None = None
    test: int | None = None
    pause_seconds: float = 0.0
    seed: int = 0
    held_out: str | None = None
    download: Path = Path("data/downloads")
    url: str = URL

    def __post_init__(self) -> None:
        parse_range(self.digits)
        for split in USES:
            if (strings := getattr(self, split)) is not None and strings < 1:
                raise ValueError(f"{split} {strings}: give at least 1 string")
        if self.pause_seconds < 0:
            raise ValueError(f"pause_seconds {self.pause_seconds}: it cannot be negative")

    def splits(self) -> dict[str, Rows]:
        """Splits by the number of the take, and holds out a speaker if one is named."""
        takes = _takes(self._recordings())
        if self.held_out not in (known := {None, *(take.speaker for take in takes)}):
            names = ", ".join(sorted(name for name in known if name))
            raise ValueError(f"held_out {self.held_out}: no such speaker; the speakers are {names}")
        rows = {}
        for split in USES:
            strings = self._strings(takes, split)
            rows[split] = Rows(partial(self._read, split, strings), len(strings))
        return rows

    def origin(self) -> Origin:
        """Describes the data set, which is published on GitHub."""
        split = "Official test set: takes 0-4. Validation: takes 5-9. Speakers are in all splits."
        if self.held_out is not None:
            split = f"Test: all takes of {self.held_out}. Validation: takes 0-9 of the others."
        remarks = (
            split,
            "GitHub publishes no checksum of the archive; the zip's own CRCs are checked.",
        )
        return Origin("fsdd", str(self.path or self.url), LICENCE, remarks=remarks)

    def sources(self) -> Walk:
        """Returns the recordings if the path is given."""
        return walk(self._recordings(), {".wav"}, False) if self.path is not None else Walk()

    def _recordings(self) -> Path:
        if self.path is not None:
            inner = self.path / "recordings"
            return inner if inner.is_dir() else self.path
        folder = self.download / "fsdd"
        recordings = folder / "recordings"
        if not recordings.is_dir():
            download.unpack(download.fetch(self.url, folder), "recordings", recordings)
        return recordings

    def _split_of(self, take: Take) -> str:
        if self.held_out is None:
            return split_of(take.number)
        if take.speaker == self.held_out:
            return "test"
        return "validation" if take.number < 10 else "train"

    def _strings(self, takes: list[Take], split: str) -> list[list[Take]]:
        """Makes strings of takes, one speaker after another, from shuffled takes and lengths."""
        low, high = parse_range(self.digits)
        count: int | None = getattr(self, split)
        chosen = [take for take in takes if self._split_of(take) == split]
        if not chosen:
            raise ValueError(f"split {split}: the recordings have no such takes; use the full set")
        speakers = sorted({take.speaker for take in chosen})
        if count is None:
            once = high == 1 or (split == "test" and self.held_out is not None)
            uses = 1 if once else USES[split]
            rounds = uses * len(chosen) / ((low + high) / 2) / len(speakers)
            count = max(1, round(rounds)) * len(speakers)
        decks = {}
        for speaker in speakers:
            own = [take for take in chosen if take.speaker == speaker]
            decks[speaker] = _deck(own, random.Random(f"{self.seed}/{split}/{speaker}"))
        # In a round all speakers get strings of the same length, so takes are used equally often.
        lengths = _deck(list(range(low, high + 1)), random.Random(f"{self.seed}/{split}/lengths"))
        strings: list[list[Take]] = []
        for length in lengths:
            for speaker in speakers[: count - len(strings)]:
                strings.append(list(islice(decks[speaker], length)))
            if len(strings) == count:
                break
        return strings

    def _read(self, split: str, strings: list[list[Take]]) -> Iterator[Row]:
        generator = random.Random(f"{self.seed}/{split}/pauses")
        decode = cache(audio_file.decode_native)  # all takes of a split fill 20 MB
        for index, string in enumerate(strings):
            parts: list[np.ndarray] = []
            rate = 0
            for take in string:
                try:
                    wave, rate = decode(take.path)[:2]
                except ValueError:
                    # The broken take replaces its string, and preflight counts it with the reason.
                    sound: Path | np.ndarray = take.path
                    break
                if parts:
                    pause = self.pause_seconds * generator.random()
                    parts.append(np.zeros(round(pause * rate), np.float32))
                parts.append(wave)
            else:
                sound = np.concatenate(parts)
            yield Row(
                id=f"fsdd-{split}-{index:05d}",
                audio=sound,
                text=" ".join(WORDS[take.digit] for take in string),
                speaker_id=string[0].speaker,
                language="en",
                sample_rate=rate,
            )


def parse_range(digits: str) -> tuple[int, int]:
    """Parses lengths: "1..7" is (1, 7), "3" is (3, 3); raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", digits.strip())
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise ValueError(f'digits {digits!r}: write a length as "3" or a range as "1..7"')
    return low, high


def _takes(folder: Path) -> list[Take]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give the folder recordings of FSDD")
    matches = [(path, NAME.fullmatch(path.name)) for path in walk(folder, {".wav"}, False).files]
    takes = [Take(int(m[1]), m[2], int(m[3]), path) for path, m in matches if m]
    if not takes:
        raise ValueError(f"{folder} has no files named as 7_jackson_32.wav; give FSDD's recordings")
    if strange := [path.name for path, m in matches if not m]:
        raise ValueError(f"{folder / strange[0]} is not named as 7_jackson_32.wav; remove it")
    return takes


def _deck(values: list[T], generator: random.Random) -> Iterator[T]:
    """Yields all values in random order, again and again."""
    while True:  # sorting by random() keeps its order in every version of Python, unlike shuffle
        yield from sorted(values, key=lambda _: generator.random())
