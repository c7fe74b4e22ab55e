"""LibriSpeech and mini LibriSpeech in their official layout, downloaded or from a local path."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from asr.corpora import cells, download
from asr.corpora.corpus import Corpus, Origin, Row, Rows
from asr.corpora.manifest import read_text
from asr.folders import Walk, walk

SUFFIXES = frozenset({".flac", ".txt"})
MIRROR = "https://www.openslr.org/resources"
LICENCE = "CC BY 4.0 (LibriSpeech, V. Panayotov et al. 2015)"


@dataclass(frozen=True)
class Part:
    """One published archive.

    Attributes:
        resource: number on openslr.org.
        sha256: of the archive; None where none is known.
        utterances: as published.
        words: as published; None where unknown.
    """

    resource: int
    sha256: str | None
    utterances: int
    words: int | None = None


# Checksums: torchaudio.datasets.librispeech (2.11). Counts: the corpus' own, checked by us.
PARTS = {
    "dev-clean": Part(
        12, "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3", 2703, 54402
    ),
    "dev-other": Part(
        12, "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365", 2864, 50948
    ),
    "test-clean": Part(
        12, "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23", 2620, 52576
    ),
    "test-other": Part(
        12, "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29", 2939, 52343
    ),
    "train-clean-100": Part(
        12, "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2", 28539
    ),
    "train-clean-360": Part(
        12, "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf", 104014
    ),
    "train-other-500": Part(
        12, "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2", 148688
    ),
    "train-clean-5": Part(31, None, 1519),
    "dev-clean-2": Part(31, None, 1089),
}


@dataclass(frozen=True, kw_only=True)
class LibriSpeech(Corpus):
    """Read English books, 16 kHz, up to 960 h; an empty list leaves a split out.

    Args:
        path: folder LibriSpeech, or a folder that contains it; by default it is downloaded.
        train: parts of the split train.
        validation: parts of the split validation.
        test: parts of the split test.
        test_other: parts of the split test_other.
        download: folder to download to.
        mirror: address with the folders 12 and 31 of openslr.org/resources.
    """

    path: Path | None = None
    train: list[str] = field(default_factory=lambda: ["train-clean-100"])
    validation: list[str] = field(default_factory=lambda: ["dev-clean"])
    test: list[str] = field(default_factory=lambda: ["test-clean"])
    test_other: list[str] = field(default_factory=lambda: ["test-other"])
    download: Path = Path("data/downloads")
    mirror: str = MIRROR

    def splits(self) -> dict[str, Rows]:
        """The splits whose lists are not empty."""
        root = _root(self.path, self._parts(), self.download, self.mirror)
        return {split: _rows(root, parts) for split, parts in self._parts().items() if parts}

    def origin(self) -> Origin:
        """Published on openslr.org as resource 12."""
        return _origin("librispeech", self.path, self._parts(), self.download, self.mirror)

    def sources(self) -> Walk:
        """The parts, where the path is given."""
        return _sources(self.path, self._parts())

    def _parts(self) -> dict[str, list[str]]:
        return {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
            "test_other": self.test_other,
        }


@dataclass(frozen=True, kw_only=True)
class MiniLibriSpeech(Corpus):
    """Five hours of LibriSpeech for trying things out; tested on the full corpus' test-clean.

    Args:
        path: folder LibriSpeech, or a folder that contains it; by default it is downloaded.
        train: parts of the split train.
        validation: parts of the split validation; the mini corpus has no test set of its own.
        test: parts of the split test.
        download: folder to download to.
        mirror: address with the folders 12 and 31 of openslr.org/resources.
    """

    path: Path | None = None
    train: list[str] = field(default_factory=lambda: ["train-clean-5"])
    validation: list[str] = field(default_factory=lambda: ["dev-clean-2"])
    test: list[str] = field(default_factory=lambda: ["test-clean"])
    download: Path = Path("data/downloads")
    mirror: str = MIRROR

    def splits(self) -> dict[str, Rows]:
        """The splits whose lists are not empty."""
        root = _root(self.path, self._parts(), self.download, self.mirror)
        return {split: _rows(root, parts) for split, parts in self._parts().items() if parts}

    def origin(self) -> Origin:
        """Published on openslr.org as resource 31."""
        return _origin("mini_librispeech", self.path, self._parts(), self.download, self.mirror)

    def sources(self) -> Walk:
        """The parts, where the path is given."""
        return _sources(self.path, self._parts())

    def _parts(self) -> dict[str, list[str]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


def _root(path: Path | None, splits: dict[str, list[str]], folder: Path, mirror: str) -> Path:
    """The folder that has a folder per part; checks that all parts are there."""
    parts = [part for names in splits.values() for part in names]
    if not parts:
        raise ValueError("no part of LibriSpeech is asked for; give for instance --train")
    if path is None:
        for part in parts:
            _download(part, folder, mirror)
        path = folder
    elif not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; give the folder LibriSpeech")
    root = path / "LibriSpeech" if (path / "LibriSpeech").is_dir() else path
    for part in parts:
        if not (root / part).is_dir():
            there = ", ".join(p.name for p in sorted(root.iterdir()) if p.is_dir()) or "none"
            raise FileNotFoundError(f"{root} has no part {part}; parts that are there: {there}")
    return root


def _download(part: str, folder: Path, mirror: str) -> None:
    """One archive to ``folder``/LibriSpeech/``part``; the archive is kept."""
    if part not in PARTS:
        raise ValueError(f"no part {part!r} of LibriSpeech; there are {', '.join(PARTS)}")
    target = folder / "LibriSpeech" / part
    if target.is_dir():
        return
    url = f"{mirror}/{PARTS[part].resource}/{part}.tar.gz"
    archive = download.fetch(url, folder, sha256=PARTS[part].sha256)
    unpacked = download.unpack(archive, folder)
    try:
        if not (unpacked / "LibriSpeech" / part).is_dir():
            raise ValueError(f"{archive} holds no LibriSpeech/{part}; remove it and try again")
        target.parent.mkdir(exist_ok=True)
        os.replace(unpacked / "LibriSpeech" / part, target)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _origin(
    name: str, path: Path | None, splits: dict[str, list[str]], folder: Path, mirror: str
) -> Origin:
    remarks = [f"{split}: {' + '.join(parts)}" for split, parts in splits.items() if parts]
    expected = {}
    for split, parts in splits.items():
        known = [PARTS[part] for part in parts if part in PARTS]
        if parts and len(known) == len(parts):
            expected[split] = {"utterances": sum(part.utterances for part in known)}
            words = [part.words for part in known]
            if None not in words:
                expected[split]["words"] = sum(count or 0 for count in words)
        for part in parts if path is None else ():
            if PARTS[part].sha256 is None and (folder / f"{part}.tar.gz").exists():
                found = download.checksum(folder / f"{part}.tar.gz")
                remarks.append(f"{part}.tar.gz: no published checksum known; SHA-256 {found}")
    source = mirror if path is None else str(path)
    return Origin(name, source, LICENCE, remarks=tuple(remarks), expected=expected)


def _rows(root: Path, parts: list[str]) -> Rows:
    return Rows(partial(_read, [root / part for part in parts]))


def _sources(path: Path | None, splits: dict[str, list[str]]) -> Walk:
    found = Walk()
    if path is not None:
        root = _root(path, splits, path, "")
        for part in sorted({part for parts in splits.values() for part in parts}):
            found += walk(root / part, SUFFIXES)
    return found


def _read(folders: list[Path]) -> Iterator[Row]:
    """Speakers and chapters in numerical order, as the ids count them."""
    for folder in folders:
        chapters: dict[Path, list[Path]] = {}
        for path in walk(folder, SUFFIXES).files:
            chapters.setdefault(path.parent, []).append(path)
        for chapter in sorted(chapters, key=lambda p: (_number(p.parent), _number(p))):
            yield from _chapter(chapter, chapters[chapter])


def _number(path: Path) -> tuple[int, str]:
    return (int(path.name) if path.name.isdigit() else 0, path.name)


def _chapter(folder: Path, files: list[Path]) -> Iterator[Row]:
    """A transcript without audio is a row too, and the reverse: preflight counts them."""
    texts = {}
    for table in (path for path in files if path.name.lower().endswith(".trans.txt")):
        for line in filter(None, read_text(table).split("\n")):
            utterance, _, text = line.partition(" ")
            texts[utterance] = text
    audio = {path.stem: path for path in files if path.suffix.lower() == ".flac"}
    for utterance in sorted({*texts, *audio}):
        yield cells.row(
            f"{utterance} in {folder.name}",
            audio.get(utterance, folder / f"{utterance}.flac"),
            texts.get(utterance),
            id=utterance,
            speaker=folder.parent.name,
            chapter=folder.name,
            language="en",
        )
