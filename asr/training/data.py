"""LightningDataModules with endless training batches that can resume at any batch."""

import itertools
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from asr.batch import Share
from asr.data.sentences import TextData
from asr.data.utterances import SpeechData, read_corpus, read_rows
from asr.model import DESCRIPTION, find_model
from asr.model_folder import read_description
from asr.recipe.schema import LanguageModelRecipe, Recipe
from asr.text.normalisers import normaliser
from asr.text.tokenizers import Tokenizer, restore

log = logging.getLogger(__name__)

# Length of the endless stream in batches: no run is as long, and the sum over ranks is exact.
ENDLESS = 10**12


class Loader:
    """An iterable of batches that reports when the Trainer waits for the next one.

    It has a length, because Lightning would fetch each batch one step too early without it.
    """

    def __init__(
        self,
        batches: Callable[[], Iterable[Any]],
        length: int,
        enter: Callable[[str], object] = lambda phase: None,
    ) -> None:
        """Calls ``enter`` with the name of each phase that begins: data_wait or step."""
        self.batches, self.length, self.enter = batches, length, enter

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.batches())
        while True:
            self.enter("data_wait")
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.enter("step")
            yield batch


class StreamDataModule(L.LightningDataModule):
    """A data module with an endless stream of training batches, and with validation batches.

    It chooses the rows of each rank itself, so it needs ``Trainer(use_distributed_sampler=False)``.

    Attributes:
        source: training and validation data; ``setup`` sets it.
        tokenizer: tokenizer of the model; ``setup`` sets it.
        position: number of batches trained on, where a resumed run continues. All ranks share each
            batch.
        update_start: position at which the current update began.
        share: rows of the last training batch that this rank trains on.
        enter: called with the name of each phase that begins: data_wait or step.
    """

    source: SpeechData | TextData
    tokenizer: Tokenizer
    share: Share

    def __init__(self) -> None:
        super().__init__()
        self.position = self.update_start = 0
        self.enter: Callable[[str], object] = lambda phase: None

    @abstractmethod
    def read(self, trainer: L.Trainer) -> None:
        """Sets ``tokenizer`` and ``source``."""

    def setup(self, stage: str) -> None:
        """Calls ``read``, unless the data were read before."""
        if not hasattr(self, "source"):
            assert self.trainer is not None
            self.read(self.trainer)

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, counted from 0."""
        return self.source.stream.locate(self.position)[0]

    def _rank_and_size(self) -> tuple[int, int]:
        """Returns the rank and the number of ranks."""
        assert self.trainer is not None
        return self.trainer.global_rank, self.trainer.world_size

    def train_dataloader(self) -> Loader:
        """Returns the endless training batches; a new iteration begins at ``position``."""
        return Loader(self._train_batches, ENDLESS, lambda phase: self.enter(phase))

    def _train_batches(self) -> Iterator[Any]:
        """Yields the rows of this rank in each batch, and sets ``share``."""
        source = self.source
        windows, copies = itertools.tee(source.shares(self.position, *self._rank_and_size()))
        items = ([share.items for share in window] for window in copies)
        shares = itertools.chain.from_iterable(windows)
        batches = source.load_batches(source.train, items)
        for self.share, batch in zip(shares, batches, strict=False):  # both are endless
            yield batch

    def longest_batch(self) -> Any:
        """Returns the rows of this rank in the largest batch, and sets ``share``."""
        self.share = self.source.share(self.source.longest_batch(), *self._rank_and_size())
        return self.source.train.batch(self.share.items)

    def val_dataloader(self) -> Loader:
        """Returns the validation batches of this rank.

        All ranks need equally many, because DDP synchronises buffers before each validation step.
        A rank that has one batch fewer gets None as its last batch.
        """
        rank, ranks = self._rank_and_size()
        length = -(-len(self.source.validation_rows()) // ranks)

        def batches() -> Iterator[Any]:
            padded = itertools.chain(self.source.validation_batches(rank, ranks), [None])
            return itertools.islice(padded, length)

        return Loader(batches, length)

    def share_of_update(self, count: Tensor) -> Tensor:
        """Returns the share () of the current update's tokens that the next batch holds.

        Args:
            count: () what a term of the loss counts in that batch. If it counts tokens and ends of
                sentences, so does the share. If it counts frames or leaves out utterances, the
                share counts the tokens alone.
        """
        assert self.trainer is not None
        number = self.trainer.accumulate_grad_batches
        rows = itertools.islice(self.source.stream.batches(self.update_start), number)
        batches = [[len(self.source.train.tokens(row)) for row in batch] for batch in rows]
        first = self.position - self.update_start
        (tokens, ends), (all_tokens, all_ends) = (
            (sum(map(sum, part)), sum(map(len, part)))
            for part in (batches[first : first + 1], batches)
        )
        with_ends = (tokens + ends) / (all_tokens + all_ends)
        share = torch.full_like(count, tokens / max(1, all_tokens))
        return share.masked_fill(count == tokens + ends, with_ends)

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in the stream of batches."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the stream at the saved position; the number of ranks may differ."""
        self.position = self.update_start = state["position"]


class SpeechDataModule(StreamDataModule):
    """Batches of a prepared corpus.

    Attributes:
        resumed: whether the run is resumed; the model then loads the statistics of the features.
        corpus: content of ``corpus.json``.
        rows_sha256: checksum of the rows of each split in use, by name of the split.
    """

    source: SpeechData

    def __init__(self, recipe: Recipe, tokenizer: dict[str, str] | None = None) -> None:
        """Reads only the description of the corpus.

        Args:
            recipe: recipe of the training.
            tokenizer: state of the tokenizer of a trained model; None: a tokenizer is made from
                the training transcripts.

        Raises:
            ValueError: there is no corpus, or its sample rate is lower than that of the features.
        """
        super().__init__()
        self.recipe, self._tokenizer = recipe, tokenizer
        self.resumed = False
        self.corpus = read_corpus(recipe.data.corpus)
        rate, corpus_rate = recipe.features.sample_rate, self.corpus["sample_rate"]
        if corpus_rate < rate:
            raise ValueError(
                f"features.sample_rate {rate}: {recipe.data.corpus} has {corpus_rate} Hz, so the "
                f"highest mel bins would be empty; use --features.sample_rate {corpus_rate}"
            )
        if corpus_rate > rate:
            log.info("%s is resampled from %d to %d Hz", recipe.data.corpus, corpus_rate, rate)
        known = self.corpus["splits"]
        splits = [*recipe.data.train, recipe.data.validation]
        self.rows_sha256: dict[str, str] = {
            split: known[split]["rows_sha256"] for split in splits if split in known
        }

    def read(self, trainer: L.Trainer) -> None:
        """Reads the corpus. Rank 0 makes the tokenizer and decodes the audio."""
        recipe, state = self.recipe, self._tokenizer
        if state is None:
            if trainer.is_global_zero:
                texts = read_rows(recipe.data.corpus, recipe.data.train)["text"]
                state = recipe.tokenizer(texts).state()
            state = trainer.strategy.broadcast(state)
            assert state is not None
        self.tokenizer = restore(state)
        rate, device = recipe.features.sample_rate, trainer.strategy.root_device
        if not trainer.is_global_zero:
            trainer.strategy.barrier()
        self.source = SpeechData(recipe.data, self.tokenizer, rate, recipe.seed, device)
        if trainer.is_global_zero:
            trainer.strategy.barrier()


class TextDataModule(StreamDataModule):
    """Batches of sentences, with the tokenizer of the speech model that the recipe names.

    Attributes:
        normaliser: name of the normaliser of the speech model.
    """

    source: TextData

    def __init__(self, recipe: LanguageModelRecipe) -> None:
        """Stores the recipe; ``setup`` reads the text."""
        super().__init__()
        self.recipe = recipe

    def read(self, trainer: L.Trainer) -> None:
        """Reads the tokenizer and the text."""
        described = find_model(self.recipe.tokenizer_of) / DESCRIPTION
        self.tokenizer, self.normaliser = read_description(
            described, lambda tree: (restore(tree["tokenizer"]), tree["normaliser"])
        )
        normalise = normaliser(self.normaliser)
        self.source = TextData(self.recipe.text, self.tokenizer, normalise, self.recipe.seed)
