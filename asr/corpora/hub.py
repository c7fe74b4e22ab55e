"""Any Hugging Face data set with audio and text columns, by name or from a local folder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asr.corpora.corpus import Corpus, Origin, Row, Rows

if TYPE_CHECKING:
    import datasets


AUDIO_COLUMNS = ("audio", "speech", "file", "path")
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "normalized_text")
SPEAKER_COLUMNS = ("speaker_id", "speaker", "client_id", "speaker_name")
ID_COLUMNS = ("id", "utterance_id", "segment_id")
FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
FORMATS |= {".arrow": "arrow"}
SPLIT_NAMES = {  # ours: what others call it
    "train": ("train", "train.clean.100"),
    "validation": ("validation", "valid", "dev", "validation.clean"),
    "test": ("test", "test.clean"),
}


@dataclass(frozen=True, kw_only=True)
class Hub(Corpus):
    """A Hugging Face data set; scripts of data sets are never run.

    Each of train, validation and test lists splits of the data set or, for a local folder, files
    and globs in it (as "train.*.parquet"); an empty list takes the split of the usual name, and
    leaves it out where there is none.

    Args:
        path: name on the hub ("openslr/librispeech_asr") or local folder.
        config: configuration of the data set.
        train: splits, files or globs of the split train.
        validation: splits, files or globs of the split validation.
        test: splits, files or globs of the split test.
        audio_column: by default audio, speech, file or path, whichever is there.
        text_column: by default text, sentence, transcription or transcript.
        speaker_column: by default speaker_id, speaker or client_id; may be absent.
        streaming: read from the hub without keeping a copy.
        licence: to be noted in corpus.json.
    """

    path: str
    config: str | None = None
    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    audio_column: str | None = None
    text_column: str | None = None
    speaker_column: str | None = None
    streaming: bool = False
    licence: str = "unknown"

    def splits(self) -> dict[str, Rows]:
        """The splits asked for, or those of the usual names."""
        wanted = {"train": self.train, "validation": self.validation, "test": self.test}
        local = Path(self.path)
        if local.is_file():
            raise ValueError(f"{self.path} is a file; give its folder, and --train {local.name}")
        files = [name for names in wanted.values() for name in names if _is_file(local, name)]
        if files:
            return {s: self._files(s, local, names) for s, names in wanted.items() if names}
        loaded = _load(self.path, self.config, self.streaming)
        there = list(loaded)
        rows = {}
        for split, names in wanted.items():
            chosen = names or [n for n in SPLIT_NAMES[split] if n in there][:1]
            if missing := [name for name in chosen if name not in there]:
                raise ValueError(
                    f"{self.path} has no split {missing[0]!r}; it has {', '.join(there)}"
                )
            if chosen:
                parts = [loaded[name] for name in chosen]
                rows[split] = self._rows(split, parts, local)
        if not rows:
            raise ValueError(f"{self.path} has the splits {', '.join(there)}; say which is --train")
        return rows

    def origin(self) -> Origin:
        """What the options say; the hub knows the licence, its card is not parsed."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        remarks = tuple(f"{split}: {' + '.join(names)}" for split, names in splits.items() if names)
        name = Path(self.path).resolve().name if Path(self.path).exists() else self.path
        return Origin(name, self.path, self.licence, remarks=remarks)

    def _files(self, split: str, folder: Path, names: list[str]) -> Rows:
        import datasets

        parts = []
        for name in names:
            found = sorted(folder.glob(name))
            if not found:
                raise FileNotFoundError(f"{folder} has no file {name}; {_listing(folder)}")
            suffix = found[0].suffix.lower()
            if suffix not in FORMATS:
                raise ValueError(f"{found[0]}: use one of {', '.join(FORMATS)}")
            # Streamed from the files themselves: nothing is copied to a cache.
            paths = [str(path) for path in found]
            try:
                parts.append(
                    datasets.load_dataset(
                        FORMATS[suffix], data_files=paths, split="train", streaming=True
                    )
                )
            except Exception as error:
                raise _unloadable(str(found[0]), error) from None
        return self._rows(split, parts, folder)

    def _rows(self, split: str, parts: list["datasets.Dataset"], folder: Path) -> Rows:
        columns = [_columns(part) for part in parts]
        for names in columns:
            _column(names, self.audio_column, AUDIO_COLUMNS, "audio", self.path)
            _column(names, self.text_column, TEXT_COLUMNS, "text", self.path)
            if self.speaker_column is not None:
                _column(names, self.speaker_column, (), "speaker", self.path)
        counts = [getattr(part, "num_rows", None) for part in parts]
        count = None if None in counts else sum(c for c in counts if c is not None)
        return Rows(partial(self._read, split, parts, folder), count)

    def _read(self, split: str, parts: list["datasets.Dataset"], folder: Path) -> Iterator[Row]:
        import datasets

        index = 0
        for part in parts:
            names = _columns(part)
            sound = _column(names, self.audio_column, AUDIO_COLUMNS, "audio", self.path)
            text = _column(names, self.text_column, TEXT_COLUMNS, "text", self.path)
            speaker = self.speaker_column or _first(names, SPEAKER_COLUMNS)
            identity = _first(names, ID_COLUMNS)
            if part.features is not None and isinstance(part.features[sound], datasets.Audio):
                # Undecoded: decoding needs torchcodec and ffmpeg.
                part = part.cast_column(sound, datasets.Audio(decode=False))
            for row in part:
                yield Row(
                    id=str(row[identity]) if identity else f"{split}-{index:08d}",
                    audio=_audio(row[sound], folder),
                    text=row[text] or "",
                    speaker_id=_string(row, speaker),
                    chapter_id=_string(row, _first(names, ("chapter_id",))),
                    language=_string(row, _first(names, ("language", "locale"))),
                    sample_rate=_rate(row[sound]),
                )
                index += 1


def _is_file(folder: Path, name: str) -> bool:
    return folder.is_dir() and (Path(name).suffix in FORMATS or any(c in name for c in "*?/"))


def _listing(folder: Path) -> str:
    return "it holds " + (", ".join(p.name for p in sorted(folder.iterdir())[:10]) or "nothing")


def _load(path: str, config: str | None, streaming: bool) -> Mapping[str, "datasets.Dataset"]:
    import datasets

    folder = Path(path)
    if not folder.is_dir() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise FileNotFoundError(f"{path}: no such folder; check the path")
    try:
        if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
            saved = datasets.load_from_disk(path)
            return saved if isinstance(saved, dict) else {"train": saved}
        # A local folder is streamed too: its files are at hand and need no second copy.
        return datasets.load_dataset(path, config, streaming=streaming or folder.is_dir())
    except Exception as error:
        raise _unloadable(path, error) from None


def _unloadable(path: str, error: Exception) -> OSError:
    """The library raises many kinds of error, some of them pages long."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return OSError(f"{path} cannot be loaded: {line.strip()}; check its name, --config, the net")


def _columns(part: "datasets.Dataset") -> list[str]:
    if part.column_names is not None:
        return list(part.column_names)
    return list(next(iter(part), {}))  # a stream of a format without a schema


def _first(names: list[str], candidates: tuple[str, ...]) -> str | None:
    return next((name for name in candidates if name in names), None)


def _column(
    names: list[str], wanted: str | None, usual: tuple[str, ...], kind: str, path: str
) -> str:
    found = wanted if wanted is not None else _first(names, usual)
    if found is None or found not in names:
        missing = repr(wanted) if wanted is not None else f"{kind} ({', '.join(usual)})"
        raise ValueError(
            f"{path} has no column {missing}; give --{kind}_column, one of {', '.join(names)}"
        )
    return found


def _audio(value: Any, folder: Path) -> Path | bytes | np.ndarray:
    """The audio convention {bytes, path}, decoded {array, sampling_rate}, or a path alone."""
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return value["bytes"]
        if value.get("array") is not None:
            return np.asarray(value["array"], np.float32)
        value = value.get("path")
    if isinstance(value, bytes):
        return value
    return folder / str(value or "(no audio)")


def _rate(value: Any) -> int | None:
    return value.get("sampling_rate") if isinstance(value, dict) else None


def _string(row: Mapping[str, Any], name: str | None) -> str:
    value = row[name] if name is not None else None
    return "" if value is None else str(value)
