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
    """The family of a class, or of a recipe whose name begins with it (``lstm-causal-small``).

    None if no encoder of the package has the name, for instance for a class of the user.
    """
    first = name.partition("-")[0].lower()
    return next((kind for known, kind in FAMILIES.items() if known.lower() == first), None)


def unknown_families(names: Sequence[str]) -> list[str]:
    """A sentence that names the encoders which no comparison of families can include."""
    unknown = dict.fromkeys(name for name in names if family(name) is None)
    if not unknown:
        return []
    return [
        f"These encoders are not compared, since it is not known whether they are recurrent or use "
        f"attention: {', '.join(unknown)}. Name a recipe file after the class of its encoder, such "
        "as lstm-mine.yaml, and add a class of your own to FAMILIES in asr/report/families.py."
    ]
