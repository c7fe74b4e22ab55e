"""LibriSpeech and mini LibriSpeech in their official layout, downloaded or from a local path."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby
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
        root = self._root()
        return {
            split: Rows(partial(_read, [root / part for part in parts]))
            for split, parts in self._parts().items()
        }

    def origin(self) -> Origin:
        """Published on openslr.org as resource 12, or 31 (mini)."""
        remarks, expected = [], {}
        for split, parts in self._parts().items():
            remarks.append(f"{split}: {' + '.join(parts)}")
            known = [PARTS[part] for part in parts if part in PARTS]
            if len(known) == len(parts):
                expected[split] = {"utterances": sum(part.utterances for part in known)}
                if all(part.words for part in known):
                    expected[split]["words"] = sum(part.words or 0 for part in known)
            for part in parts if self.path is None else ():
                archive = self.download / f"{part}.tar.gz"
                if PARTS[part].sha256 is None and archive.exists():
                    found = download.checksum(archive)
                    remarks.append(f"{archive.name}: no published checksum known; SHA-256 {found}")
        source = str(self.path or self.mirror)
        return Origin("librispeech", source, LICENCE, remarks=tuple(remarks), expected=expected)

    def sources(self) -> Walk:
        """The files of the parts; none where they are downloaded."""
        found = Walk()
        for part in sorted({*chain(*self._parts().values())}) if self.path else ():
            found += walk(self._root() / part, SUFFIXES)
        return found

    def _parts(self) -> dict[str, list[str]]:
        splits = ("train", "validation", "test", "test_other")
        return {split: parts for split in splits if (parts := getattr(self, split))}

    def _root(self) -> Path:
        """The folder that has a folder per part; checks that all parts are there."""
        parts = list(chain(*self._parts().values()))
        if not parts:
            raise ValueError("no part of LibriSpeech is asked for; give for instance --train")
        if self.path is None:
            for part in parts:
                _download(part, self.download, self.mirror)
        elif not self.path.is_dir():
            raise FileNotFoundError(f"{self.path}: no such folder; give the folder LibriSpeech")
        root = self.path or self.download
        root = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
        for part in parts:
            if not (root / part).is_dir():
                there = ", ".join(p.name for p in sorted(root.iterdir()) if p.is_dir()) or "none"
                raise FileNotFoundError(f"{root} has no part {part}; parts that are there: {there}")
        return root


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
        return self._librispeech().splits()

    def origin(self) -> Origin:
        """As of LibriSpeech, but for the name."""
        return replace(self._librispeech().origin(), name="mini_librispeech")

    def sources(self) -> Walk:
        """The files of the parts; none where they are downloaded."""
        return self._librispeech().sources()

    def _librispeech(self) -> LibriSpeech:
        return LibriSpeech(**vars(self), test_other=[])


def _download(part: str, folder: Path, mirror: str) -> None:
    """One archive to ``folder``/LibriSpeech/``part``; the archive is kept."""
    if part not in PARTS:
        raise ValueError(f"no part {part!r} of LibriSpeech; there are {', '.join(PARTS)}")
    target = folder / "LibriSpeech" / part
    if not target.is_dir():
        url = f"{mirror}/{PARTS[part].resource}/{part}.tar.gz"
        archive = download.fetch(url, folder, sha256=PARTS[part].sha256)
        download.unpack(archive, f"LibriSpeech/{part}", target)


def _read(folders: list[Path]) -> Iterator[Row]:
    """Speakers and chapters in numerical order, as the ids count them."""
    for folder in folders:
        files = walk(folder, SUFFIXES).files
        files.sort(key=lambda path: [(len(name), name) for name in path.parts[-3:-1]])
        for chapter, inside in groupby(files, lambda path: path.parent):
            yield from _chapter(chapter, list(inside))


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
