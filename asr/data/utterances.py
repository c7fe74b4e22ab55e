"""Prepared parquet -> length-bucketed batches, resumable at any batch."""

import bisect
import contextlib
import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from asr.audio.audio_file import decode
from asr.batch import BLANK, Batch
from asr.data.device_cache import FULL_SCALE, ResidentUtterances, no_room
from asr.text.tokenizers import Tokenizer

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
GPU_VALIDATION = 4  # on a GPU: batches of validation, in those of training


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The keys of ``data`` in a recipe.

    Args:
        corpus: folder that ``asr prepare`` wrote.
        train: names of the splits to train on.
        validation: name of the split that is watched during training.
        max_batch_seconds: longest utterance times number of utterances of a batch, at most.
        curriculum_seconds: the first epochs use only utterances up to these lengths, one entry an
            epoch: short utterances teach alignment first. The same for every encoder.
        cache_gib: decoded audio is kept in memory when a split needs no more than this.
        device_cache: whether what is kept in memory is kept on the device as well, where batches
            are then made: the same batches, without workers and copies. The log says why where
            it does not fit.
        num_workers: processes that decode audio; 0 is right when the audio is in memory.
    """

    corpus: str
    train: list[str] = field(default_factory=lambda: ["train"])
    validation: str = "validation"
    max_batch_seconds: float = 120.0
    curriculum_seconds: list[float] = field(default_factory=list)
    cache_gib: float = 4.0
    device_cache: bool = False
    num_workers: int = 0

    def __post_init__(self) -> None:
        if not self.max_batch_seconds > 0:
            raise ValueError(f"data.max_batch_seconds {self.max_batch_seconds}: expects seconds")
        if self.num_workers < 0 or self.cache_gib < 0:
            raise ValueError("data.num_workers and data.cache_gib: expect 0 or more")
        if not self.train:
            raise ValueError("data.train: expects at least one split")


def read_corpus(folder: str | Path) -> dict[str, Any]:
    """``corpus.json`` of a prepared corpus.

    Raises:
        ValueError: the folder is no prepared corpus.
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
    """The rows of these splits, one split after the other.

    Raises:
        ValueError: no such split (the message lists those present), or a damaged file.
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

    ``table["text"]`` is a column, ``table[3]`` a row with its audio, undecoded. Between two reads
    no file is open, so threads and worker processes may share a table; to open one again is cheap,
    as what it holds where is remembered. A file that was replaced since then is an error.
    """

    def __init__(self, paths: Sequence[Path]):
        self._paths = list(paths)
        self._inodes = [path.stat().st_ino for path in self._paths]
        self._metadata: list[pq.FileMetaData] = []
        self._groups: list[tuple[int, int]] = []  # file and row group within it
        self._starts = [0]  # the first row of each group, and the end
        columns = []
        for number, path in enumerate(self._paths):
            with _parquet(path) as file:
                columns.append(file.read([n for n in file.schema_arrow.names if n != "audio"]))
                self._metadata.append(file.metadata)
            for group in range(file.metadata.num_row_groups):
                self._groups.append((number, group))
                self._starts.append(self._starts[-1] + file.metadata.row_group(group).num_rows)
        self._columns = pa.concat_tables(columns)

    def __len__(self) -> int:
        return len(self._columns)

    @overload
    def __getitem__(self, key: str) -> list[Any]: ...
    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    def __getitem__(self, key: str | int) -> list[Any] | dict[str, Any]:
        """A column by its name, or a row by its number."""
        if isinstance(key, str):
            return self._columns[key].to_pylist()
        if not 0 <= key < len(self):
            raise IndexError(f"row {key} of {len(self)}")
        place = bisect.bisect_right(self._starts, key) - 1
        rows = self._read(place)
        return rows.slice(key - self._starts[place], 1).to_pylist()[0]

    def audio(self) -> Iterator[bytes]:
        """The audio of all rows, undecoded, one row group in memory at a time."""
        for place in range(len(self._groups)):
            for cell in self._read(place, ["audio"])["audio"].to_pylist():
                yield cell["bytes"]

    def _read(self, place: int, columns: list[str] | None = None) -> pa.Table:
        """A row group."""
        number, group = self._groups[place]
        if self._paths[number].stat().st_ino != self._inodes[number]:
            raise ValueError(f"{self._paths[number]} was prepared again while it was in use")
        with _parquet(self._paths[number], self._metadata[number]) as file:
            return file.read_row_group(group, columns=columns, use_threads=False)


@contextlib.contextmanager
def _parquet(path: Path, metadata: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """A file opened and closed; whatever pyarrow has against it names it."""
    try:
        with pq.ParquetFile(path, metadata=metadata) as file:
            yield file
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise ValueError(f"{path} is damaged ({error}); prepare the corpus again") from None


def _shards(folder: Path, split: str) -> list[Path]:
    """The files of a split, all of them."""
    paths = sorted(folder.glob(f"{split}-[0-9]*-of-[0-9]*.parquet"))
    count = int(paths[0].stem.rsplit("-", 1)[1]) if paths else 1
    if len(paths) != count:
        raise ValueError(
            f"{folder} has {len(paths)} of {count} files of the split {split}; prepare it again"
        )
    return paths


class Utterances(Dataset):
    """One utterance an item: (id, text, wave (N,) float32, tokens (U,) int64)."""

    def __init__(self, rows: Any, tokenizer: Tokenizer, sample_rate: int, cache_gib: float):
        self.rows, self.tokenizer, self.sample_rate = rows, tokenizer, sample_rate
        self.seconds: list[float] = list(rows["duration"])
        self.texts: list[str] = list(rows["text"])
        self.ids: list[str] = list(rows["id"])
        self.resident: ResidentUtterances | None = None
        # Of all utterances, one after the other, and where each begins and the last one ends.
        self.samples: np.ndarray | None = None
        self.starts = np.zeros(len(rows) + 1, dtype=np.int64)
        if sum(self.seconds) * sample_rate * 2 <= cache_gib * 2**30:
            with ThreadPoolExecutor() as pool:
                waves = list(pool.map(self._stored, range(len(rows)), rows.audio()))
            np.cumsum([len(wave) for wave in waves], out=self.starts[1:])
            self.samples = np.concatenate(waves) if waves else np.zeros(0, dtype=np.int16)

    def _decoded(self, index: int, audio: bytes) -> np.ndarray:
        try:
            return decode(audio, self.sample_rate)
        except ValueError as error:
            raise ValueError(f"{self.ids[index]}: {error}; prepare the corpus again") from None

    def _stored(self, index: int, audio: bytes) -> np.ndarray:
        """16 bits, in half the memory: exact for files of 16 bits, which prepared ones are."""
        scaled = (self._decoded(index, audio) * FULL_SCALE).round()
        return scaled.clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)

    def wave(self, index: int) -> Tensor:
        """(N,) float32."""
        if self.samples is not None:
            samples = self.samples[self.starts[index] : self.starts[index + 1]]
            return torch.from_numpy(samples.astype(np.float32) / FULL_SCALE)
        return torch.from_numpy(self._decoded(index, self.rows[index]["audio"]["bytes"]))

    def stay_on(self, device: torch.device) -> None:
        """From now on ``resident`` makes batches there; only with the audio in memory."""
        assert self.samples is not None
        tokens = [self.tokenizer.encode(text) for text in self.texts]
        self.resident = ResidentUtterances(
            self.samples, self.starts, tokens, self.ids, self.texts, device
        )

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[str, str, Tensor, Tensor]:
        text = self.texts[index]
        tokens = torch.tensor(self.tokenizer.encode(text), dtype=torch.int64)
        return self.ids[index], text, self.wave(index), tokens


def collate(items: Sequence[tuple[str, str, Tensor, Tensor]]) -> Batch:
    """Utterances -> Batch, padded with zeros and BLANK."""
    ids, texts, waves, tokens = zip(*items, strict=True)
    return Batch(
        waves=pad_sequence(list(waves), batch_first=True),
        wave_lengths=torch.tensor([len(w) for w in waves]),
        tokens=pad_sequence(list(tokens), batch_first=True, padding_value=BLANK),
        token_lengths=torch.tensor([len(t) for t in tokens]),
        ids=list(ids),
        texts=list(texts),
    )


def bucket(
    seconds: Sequence[float], max_batch_seconds: float, order: Sequence[int] | None = None
) -> list[list[int]]:
    """Neighbours in length share a batch whose padded length is at most ``max_batch_seconds``.

    Args:
        seconds: length of each utterance.
        max_batch_seconds: bound on longest times number; a longer utterance is alone.
        order: indices by (nearly) rising length; by length when not given.
    """
    batches: list[list[int]] = []
    longest = 0.0
    for index in np.argsort(seconds, kind="stable") if order is None else order:
        longest = max(longest, seconds[index])
        if not batches or longest * (len(batches[-1]) + 1) > max_batch_seconds:
            batches.append([])
            longest = seconds[index]
        batches[-1].append(int(index))
    return batches


class BatchStream:
    """The endless sequence of training batches, from any point on: a pure function of the seed.

    The sequence is the epochs one after the other, each shuffled anew, whatever the number of
    ranks: rank r of R takes batches r, r + R, r + 2R, ... of it. Being pure it can be iterated any
    number of times, which is what makes a resumed run exact.
    """

    def __init__(self, seconds: Sequence[float], options: DataOptions, seed: int):
        self.seconds, self.options, self.seed = np.asarray(seconds), options, seed
        self._ends: list[int] = []  # batches up to the end of each epoch

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch in their order."""
        draw = np.random.default_rng([self.seed, epoch])
        limits = self.options.curriculum_seconds
        limit = limits[epoch] if epoch < len(limits) else np.inf
        allowed = np.flatnonzero(self.seconds <= limit)
        if not len(allowed):
            raise ValueError(
                f"data.curriculum_seconds: no utterance is as short as {limit} s "
                f"(the shortest lasts {self.seconds.min():.2f} s); give longer ones, or []"
            )
        # A little noise on the length, so that an utterance meets other company every epoch.
        noisy = self.seconds[allowed] * draw.uniform(0.95, 1.05, len(allowed))
        order = allowed[np.argsort(noisy, kind="stable")].tolist()
        batches = bucket(self.seconds.tolist(), self.options.max_batch_seconds, order)
        return [batches[i] for i in draw.permutation(len(batches))]

    def locate(self, position: int) -> tuple[int, int]:
        """(epoch, batches of it before) of the batch at this position of the stream."""
        while not self._ends or position >= self._ends[-1]:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + len(self.epoch(len(self._ends))))
        epoch = bisect.bisect_right(self._ends, position)
        return epoch, position - (self._ends[epoch - 1] if epoch else 0)

    def batches(self, position: int) -> Iterator[list[int]]:
        """From this position on, without end."""
        epoch, skip = self.locate(position)
        while True:
            yield from self.epoch(epoch)[skip:]
            epoch, skip = epoch + 1, 0


class Share(Sampler[list[int]]):
    """Every ``num_ranks``-th batch of a stream from ``position + rank`` on."""

    def __init__(self, stream: BatchStream, position: int, rank: int = 0, num_ranks: int = 1):
        self.stream, self.position, self.rank, self.num_ranks = stream, position, rank, num_ranks

    def __iter__(self) -> Iterator[list[int]]:
        """A new iteration begins at the same batch."""
        return itertools.islice(self.stream.batches(self.position), self.rank, None, self.num_ranks)


class SpeechData:
    """Training and validation batches of a prepared corpus.

    Attributes:
        train, validation: the utterances.
        stream: the order of the training batches.
    """

    def __init__(
        self,
        options: DataOptions,
        tokenizer: Tokenizer,
        sample_rate: int,
        seed: int,
        device: torch.device = CPU,
    ):
        self.options, self.seed, self.device = options, seed, device
        splits = (options.train, [options.validation])
        self.train, self.validation = (
            Utterances(read_rows(options.corpus, split), tokenizer, sample_rate, options.cache_gib)
            for split in splits
        )
        self.stream = BatchStream(self.train.seconds, options, seed)
        if options.device_cache:
            self._stay_on_device()

    def _stay_on_device(self) -> None:
        """Keeps the audio of both on the device, or says in the log why it cannot."""
        splits = (self.train, self.validation)
        held = [split.samples for split in splits if split.samples is not None]
        why = no_room(sum(samples.nbytes for samples in held), self.device)
        if len(held) < len(splits):
            why = f"a split needs more than data.cache_gib {self.options.cache_gib:g} in memory"
        if why is not None:
            log.warning("data.device_cache: batches are copied to the device one by one: %s", why)
            return
        for split in splits:
            split.stay_on(self.device)

    @staticmethod
    def texts(options: DataOptions) -> list[str]:
        """The training transcripts, on which a tokenizer is made."""
        return list(read_rows(options.corpus, options.train)["text"])

    def train_batches(
        self, position: int = 0, rank: int = 0, num_ranks: int = 1
    ) -> Iterable[Batch]:
        """Endless; ``position`` counts the batches that all ranks together have trained on."""
        return self._made(self.train, Share(self.stream, position, rank, num_ranks))

    def validation_batches(self, rank: int = 0, num_ranks: int = 1) -> Iterable[Batch]:
        """Yields every validation utterance once; a batch holds utterances of similar length."""
        return self._made(self.validation, self.validation_rows()[rank::num_ranks])

    def validation_rows(self) -> list[list[int]]:
        """The utterances of each validation batch.

        A step of a search has as many launches, which a GPU waits for, at any size of a batch.
        """
        larger = GPU_VALIDATION if self.device.type == "cuda" else 1
        return bucket(self.validation.seconds, larger * self.options.max_batch_seconds)

    def _made(self, utterances: Utterances, batches: Iterable[list[int]]) -> Iterable[Batch]:
        """On the device, where the audio is there; else in memory, by a loader."""
        if utterances.resident is not None:
            return map(utterances.resident.batch, batches)
        return DataLoader(
            utterances,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.options.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def longest_batch(self) -> Batch:
        """The batch with most padded seconds; those of an epoch are longer by 5 % at most."""
        batches = bucket(self.train.seconds, self.options.max_batch_seconds)
        cost = [len(b) * max(self.train.seconds[i] for i in b) for b in batches]
        return collate([self.train[i] for i in batches[int(np.argmax(cost))]])

    def sample(self, number: int) -> Iterator[Tensor]:
        """Waveforms (N,) of a fixed random sample of the training utterances."""
        draw = np.random.default_rng(self.seed)
        for index in draw.permutation(len(self.train))[:number]:
            yield self.train.wave(int(index))
