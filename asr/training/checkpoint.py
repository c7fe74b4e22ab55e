"""The state to resume a run from: read with care, for it may be damaged or another run's."""

import math
from pathlib import Path
from typing import Any

import torch

from asr.files import check_format

FORMAT = 2  # of ``last.ckpt``; 1 had no number


def read(path: Path) -> dict[str, Any] | None:
    """A checkpoint, on the CPU; None when there is none. Plain values and tensors, no code.

    Raises:
        ValueError: it is damaged.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        # Before all trainings saved the same, each had names of its own.
        if "data" not in state:
            state["data"] = {"position": state["position"]}
        if "best_wer" in state:  # without a metric, the WER alone chose until now
            state["best"] = (state["best_wer"], math.inf)
        elif isinstance(state["best"], float):
            state["best"] = (state["best"],)
        state["same"].keys()
    except Exception as error:  # unpickling raises anything
        raise damaged(path, error) from None
    check_format(path, FORMAT, state)
    return state


def check(path: Path, state: dict[str, Any], same: dict[str, Any]) -> None:
    """Refuses a checkpoint of a run with other data, or of another device.

    Args:
        path: the file.
        state: what was read from it.
        same: what may not have changed since it was written, by name.

    Raises:
        ValueError: something changed; names it.
    """
    before = state["same"]
    for name, now in same.items():
        if before.get(name) != now:
            raise ValueError(
                f"{path.parent}: the {name} changed since the run began ({before.get(name)}, now "
                f"{now}); restore it, or choose another --run"
            )


def damaged(path: Path, error: Exception) -> ValueError:
    """One line about a checkpoint that cannot be used."""
    reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
    return ValueError(f"{path} is damaged ({reason:.200}); remove it to begin again from update 0")
