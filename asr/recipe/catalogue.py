"""Describes the shipped recipes: first comment, number of parameters and measured cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asr.config import shipped, strict_yaml
from asr.decoders import DECODERS
from asr.encoders import ENCODERS
from asr.files import read_json
from asr.language_models import LANGUAGE_MODELS

# The number of parameters depends on the sizes of the neighbouring parts, which here are those of
# the tasks. A decoder follows the LSTM encoder of its size; a pair holds the dimension of that
# encoder and the number of tokens.
NUM_MELS = {"tiny": 40, "small": 80, "base": 80, "large": 80}
FRAMES_AND_TOKENS = {"tiny": (200, 31), "small": (376, 256), "base": (768, 500)}
TOKENS = 256  # number of tokens of language models


@dataclass(frozen=True)
class Entry:
    """One recipe.

    Attributes:
        family: encoders, decoders, ...
        name: name that a command takes.
        what: first comment of the recipe file.
        parameters: number of parameters; None for tasks and studies, which take any encoder.
        measured: rows of ``recipes/measured.json`` that used the recipe; percent, core-hours.
    """

    family: str
    name: str
    what: str
    parameters: int | None
    measured: list[dict[str, Any]]


def entries(families: Sequence[str], beginning: str = "") -> list[Entry]:
    """Lists the recipes of some families whose names start with ``beginning``, in order."""
    measured = read_json(shipped.FOLDER / "measured.json")
    return [
        Entry(
            family,
            name,
            path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "),
            parameters(path, family),
            [row for row in measured if place.format(name) in row["recipes"]],
        )
        for family in families
        for place in ["{}" if family == "tasks" else f"{family}/{{}}"]  # below recipes/
        for name in shipped.names(family)
        if name.startswith(beginning) and (family != "tasks" or "/" not in name)
        for path in [shipped.find(name, family)]
    ]


def parameters(path: Path, family: str) -> int | None:
    """Counts the parameters of a part, built without memory; None if it is a task or study."""
    if family in ("tasks", "studies"):
        return None
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_part(path, family).parameters())


def build_part(path: Path, family: str = "encoders") -> Any:
    """Builds the part that a recipe describes, with neighbouring parts of its size."""
    tree, size = strict_yaml.load_file(path), path.stem.rpartition("-")[2]
    parts: dict[str, tuple[Mapping[str, type], tuple[Any, ...]]] = {
        "encoders": (ENCODERS, (NUM_MELS.get(size),)),
        "decoders": (DECODERS, FRAMES_AND_TOKENS.get(size, FRAMES_AND_TOKENS["tiny"])),
        "language_models": (LANGUAGE_MODELS, (TOKENS,)),
    }
    table, given = parts[family]
    tree = tree.get("language_model", tree)
    return strict_yaml.read_component(table, tree, path.stem, len(given))(*given)
