"""Recognises runs whose wall time other programs have changed, from their ledger."""

import math
from typing import Any

import numpy as np

from asr.metering.cpu import WAIT_LIMIT

RATIO = 1.5  # between the median speed of a tenth of a run and that of the whole
# Batches of a tenth, and batches of a size. If the speeds of single batches scatter by a factor of
# 1.5, medians of 20 scatter by a factor of 1.12, and ``RATIO`` is 3.6 standard deviations away.
FEWEST = 20
WARM_UP = 10  # first batches of a session, in which kernels are prepared for new shapes
LARGEST = 10_000  # batches in memory; more are thinned out


class Pace:
    """The speed of the batches of a run, each compared with batches of the same size.

    Batches have the same size if their numbers of rows and their lengths differ by at most a factor
    of the square root of 2. A curriculum or an order by length changes the sizes over a run, but
    not the speed at a size.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, float]] = []  # class of rows, of length, log2 of speed
        self._every, self._seen = 1, 0

    def add(self, rows: int, length: int, seconds: float) -> None:
        """Adds a batch of rows x length values that took this time."""
        self._seen += 1
        if self._seen <= WARM_UP or self._seen % self._every or not rows * length * seconds:
            return
        speed = math.log2(rows * length / seconds)
        self.batches.append((round(2 * math.log2(rows)), round(2 * math.log2(length)), speed))
        if len(self.batches) > LARGEST:
            self.batches, self._every = self.batches[::2], 2 * self._every

    def odd_tenth(self) -> tuple[int, float] | None:
        """Returns the tenth of the run (from 0) whose speed differs most, and its relative speed.

        None if no tenth differs by more than ``RATIO``, or if there are too few batches to tell.
        """
        if len(self.batches) < 10 * FEWEST:
            return None
        table = np.array(self.batches)
        speeds = np.full(len(table), np.nan)
        for size in np.unique(table[:, :2], axis=0):
            same = (table[:, :2] == size).all(1)
            if same.sum() >= FEWEST:
                speeds[same] = table[same, 2] - np.median(table[same, 2])
        tenths = [tenth[~np.isnan(tenth)] for tenth in np.array_split(speeds, 10)]
        medians = [float(np.median(t)) if len(t) >= FEWEST else 0.0 for t in tenths]
        worst = int(np.argmax(np.abs(medians)))
        return (worst, 2 ** medians[worst]) if abs(medians[worst]) > math.log2(RATIO) else None

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs."""
        return {"batches": self.batches, "every": self._every}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the record of an earlier session."""
        self.batches, self._every = [tuple(b) for b in state["batches"]], state["every"]


def disturbances(line: dict[str, Any], pace: Pace, gpus: int) -> list[dict[str, Any]] | None:
    """Returns the facts that forbid a comparison at equal wall time, each as a sentence.

    None if there is no such fact, and if waiting for cores or the state of the GPUs is unknown.

    Args:
        line: a line of the ledger, whose values are those of the whole run.
        pace: the speed of the batches.
        gpus: number of GPUs that the run holds; 0 on a CPU.
    """
    found: list[tuple[str, float, str]] = []
    if (share := line["core_wait_share"] or 0.0) > WAIT_LIMIT:
        text = f"the run waited for a core during {100 * share:.0f} % of the time"
        found.append(("core_wait", share, f"{text} that it held cores: other programs used them"))
    if (odd := pace.odd_tenth()) is not None:
        number, ratio = odd
        text = f"between {10 * number} % and {10 * number + 10} % of its updates the run had"
        text += f" {ratio:.2f} times its median speed for batches of the same size"
        found.append(("speed", ratio, text))
    for kind, what in (
        ("gpu_shared", "other processes used the GPU"),
        ("gpu_throttled", "the driver throttled the GPU"),
    ):
        seconds = line[f"{kind}_seconds"] or 0.0
        if gpus and (share := seconds / (gpus * line["wall_seconds"])) > WAIT_LIMIT:
            found.append((kind, share, f"{what} during {100 * share:.0f} % of the time"))
    unknown = line["core_wait_share"] is None or (gpus and line["gpu_shared_seconds"] is None)
    if unknown and not found:
        return None
    return [{"kind": kind, "value": value, "text": text} for kind, value, text in found]
