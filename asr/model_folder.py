"""Reads and writes model folders without pickle.

A model folder has two files. A JSON file holds the description, from which the model is built.
``model.safetensors`` holds the weights and, in its header, the summary of their training; in one
file, the two always match.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import nn

from asr.files import Content, check_format, new_folder, write_all

Built = TypeVar("Built")  # what is built from a description

WEIGHTS = "model.safetensors"
FORMAT = 2  # version of model folders; version 1 did not store its number


def find_folder(path: Path, description: str) -> Path | None:
    """Finds the model folder at a path: the path itself, or the best or last model of a run.

    Args:
        path: model folder or run folder.
        description: name of the file that holds the description.

    Returns:
        None if there is no complete model folder.
    """
    for folder in (path, path / "best", path / "last"):
        if (folder / description).is_file() and (folder / WEIGHTS).is_file():
            return folder
    return None


def write_folder(
    file: Path, description: Mapping[str, Any], model: nn.Module, summary: Mapping[str, Any]
) -> None:
    """Writes a model folder; a killed process leaves either the old or the new model, complete.

    Args:
        file: file in the model folder for the description.
        description: JSON values from which the model can be built again.
        model: model whose weights are written.
        summary: JSON values about the training: updates, WER, core-hours or GPU-hours.

    Raises:
        OSError: the folder cannot be written.
    """
    text = json.dumps(description, indent=1)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    contents: dict[Path, Content] = {}
    if not file.exists() or file.read_text() != text:
        contents[file] = text
    weights = serialised(state, {"summary": json.dumps(dict(summary))})
    contents[file.parent / WEIGHTS] = weights
    with new_folder(file.parent):
        write_all(contents)


def read_description(file: Path, build: Callable[[dict[str, Any]], Built]) -> Built:
    """Reads a description and returns what ``build`` makes of it.

    Raises:
        ValueError: the file is damaged or has a later format, or its description cannot be built.
    """
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        check_format(file, FORMAT, description)
        return build(description)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{file} is damaged ({why}); restore it or train again") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def read_weights(folder: Path, model: nn.Module) -> dict[str, Any]:
    """Loads the weights in a folder into a model, and returns the summary of their training.

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
