"""Which encoders are recurrent and which attend, by class and by the name of a shipped recipe."""

from typing import Literal

Family = Literal["recurrent", "attention", "other"]

FAMILIES: dict[Family, tuple[str, ...]] = {
    "recurrent": ("LSTM", "GRU", "MinLSTM", "MinGRU", "StateSpace"),
    "attention": ("Transformer", "Conformer", "Universal", "Hierarchical"),
    "other": ("Convolution", "Hybrid"),
}


def family(name: str) -> Family:
    """Of an encoder's class, or of a recipe or arm of a probe whose name begins with it.

    ``lstm-causal-small`` and ``lstm, chrono`` are recurrent. What is not known is ``other``, and
    takes no part in comparisons of families.
    """
    first = name.replace(",", " ").replace("-", " ").split()[0].lower() if name.strip() else ""
    for found, classes in FAMILIES.items():
        if first in (one.lower() for one in classes):
            return found
    return "other"
