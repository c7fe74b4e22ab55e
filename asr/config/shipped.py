"""Finds the recipes that ship with the package by name.

The name of a recipe is its path below ``recipes/`` without ``.yaml``: ``fsdd``,
``language_models/ngram``. The folder is left out if a key or a command implies it: the encoder
``lstm-tiny``, the study ``quick``.
"""

import difflib
from pathlib import Path

import asr

FOLDER = Path(asr.__file__).parent / "recipes"
COMMANDS = {
    "tasks": "asr train NAME",
    "encoders": "asr train TASK --encoder NAME",
    "decoders": "asr train TASK --decoder NAME",
    "language_models": "asr train language_models/NAME",
    "studies": "asr study NAME",
}  # by family; tasks are in FOLDER, every other family in the folder of its name
NEAREST = 3


def folder_of(family: str) -> Path:
    """Returns the folder of a family."""
    return FOLDER if family == "tasks" else FOLDER / family


def names(family: str) -> list[str]:
    """Lists the recipes of a family in order; language models are tasks of ``asr train``, too."""
    found = sorted(path.stem for path in folder_of(family).glob("*.yaml"))
    models = names("language_models") if family == "tasks" else []
    return found + [f"language_models/{name}" for name in models]


def find(text: str, family: str) -> Path:
    """Finds the file of a recipe by its name or path; a ValueError suggests the nearest name.

    A text that ends in .yaml is a path, which need not exist: the reader of the file reports that.
    Any other text is looked up as a name first and then as a path.
    """
    known = names(family)
    if text in known:
        return folder_of(family) / f"{text}.yaml"
    if text.endswith(".yaml") or Path(text).exists():
        return Path(text)
    suggestion = instead_of(Path(f"{text}.yaml")) if "/" in text else ""
    remedy = f"did you mean {suggestion}" if suggestion else nearest(text, known)
    raise ValueError(f"{text}: no recipe has this name; {remedy}")


def nearest(text: str, known: list[str]) -> str:
    """Suggests names that are spelt almost like ``text``, and the command that lists all."""
    small = {name.lower(): name for name in known}
    close = difflib.get_close_matches(text.lower(), small, NEAREST, 0.5)
    near = ", ".join(small[name] for name in close)
    return f"nearest: {near}; asr recipes lists all" if near else "asr recipes lists all"


def instead_of(path: Path) -> str:
    """Suggests the command for the shipped recipe that a missing path may mean; '' if none fits.

    For ``recipes/encoders/lstm-tiny.yaml`` the command ends in ``--encoder lstm-tiny``.
    """
    parts = path.with_suffix("").parts
    if "recipes" in parts:
        parts = parts[len(parts) - parts[::-1].index("recipes") :]
    family, name = parts if len(parts) == 2 else ("tasks", "/".join(parts))
    known = family in COMMANDS and name in names(family) and path.suffix == ".yaml"
    return COMMANDS[family].replace("NAME", name) if known else ""
