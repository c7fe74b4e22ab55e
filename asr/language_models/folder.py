"""A language model's folder: what it is, its tokens and its weights. No pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised

from asr.config.strict_yaml import Component, read_component
from asr.files import check_format, new_folder, write_all
from asr.language_models import LANGUAGE_MODELS, LanguageModel
from asr.text.tokenizers import Tokenizer, restore

WEIGHTS, DESCRIPTION = "model.safetensors", "language_model.json"
FORMAT = 2  # of these folders; 1 had no number


@dataclass
class TrainedLanguageModel:
    """A language model with what it takes to use it.

    Attributes:
        model: in eval mode once loaded.
        component: class and options.
        tokenizer, normaliser: of the text that it knows.
        summary: how and for how much it was trained.
    """

    model: LanguageModel
    component: Component
    tokenizer: Tokenizer
    normaliser: str
    summary: dict[str, Any] = field(default_factory=dict)


def save_language_model(trained: TrainedLanguageModel, folder: Path) -> None:
    """Writes the folder; a kill at any moment leaves the old files or the new ones."""
    description = {
        "format": FORMAT,
        "language_model": trained.component.tree(),
        "tokenizer": trained.tokenizer.state(),
        "normaliser": trained.normaliser,
    }
    state = {k: v.detach().cpu().contiguous() for k, v in trained.model.state_dict().items()}
    with new_folder(folder):
        write_all(
            {
                folder / DESCRIPTION: json.dumps(description, indent=1),
                folder / WEIGHTS: serialised(state, {"summary": json.dumps(trained.summary)}),
            }
        )


def find_language_model(path: str | Path) -> Path:
    """The folder itself, or the best one of a run.

    Raises:
        ValueError: there is none.
    """
    path = Path(path)
    for folder in (path, path / "best", path / "last"):
        if (folder / DESCRIPTION).is_file() and (folder / WEIGHTS).is_file():
            return folder
    if not path.exists():
        raise ValueError(f"{path}: no such language model or run folder; check the path")
    raise ValueError(f"{path} holds no language model ({DESCRIPTION} and {WEIGHTS})")


def load_language_model(
    path: str | Path, device: str | torch.device = "cpu", allow_code: bool = False
) -> TrainedLanguageModel:
    """Reads a language model, of a run its best one.

    Args:
        path: run folder or the folder of a language model.
        device: where to put it.
        allow_code: whether a class that is not shipped may be imported.

    Raises:
        ValueError: none there, or its files are damaged or do not fit together.
    """
    folder = find_language_model(path)
    where = folder / DESCRIPTION
    try:
        described = json.loads(where.read_text(encoding="utf-8"))
        check_format(where, FORMAT, described)
        component = read_component(
            LANGUAGE_MODELS, described["language_model"], "language_model", 1, allow_code
        )
        tokenizer, normaliser = restore(described["tokenizer"]), described["normaliser"]
        model: LanguageModel = component(tokenizer.vocabulary_size)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{where} is damaged ({why}); restore it or train again") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            summary = json.loads((file.metadata() or {}).get("summary", "{}"))
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError, OSError, json.JSONDecodeError) as error:
        lines = str(error).splitlines()
        why = lines[1].strip() if "loading state_dict" in lines[0] else lines[0]
        raise ValueError(
            f"{folder / WEIGHTS} is damaged or belongs to another model ({why:.200}); "
            "restore the file or train again"
        ) from None
    return TrainedLanguageModel(model.to(device).eval(), component, tokenizer, normaliser, summary)


def check_tokens(trained: TrainedLanguageModel, state: Mapping[str, str], path: str | Path) -> None:
    """Refuses a language model of other tokens than those of ``state``, a tokenizer's.

    Raises:
        ValueError: names the language model.
    """
    if dict(trained.tokenizer.state()) != dict(state):
        raise ValueError(
            f"{path} knows other tokens than the speech model; train it with tokenizer_of set to "
            "the speech model's folder"
        )
