"""The table of language models; a new one is a file and a line here."""

from asr.language_models.language_model import LanguageModel

LANGUAGE_MODELS: dict[str, type[LanguageModel]] = {}

__all__ = ["LANGUAGE_MODELS", "LanguageModel"]
