"""Classifies encoders as recurrent or attention, by class or by the name of a recipe."""

from collections.abc import Sequence
from typing import Literal

Family = Literal["recurrent", "attention", "other"]

FAMILIES: dict[str, Family] = {
    "LSTM": "recurrent",
    "GRU": "recurrent",
    "MinLSTM": "recurrent",
    "MinGRU": "recurrent",
    "StateSpace": "recurrent",
    "Transformer": "attention",
    "Conformer": "attention",
    "Universal": "attention",
    "Hierarchical": "attention",
    "Convolution": "other",
    "Hybrid": "other",
}


def family(name: str) -> Family | None:
    """Of an encoder's class, or of a recipe whose name begins with it, as ``lstm-causal-small``.

    None: no encoder that ships has such a name, as with a class of the user's own.
    """
    first = name.partition("-")[0].lower()
    return next((kind for known, kind in FAMILIES.items() if known.lower() == first), None)


def unknown_families(names: Sequence[str]) -> list[str]:
    """A sentence that names the encoders which no comparison of families can include."""
    unknown = dict.fromkeys(name for name in names if family(name) is None)
    if not unknown:
        return []
    return [
        f"Not compared, since the report does not know whether these encoders are recurrent or "
        f"attend: {', '.join(unknown)}. Name a recipe file after the class of its encoder, such as "
        "lstm-mine.yaml; a class of your own belongs into FAMILIES of asr/report/families.py."
    ]
