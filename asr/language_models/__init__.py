"""The table of language models; a new one is a file and a line here."""

from asr.language_models.language_model import LanguageModel
from asr.language_models.lstm import LSTM
from asr.language_models.mixture import Mixture
from asr.language_models.ngram import NGram
from asr.language_models.transformer import Transformer
from asr.language_models.word_ngram import WordNGram

LANGUAGE_MODELS: dict[str, type[LanguageModel]] = {
    cls.__name__: cls for cls in (LSTM, NGram, Transformer, WordNGram)
}

__all__ = [
    "LANGUAGE_MODELS", "LSTM", "LanguageModel", "Mixture", "NGram", "Transformer", "WordNGram",
]  # fmt: skip
