"""Batches of utterances from a prepared corpus, grouped by length; resumable at any batch."""

import bisect
import contextlib
import functools
import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm import tqdm

from asr.audio.audio_file import decode
from asr.batch import BLANK, Batch, padded
from asr.data.batches import BatchSource, BatchStream, bucket
from asr.data.device_cache import Resident, no_room
from asr.data.samples import FULL_SCALE, Samples, cache_folders, shared
from asr.items import ahead
from asr.metering import control_groups
from asr.text.tokenizers import Tokenizer

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
CACHED_ORDER = "that of cached audio"  # as in ``SpeechData.order``
GPU_VALIDATION = 4  # size of a validation batch on a GPU, as a multiple of a training batch


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The keys of ``data`` in a recipe.

    Args:
        corpus: folder that ``asr prepare`` wrote.
        train: names of the splits to train on.
        validation: name of the split that is evaluated during training.
        max_batch_seconds: largest size of a batch, in seconds: the length of its longest utterance
            times its number of utterances. All processes (devices) share each batch.
        curriculum_seconds: largest length in seconds of the utterances in each of the first epochs,
            one entry per epoch. Short utterances teach alignment first. The curriculum is the same
            for every encoder.
        cache_gib: largest size in GiB of the decoded audio in the folder ``cache`` of the corpus
            (or in ``XDG_CACHE_HOME`` or the temporary folder if that folder cannot be written).
            The limit applies to all training splits together, and separately to the validation
            split. The first run decodes the audio, and later runs share the result. 100 hours at 16
            kHz take 11 GiB. Audio above the limit is not cached: it is decoded again in each epoch.
        shuffle_seconds: seconds of uncached training audio that are decoded together. They are
            drawn from the whole corpus in pieces of about a minute. Batches group utterances of
            similar length among them. Two hours at 16 kHz take 0.2 GiB of memory.
        device_cache: whether cached audio is copied to the device too. Batches are then made on the
            device, without workers or transfers, and are the same. The log says why if the audio
            does not fit.
        num_workers: number of threads that make batches in advance. For uncached audio, each thread
            decodes ``shuffle_seconds`` of it in advance. 0: each batch is made when it is needed,
            so training waits while uncached audio is decoded.
    """

    corpus: str
    train: list[str] = field(default_factory=lambda: ["train"])
    validation: str = "validation"
    max_batch_seconds: float = 120.0
    curriculum_seconds: list[float] = field(default_factory=list)
    cache_gib: float = 12.0
    shuffle_seconds: float = 7200.0
    device_cache: bool = False
    num_workers: int = 0

    def __post_init__(self) -> None:
        if not self.max_batch_seconds > 0:
            raise ValueError(f"data.max_batch_seconds {self.max_batch_seconds}: expects seconds")
        if not self.shuffle_seconds > 0:
            raise ValueError(f"data.shuffle_seconds {self.shuffle_seconds}: expects seconds")
        if self.num_workers < 0 or self.cache_gib < 0:
            raise ValueError("data.num_workers and data.cache_gib: expect 0 or more")
        if not self.train:
            raise ValueError("data.train: expects at least one split")


def read_corpus(folder: str | Path) -> dict[str, Any]:
    """Reads ``corpus.json`` of a prepared corpus.

    Raises:
        ValueError: the folder is not a prepared corpus.
    """
    path = Path(folder) / "corpus.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a prepared corpus (no corpus.json); run: asr prepare")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); prepare the corpus again") from None
    if not isinstance(about, dict) or not {"splits", "normaliser"} <= set(about):
        raise ValueError(f"{path} does not describe a prepared corpus; run: asr prepare")
    return about


def read_rows(folder: str | Path, splits: Sequence[str]) -> "Table":
    """Opens the rows of these splits, one split after the other.

    Raises:
        ValueError: there is no such split (the message lists the splits), or a file is damaged.
        OSError: a file cannot be read.
    """
    present = read_corpus(folder)["splits"]
    for split in splits:
        if split not in present:
            raise ValueError(
                f"split {split!r} is not in {folder}; it has {', '.join(sorted(present))}: name"
                " one of these, or prepare the corpus with that split"
            )
    return Table([path for split in splits for path in _shards(Path(folder), split)])


class Table:
    """Rows of parquet files: the audio stays in them, the other columns are in memory.

    No file is open between two reads, so threads and worker processes may share a table. A file is
    quick to open again, because its metadata stay in memory. A file that was replaced raises an
    error.

    Attributes:
        groups: the first row of each row group, followed by the number of all rows.
    """

    def __init__(self, paths: Sequence[Path]):
        self._paths = list(paths)
        self._inodes = [path.stat().st_ino for path in self._paths]
        self._metadata: list[pq.FileMetaData] = []
        self._places: list[tuple[int, int]] = []  # file and row group within it
        self.groups = [0]
        columns = []
        for number, path in enumerate(self._paths):
            with _parquet(path) as file:
                columns.append(file.read([n for n in file.schema_arrow.names if n != "audio"]))
                self._metadata.append(file.metadata)
            for group in range(file.metadata.num_row_groups):
                self._places.append((number, group))
                self.groups.append(self.groups[-1] + file.metadata.row_group(group).num_rows)
        self._columns = pa.concat_tables(columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __getitem__(self, name: str) -> list[Any]:
        """Returns a column."""
        return self._columns[name].to_pylist()

    def encoded(self, row: int) -> bytes:
        """Returns the undecoded audio of a row."""
        return next(self.audio([row]))[1]

    def audio(self, rows: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Yields rows, which must increase, with their undecoded audio; reads each group once."""
        for place, some in itertools.groupby(rows, lambda row: bisect.bisect(self.groups, row) - 1):
            cells = self._read(place)
            for row in some:
                yield row, cells[row - self.groups[place]]["bytes"].as_py()

    def _read(self, place: int) -> pa.ChunkedArray:
        """Reads the audio of a row group."""
        number, group = self._places[place]
        if self._paths[number].stat().st_ino != self._inodes[number]:
            raise ValueError(f"{self._paths[number]} was prepared again while it was in use")
        with _parquet(self._paths[number], self._metadata[number]) as file:
            return file.read_row_group(group, columns=["audio"], use_threads=False)["audio"]


@contextlib.contextmanager
def _parquet(path: Path, metadata: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """Opens a file and closes it; adds its name to the errors of pyarrow."""
    try:
        with pq.ParquetFile(path, metadata=metadata) as file:
            yield file
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise ValueError(f"{path} is damaged ({error}); prepare the corpus again") from None


def _shards(folder: Path, split: str) -> list[Path]:
    """Finds the files of a split; raises ValueError if one is missing."""
    paths = sorted(folder.glob(f"{split}-[0-9]*-of-[0-9]*.parquet"))
    count = int(paths[0].stem.rsplit("-", 1)[1]) if paths else 1
    if len(paths) != count:
        raise ValueError(
            f"{folder} has {len(paths)} of {count} files of the split {split}; prepare it again"
        )
    return paths


def decode_rows(table: Table, sample_rate: int, rows: Iterable[int]) -> dict[int, np.ndarray]:
    """Decodes rows, which must increase, to samples (N,) int16.

    16 bits are exact for prepared corpora at their own sample rate.
    """
    found = {}
    for row, audio in table.audio(rows):
        try:
            scaled = (decode(audio, sample_rate) * FULL_SCALE).round()
        except ValueError as error:
            raise ValueError(f"{table['id'][row]}: {error}; prepare the corpus again") from None
        found[row] = scaled.clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    return found


def decoded(corpus: str | Path, split: str, sample_rate: int) -> Samples:
    """Returns the samples of a split, which the first caller decodes with all cores."""
    splits = read_corpus(corpus)["splits"]

    def waves() -> Iterator[np.ndarray]:
        table, cores = read_rows(corpus, [split]), control_groups.usable_cores()
        groups = itertools.starmap(range, itertools.pairwise(table.groups))
        decode_group = functools.partial(decode_rows, table, sample_rate)
        bar = {"desc": f"decoding {split}", "total": len(table), "unit": " utterances"}
        with tqdm(**bar, disable=None) as shown:
            for part in ahead(decode_group, groups, cores, 4 * cores):
                yield from part.values()
                shown.update(len(part))

    name = f"{splits[split]['rows_sha256']}-{sample_rate}.pcm"
    current = [facts["rows_sha256"] for facts in splits.values()]
    paths = [folder / name for folder in cache_folders(Path(corpus))]
    return shared(paths, splits[split]["utterances"], waves, current)


def decode_for(options: DataOptions, sample_rate: int) -> float:
    """Decodes the audio that a run will cache; returns the seconds that this process needed.

    Raises:
        ValueError: the corpus or a split does not exist, or audio is damaged.
        OSError: a file cannot be read or written.
    """
    samples: list[Samples] = []
    for splits in (options.train, [options.validation]):
        seconds = read_rows(options.corpus, splits)["duration"]
        samples += cached(options.corpus, splits, seconds, sample_rate, options.cache_gib)
    return sum(each.seconds for each in samples)


def cached(
    corpus: str | Path,
    splits: Sequence[str],
    seconds: Sequence[float],
    sample_rate: int,
    cache_gib: float,
) -> list[Samples]:
    """Returns the samples of each split, or nothing if utterances so long exceed the cache."""
    if sum(seconds) * sample_rate * 2 > cache_gib * 2**30:
        return []
    return [decoded(corpus, split, sample_rate) for split in splits]


class Utterances:
    """Utterances of a corpus, from which batches are made.

    Attributes:
        sizes: length of each utterance in seconds.
        rows: rows of the corpus if their audio is not cached; otherwise None.
        samples: decoded audio of each split if it is cached; otherwise empty.
        resident: samples and tokens of all utterances on a device, see ``keep_on``.
    """

    def __init__(
        self,
        corpus: str | Path,
        splits: Sequence[str],
        tokenizer: Tokenizer,
        sample_rate: int,
        cache_gib: float,
    ):
        self.tokenizer, self.sample_rate = tokenizer, sample_rate
        rows = read_rows(corpus, splits)
        self.sizes: list[float] = rows["duration"]
        self.texts: list[str] = rows["text"]
        self.ids: list[str] = rows["id"]
        self.resident: tuple[Resident, Resident] | None = None
        self.samples = cached(corpus, splits, self.sizes, sample_rate, cache_gib)
        self.rows = None if self.samples else rows
        self._firsts = np.cumsum([0, *map(len, self.samples)])  # the first utterance of each

    def read(self, rows: Iterable[int]) -> dict[int, np.ndarray]:
        """Returns the samples (N,) int16 of utterances."""
        if self.rows is not None:
            return decode_rows(self.rows, self.sample_rate, sorted(set(rows)))
        found = {}
        for row in rows:
            split = int(np.searchsorted(self._firsts, row, side="right")) - 1
            found[row] = self.samples[split][row - self._firsts[split]]
        return found

    def wave(self, index: int) -> Tensor:
        """Returns the waveform of an utterance, (N,) float32."""
        return _wave(self.read([index])[index])

    def tokens(self, index: int) -> list[int]:
        """Returns the tokens of a transcript, without EOS."""
        return self.tokenizer.encode(self.texts[index])

    def __len__(self) -> int:
        return len(self.texts)

    def batches(self, windows: Iterable[list[list[int]]], threads: int) -> Iterator[Batch]:
        """Yields the batches of uncached audio; each thread decodes one of the next windows."""

        def decoded(window: list[list[int]]) -> tuple[list[list[int]], dict[int, np.ndarray]]:
            return window, self.read(itertools.chain(*window))

        for window, samples in ahead(decoded, windows, threads, threads):
            for rows in window:
                yield self.batch(rows, samples)

    def keep_on(self, device: torch.device) -> None:
        """Copies samples and tokens to a device, on which ``batch`` then makes its batches."""
        lengths = np.concatenate([np.diff(samples.starts) for samples in self.samples])
        parts = [samples.mapped().to(device) for samples in self.samples]
        tokens = [self.tokens(index) for index in range(len(self))]
        flat = torch.tensor(list(itertools.chain(*tokens)), dtype=torch.int64)
        self.resident = (
            Resident(parts[0] if len(parts) == 1 else torch.cat(parts), lengths, device),
            Resident(flat, [*map(len, tokens)], device),
        )

    def batch(
        self, indices: Sequence[int], samples: Mapping[int, np.ndarray] | None = None
    ) -> Batch:
        """Makes a batch of these utterances, which is bitwise the same on every device.

        ``samples`` are those of the utterances, if they have been read already.
        """
        if self.resident is not None:
            held, held_tokens = self.resident
            waves, wave_lengths = held.cut(indices, 0)
            waves, num_samples = waves.float() / FULL_SCALE, held.sizes[list(indices)].tolist()
            tokens, token_lengths = held_tokens.cut(indices, BLANK)
        else:
            read = self.read(indices) if samples is None else samples
            waves, wave_lengths = padded([_wave(read[index]) for index in indices])
            num_samples = wave_lengths.tolist()
            rows = [torch.tensor(self.tokens(index), dtype=torch.int64) for index in indices]
            tokens, token_lengths = padded(rows, BLANK)
        return Batch(
            waves=waves,
            wave_lengths=wave_lengths,
            tokens=tokens,
            token_lengths=token_lengths,
            num_samples=num_samples,
            ids=[self.ids[index] for index in indices],
            texts=[self.texts[index] for index in indices],
        )


def _wave(samples: np.ndarray) -> Tensor:
    """(N,) int16 -> (N,) float32."""
    return torch.from_numpy(samples.astype(np.float32) / FULL_SCALE)


class SpeechData(BatchSource):
    """Training and validation batches of a prepared corpus.

    Attributes:
        order: description of the order of training batches.
    """

    train: Utterances
    validation: Utterances
    order: str

    def __init__(
        self,
        options: DataOptions,
        tokenizer: Tokenizer,
        sample_rate: int,
        seed: int,
        device: torch.device = CPU,
    ):
        train, validation = (
            Utterances(options.corpus, splits, tokenizer, sample_rate, options.cache_gib)
            for splits in (options.train, [options.validation])
        )
        most, limits = options.max_batch_seconds, options.curriculum_seconds
        groups, window, self.order = None, np.inf, CACHED_ORDER
        if train.rows is not None:
            groups, window = train.rows.groups, options.shuffle_seconds
            self.order = f"windows of {window:g} s, as audio exceeds data.cache_gib"
        stream = BatchStream(train.sizes, most, seed, limits, groups, window)
        super().__init__(train, validation, most, stream)
        self.options, self.seed, self.device = options, seed, device
        if options.device_cache:
            self._keep_on_device()

    def _keep_on_device(self) -> None:
        """Keeps the audio of both splits on the device, or says in the log why it cannot."""
        splits = (self.train, self.validation)
        size = sum(2 * int(each.starts[-1]) for split in splits for each in split.samples)
        why = no_room(size, self.device)
        if any(split.rows is not None for split in splits):
            why = f"a split needs more than data.cache_gib {self.options.cache_gib:g}"
        if why is not None:
            log.warning("data.device_cache: batches are copied to the device one by one: %s", why)
            return
        for split in splits:
            split.keep_on(self.device)

    def validation_rows(self) -> list[list[int]]:
        """Returns the utterances of each validation batch.

        On a GPU these batches are large, because a search step costs as much for small batches.
        """
        larger = GPU_VALIDATION if self.device.type == "cuda" else 1
        return bucket(self.validation.sizes, larger * self.max_batch_size)

    def load_batches(self, items: Any, windows: Iterable[list[list[int]]]) -> Iterable[Batch]:
        """Makes batches on the device if it holds the audio; otherwise workers make them."""
        rows, workers = itertools.chain.from_iterable(windows), self.options.num_workers
        if items.resident is not None:
            return map(items.batch, rows)
        if items.rows is None:
            batches = ahead(items.batch, rows, workers, 2 * workers)
        else:
            batches = items.batches(windows, workers)
        return map(Batch.pin_memory, batches) if self.device.type == "cuda" else batches

    def sample(self, seconds: float) -> Iterator[Tensor]:
        """Yields the waveforms (N,) of random utterances, just enough for so many seconds."""
        order = np.random.default_rng(self.seed).permutation(len(self.train))
        heard = np.cumsum(np.asarray(self.train.sizes)[order])
        for index in order[: np.searchsorted(heard, seconds) + 1]:
            yield self.train.wave(int(index))
