"""Reads and writes the folder of a model without pickle: weights, summary and configuration.

``model.safetensors`` holds the summary in its header, so that weights and summary always match. A
JSON file holds the configuration.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import nn

from asr.files import Content, check_format, new_folder, write_all

Built = TypeVar("Built")

WEIGHTS = "model.safetensors"
FORMAT = 2  # version of model folders; version 1 did not store its number


def find_folder(path: Path, description: str) -> Path | None:
    """Returns the model folder at a path, or the best, otherwise the last, of a run; or None."""
    for folder in (path, path / "best", path / "last"):
        if (folder / description).is_file() and (folder / WEIGHTS).is_file():
            return folder
    return None


def write_folder(
    described: Path, description: Mapping[str, Any], model: nn.Module, summary: Mapping[str, Any]
) -> None:
    """Writes a model folder; if the process is killed, the old or the new model is complete.

    The description, plain values from which the model is built again, becomes the file
    ``described``. The summary is plain values about the training: updates, WER, device-hours.

    Raises:
        OSError: the folder cannot be written.
    """
    text = json.dumps(description, indent=1)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    contents: dict[Path, Content] = {}
    if not described.exists() or described.read_text() != text:
        contents[described] = text
    weights = serialised(state, {"summary": json.dumps(dict(summary))})
    contents[described.parent / WEIGHTS] = weights
    with new_folder(described.parent):
        write_all(contents)


def read_description(described: Path, build: Callable[[dict[str, Any]], Built]) -> Built:
    """Reads a description from a file and returns what ``build`` makes from it.

    Raises:
        ValueError: the file is damaged or of a later format, or no model fits the description.
    """
    try:
        description = json.loads(described.read_text(encoding="utf-8"))
        check_format(described, FORMAT, description)
        return build(description)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{described} is damaged ({why}); restore it or train again") from None
    except ValueError as error:
        raise ValueError(f"{described}: {error}") from None


def read_weights(folder: Path, model: nn.Module) -> dict[str, Any]:
    """Loads the weights of a folder into the model; returns the summary of their training.

    Raises:
        ValueError: the file is damaged or belongs to another model.
    """
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            summary: dict[str, Any] = json.loads((file.metadata() or {}).get("summary", "{}"))
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError, OSError, json.JSONDecodeError) as error:
        lines = str(error).splitlines()
        why = lines[1].strip() if "loading state_dict" in lines[0] else lines[0]
        raise ValueError(
            f"{folder / WEIGHTS} is damaged or belongs to another model ({why:.200}); "
            "restore the file or train again"
        ) from None
    return summary
