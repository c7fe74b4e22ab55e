"""How far the arms of the memory probe reached: horizons of attempts, without what made them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

SOLVED = 0.9  # of the accuracy that chance leaves
AXES = ("updates", "seconds")  # on which budgets are equal


@dataclass(frozen=True)
class Attempt:
    """One training at one lag.

    Attributes:
        arm, task, lag, seed, rate: what was trained and how; ``rate`` is the learning rate.
        parameters: of the blocks.
        accuracy_updates, accuracy_seconds: chance-corrected, when each budget was spent.
        solved_updates, solved_seconds: after how many it answered; None: it did not.
        updates, seconds: spent in all; of training, without tests.
        budget_updates, budget_seconds: that were allowed.
        device_name: where.
        git_commit: of the code; None where it was not written down.
        extrapolates_to: the longest lag that it answers as trained, of twice its own, four times
            and so on; None: not asked, or its own is not answered.
    """

    arm: str
    task: str
    lag: int
    seed: int
    rate: float
    parameters: int
    accuracy_updates: float
    accuracy_seconds: float
    solved_updates: int | None
    solved_seconds: float | None
    updates: int
    seconds: float
    budget_updates: int
    budget_seconds: float
    device_name: str
    git_commit: str | None = None
    extrapolates_to: int | None = None

    def accuracy(self, axis: str) -> float:
        """When the budget of ``updates`` or ``seconds`` was spent; 1 once it had answered."""
        return float(getattr(self, f"accuracy_{axis}"))


def median_accuracy(rows: Sequence[Attempt], axis: str) -> float:
    """Of the seeds, each at its best learning rate."""
    seeds = {row.seed for row in rows}
    return statistics.median(
        max(row.accuracy(axis) for row in rows if row.seed == seed) for seed in seeds
    )


def horizon(rows: Sequence[Attempt], axis: str) -> int | None:
    """The longest lag of one arm and task that is answered in the median; None: not the first."""
    lags = sorted({row.lag for row in rows})
    answered = [
        lag for lag in lags if median_accuracy([r for r in rows if r.lag == lag], axis) >= SOLVED
    ]
    return max(answered, default=None)


def extrapolation(rows: Sequence[Attempt], axis: str) -> int | None:
    """The longest lag that the median seed answers, of attempts trained at one; None: not asked.

    0: the median seed does not answer what it was trained at. Each seed at its best learning rate.
    """
    if not any(row.extrapolates_to for row in rows):
        return None
    seeds = {row.seed for row in rows}
    answered = {
        seed: [
            r.extrapolates_to or 0 for r in rows if r.seed == seed and r.accuracy(axis) >= SOLVED
        ]
        for seed in seeds
    }
    return int(statistics.median_low(max(found, default=0) for found in answered.values()))


def tried(rows: Sequence[Attempt]) -> tuple[str, str]:
    """How many seeds and which learning rates an arm had at each lag of a task, in words.

    An attempt that was not made, as where a probe was ended early, is said to be missing.
    """
    lags = {row.lag for row in rows}
    seeds = sorted({len({row.seed for row in rows if row.lag == lag}) for lag in lags})
    rates = sorted({row.rate for row in rows})
    places = {(row.lag, row.seed) for row in rows}
    whole = len({(row.lag, row.seed, row.rate) for row in rows}) == len(places) * len(rates)
    number = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    listed = ", ".join(f"{rate:g}" for rate in rates)
    return number, listed if whole else f"{listed}, not all by every seed"
