"""Batches of sentences for language models, from text files and transcripts; resumable."""

import gzip
import hashlib
import logging
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from asr.batch import BLANK, padded
from asr.data.batches import BatchSource, BatchStream
from asr.data.utterances import read_corpus, read_rows
from asr.text.normalisers import Normaliser
from asr.text.tokenizers import Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """The keys of ``text`` in a recipe of a language model.

    A source is a text file with a sentence in each line (.gz too), or the folder of a prepared
    corpus, of which the transcripts are read.

    Args:
        train: sources to train on; a prepared corpus stands for its split train.
        validation: source to validate on; a prepared corpus stands for its split validation. Its
            sentences are left out of training.
        max_batch_tokens: largest size of a batch, in tokens: the length of its longest sentence
            times its number of sentences. All processes (devices) share each batch.
        curriculum_tokens: largest length in tokens of the sentences in each of the first epochs,
            one entry per epoch. The end of a sentence counts as a token.
    """

    train: list[str]
    validation: str
    max_batch_tokens: float = 2000.0
    curriculum_tokens: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("text.train: expects at least one file or corpus")
        if not self.max_batch_tokens > 0:
            raise ValueError(f"text.max_batch_tokens {self.max_batch_tokens}: expects tokens")


def read_sentences(source: str, split: str, normalise: Normaliser) -> list[str]:
    """Reads the normalised sentences of a source, without empty ones.

    Raises:
        ValueError: there is no such source, or a file is not UTF-8 text.
        OSError: the source cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        read_corpus(path)
        texts = list(read_rows(path, [split])["text"])
    elif path.is_file():
        texts = _lines(path)
    else:
        raise ValueError(f"{source}: no such text file or prepared corpus; check the path")
    found = [sentence for text in texts if (sentence := normalise(text)).strip()]
    if not found:
        raise ValueError(f"{source} holds no sentence; give another")
    return found


def _lines(path: Path) -> list[str]:
    """Reads lines with any line ends; ``splitlines`` would also split at other separators."""
    try:
        # The byte order mark that Windows programs write is not part of the text.
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig")
        ) as file:
            return [line.removesuffix("\n") for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); convert it") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again") from None


class Sentences:
    """Token ids of sentences.

    Attributes:
        ids: tokens of each sentence, without EOS.
        sizes: number of tokens of each sentence, including EOS.
        words: number of words of all sentences.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer) -> None:
        self.ids = [tokenizer.encode(text) for text in texts]
        self.sizes = [len(row) + 1.0 for row in self.ids]
        self.words = sum(len(text.split()) for text in texts)

    def tokens(self, index: int) -> list[int]:
        """Returns the tokens of a sentence, without EOS."""
        return self.ids[index]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns tokens (B, U), padded with BLANK, and their lengths (B,)."""
        return padded([torch.tensor(self.ids[i]) for i in indices], BLANK)


class TextData(BatchSource):
    """Training and validation batches of sentences."""

    train: Sentences
    validation: Sentences

    def __init__(
        self, options: TextOptions, tokenizer: Tokenizer, normalise: Normaliser, seed: int
    ) -> None:
        held_out = read_sentences(options.validation, "validation", normalise)
        everything = [
            sentence
            for source in options.train
            for sentence in read_sentences(source, "train", normalise)
        ]
        known = set(held_out)
        texts = [sentence for sentence in everything if sentence not in known]
        if len(texts) < len(everything):
            log.info(
                "%d of %d training sentences are in the validation text and left out",
                len(everything) - len(texts),
                len(everything),
            )
        if not texts:
            raise ValueError("text.train: every sentence is in the validation text; give others")
        train, validation = (Sentences(each, tokenizer) for each in (texts, held_out))
        most = options.max_batch_tokens
        stream = BatchStream(train.sizes, most, seed, options.curriculum_tokens)
        super().__init__(train, validation, most, stream)

    def sha256(self) -> str:
        """Returns the checksum of all tokens of both texts, in order."""
        digest = hashlib.sha256()
        for sentences in (self.train, self.validation):
            digest.update(array("q", [len(sentences.ids)]).tobytes())
            for ids in sentences.ids:
                digest.update(array("q", [len(ids), *ids]).tobytes())
        return digest.hexdigest()
