"""The state to resume a run from: read with care, for it may be damaged or another run's."""

from pathlib import Path
from typing import Any

import torch


def read(path: Path, same: dict[str, Any]) -> dict[str, Any] | None:
    """A checkpoint, on the CPU; None when there is none. Plain values and tensors, no code.

    Args:
        path: the file.
        same: what may not have changed since it was written, by name.

    Raises:
        ValueError: it is damaged, or something changed; names what.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        before = state["same"]
    except Exception as error:  # unpickling raises anything
        raise damaged(path, error) from None
    for name, now in same.items():
        if before.get(name) != now:
            raise ValueError(
                f"{path.parent}: the {name} changed since the run began ({before.get(name)}, now "
                f"{now}); restore it, or choose another --run"
            )
    return state


def damaged(path: Path, error: Exception) -> ValueError:
    """One line about a checkpoint that cannot be used."""
    reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
    return ValueError(f"{path} is damaged ({reason:.200}); remove it to begin again from update 0")
