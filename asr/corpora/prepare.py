"""Writes a corpus as parquet shards, corpus.json and preflight.json, completely or not at all."""

import contextlib
import dataclasses
import glob
import hashlib
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from asr.config import strict_yaml
from asr.corpora import preflight
from asr.corpora.corpus import Corpus, Row
from asr.corpora.loading import Loaded, load_ahead
from asr.files import new_folder, read_json, remedy, write
from asr.folders import counted
from asr.text import normalisers

logger = logging.getLogger(__name__)

SHARD_BYTES = 500_000_000  # approximate audio per file
GROUP_BYTES = 1_000_000  # audio per row group; a reader of one row reads its whole group
PREPARED = re.compile(r".*-\d{5}-of-\d{5}\.parquet|(corpus|preflight|sources)\.json")

TYPES = {
    "id": pa.string(),
    "audio": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "text": pa.string(),
    "original_text": pa.string(),
    "speaker_id": pa.string(),
    "duration": pa.float64(),
    "chapter_id": pa.string(),
    "language": pa.string(),
}
FEATURES = {  # tells the library `datasets` that the column audio holds undecoded audio
    name: {"dtype": "float64" if kind == pa.float64() else "string", "_type": "Value"}
    for name, kind in TYPES.items()
} | {"audio": {"decode": False, "_type": "Audio"}}
METADATA = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
SCHEMA = pa.schema(list(TYPES.items()), metadata=METADATA)


def prepare(
    corpus: Corpus,
    output: Path,
    *,
    sample_rate: int = 16000,
    normaliser: str = "english",
    alphabet: str | None = None,
    strip_tags: bool = False,
    refresh: bool = False,
    num_workers: int | None = None,
) -> dict[str, object]:
    """Writes the corpus to the folder ``output`` and returns a description of it.

    If the output folder holds the same corpus with the same options, and its source files have not
    changed, nothing is written. If they have changed, the folder is replaced once the new corpus is
    complete. The result has the keys of corpus.json, and "preflight" (content of preflight.json),
    "output" and "reused".

    Args:
        corpus: the corpus with its options.
        output: folder to write; it must be new or empty, or hold the same corpus with the same
            options.
        sample_rate: sample rate of the prepared audio in Hz.
        normaliser: name in asr.text.normalisers.NORMALISERS, applied to the transcripts.
        alphabet: characters expected after normalisation; by default those of the split "train".
        strip_tags: whether to remove bracketed tags, such as [laughter], from the transcripts.
        refresh: whether to replace a corpus in the output folder, even one with other options.
        num_workers: number of threads that decode audio; by default one per core.

    Raises:
        ValueError: the output folder holds something else, a split has no usable row, or an option
            of the corpus is wrong.
        OSError: the output cannot be written.
    """
    normalisers.normaliser(normaliser)
    if sample_rate < 1:
        raise ValueError(f"sample_rate {sample_rate}: it must be positive, for instance 16000")
    assert dataclasses.is_dataclass(corpus), "a corpus is a dataclass of its options"
    options = json.loads(json.dumps(dataclasses.asdict(corpus), default=str))
    options |= {"alphabet": alphabet} | ({"strip_tags": True} if strip_tags else {})
    wanted = {
        "corpus": type(corpus).__name__,
        "sample_rate": sample_rate,
        "normaliser": normaliser,
        "options": options,
    }
    output = Path(output)
    earlier = _earlier(output)
    if earlier is not None and not refresh and _is_current(corpus, output, earlier, wanted):
        return {**earlier, "output": str(output), "reused": True}
    with _partial(output) as partial:
        # The snapshot precedes the reading of rows, so the next call notices later changes.
        sources = corpus.sources()
        files = _snapshot(sources.files, output)
        splits: dict[str, preflight.Split] = {}
        for name, rows in corpus.splits().items():
            splits[name] = preflight.Split(name, normaliser, strip_tags)
            loaded = load_ahead(rows.read(), sample_rate, num_workers or os.cpu_count() or 1)
            bar = {"desc": name, "total": rows.count, "unit": " utterances", "disable": None}
            _write_shards(partial / name, _kept(splits[name], tqdm(loaded, **bar)))
            _check_usable(splits)
        about = dict(vars(corpus.origin()))
        preflight.compare(splits, alphabet, about.pop("expected"))
        advice = [line for split in splits.values() for line in split.advice()]
        about |= {
            "remarks": [*about["remarks"], *_check_usable(splits), *advice],
            "passed_over": {
                kind: [str(path) for path in paths if path.name != partial.name]
                for kind, paths in sources.passed_over.items()
            },
            **wanted,
            "splits": {name: _statistics(split) for name, split in splits.items()},
        }
        checks = {name: split.summary() for name, split in splits.items()}
        for name, value in (("corpus", about), ("preflight", checks), ("sources", files)):
            text = json.dumps(value, indent=2, ensure_ascii=False)
            write(partial / f"{name}.json", f"{text}\n")
    return {**about, "preflight": checks, "output": str(output), "reused": False}


def _earlier(output: Path) -> dict[str, object] | None:
    """Returns the prepared corpus in the output folder; None if the folder holds nothing."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    try:
        checks = read_json(output / "preflight.json")
        return {**read_json(output / "corpus.json"), "preflight": checks}
    except (OSError, ValueError, TypeError):
        raise ValueError(
            f"{output} exists and is not a prepared corpus; choose another --output"
        ) from None


def _is_current(
    corpus: Corpus, output: Path, earlier: dict[str, object], wanted: dict[str, object]
) -> bool:
    """Returns whether the source files of the prepared corpus are unchanged; logs the changes."""
    different = strict_yaml.differences({key: earlier.get(key) for key in wanted}, wanted)
    if different:
        raise ValueError(
            f"{output} holds {earlier.get('name')} prepared differently ({'; '.join(different)});"
            " remove it or choose another --output, or replace it with --refresh"
        )
    sources = output / "sources.json"
    if not sources.exists():
        logger.warning(
            "%s was prepared by an earlier version, which did not record its source: if that has"
            " changed, prepare again with --refresh", output
        )  # fmt: skip
        return True
    try:
        now = _snapshot(corpus.sources().files, output)
        changes = _changes(read_json(sources), now)
    except (OSError, ValueError) as error:
        logger.warning("%s is used as it is: its source cannot be read (%s)", output, error)
        return True
    if changes:
        logger.warning("%s is prepared again, as its source has changed: %s", output, changes)
    else:
        logger.info("%s is already prepared with these options", output)
    return not changes


Snapshot = Mapping[str, list[int]]  # path -> [bytes, time of the last change in nanoseconds]


def _snapshot(files: Iterable[Path], output: Path) -> Snapshot:
    """Returns the size and time of change of each existing file that is outside ``output``."""
    inside = os.path.join(os.path.abspath(output), "")
    files = [p for p in files if p.is_file() and not os.path.abspath(p).startswith(inside)]
    return {str(p): [(status := p.stat()).st_size, status.st_mtime_ns] for p in files}


def _changes(old: Snapshot, new: Snapshot) -> str:
    """Returns the differences between two snapshots in one line; empty if there are none."""
    both = old.keys() & new.keys()
    kinds = {
        "added files": sorted(new.keys() - old.keys()),
        "removed files": sorted(old.keys() - new.keys()),
        "changed files": sorted(path for path in both if old[path] != new[path]),
    }
    return counted(kinds)


@contextlib.contextmanager
def _partial(output: Path) -> Iterator[Path]:
    """Makes a folder beside ``output`` to write into; it replaces ``output`` if no error occurs.

    Partial folders of killed processes of this host are removed.
    """
    output = output.resolve() if output.is_symlink() else output
    # The name is shortened so that it has at most 255 bytes with the parts that are added.
    prefix = f".{output.name:.40}.{socket.gethostname()}-"
    with new_folder(output.parent):
        for stale in output.parent.glob(f"{glob.escape(prefix)}*.partial"):
            owner = stale.name.removeprefix(prefix).partition(".")[0]
            try:
                os.kill(int(owner), 0)
            except ProcessLookupError:
                shutil.rmtree(stale, ignore_errors=True)
            except (OSError, ValueError):  # another user's process, or another program's folder
                pass
        partial = output.parent / f"{prefix}{os.getpid()}.partial"
        try:
            partial.mkdir()
            yield partial
            _replace(output, partial)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError) and error.errno is not None and error.filename is None:
                why = os.strerror(error.errno)  # pyarrow's own message names no file
                raise OSError(f"cannot write {output} ({why}); {remedy(error)}") from None
            raise


def _replace(output: Path, new: Path) -> None:
    """Replaces the old folder by the new one; keeps the files that ``prepare`` did not write."""
    old = new.with_suffix(".old.partial")
    if output.exists():
        os.replace(output, old)
    os.replace(new, output)
    if old.exists():
        for path in old.iterdir():
            if not PREPARED.fullmatch(path.name):
                os.replace(path, output / path.name)
        shutil.rmtree(old)


def _check_usable(splits: dict[str, preflight.Split]) -> list[str]:
    """Raises ValueError if a split has no usable row.

    If no row of the corpus has a transcript, the prepared corpus is empty, and a remark states it.
    """
    if all(set(split.dropped) == {"empty_text"} and not split.ids for split in splits.values()):
        return ["No row has a transcript, so the prepared corpus holds no utterance."]
    for name, split in splits.items():
        if not split.ids:
            why = "; ".join(split.messages[:3]) or "the corpus has no rows for it"
            raise ValueError(f"split {name}: none of {split.read} rows is usable ({why})")
    return []


def _kept(split: preflight.Split, loaded: Iterable[tuple[Row, Loaded]]) -> Iterator[dict[str, Any]]:
    """Yields the rows to write; the split counts these rows and the dropped ones."""
    for row, result in loaded:
        if (admitted := split.admit(row, result)) is not None:
            utterance, normalised = admitted
            yield {
                "id": row.id,
                "audio": {"bytes": utterance.audio, "path": utterance.path},
                "text": normalised,
                "original_text": row.text,
                "speaker_id": row.speaker_id,
                "duration": utterance.seconds,
                "chapter_id": row.chapter_id or None,
                "language": row.language or None,
            }


def _write_shards(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Writes parquet files with names that begin with ``path``; numbers them at the end."""
    shards: list[Path] = []
    group = _group(rows)
    while group or not shards:
        shards.append(path.with_name(f"{path.name}-{len(shards):05d}.parquet"))
        # The audio is compressed already, so that a dictionary of the audio would only take memory.
        # Row groups are small, so that their statistics would be most of the file's metadata.
        with pq.ParquetWriter(
            shards[-1], SCHEMA, use_dictionary=False, compression="none", write_statistics=False
        ) as writer:
            size = 0
            while group and size < SHARD_BYTES:
                writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))
                size += sum(len(row["audio"]["bytes"]) for row in group)
                group = _group(rows)
    for i, shard in enumerate(shards):
        shard.rename(path.with_name(f"{path.name}-{i:05d}-of-{len(shards):05d}.parquet"))


def _group(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the next rows, with at least ``GROUP_BYTES`` of audio; empty at the end."""
    group = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row["audio"]["bytes"])
        if size >= GROUP_BYTES:
            break
    return group


def _statistics(split: preflight.Split) -> dict[str, object]:
    """Returns the size of a split, and a checksum of its ids, texts and audio."""
    rows = zip(split.ids, split.texts, split.hashes, strict=True)
    text = "\n".join(map("\t".join, rows))
    return {
        "utterances": len(split.ids),
        "hours": sum(split.seconds) / 3600,
        "speakers": len(set(split.speakers) - {""}),
        "words": sum(len(t.split()) for t in split.texts),
        "rows_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
