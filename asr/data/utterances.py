"""Batches of utterances from a prepared corpus, grouped by length; resumable at any batch."""

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
from torch.utils.data import DataLoader, Dataset

from asr.audio.audio_file import decode
from asr.batch import BLANK, Batch
from asr.data.batches import BatchSource, bucket
from asr.data.device_cache import Resident, no_room
from asr.text.tokenizers import Tokenizer

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
GPU_VALIDATION = 4  # size of a validation batch on a GPU, as a multiple of a training batch
FULL_SCALE = 32768  # full scale of 16-bit samples; division by a power of two is exact


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The keys of ``data`` in a recipe.

    Args:
        corpus: folder that ``asr prepare`` wrote.
        train: names of the splits to train on.
        validation: name of the split that is evaluated during training.
        max_batch_seconds: largest batch, in seconds: length of the longest utterance times number
            of utterances. All processes (devices) share each batch.
        curriculum_seconds: longest utterance (seconds) of each of the first epochs, one entry per
            epoch. Short utterances teach alignment first. The curriculum is the same for every
            encoder.
        cache_gib: memory for decoded audio in GiB; a split that needs more is decoded again in each
            epoch.
        device_cache: whether audio that is cached in memory is copied to the device too. Batches
            are then made on the device, without workers or transfers, and are the same. The log
            says why if the audio does not fit.
        num_workers: number of processes that decode audio; 0 is best if the audio is cached in
            memory.
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

    ``table["text"]`` is a column, and ``table[3]`` is a row with its undecoded audio. No file is
    open between two reads, so threads and worker processes may share a table. A file is quick to
    open again, because its metadata stay in memory. A file that was replaced raises an error.
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
        """Returns a column by its name, or a row by its number."""
        if isinstance(key, str):
            return self._columns[key].to_pylist()
        if not 0 <= key < len(self):
            raise IndexError(f"row {key} of {len(self)}")
        place = bisect.bisect_right(self._starts, key) - 1
        rows = self._read(place)
        return rows.slice(key - self._starts[place], 1).to_pylist()[0]

    def audio(self) -> Iterator[bytes]:
        """Yields the undecoded audio of all rows; memory holds one row group at a time."""
        for place in range(len(self._groups)):
            for cell in self._read(place, ["audio"])["audio"].to_pylist():
                yield cell["bytes"]

    def _read(self, place: int, columns: list[str] | None = None) -> pa.Table:
        """Reads a row group."""
        number, group = self._groups[place]
        if self._paths[number].stat().st_ino != self._inodes[number]:
            raise ValueError(f"{self._paths[number]} was prepared again while it was in use")
        with _parquet(self._paths[number], self._metadata[number]) as file:
            return file.read_row_group(group, columns=columns, use_threads=False)


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


class Utterances(Dataset):
    """A data set of utterances: (id, text, wave (N,) float32, tokens (U,) int64).

    Attributes:
        sizes: length of each utterance in seconds.
        samples: (total,) int16, the samples of all utterances in order, if they fit into memory.
        starts: (number + 1,) int64, the first sample of each utterance, and the end of the last.
        resident: samples and tokens of all utterances on a device, see ``keep_on``.
    """

    def __init__(self, rows: Any, tokenizer: Tokenizer, sample_rate: int, cache_gib: float):
        self.rows, self.tokenizer, self.sample_rate = rows, tokenizer, sample_rate
        self.sizes: list[float] = list(rows["duration"])
        self.texts: list[str] = list(rows["text"])
        self.ids: list[str] = list(rows["id"])
        self.resident: tuple[Resident, Resident] | None = None
        self.samples: np.ndarray | None = None
        self.starts = np.zeros(len(rows) + 1, dtype=np.int64)
        if sum(self.sizes) * sample_rate * 2 <= cache_gib * 2**30:
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
        """Decodes audio to 16 bits, which save memory and are exact for prepared corpora."""
        scaled = (self._decoded(index, audio) * FULL_SCALE).round()
        return scaled.clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)

    def wave(self, index: int) -> Tensor:
        """Returns the waveform of an utterance, (N,) float32."""
        if self.samples is not None:
            samples = self.samples[self.starts[index] : self.starts[index + 1]]
            return torch.from_numpy(samples.astype(np.float32) / FULL_SCALE)
        return torch.from_numpy(self._decoded(index, self.rows[index]["audio"]["bytes"]))

    def tokens(self, index: int) -> list[int]:
        """Returns the tokens of a transcript, without EOS."""
        return self.tokenizer.encode(self.texts[index])

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[str, str, Tensor, Tensor]:
        tokens = torch.tensor(self.tokens(index), dtype=torch.int64)
        return self.ids[index], self.texts[index], self.wave(index), tokens

    def keep_on(self, device: torch.device) -> None:
        """Copies samples and tokens to a device, on which ``batch`` then makes its batches."""
        assert self.samples is not None
        tokens = [self.tokens(index) for index in range(len(self))]
        flat = np.fromiter(itertools.chain(*tokens), dtype=np.int64)
        self.resident = (
            Resident(self.samples, self.starts, device),
            Resident(flat, np.cumsum([0, *map(len, tokens)]), device),
        )

    def batch(self, indices: Sequence[int]) -> Batch:
        """Makes a batch of these utterances, which is bitwise the same on every device."""
        if self.resident is None:
            return collate([self[index] for index in indices])
        samples, tokens = self.resident
        waves, wave_lengths = samples.cut(indices, 0)
        padded, token_lengths = tokens.cut(indices, BLANK)
        return Batch(
            waves=waves.float() / FULL_SCALE,
            wave_lengths=wave_lengths,
            tokens=padded,
            token_lengths=token_lengths,
            ids=[self.ids[index] for index in indices],
            texts=[self.texts[index] for index in indices],
        )


def collate(items: Sequence[tuple[str, str, Tensor, Tensor]]) -> Batch:
    """Makes a batch of utterances, padded with zeros and BLANK."""
    ids, texts, waves, tokens = zip(*items, strict=True)
    return Batch(
        waves=pad_sequence(list(waves), batch_first=True),
        wave_lengths=torch.tensor([len(w) for w in waves]),
        tokens=pad_sequence(list(tokens), batch_first=True, padding_value=BLANK),
        token_lengths=torch.tensor([len(t) for t in tokens]),
        ids=list(ids),
        texts=list(texts),
    )


class SpeechData(BatchSource):
    """Training and validation batches of a prepared corpus."""

    train: Utterances
    validation: Utterances

    def __init__(
        self,
        options: DataOptions,
        tokenizer: Tokenizer,
        sample_rate: int,
        seed: int,
        device: torch.device = CPU,
    ):
        train, validation = (
            Utterances(read_rows(options.corpus, split), tokenizer, sample_rate, options.cache_gib)
            for split in (options.train, [options.validation])
        )
        curriculum = options.curriculum_seconds
        super().__init__(train, validation, options.max_batch_seconds, seed, curriculum)
        self.options, self.seed, self.device = options, seed, device
        if options.device_cache:
            self._keep_on_device()

    def _keep_on_device(self) -> None:
        """Keeps the audio of both splits on the device, or says in the log why it cannot."""
        splits = (self.train, self.validation)
        held = [split.samples for split in splits if split.samples is not None]
        why = no_room(sum(samples.nbytes for samples in held), self.device)
        if len(held) < len(splits):
            why = f"a split needs more than data.cache_gib {self.options.cache_gib:g} in memory"
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

    def load_batches(self, items: Any, rows: Iterable[list[int]]) -> Iterable[Batch]:
        """Makes batches on the device if it holds the audio; otherwise a loader makes them."""
        if items.resident is not None:
            return map(items.batch, rows)
        return DataLoader(
            items,
            batch_sampler=rows,
            collate_fn=collate,
            num_workers=self.options.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def sample(self, number: int) -> Iterator[Tensor]:
        """Yields the waveforms (N,) of a fixed random sample of the training utterances."""
        draw = np.random.default_rng(self.seed)
        for index in draw.permutation(len(self.train))[:number]:
            yield self.train.wave(int(index))
