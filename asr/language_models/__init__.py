"""The table of language models; a new one is a file and a line here."""

from asr.language_models.language_model import LanguageModel
from asr.language_models.ngram import NGram

LANGUAGE_MODELS: dict[str, type[LanguageModel]] = {cls.__name__: cls for cls in (NGram,)}

__all__ = ["LANGUAGE_MODELS", "LanguageModel", "NGram"]
