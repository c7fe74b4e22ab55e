"""LibriSpeech and mini LibriSpeech in their official layout, downloaded or from a local path."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

from asr.corpora import cells, download
from asr.corpora.corpus import Corpus, Origin, Row, Rows, parts_of, remarks_on
from asr.corpora.manifest import read_text
from asr.folders import Walk, walk

FILES = frozenset({".flac", ".txt"})
MIRROR = "https://www.openslr.org/resources"
LICENCE = "CC BY 4.0 (LibriSpeech, V. Panayotov et al. 2015)"


class Archive(NamedTuple):
    """One published archive."""

    resource: int  # number on openslr.org
    sha256: str  # checksum of the archive; empty if unknown
    utterances: int  # published number
    words: int = 0  # published number; 0 if unknown


# Resource, utterances, words, SHA-256. The checksums are those of torchaudio.datasets.librispeech
# (2.11). The counts are those published with the corpus; we have checked them.
_ARCHIVES = """
dev-clean       12   2703 54402 76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3
dev-other       12   2864 50948 12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365
test-clean      12   2620 52576 39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23
test-other      12   2939 52343 d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29
train-clean-100 12  28539     0 d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2
train-clean-360 12 104014     0 146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf
train-other-500 12 148688     0 ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2
train-clean-5   31   1519     0
dev-clean-2     31   1089     0
"""
ARCHIVES = {
    name: Archive(int(resource), "".join(sha256), int(utterances), int(words))
    for name, resource, utterances, words, *sha256 in map(str.split, _ARCHIVES.split("\n")[1:-1])
}


@dataclass(frozen=True, kw_only=True)
class LibriSpeech(Corpus):
    """Read English books, 16 kHz, up to 960 h; an empty list leaves a split out.

    Args:
        path: folder LibriSpeech, or a folder that contains it; by default it is downloaded.
        train: parts of LibriSpeech that make up the split train.
        validation: parts of LibriSpeech that make up the split validation.
        test: parts of LibriSpeech that make up the split test.
        test_other: parts of LibriSpeech that make up the split test_other.
        download: folder to download to.
        mirror: address of a copy of openslr.org/resources, with the folders 12 and 31.
    """

    path: Path | None = None
    train: list[str] = field(default_factory=lambda: ["train-clean-100"])
    validation: list[str] = field(default_factory=lambda: ["dev-clean"])
    test: list[str] = field(default_factory=lambda: ["test-clean"])
    test_other: list[str] = field(default_factory=lambda: ["test-other"])
    download: Path = Path("data/downloads")
    mirror: str = MIRROR

    def splits(self) -> dict[str, Rows]:
        """Returns the splits whose lists are not empty."""
        root = self._root()
        return {
            split: Rows(partial(_read, [root / part for part in parts]))
            for split, parts in parts_of(self).items()
        }

    def origin(self) -> Origin:
        """Names openslr.org, where the corpus is resource 12 or 31 (mini)."""
        remarks, expected = list(remarks_on(parts_of(self))), {}
        for split, parts in parts_of(self).items():
            known = [ARCHIVES[part] for part in parts if part in ARCHIVES]
            if len(known) == len(parts):
                expected[split] = {"utterances": sum(part.utterances for part in known)}
                if all(part.words for part in known):
                    expected[split]["words"] = sum(part.words for part in known)
            for part in parts if self.path is None else ():
                archive = self.download / f"{part}.tar.gz"
                if not ARCHIVES[part].sha256 and archive.exists():
                    found = download.checksum(archive)
                    remarks.append(f"{archive.name}: no published checksum known; SHA-256 {found}")
        source = str(self.path or self.mirror)
        return Origin("librispeech", source, LICENCE, remarks=tuple(remarks), expected=expected)

    def sources(self) -> Walk:
        """Returns the files of the parts; none if they are downloaded."""
        found = Walk()
        for part in sorted({*chain(*parts_of(self).values())}) if self.path else ():
            found += walk(self._root() / part, FILES)
        return found

    def _root(self) -> Path:
        """Returns the folder that contains the parts; checks that all parts are there."""
        parts = list(chain(*parts_of(self).values()))
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
        train: parts of LibriSpeech that make up the split train.
        validation: parts of LibriSpeech that make up the split validation.
        test: parts of LibriSpeech that make up the split test.
        download: folder to download to.
        mirror: address of a copy of openslr.org/resources, with the folders 12 and 31.
    """

    path: Path | None = None
    train: list[str] = field(default_factory=lambda: ["train-clean-5"])
    validation: list[str] = field(default_factory=lambda: ["dev-clean-2"])
    test: list[str] = field(default_factory=lambda: ["test-clean"])
    download: Path = Path("data/downloads")
    mirror: str = MIRROR

    def splits(self) -> dict[str, Rows]:
        """Returns the splits whose lists are not empty."""
        return self._librispeech().splits()

    def origin(self) -> Origin:
        """Returns the origin of LibriSpeech under the name of this corpus."""
        return replace(self._librispeech().origin(), name="mini_librispeech")

    def sources(self) -> Walk:
        """Returns the files of the parts; none if they are downloaded."""
        return self._librispeech().sources()

    def _librispeech(self) -> LibriSpeech:
        return LibriSpeech(**vars(self), test_other=[])


def _download(part: str, folder: Path, mirror: str) -> None:
    """Unpacks one archive to ``folder``/LibriSpeech/``part``, and keeps the archive."""
    if part not in ARCHIVES:
        raise ValueError(f"no part {part!r} of LibriSpeech; there are {', '.join(ARCHIVES)}")
    target = folder / "LibriSpeech" / part
    if not target.is_dir():
        url = f"{mirror}/{ARCHIVES[part].resource}/{part}.tar.gz"
        archive = download.fetch(url, folder, sha256=ARCHIVES[part].sha256)
        download.unpack(archive, f"LibriSpeech/{part}", target)


def _read(folders: list[Path]) -> Iterator[Row]:
    """Reads speakers and chapters in the numerical order of their ids."""
    for folder in folders:
        files = walk(folder, FILES).files
        files.sort(key=lambda path: [(len(name), name) for name in path.parts[-3:-1]])
        for chapter, inside in groupby(files, lambda path: path.parent):
            yield from _chapter(chapter, list(inside))


def _chapter(folder: Path, files: list[Path]) -> Iterator[Row]:
    """Reads a chapter. Transcripts without audio and audio without a transcript are rows, too."""
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
