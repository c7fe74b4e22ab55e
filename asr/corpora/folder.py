"""A folder of one's own recordings, in any of the layouts of ``asr.corpora.layouts``."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from asr.audio.audio_file import SUFFIXES
from asr.corpora import layouts
from asr.corpora.corpus import SPLIT_NAMES, Corpus, Origin, Row, Rows
from asr.corpora.manifest import MANIFESTS
from asr.folders import Walk, is_hidden, walk

# A file of one split is named after it, with the prefixes and suffixes of several tools.
SPLIT_FILE = re.compile(
    r"(?:(.*cuts_|.*supervisions_)|metadata_)?(.+?)(?:_manifest)?"
    rf"(?:{'|'.join((*MANIFESTS, '.jsonl.gz', '.stm'))})"
)


@dataclass(frozen=True, kw_only=True)
class Folder(Corpus):
    """Your own recordings; folders or manifests named train, validation (dev) and test are splits.

    Without such names, shares of the utterances are held out: whole speakers if at least three are
    known, single utterances otherwise. The choice depends on names alone; corpus.json describes it.

    Args:
        path: folder, or one manifest (.jsonl, .csv, .tsv, .parquet). A manifest has the columns
            audio_filepath and text; speaker, offset, duration (both in seconds), channel (from 0)
            and id are optional.
        layout: layout of the folder: "kaldi" (also of ESPnet), "lhotse", "stm",
            "manifest" (also of audiofolder, Coqui and LJSpeech), "text" (a .txt beside each audio
            file), "subtitles" (.srt or .vtt), "textgrid", or "auto".
        validation_share: share of the utterances held out for validation if the folder has no
            splits, 0 to 1.
        test_share: share of the utterances held out for the test if the folder has no splits, 0 to
            1.
        hold_out: what is held out: whole speakers ("speaker") or single utterances ("utterance").
            "auto" holds out speakers if at least three are known.
        licence: licence of the data, which is written to corpus.json.
    """

    path: Path
    layout: layouts.Name = "auto"
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
        return {
            split: _listed(layouts.read_all(source, self.layout)) for split, source in named.items()
        }

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
            here = layouts.layout_of(source, self.layout).find(source)
            if not any(path.suffix.lower() in SUFFIXES for path in here.files):
                rows = layouts.read_all(source, self.layout)
                here.files += sorted({row.audio for row in rows if isinstance(row.audio, Path)})
            found += here
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
        for split, names in SPLIT_NAMES.items():
            candidates = [p for p in inside if _split_name(p) in names]
            if len(candidates) > 1:
                both = " and ".join(c.name for c in candidates)
                raise ValueError(f"{self.path} has {both} for the split {split}; keep one")
            if candidates:
                found[split] = candidates[0]
        return found or None

    def _held_out(self) -> tuple[dict[str, list[Row]], str]:
        """Returns the rows by split, and one line that says how they were chosen."""
        rows = layouts.read_all(self.path, self.layout)
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


def _split_name(path: Path) -> str:
    """Returns the name of the split that a folder or file has, in lower case; empty if none."""
    match = SPLIT_FILE.fullmatch(path.name.lower())
    if path.is_dir() or match is None:
        return path.name.lower() if path.is_dir() else ""
    return match[2].split("-")[0] if match[1] else match[2]  # x_cuts_train-clean-5.jsonl.gz


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
        recordings[row.audio, row.channel].append(row)
    return Rows(lambda: chain(*recordings.values()), len(rows))
