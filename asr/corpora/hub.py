"""Any Hugging Face data set with audio and text columns, by name or from a local folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from asr.audio import SUFFIXES
from asr.corpora import cells
from asr.corpora.corpus import Corpus, Origin, Row, Rows
from asr.corpora.manifest import MANIFESTS, Line, read_lines
from asr.folders import Walk, is_hidden, stored, walk

if TYPE_CHECKING:
    import datasets


AUDIO_COLUMNS = ("audio", "speech", "file", "path")
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "normalized_text")
SPEAKER_COLUMNS = ("speaker_id", "speaker", "client_id", "speaker_name")
LANGUAGE_COLUMNS = ("language", "locale")
ID_COLUMNS = ("id", "utterance_id", "segment_id")
FORMATS = {".parquet": "parquet", ".arrow": "arrow"}
NUM_LINES_OF_KEYS = 100  # of JSON, whose lines may have different keys
SPLIT_NAMES = {  # ours: what others call it
    "train": ("train", "train.clean.100"),
    "validation": ("validation", "valid", "dev", "validation.clean"),
    "test": ("test", "test.clean"),
}


class _Tables:
    """Local tables and JSON as ``datasets`` gives them, but "NA" is a word and 007 stays 007."""

    features = None

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    @property
    def column_names(self) -> list[str]:
        """The columns, or the keys of the first lines."""
        keys: dict[str, None] = {}
        for line in islice(self, NUM_LINES_OF_KEYS):
            keys |= dict.fromkeys(line if isinstance(line, dict) else ())
        return list(keys)

    def __iter__(self) -> Iterator[Line]:
        return (line for path in self.paths for _, line in read_lines(path))


Part: TypeAlias = "datasets.Dataset | _Tables"


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

    def sources(self) -> Walk:
        """The data files and audio of a local folder; what is on the hub does not change."""
        local = Path(self.path)
        kinds = {*FORMATS, *MANIFESTS, *SUFFIXES}
        return walk(local, kinds) if local.is_dir() else Walk()

    def _files(self, split: str, folder: Path, names: list[str]) -> Rows:
        import datasets

        parts: list[Part] = []
        for name in names:
            found = sorted(path for path in folder.glob(name) if not is_hidden(path.name))
            if not found:
                raise FileNotFoundError(f"{folder} has no file {name}; {_listing(folder)}")
            suffix = found[0].suffix.lower()
            if suffix not in FORMATS and suffix not in MANIFESTS:
                known = ", ".join([*FORMATS, *MANIFESTS])
                raise ValueError(f"{found[0]}: use one of {known}")
            if suffix in MANIFESTS:
                parts.append(_Tables(found))
                continue
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

    def _rows(self, split: str, loaded: Sequence[Part], folder: Path) -> Rows:
        parts = [_undecoded(part) for part in loaded]
        for names in [_columns(part, self.path) for part in parts]:
            _column(names, self.audio_column, AUDIO_COLUMNS, "audio", self.path)
            _column(names, self.text_column, TEXT_COLUMNS, "text", self.path)
            if self.speaker_column is not None:
                _column(names, self.speaker_column, (), "speaker", self.path)
        counts = [getattr(part, "num_rows", None) for part in parts]
        count = None if None in counts else sum(c for c in counts if c is not None)
        return Rows(partial(self._read, split, parts, folder), count)

    def _read(self, split: str, parts: list[Part], folder: Path) -> Iterator[Row]:
        index = 0
        for part in parts:
            names = _columns(part, self.path)
            sound = _column(names, self.audio_column, AUDIO_COLUMNS, "audio", self.path)
            text = _column(names, self.text_column, TEXT_COLUMNS, "text", self.path)
            speaker = self.speaker_column or _first(names, SPEAKER_COLUMNS)
            chapter, language = _first(names, ("chapter_id",)), _first(names, LANGUAGE_COLUMNS)
            label = getattr(part.features[text], "int2str", None) if part.features else None
            for row in _rows_of(part, self.path):
                where = f"{split}-{index:08d}"
                index += 1
                if isinstance(row, cells.CellError):
                    yield cells.unusable(where, row)
                    continue
                cell: Callable[[Any], Any] = row.get
                words = cell(text)
                audio, rate = _audio(cell(sound), folder)
                yield cells.row(
                    where,
                    audio,
                    label(words) if label is not None and words is not None else words,
                    id=cell(_first(names, ID_COLUMNS)),
                    speaker=cell(speaker),
                    chapter=cell(chapter),
                    language=cell(language),
                    sample_rate=rate,
                )


def _is_file(folder: Path, name: str) -> bool:
    known = Path(name).suffix.lower() in (*FORMATS, *MANIFESTS)
    return folder.is_dir() and (known or any(c in name for c in "*?/"))


def _listing(folder: Path) -> str:
    return "it holds " + (", ".join(p.name for p in sorted(folder.iterdir())[:10]) or "nothing")


def _load(path: str, config: str | None, streaming: bool) -> Mapping[str, Part]:
    import datasets

    folder = Path(path)
    if not folder.is_dir() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise FileNotFoundError(f"{path}: no such folder; check the path")
    try:
        if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
            saved = datasets.load_from_disk(path)
            return saved if isinstance(saved, dict) else {"train": saved}
        builder = datasets.load_dataset_builder(path, config)
        files = (builder.config.data_files or {}) if folder.is_dir() else {}
        tables = {str(split): [Path(name) for name in names] for split, names in files.items()}
        suffixes = {path.suffix.lower() for paths in tables.values() for path in paths}
        if suffixes and suffixes <= set(MANIFESTS):
            return {split: _Tables(paths) for split, paths in tables.items()}
        # A local folder is streamed too: its files are at hand and need no second copy.
        options: dict[str, Any] = {"streaming": streaming or folder.is_dir()}
        if builder.name == "csv":
            options |= _as_written(datasets.load_dataset(path, config, streaming=True))
        return datasets.load_dataset(path, config, **options)
    except Exception as error:
        raise _unloadable(path, error) from None


def _as_written(loaded: Mapping[str, "datasets.Dataset"]) -> dict[str, Any]:
    """Options of the library's reader of tables: "NA" is a word, and 007 stays 007."""
    import datasets

    names = _columns(next(iter(loaded.values())), "the table")
    features = datasets.Features({name: datasets.Value("string") for name in names})
    return {"features": features, "keep_default_na": False, "na_filter": False}


def _undecoded(part: Part) -> Part:
    """Audio as bytes and paths: decoding needs torchcodec and ffmpeg."""
    import datasets

    if isinstance(part, datasets.IterableDataset):
        return part.decode(False) if part.features is not None else part
    if isinstance(part, datasets.Dataset):
        for name, feature in part.features.items():
            if isinstance(feature, datasets.Audio):
                part = part.cast_column(name, datasets.Audio(decode=False))
    return part


def _rows_of(part: Part, path: str) -> Iterator[Line]:
    try:
        yield from part
    except Exception as error:
        raise _unloadable(path, error) from None


def _unloadable(path: str, error: Exception) -> OSError:
    """The library raises many kinds of error, some of them pages long."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    remedy = "check its name, --config, the net"
    if "torchcodec" in line:
        remedy = "name its table: --train '[metadata.csv]' --audio_column file_name"
    return OSError(f"{path} cannot be loaded: {line.strip()}; {remedy}")


def _columns(part: Part, path: str) -> list[str]:
    if part.column_names is not None:
        return list(part.column_names)
    first = next(_rows_of(part, path), {})  # a stream of a format without a schema
    return list(first) if isinstance(first, dict) else []


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


def _audio(value: Any, folder: Path) -> tuple[Path | bytes | np.ndarray | None, int | None]:
    """The audio convention {bytes, path}, decoded {array, sampling_rate}, or a path alone.

    None for what names no audio; the rate, in Hz, of samples only.
    """
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return value["bytes"], None
        if value.get("array") is not None:
            try:
                return np.asarray(value["array"], np.float32), int(value["sampling_rate"])
            except (KeyError, TypeError, ValueError):
                return None, None
        value = value.get("path")
    if isinstance(value, bytes):
        return value, None
    return (stored(folder / value), None) if isinstance(value, str) and value else (None, None)
