"""Manifests of lhotse: cuts, or recordings with supervisions, as JSON lines (.jsonl, .jsonl.gz)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asr.corpora import cells
from asr.corpora.corpus import Row
from asr.corpora.kaldi import located
from asr.corpora.manifest import read_lines
from asr.folders import Walk, walk


def find(source: Path) -> Walk:
    """Returns the manifests of lhotse in a folder, or a manifest and the recordings beside it."""
    found = [source, _recordings(source)]
    if source.is_dir():
        found = walk(source, {".jsonl", ".gz"}, recursive=False).files
    return Walk([path for path in dict.fromkeys(found) if _kind(path)])


def read(source: Path, tables: Sequence[Path]) -> Iterator[Row]:
    """Reads one utterance for each supervision; a cut without any has no text."""
    for table in tables:
        recordings: dict[Any, Any] = {}
        if (kind := _kind(table)) == "recordings":
            continue
        if kind == "supervisions":
            if not _kind(beside := _recordings(table)):
                why = f"its recordings are missing; put {beside.name} beside it"
                raise FileNotFoundError(f"{table}: {why}")
            lines = (line for _, line in read_lines(beside))
            recordings = {line.get("id"): line for line in lines if isinstance(line, dict)}
        for number, line in read_lines(table):
            where = f"{table.name}, line {number}"
            if isinstance(line, dict) and kind == "supervisions":
                recording = recordings.get(line.get("recording_id"))
                line = {"recording": recording, "supervisions": [line]}
            try:
                yield from list(_rows(table.parent, where, line))
            except ValueError as error:
                yield cells.unusable(where, str(error))
            except (AttributeError, KeyError, TypeError):
                yield cells.unusable(where, line if isinstance(line, str) else "it is not a cut")


def _kind(path: Path) -> str:
    """Returns what a file of JSON lines holds; empty if lhotse did not write it."""
    if not path.name.lower().endswith((".jsonl", ".jsonl.gz")) or not path.is_file():
        return ""
    _, line = next(read_lines(path), (0, ""))
    keys = {*line} if isinstance(line, dict) else set()
    if "audio_filepath" in keys:  # a manifest of NeMo that has a column of this name
        return ""
    if "recording_id" in keys:
        return "features" if "storage_path" in keys else "supervisions"
    if isinstance(line, dict) and str(line.get("type")).endswith("Cut"):
        return "cuts"
    return "recordings" if "sources" in keys else ""


def _recordings(table: Path) -> Path:
    return table.with_name(table.name.replace("supervisions", "recordings"))


def _rows(folder: Path, where: str, cut: Any) -> Iterator[Row]:
    """Yields the utterances of a cut; raises ValueError if its audio is not part of a file."""
    recording: dict[str, Any] = cut.get("recording") or {}
    kind = cut.get("type", "MonoCut")
    changes = [change["name"] for change in recording.get("transforms") or []]
    if not recording and kind != "MixedCut":
        has = "features only" if {"features", "storage_path"} & {*cut} else "no recording"
        raise ValueError(f"it has {has}; asr needs cuts with recordings")
    if kind not in ("MonoCut", "MultiCut") or {*changes} - {"Resample"}:
        changed = ", ".join([kind, *changes])
        raise ValueError(f"its audio is changed ({changed}); give the cuts before that")
    for spoken in cut["supervisions"] or [{}]:
        channel = cells.channel_of(spoken.get("channel", cut.get("channel")))
        for source in recording["sources"]:
            channels = list(map(int, source["channels"]))
            if channel is None or channel in channels:
                break
        else:
            raise ValueError(f"its recording has no channel {channel}")
        if source["type"] != "file":
            raise ValueError(f"its audio is no file ({source['source']:.60}); write it to a file")
        yield cells.row(
            where,
            located(source["source"], folder),
            spoken.get("text"),
            id=spoken.get("id") or cut.get("id"),
            speaker=spoken.get("speaker"),
            language=spoken.get("language"),
            offset=float(cut.get("start") or 0) + float(spoken.get("start") or 0),
            duration=spoken.get("duration") or cut.get("duration"),
            channel=None if channel is None else channels.index(channel),
        )
