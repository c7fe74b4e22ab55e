"""Prepared parquet -> length-bucketed batches, resumable at any batch."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from asr.audio import decode
from asr.batch import BLANK, Batch
from asr.files import remedy
from asr.text import Tokenizer

log = logging.getLogger(__name__)


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
        num_workers: processes that decode audio; 0 is right when the audio is in memory.
    """

    corpus: str
    train: list[str] = field(default_factory=lambda: ["train"])
    validation: str = "validation"
    max_batch_seconds: float = 120.0
    curriculum_seconds: list[float] = field(default_factory=list)
    cache_gib: float = 4.0
    num_workers: int = 0


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


def read_rows(folder: str | Path, splits: Sequence[str]) -> Any:
    """The rows of these splits as one memory-mapped ``datasets.Dataset``, audio not decoded.

    Raises:
        ValueError: no such split (the message lists those present), or a damaged file.
        OSError: no room for the memory map.
    """
    import datasets
    import pyarrow.parquet

    present = read_corpus(folder)["splits"]
    for split in splits:
        if split not in present:
            raise ValueError(
                f"split {split!r} is not in {folder}; it has {', '.join(sorted(present))}"
            )
    datasets.disable_progress_bars()
    files = [str(path) for split in splits for path in _shards(Path(folder), split)]
    file = ""
    try:
        for file in files:
            pyarrow.parquet.read_metadata(file)  # datasets would not say which one is damaged
        rows = datasets.load_dataset("parquet", data_files=files, split="train")
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{file} is damaged ({error}); prepare the corpus again") from None
    except datasets.exceptions.DatasetGenerationError as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno:
            cache = datasets.config.HF_DATASETS_CACHE
            raise OSError(f"cannot write {cache} ({cause.strerror}); {remedy(cause)}") from None
        raise ValueError(f"{folder} is damaged ({cause}); prepare the corpus again") from None
    return rows.cast_column("audio", datasets.Audio(decode=False))


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
        self.waves: list[np.ndarray] = []
        if sum(self.seconds) * sample_rate * 2 <= cache_gib * 2**30:
            with ThreadPoolExecutor() as pool:
                self.waves = list(pool.map(self._stored, range(len(rows))))

    def _decoded(self, index: int) -> np.ndarray:
        return decode(self.rows[index]["audio"]["bytes"], self.sample_rate)

    def _stored(self, index: int) -> np.ndarray:
        """16 bits hold what the prepared files hold, in half the memory."""
        return (self._decoded(index) * 32767).round().clip(-32768, 32767).astype(np.int16)

    def wave(self, index: int) -> Tensor:
        """(N,) float32."""
        if self.waves:
            return torch.from_numpy(self.waves[index].astype(np.float32) / 32767)
        return torch.from_numpy(self._decoded(index))

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


class BatchStream(Sampler[list[int]]):
    """The endless sequence of training batches, from any point on: a pure function of the seed.

    The sequence is the epochs one after the other, each shuffled anew. It does not depend on the
    number of ranks: rank r of R takes batches r, r + R, r + 2R, ... of it. Being pure it can be
    iterated any number of times, which is what makes a resumed run exact
    (torch's loader iterates a sampler twice when it has workers).
    """

    def __init__(
        self,
        seconds: Sequence[float],
        options: DataOptions,
        seed: int,
        start: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ):
        self.seconds, self.options, self.seed = np.asarray(seconds), options, seed
        self.start, self.rank, self.num_ranks = start, rank, num_ranks

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch in their order."""
        draw = np.random.default_rng([self.seed, epoch])
        limits = self.options.curriculum_seconds
        limit = limits[epoch] if epoch < len(limits) else np.inf
        allowed = np.flatnonzero(self.seconds <= limit)
        if not len(allowed):
            raise ValueError(
                f"data.curriculum_seconds: no utterance is as short as {limit} s "
                f"(the shortest lasts {self.seconds.min():.2f} s)"
            )
        # A little noise on the length, so that an utterance meets other company every epoch.
        noisy = self.seconds[allowed] * draw.uniform(0.95, 1.05, len(allowed))
        order = allowed[np.argsort(noisy, kind="stable")].tolist()
        batches = bucket(self.seconds.tolist(), self.options.max_batch_seconds, order)
        return [batches[i] for i in draw.permutation(len(batches))]

    def epoch_of(self, number: int) -> tuple[int, int]:
        """(epoch, batches of it before) of the batch with this number."""
        epoch = 0
        while number >= (size := len(self.epoch(epoch))):
            number, epoch = number - size, epoch + 1
        return epoch, number

    def __iter__(self) -> Iterator[list[int]]:
        epoch, skip = self.epoch_of(self.start * self.num_ranks)
        number = 0
        while True:
            for batch in self.epoch(epoch)[skip:]:
                if number % self.num_ranks == self.rank:
                    yield batch
                number += 1
            epoch, skip = epoch + 1, 0


class SpeechData:
    """Training and validation batches of a prepared corpus.

    Attributes:
        batches_taken: training batches that this rank has trained on, saved with every checkpoint.
    """

    def __init__(self, options: DataOptions, tokenizer: Tokenizer, sample_rate: int, seed: int):
        self.options, self.seed = options, seed
        splits = (options.train, [options.validation])
        self.train, self.validation = (
            Utterances(read_rows(options.corpus, split), tokenizer, sample_rate, options.cache_gib)
            for split in splits
        )
        self.batches_taken = 0

    @staticmethod
    def texts(options: DataOptions) -> list[str]:
        """The training transcripts, on which a tokenizer is made."""
        return list(read_rows(options.corpus, options.train)["text"])

    def state_dict(self) -> dict[str, int]:
        """Where training stands in the stream."""
        return {"batches_taken": self.batches_taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Takes up the stream there."""
        self.batches_taken = state["batches_taken"]

    def stream(self, rank: int = 0, num_ranks: int = 1) -> BatchStream:
        """The batches from where training stands."""
        return BatchStream(
            self.train.seconds, self.options, self.seed, self.batches_taken, rank, num_ranks
        )

    def epoch(self, num_ranks: int = 1) -> int:
        """The epoch of the next batch, counted from 0."""
        return self.stream(0, num_ranks).epoch_of(self.batches_taken * num_ranks)[0]

    def train_batches(self, rank: int = 0, num_ranks: int = 1) -> DataLoader:
        """Endless; starts at ``batches_taken``."""
        return self._loader(self.train, self.stream(rank, num_ranks))

    def validation_batches(self, rank: int = 0, num_ranks: int = 1) -> DataLoader:
        """Every validation utterance once, neighbours in length together."""
        batches = bucket(self.validation.seconds, self.options.max_batch_seconds)
        return self._loader(self.validation, batches[rank::num_ranks])

    def _loader(self, utterances: Utterances, batches: Iterable[list[int]]) -> DataLoader:
        return DataLoader(
            utterances,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.options.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=False,
        )

    def longest_batch(self) -> Batch:
        """The batch with most padded seconds: what fits it fits every batch of the run."""
        batches = bucket(self.train.seconds, self.options.max_batch_seconds)
        cost = [len(b) * max(self.train.seconds[i] for i in b) for b in batches]
        return collate([self.train[i] for i in batches[int(np.argmax(cost))]])

    def sample(self, number: int) -> Iterator[Tensor]:
        """Waveforms (N,) of a fixed random sample of the training utterances."""
        draw = np.random.default_rng(self.seed)
        for index in draw.permutation(len(self.train))[:number]:
            yield self.train.wave(int(index))
