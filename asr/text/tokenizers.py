"""Tokenizers of characters and of SentencePiece, which turn text into token ids and back."""

import base64
import io
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Literal

import sentencepiece

from asr.batch import BLANK, EOS, UNKNOWN
from asr.text.normalisers import composed

logger = logging.getLogger(__name__)

SPECIAL = ("<blank>", "</s>", "<unk>")  # spelling of BLANK, EOS and UNKNOWN
SPACE = "\u2581"  # SentencePiece's spelling of a space
FIRST = UNKNOWN + 1  # the id of the first character or piece
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # UNKNOWN decodes to this character


class Tokenizer(ABC):
    """The interface of tokenizers, which turn text into token ids and back; subclasses are final.

    A subclass takes the training ``texts`` as its first, positional parameter and everything else
    as keywords, which are the keys of a recipe. Ids below 3 are BLANK, EOS and UNKNOWN.
    """

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """Returns the number of ids, including BLANK, EOS and UNKNOWN."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Returns ids without EOS; characters or pieces outside the vocabulary become UNKNOWN."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids.

        BLANK and EOS have no text; UNKNOWN becomes the replacement character U+FFFD.
        """

    @abstractmethod
    def pieces(self) -> list[str]:
        """Returns the spelling of each id, in which U+2581 stands for a space.

        The first three are ``<blank>``, ``</s>`` and ``<unk>``.
        """

    @abstractmethod
    def state(self) -> dict[str, str]:
        """Returns the state from which ``restore`` makes an equal tokenizer, as JSON values."""


class Characters(Tokenizer):
    """One token per character, in the order of their code points.

    Args:
        texts: normalised training transcripts.
        alphabet: characters of the vocabulary; by default those of the texts. They are composed in
            the same way as normalisers compose texts.
    """

    def __init__(self, texts: Iterable[str], *, alphabet: str | None = None) -> None:
        found = set(composed(alphabet)) if alphabet is not None else set().union(*texts)
        if not found:
            raise ValueError("the training texts are empty: no characters to make tokens of")
        self.characters = "".join(sorted(found))
        self._ids = {c: FIRST + i for i, c in enumerate(self.characters)}

    @property
    def vocabulary_size(self) -> int:
        """Counts BLANK, EOS, UNKNOWN and the characters."""
        return FIRST + len(self.characters)

    def encode(self, text: str) -> list[int]:
        """Returns one id per character."""
        return [self._ids.get(c, UNKNOWN) for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns one character per id."""
        kept = [i for i in ids if i not in (BLANK, EOS)]
        return "".join(REPLACEMENT if i == UNKNOWN else self.characters[i - FIRST] for i in kept)

    def pieces(self) -> list[str]:
        """Returns the characters, with U+2581 for a space."""
        return [*SPECIAL, *self.characters.replace(" ", SPACE)]

    def state(self) -> dict[str, str]:
        """Returns the characters."""
        return {"class": "Characters", "characters": self.characters}


class SentencePiece(Tokenizer):
    """Subword pieces (Kudo and Richardson 2018; BPE: Sennrich et al. 2016).

    The vocabulary is smaller than ``size`` if the corpus is too small for it, and larger if the
    texts have more characters. The log reports a size that differs.

    Args:
        texts: normalised training transcripts.
        size: size of the vocabulary, with BLANK, EOS and UNKNOWN.
        kind: algorithm: "bpe" merges frequent pairs; "unigram" prunes a large set by likelihood.
    """

    def __init__(
        self, texts: Iterable[str], *, size: int = 500, kind: Literal["bpe", "unigram"] = "bpe"
    ) -> None:
        # SentencePiece drops empty sentences; a tab or newline would end a sentence.
        sentences = [" ".join(text.split()) for text in texts]
        sentences = [text for text in sentences if text]
        if not sentences:
            raise ValueError("the training texts are empty: no pieces to learn from")
        # The characters, SentencePiece's mark of a word's beginning, and its <unk>.
        needed = len(set().union(*sentences) - {" "}) + 2
        self._load(_train(sentences, max(size - UNKNOWN, needed), kind))
        if self.vocabulary_size != size:
            message = "SentencePiece vocabulary of %d instead of %d: the texts have %d characters"
            logger.warning(message, self.vocabulary_size, size, needed - 2)

    def _load(self, model: bytes) -> None:
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @classmethod
    def from_model(cls, model: bytes) -> "SentencePiece":
        """Makes a tokenizer from the bytes of a trained model."""
        tokenizer = cls.__new__(cls)
        tokenizer._load(model)
        return tokenizer

    @property
    def vocabulary_size(self) -> int:
        """Counts BLANK, EOS, UNKNOWN and the pieces."""
        return UNKNOWN + self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """Returns ids that are two higher than SentencePiece's, which begin with <unk>."""
        return [UNKNOWN + i for i in self._processor.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Joins the pieces, with spaces in place of U+2581."""
        kept = [i - UNKNOWN for i in ids if i not in (BLANK, EOS)]
        return self._processor.decode(kept)

    def pieces(self) -> list[str]:
        """Returns the pieces as SentencePiece writes them."""
        size = self._processor.get_piece_size()
        return [*SPECIAL, *self._processor.id_to_piece(list(range(1, size)))]

    def state(self) -> dict[str, str]:
        """Returns the bytes of the trained model as text."""
        return {"class": "SentencePiece", "model": base64.b64encode(self._model).decode("ascii")}


def _train(sentences: list[str], size: int, kind: str) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=size,
        model_type=kind,
        hard_vocab_limit=False,
        character_coverage=1.0,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        unk_surface=REPLACEMENT,
        normalization_rule_name="identity",  # our normaliser has run already
        remove_extra_whitespaces=False,
        max_sentence_length=1 << 24,  # bytes; longer ones would be dropped silently
        minloglevel=2,
    )
    return model.getvalue()


def restore(state: dict[str, str]) -> Tokenizer:
    """Makes the tokenizer whose ``state()`` this is.

    Raises:
        ValueError: no tokenizer has such a state.
    """
    if state.get("class") == "Characters" and "characters" in state:
        return Characters(state["characters"])  # each is a text, and stays as it is
    if state.get("class") == "SentencePiece" and "model" in state:
        try:
            return SentencePiece.from_model(base64.b64decode(state["model"]))
        except (ValueError, RuntimeError):
            raise ValueError("the SentencePiece model is damaged; save it again") from None
    raise ValueError(f"not the state of a tokenizer: class {state.get('class')!r}; save it again")


TOKENIZERS: dict[str, type[Tokenizer]] = {cls.__name__: cls for cls in (Characters, SentencePiece)}
