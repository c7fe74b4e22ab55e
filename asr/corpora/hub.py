"""Any Hugging Face data set with audio and text columns, by name or from a local folder."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from asr.audio.audio_file import SUFFIXES
from asr.corpora import cells
from asr.corpora.corpus import SPLIT_NAMES, Corpus, Origin, Row, Rows, parts_of, remarks_on
from asr.corpora.manifest import MANIFESTS, Line, read_lines
from asr.folders import Walk, is_hidden, stored, walk

if TYPE_CHECKING:
    import datasets


COLUMNS = {  # the usual names of each kind of column
    "audio": ("audio", "speech", "file", "path"),
    "text": ("text", "sentence", "transcription", "transcript", "normalized_text"),
    "speaker": ("speaker_id", "speaker", "client_id", "speaker_name"),
    "chapter": ("chapter_id",),
    "language": ("language", "locale"),
    "id": ("id", "utterance_id", "segment_id"),
}
BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}  # builders of ``datasets`` by file ending
KINDS = (*BUILDERS, *MANIFESTS)  # endings of data files
NUM_LINES_OF_KEYS = 100  # lines of JSON that are searched for keys


class _Tables:
    """Local tables and JSON with the interface of ``datasets``; "NA" and 007 stay as they are."""

    features = None

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    @property
    def column_names(self) -> list[str]:
        """Returns the columns, or the keys of the first lines."""
        lines = [line for line in islice(self, NUM_LINES_OF_KEYS) if isinstance(line, dict)]
        return list(dict.fromkeys(key for line in lines for key in line))

    def __iter__(self) -> Iterator[Line]:
        return (line for path in self.paths for _, line in read_lines(path))


Table: TypeAlias = "datasets.Dataset | _Tables"


@dataclass(frozen=True, kw_only=True)
class Hub(Corpus):
    """A Hugging Face data set; scripts of data sets are never run.

    Each of train, validation and test lists splits of the data set or, for a local folder, files
    and globs in it (as "train.*.parquet"). An empty list takes the split of the usual name, if
    there is one.

    Args:
        path: name of a data set on the Hugging Face hub ("openslr/librispeech_asr"), or a local
            folder.
        config: configuration of the data set, for data sets that have several.
        train: splits, files or globs of the data set that make up the split train.
        validation: splits, files or globs of the data set that make up the split validation.
        test: splits, files or globs of the data set that make up the split test.
        audio_column: name of the column with the audio; by default the first of audio, speech, file
            and path that exists.
        text_column: name of the column with the text; by default the first of text, sentence,
            transcription and transcript that exists.
        speaker_column: name of the column with the speaker; by default the first of speaker_id,
            speaker and client_id that exists. It may be absent.
        streaming: whether to read from the hub without keeping a copy.
        licence: licence of the data, which is written to corpus.json.
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
        """Returns the requested splits, or those with the usual names."""
        local = Path(self.path)
        if local.is_file():
            raise ValueError(f"{self.path} is a file; give its folder, and --train {local.name}")
        wanted = parts_of(self)
        named = [name for names in wanted.values() for name in names]
        files = [n for n in named if Path(n).suffix.lower() in KINDS or set(n) & set("*?/")]
        if local.is_dir() and files:
            parts = {s: [_files(local, name) for name in names] for s, names in wanted.items()}
        else:
            loaded = _load(self.path, self.config, self.streaming)
            there = ", ".join(loaded)
            parts = {}
            for split, usual in SPLIT_NAMES.items():
                chosen = wanted.get(split) or [name for name in usual if name in loaded][:1]
                if missing := [name for name in chosen if name not in loaded]:
                    raise ValueError(f"{self.path} has no split {missing[0]!r}; it has {there}")
                if chosen:
                    parts[split] = [loaded[name] for name in chosen]
            if not parts:
                raise ValueError(f"{self.path} has the splits {there}; say which is --train")
        return {split: self._rows(split, found) for split, found in parts.items()}

    def origin(self) -> Origin:
        """Takes the licence from the options, because the data set card is not parsed."""
        name = Path(self.path).resolve().name if Path(self.path).exists() else self.path
        return Origin(name, self.path, self.licence, remarks=remarks_on(parts_of(self)))

    def sources(self) -> Walk:
        """Returns the data files and audio of a local folder; data on the hub do not change."""
        local = Path(self.path)
        return walk(local, {*KINDS, *SUFFIXES}) if local.is_dir() else Walk()

    def _rows(self, split: str, loaded: Sequence[Table]) -> Rows:
        parts = [(part, self._columns(part)) for part in map(_undecoded, loaded)]
        counts = [getattr(part, "num_rows", None) or 0 for part, _ in parts]  # 0 for a stream
        count = sum(counts) if all(counts) else None
        return Rows(partial(self._read, split, parts), count)

    def _columns(self, part: Table) -> dict[str, str]:
        """Returns the existing columns by kind; audio and text must be among them."""
        names = _names(part, self.path)
        found = {}
        for kind, usual in COLUMNS.items():
            wanted = getattr(self, f"{kind}_column", None)
            column = wanted or next((name for name in usual if name in names), None)
            if column in names:
                found[kind] = column
            elif wanted or kind in ("audio", "text"):
                missing = repr(wanted) if wanted else f"{kind} ({', '.join(usual)})"
                raise ValueError(
                    f"{self.path} has no column {missing}; give --{kind}_column, one of "
                    f"{', '.join(names)}"
                )
        return found

    def _read(self, split: str, parts: list[tuple[Table, dict[str, str]]]) -> Iterator[Row]:
        rows = ((part, names, row) for part, names in parts for row in _rows_of(part, self.path))
        for index, (part, names, row) in enumerate(rows):
            where = f"{split}-{index:08d}"
            if isinstance(row, str):
                yield cells.unusable(where, row)
                continue
            values = {kind: row.get(name) for kind, name in names.items()}
            audio, rate = _audio(values.pop("audio"), Path(self.path))
            text = values.pop("text")
            label = part.features and getattr(part.features[names["text"]], "int2str", None)
            text = label(text) if label and text is not None else text  # a class number
            yield cells.row(where, audio, text, sample_rate=rate, **values)


def _files(folder: Path, name: str) -> Table:
    import datasets

    found = sorted(path for path in folder.glob(name) if not is_hidden(path.name))
    if not found:
        there = ", ".join(p.name for p in sorted(folder.iterdir())[:10]) or "nothing"
        raise FileNotFoundError(f"{folder} has no file {name}; it holds {there}")
    suffix = found[0].suffix.lower()
    if suffix in MANIFESTS:
        return _Tables(found)
    if suffix not in BUILDERS:
        raise ValueError(f"{found[0]}: use one of {', '.join(KINDS)}")
    options = {"data_files": list(map(str, found)), "split": "train"}
    with _loading(str(found[0])):  # streaming copies nothing to a cache
        return datasets.load_dataset(BUILDERS[suffix], streaming=True, **options)


def _load(path: str, config: str | None, streaming: bool) -> Mapping[str, Table]:
    import datasets

    folder = Path(path)
    if not folder.is_dir() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise FileNotFoundError(f"{path}: no such folder; check the path")
    with _loading(path):
        if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
            saved = datasets.load_from_disk(path)
            return saved if isinstance(saved, dict) else {"train": saved}
        builder = datasets.load_dataset_builder(path, config)
        files = (builder.config.data_files or {}) if folder.is_dir() else {}
        tables = {str(split): [Path(name) for name in names] for split, names in files.items()}
        suffixes = {path.suffix.lower() for paths in tables.values() for path in paths}
        if suffixes and suffixes <= set(MANIFESTS):
            return {split: _Tables(paths) for split, paths in tables.items()}
        # A local folder is streamed, too, so that its files are not copied to a cache.
        options: dict[str, Any] = {"streaming": streaming or folder.is_dir()}
        if builder.name == "csv":  # keeps "NA" and 007 as strings
            table = next(iter(datasets.load_dataset(path, config, streaming=True).values()))
            string = datasets.Value("string")
            options["features"] = datasets.Features(dict.fromkeys(_names(table, path), string))
            options |= {"keep_default_na": False, "na_filter": False}
        return datasets.load_dataset(path, config, **options)


def _undecoded(part: Any) -> Table:
    """Keeps audio as bytes and paths, because decoding would need torchcodec and ffmpeg."""
    import datasets

    for name, feature in (part.features or {}).items():
        if isinstance(feature, datasets.Audio):
            part = part.cast_column(name, datasets.Audio(decode=False))
    return part


def _rows_of(part: Table, path: str) -> Iterator[Line]:
    with _loading(path):
        yield from part


@contextlib.contextmanager
def _loading(path: str) -> Iterator[None]:
    """Turns the errors of ``datasets``, which are of many kinds and often long, into one line."""
    try:
        yield
    except Exception as error:
        lines = (line.strip() for line in str(error).splitlines())
        line = next(filter(None, lines), type(error).__name__)
        remedy = "check its name, --config and the network connection"
        if "torchcodec" in line:
            remedy = f"this may read it: asr prepare folder --path {path}"
        raise OSError(f"{path} cannot be loaded: {line}; {remedy}") from None


def _names(part: Table, path: str) -> list[str]:
    """Returns the columns of a part."""
    if part.column_names is not None:
        return list(part.column_names)
    first = next(_rows_of(part, path), {})  # some streams have no schema
    return list(first) if isinstance(first, dict) else []


def _audio(value: Any, folder: Path) -> tuple[Path | bytes | np.ndarray | None, int | None]:
    """Reads audio given as {bytes, path}, as {array, sampling_rate} or as a path.

    Returns the audio, None if there is none, and the sample rate in Hz, None unless it is an array.
    """
    if isinstance(value, dict) and value.get("array") is not None:
        try:
            return np.asarray(value["array"], np.float32), int(value["sampling_rate"])
        except (KeyError, TypeError, ValueError):
            return None, None
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, str) and value:
        value = stored(folder / value)
    return (value if isinstance(value, bytes | Path) else None), None
