"""Saves and loads the folder of a language model: class, tokens and weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from asr.config.strict_yaml import Component, read_component
from asr.language_models import LANGUAGE_MODELS, LanguageModel
from asr.model_folder import (
    FORMAT,
    WEIGHTS,
    find_folder,
    read_description,
    read_weights,
    write_folder,
)
from asr.text.tokenizers import Tokenizer, restore

LANGUAGE_MODEL = "language_model.json"


@dataclass
class TrainedLanguageModel:
    """A language model with its tokenizer, normaliser and description.

    Attributes:
        model: the model, in eval mode once loaded.
        component: class and options of the model.
        tokenizer, normaliser: tokenizer and normaliser of its text.
        summary: settings and cost of the training.
    """

    model: LanguageModel
    component: Component
    tokenizer: Tokenizer
    normaliser: str
    summary: dict[str, Any] = field(default_factory=dict)


def save_language_model(trained: TrainedLanguageModel, folder: Path) -> None:
    """Writes the folder; see ``write_folder``."""
    description = {
        "format": FORMAT,
        "language_model": trained.component.tree(),
        "tokenizer": trained.tokenizer.state(),
        "normaliser": trained.normaliser,
    }
    write_folder(folder / LANGUAGE_MODEL, description, trained.model, trained.summary)


def load_language_model(
    path: str | Path, device: str | torch.device = "cpu", allow_code: bool = False
) -> TrainedLanguageModel:
    """Reads the language model of a model folder, or the best one of a run folder.

    ``allow_code`` says whether a class that is not shipped may be imported.

    Raises:
        ValueError: there is no language model, or its files are damaged or do not match.
    """
    path = Path(path)
    folder = find_folder(path, LANGUAGE_MODEL)
    if folder is None and not path.exists():
        raise ValueError(f"{path}: no such language model or run folder; check the path")
    if folder is None:
        raise ValueError(f"{path} holds no language model ({LANGUAGE_MODEL} and {WEIGHTS})")

    def build(described: dict[str, Any]) -> TrainedLanguageModel:
        component = read_component(
            LANGUAGE_MODELS, described["language_model"], "language_model", 1, allow_code
        )
        tokenizer, normaliser = restore(described["tokenizer"]), described["normaliser"]
        model = component(tokenizer.vocabulary_size)
        return TrainedLanguageModel(model, component, tokenizer, normaliser)

    trained = read_description(folder / LANGUAGE_MODEL, build)
    trained.summary = read_weights(folder, trained.model)
    trained.model.to(device).eval()
    return trained
