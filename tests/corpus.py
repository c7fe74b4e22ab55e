"""A prepared corpus in a language where every letter is a tone: learnt in seconds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr.corpora.corpus import Corpus, Origin, Row, Rows
from asr.corpora.prepare import prepare
from asr.data.batches import BatchSource
from asr.folders import Walk

RATE = 8000
WORDS = ["ab", "ba", "ca", "abc", "cab", "bc"]
HERTZ = {"a": 500.0, "b": 1200.0, "c": 2600.0, " ": 0.0}


def tone_speech(text: str, seed: int) -> np.ndarray:
    """(N,) float32: a tone of about a tenth of a second per letter, over a little noise."""
    draw = np.random.default_rng(seed)
    parts = []
    for letter in text:
        time = np.arange(int(RATE * draw.uniform(0.08, 0.12))) / RATE
        shape = np.hanning(len(time))
        parts.append(shape * 0.5 * np.sin(2 * np.pi * HERTZ[letter] * time))
    wave = np.concatenate(parts)
    return (wave + 0.003 * draw.standard_normal(len(wave))).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Tones(Corpus):
    """So many utterances per split, by three speakers each."""

    sizes: dict[str, int]

    def sources(self) -> Walk:
        return Walk()

    def origin(self) -> Origin:
        return Origin(name="tones", source="tests", licence="CC0", synthetic=True)

    def splits(self) -> dict[str, Rows]:
        return {split: Rows(lambda split=split: self._rows(split)) for split in self.sizes}

    def _rows(self, split: str) -> Iterator[Row]:
        for number in range(self.sizes[split]):
            seed = sum(map(ord, split)) * 1000 + number
            draw = np.random.default_rng(seed)
            text = " ".join(draw.choice(WORDS, draw.integers(1, 4)))
            wave = tone_speech(text, seed)
            speaker = f"{split}-{number % 3}"
            yield Row(f"{split}-{number:03}", wave, text, speaker_id=speaker, sample_rate=RATE)


def make_corpus(folder: Path, **sizes: int) -> dict[str, np.ndarray]:
    """Prepares the corpus; returns the samples by id."""
    corpus = Tones(sizes=sizes)
    prepare(corpus, folder, sample_rate=RATE, normaliser="none")
    rows = (row for split in corpus.splits().values() for row in split.read())
    return {row.id: row.audio for row in rows}


def train_batches(
    source: BatchSource, position: int = 0, rank: int = 0, num_ranks: int = 1
) -> Iterable[Any]:
    """The share of a rank in each batch, without end; ``position`` batches came before."""
    windows = source.shares(position, rank, num_ranks)
    return source.load_batches(source.train, ([s.items for s in window] for window in windows))
