"""A folder of one's own recordings: a manifest, a Kaldi data folder, or audio beside .txt files."""

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from asr.audio.audio_file import SUFFIXES
from asr.corpora import cells
from asr.corpora.corpus import SPLIT_NAMES, Corpus, Origin, Row, Rows
from asr.corpora.manifest import MANIFESTS, read_manifest, read_text
from asr.folders import Walk, examples, is_hidden, stored, walk

KALDI_TABLES = ("wav.scp", "text", "segments", "utt2spk")
Layout = Literal["auto", "manifest", "kaldi", "text"]


@dataclass(frozen=True, kw_only=True)
class Folder(Corpus):
    """Your own recordings; folders or manifests named train, validation (dev) and test are splits.

    Without such names, shares of the utterances are held out: whole speakers if at least three are
    known, single utterances otherwise. The choice depends on names alone; corpus.json describes it.

    Args:
        path: folder, or one manifest (.jsonl, .csv, .tsv). A manifest has the columns
            audio_filepath and text; speaker, offset, duration (both in seconds) and id are
            optional.
        layout: layout of the folder: "manifest", "kaldi" (wav.scp and text), "text" (a .txt beside
            each audio file), or "auto".
        validation_share: share of the utterances held out for validation if the folder has no
            splits, 0 to 1.
        test_share: share of the utterances held out for the test if the folder has no splits, 0 to
            1.
        hold_out: what is held out: whole speakers ("speaker") or single utterances ("utterance").
            "auto" holds out speakers if at least three are known.
        licence: licence of the data, which is written to corpus.json.
    """

    path: Path
    layout: Layout = "auto"
    validation_share: float = 0.1
    test_share: float = 0.1
    hold_out: Literal["auto", "speaker", "utterance"] = "auto"
    licence: str = "unknown"

    def __post_init__(self) -> None:
        for name in ("validation_share", "test_share"):
            if not 0 <= (share := getattr(self, name)) < 0.5:
                raise ValueError(f"{name} {share}: it must be at least 0 and less than 0.5")

    def splits(self) -> dict[str, Rows]:
        """Returns the named splits, or holds out splits."""
        named = self._named()
        if named is None:
            return {split: _listed(rows) for split, rows in self._held_out()[0].items()}
        return {split: _listed(_list(source, self.layout)) for split, source in named.items()}

    def origin(self) -> Origin:
        """Names the folder and describes how its splits were made."""
        if (named := self._named()) is None:
            remarks = [self._held_out()[1]]
        else:
            remarks = [f"{split}: {source.name}" for split, source in named.items()]
            if "validation" not in named:
                remarks += ["No validation (or dev), which training needs; nothing was held out."]
            if left := self._left_out():
                remarks.append(f"Not read, being no split: {', '.join(left)}.")
        name = self.path.resolve().name
        return Origin(name, str(self.path), self.licence, remarks=tuple(remarks))

    def sources(self) -> Walk:
        """Returns manifests, tables, audio and texts; audio may be outside the folder."""
        found = Walk()
        for source in (self._named() or {"": self.path}).values():
            layout = _layout(source, self.layout)
            if layout == "text":
                found += walk(source, SUFFIXES | {".txt"})
                continue
            found += _tables(source, layout)
            rows = _list(source, self.layout)
            found.files += sorted({row.audio for row in rows if isinstance(row.audio, Path)})
        return found

    def _left_out(self) -> list[str]:
        """Returns folders and audio files beside the splits that belong to no split."""
        files = self.sources().files
        # Links of folders are followed, of which there are few; those of a million files are not.
        folders = {folder: folder.resolve() for folder in {path.parent for path in files}}
        read = {folders[path.parent] / path.name for path in files}
        read = read.union(*([folder, *folder.parents] for folder in folders.values()))
        beside = walk(self.path, SUFFIXES, recursive=False).files
        beside += [p for p in self.path.iterdir() if p.is_dir() and not is_hidden(p.name)]
        here = self.path.resolve()
        return sorted(
            p.name for p in beside if (p.resolve() if p.is_dir() else here / p.name) not in read
        )

    def _named(self) -> dict[str, Path] | None:
        """Returns the folders or manifests with the names of splits; None without any."""
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no such file or folder; check the path")
        if self.path.is_file():
            return None
        found = {}
        inside = sorted(path for path in self.path.iterdir() if not is_hidden(path.name))
        ends = (*MANIFESTS, "_manifest.json", "_manifest.jsonl")
        for split, names in SPLIT_NAMES.items():
            files = {f"{name}{end}" for name in names for end in ends}
            candidates = [p for p in inside if p.name.lower() in (names if p.is_dir() else files)]
            if len(candidates) > 1:
                both = " and ".join(c.name for c in candidates)
                raise ValueError(f"{self.path} has {both} for the split {split}; keep one")
            if candidates:
                found[split] = candidates[0]
        return found or None

    def _held_out(self) -> tuple[dict[str, list[Row]], str]:
        """Returns the rows by split, and one line that says how they were chosen."""
        rows = _list(self.path, self.layout)
        usable = [row for row in rows if row.fault is None]
        speakers = {row.speaker_id for row in usable}
        known = 0 if "" in speakers else len(speakers)
        shares = {"test": self.test_share, "validation": self.validation_share}
        needed = 1 + sum(share > 0 for share in shares.values())
        if self.hold_out == "speaker" and known < needed:
            raise ValueError(
                f"{self.path}: the speakers of all utterances have to be known, at least {needed}"
                f" (known: {len(speakers - {''})}), to hold out whole speakers; use"
                " --hold_out utterance"
            )
        by_speaker = self.hold_out == "speaker" or (self.hold_out == "auto" and known >= 3)
        key: Callable[[Row], str] = (lambda r: r.speaker_id) if by_speaker else (lambda r: r.id)
        splits = _hold_out(usable, shares, key)
        splits["train"] += [row for row in rows if row.fault is not None]  # preflight counts them
        what = "whole speakers" if by_speaker else "utterances (speakers are shared by the splits)"
        held = ", ".join(f"{split} {len(part)}" for split, part in splits.items())
        return splits, f"Split here by a hash of names, holding out {what}: {held} rows."


def _hold_out(
    rows: list[Row], shares: dict[str, float], key: Callable[[Row], str]
) -> dict[str, list[Row]]:
    """Fills test, then validation, with groups in the order of their hashes; the rest is train."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    order = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    splits: dict[str, list[Row]] = {}
    wanted = {split: share for split, share in shares.items() if share > 0}
    for reserve, (split, share) in zip(range(len(wanted), 0, -1), wanted.items(), strict=True):
        part: list[Row] = []
        # At least one group is left for train and for each split that is not filled yet.
        while len(order) > reserve and len(part) < share * len(rows):
            part += groups[order.pop(0)]
        if part:
            splits[split] = part
    splits["train"] = [row for name in order for row in groups[name]]
    return {s: sorted(splits[s], key=lambda r: r.id) for s in SPLIT_NAMES if s in splits}


def _listed(rows: list[Row]) -> Rows:
    """Brings the rows of each recording together, so that a recording is decoded only once."""
    recordings: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        recordings[row.audio].append(row)
    return Rows(lambda: chain(*recordings.values()), len(rows))


def _list(source: Path, layout: Layout) -> list[Row]:
    """Lists the rows of one split without reading audio."""
    rows = list(_READERS[_layout(source, layout)](source))
    if not rows:
        raise ValueError(
            f"{source} holds no utterances; expected audio beside .txt files, a Kaldi wav.scp"
            f" and text, or a manifest ({', '.join(MANIFESTS)})"
        )
    if all(row.fault for row in rows) and rows[0].fault is not None:
        raise ValueError(f"{source}: none of {len(rows)} rows is usable; {rows[0].fault}")
    return rows


def _layout(source: Path, layout: Layout) -> Layout:
    if source.is_file():
        return "manifest"
    if layout != "auto":
        return layout
    if (source / "wav.scp").is_file():
        return "kaldi"
    return "manifest" if walk(source, MANIFESTS, recursive=False).files else "text"


def _tables(source: Path, layout: Layout) -> Walk:
    """Finds the manifests, or the tables of a Kaldi folder."""
    if layout == "kaldi":
        return Walk([source / name for name in KALDI_TABLES])
    return Walk([source]) if source.is_file() else walk(source, MANIFESTS, recursive=False)


def _manifests(source: Path) -> Iterator[Row]:
    return chain.from_iterable(map(read_manifest, _tables(source, "manifest").files))


def _kaldi(folder: Path) -> Iterator[Row]:
    """Reads wav.scp, text, and optionally segments and utt2spk; runs none of their commands."""
    recordings = dict(_table(folder / "wav.scp"))
    texts = dict(_table(folder / "text"))
    speakers = dict(_table(folder / "utt2spk")) if (folder / "utt2spk").exists() else {}
    if (folder / "segments").exists():
        segments = {name: rest.split() for name, rest in _table(folder / "segments")}
    else:
        segments = {recording: [recording] for recording in recordings}
    for utterance in sorted({*segments, *texts}):
        recording, *times = segments.get(utterance, [utterance]) or [""]
        # A row without an entry gets a path that does not exist, so that preflight counts it.
        where = recordings.get(recording, f"(wav.scp has no {recording})")
        if where.endswith("|"):
            why = f"wav.scp: {recording} is a command ({where}) and is not run;"
            yield cells.unusable(utterance, f"{why} write its output to a wav or flac file")
            continue
        try:
            begin, end = map(float, [*times, *("0", "-1")[len(times) :]])
        except ValueError:
            line = " ".join([utterance, recording, *times])
            yield cells.unusable(utterance, f"segments: cannot read {line!r}")
            continue
        audio = stored(folder / where)
        yield cells.row(
            f"{utterance} in {folder.name}/text",
            audio if os.path.exists(audio) or Path(where).is_absolute() else Path(where),
            texts.get(utterance),
            id=utterance,
            speaker=speakers.get(utterance),
            offset=begin,
            duration=None if end == -1 else end - begin,  # -1 means the end of the recording
        )


def _table(path: Path) -> Iterator[tuple[str, str]]:
    """Reads lines; yields the key of each line and the rest."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: a Kaldi data folder needs wav.scp and text")
    for line in read_text(path).split("\n"):
        if line.strip():
            key, *rest = line.strip().split(maxsplit=1)  # splits at blanks or tabs
            yield key, "".join(rest)


def _beside_text(folder: Path) -> Iterator[Row]:
    """Reads pairs such as a.wav and a.txt; the name of a subfolder is the speaker."""
    audio: dict[str, list[Path]] = defaultdict(list)
    texts: dict[str, list[Path]] = defaultdict(list)
    for path in walk(folder, SUFFIXES | {".txt"}).files:
        # NFC is used because some systems decompose the letters of a file name and others do not.
        key = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
        (texts if path.suffix.lower() == ".txt" else audio)[key].append(path)
    for key in sorted({*audio, *texts}) if audio else ():
        for path in audio[key]:
            yield _pair(key, path, texts[key])
        if not audio[key]:  # a README, or the text of a missing recording
            yield cells.unusable(key, "no audio file has this name", "text_without_audio")


def _pair(key: str, audio: Path, texts: list[Path]) -> Row:
    if len(texts) > 1:
        return cells.unusable(key, f"{examples(texts)} are all there; keep one")
    try:
        lines = read_text(texts[0]).split("\n") if texts else []
    except (OSError, ValueError) as error:
        return cells.unusable(key, str(error))
    words = " ".join(line.strip() for line in lines if line.strip())
    return cells.row(f"{key}.txt", audio, words, id=key, speaker=Path(key).parent.name)


_READERS: dict[Layout, Callable[[Path], Iterator[Row]]] = {
    "manifest": _manifests,
    "kaldi": _kaldi,
    "text": _beside_text,
}
