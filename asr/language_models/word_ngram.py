"""N-gram models of words that score the tokens of a speech model."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.batch import EOS, UNKNOWN, Cache
from asr.language_models import arpa as arpa_file
from asr.language_models.backoff import Grams, automaton
from asr.language_models.compact import pack, packed_ids, unpack
from asr.language_models.kneser_ney import estimate
from asr.language_models.language_model import CountedLanguageModel
from asr.language_models.lookup import Lookup, make_room
from asr.language_models.pruning import prune
from asr.language_models.spelling import INSTEAD, Kind, Tree, kinds_of, spelling
from asr.text.tokenizers import FIRST, REPLACEMENT, SPACE

logger = logging.getLogger(__name__)

STORED = ("kinds", "spelt", "lengths", "sizes", "tokens", "followers", "probabilities", "backoffs")


class WordNGram(CountedLanguageModel):
    """An n-gram model of words with interpolated modified Kneser-Ney smoothing.

    The log-probabilities of the tokens of a sentence sum to that of its words, if each word is cut
    as the tokenizer does. While a word is being spelt, its tokens share out the unigram
    probabilities of the words that are still possible. Where the word ends, its probability after
    the words before it takes the place of this look-ahead (see ``asr.language_models.spelling``).

    There are no probabilities until ``fit`` is called or the tables are loaded. The tables are
    stored with logarithms of 16 bits.

    Args:
        order: length n of the longest n-grams; a word depends on the n - 1 words before it.
        min_count: words that occur less often in the text count as <unk>.
        max_ngrams: number of n-grams of all orders to which the model is pruned by relative entropy
            (Stolcke 1998). null: it is not pruned.
        lexicon: whether searches may find words of the vocabulary only. Otherwise, and in
            perplexities, another word has the probability of <unk>, times the frequency of each of
            its tokens.
        arpa: file in ARPA format, which is read instead of estimating n-grams from text; its words
            must be written as in the transcripts of the speech model.
    """

    kinds: Tensor
    spelt: Tensor
    lengths: Tensor
    stops: Tensor

    def __init__(
        self,
        vocabulary: int,
        *,
        order: int = 3,
        min_count: int = 1,
        max_ngrams: int | None = None,
        lexicon: bool = False,
        arpa: str | None = None,
    ):
        for name, value in (("order", order), ("min_count", min_count), ("max_ngrams", max_ngrams)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        super().__init__()
        self.vocabulary, self.order, self.min_count = vocabulary, order, min_count
        self.max_ngrams, self.lexicon, self.arpa = max_ngrams, lexicon, arpa
        for name in STORED:
            self.register_buffer(name, torch.zeros(0))
        self.register_load_state_dict_pre_hook(make_room)
        self.register_load_state_dict_post_hook(_loaded)

    def fit(
        self,
        sentences: Iterable[Sequence[int]],
        pieces: Sequence[str],
        encode: Callable[[str], list[int]],
    ) -> None:
        """See ``CountedLanguageModel``. The words of a file are words.

        Raises:
            ValueError: no spaces are written between words; the vocabulary alone has more than
                ``max_ngrams`` words; see ``CountedLanguageModel`` for others.
        """
        kinds = kinds_of(pieces)
        if self.arpa is None:
            words, orders = _counted(sentences, pieces, self.order, self.min_count)
        else:
            words, orders = arpa_file.read_word_arpa(Path(self.arpa), self.order)
        rows = [[t for t in encode(word) if kinds[t] != Kind.SPACE] for word in words]
        strange = [word for word, row in zip(words, rows, strict=True) if UNKNOWN in row]
        if strange:
            found = f"{self.arpa}: {len(strange)} of {len(words)} words, {strange[0]!r} the first,"
            found += (
                " have characters that no token has; write them as in the transcripts of speech"
            )
            if 2 * len(strange) > len(words):
                raise ValueError(found)
            logger.warning("%s; they are never recognised", found)
        rows = [[] if UNKNOWN in row else row for row in rows]
        if self.max_ngrams is not None:
            if self.max_ngrams < len(orders[0].token):
                raise ValueError(
                    f"max_ngrams is {self.max_ngrams}, but the vocabulary has {len(words)} words: "
                    "raise max_ngrams or min_count"
                )
            orders = prune(orders, self.max_ngrams)
        tables = pack(orders) | {
            "kinds": torch.from_numpy(kinds),
            "spelt": packed_ids(rows),
            "lengths": packed_ids([[len(row) for row in rows]]),
        }
        for name in STORED:
            setattr(self, name, tables[name].to(self.kinds.device))
        self.prepare()

    def prepare(self) -> None:
        """Makes the tables that are looked up from those that are stored."""
        orders = unpack(dict(self.named_buffers(recurse=False)))
        if len(self.kinds) != self.vocabulary:
            raise RuntimeError(f"spelt with {len(self.kinds)} tokens, not with {self.vocabulary}")
        tokens = iter(self.spelt.tolist())
        rows = [list(islice(tokens, length)) for length in self.lengths.tolist()]
        self.grams = Lookup(automaton(orders), len(orders), persistent=False)
        spelt = rows, orders[0].log_prob, self.kinds.cpu().numpy()
        self.tree = self.open_tree = spelling(*spelt, lexicon=False)
        if self.lexicon:
            self.tree = spelling(*spelt, lexicon=True)
        every = torch.arange(len(self.grams.suffixes))
        stops, _ = self.grams.read(torch.full_like(every, EOS), every)  # of each context
        self.register_buffer("stops", stops, persistent=False)
        self.to(self.kinds.device)

    def start(self, rows: int) -> Cache:
        """Returns the state of N rows between two words.

        A state is three contexts: of the words that have ended, of the characters after them, and
        of the words if one more ends with these characters.
        """
        begun = self.grams.targets[EOS].long()  # the context of <s>
        return {"contexts": torch.stack([begun, torch.zeros_like(begun), begun]).repeat(rows, 1)}

    def step(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """See ``LanguageModel.step``."""
        return self._step(tokens, cache, self.tree)

    def open_step(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """See ``LanguageModel.open_step``."""
        return self._step(tokens, cache, self.open_tree)

    def _step(self, tokens: Tensor, cache: Cache, tree: Tree) -> tuple[Tensor, Cache]:
        before, spelt, after = cache["contexts"].unbind(1)  # (N,)
        before = torch.where(tree.begins.take(tokens), after, before)
        spelt = tree.read(tokens, spelt)
        end, after = self.grams.read(tree.words.take(spelt), before)
        between = spelt == 0  # no word ends here
        end = end.masked_fill_(between, 0.0) + tree.endings.take(spelt)
        after = torch.where(between, before, after)
        log_probs = tree.predict(spelt, end)
        log_probs.select(1, EOS).add_(self.stops.take(after))
        return log_probs, {"contexts": torch.stack([before, spelt, after], 1)}


def _loaded(model: WordNGram, incompatible: Any) -> None:
    model.prepare()


def _counted(
    sentences: Iterable[Sequence[int]], pieces: Sequence[str], order: int, min_count: int
) -> tuple[list[str], list[Grams]]:
    """Returns the words that occur often enough, in alphabetical order, and their n-grams."""
    spelt = [*pieces[:UNKNOWN], REPLACEMENT, *pieces[FIRST:]]
    texts = ["".join(spelt[token] for token in row).replace(SPACE, " ") for row in sentences]
    counts = Counter(word for text in texts for word in text.split())
    if len(texts) > counts.total() / 2 and len(counts) > counts.total() / 2:
        raise ValueError(
            f"{len(texts)} sentences have {counts.total()} words, of which {len(counts)} differ: "
            f"the language seems to be written without spaces; {INSTEAD}"
        )
    words = sorted(w for w, count in counts.items() if count >= min_count and REPLACEMENT not in w)
    ids = {word: token for token, word in enumerate(words, FIRST)}
    rows = ([ids.get(word, UNKNOWN) for word in text.split()] for text in texts)
    return words, estimate(rows, FIRST + len(words), order, open_vocabulary=True)
