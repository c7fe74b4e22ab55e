"""How far the arms of the memory probe reached: horizons of attempts, without what made them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

SOLVED = 0.9  # of the accuracy that chance leaves
AXES = ("updates", "seconds")  # on which budgets are equal
NOTES = (
    "Latch: a symbol, then noise, then the question which it was. Recall: pairs of a key and a "
    "value, then one of the keys. Mixed: trained at lags drawn log-uniformly up to the one of the "
    "test, which at equal updates are fewer tokens. An accuracy far below 0.9 may rest on only 50 "
    "questions, since a test ends where too many answers are wrong (standard error 0.05)."
)
EXTRAPOLATED = (
    "The longest lag answered without further training once the one trained at was, of that, twice "
    "that and so on: the lower median of the seeds, each at the learning rate that takes it "
    "farthest; at equal updates / equal seconds. Of a mixed task the longest lag trained at is "
    "named. 0: not even that one is answered; -: not asked."
)


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
        extrapolate: the longest lag that it was to be asked as trained; 0: none.
        extrapolates_to: the longest that it answered as trained, of its own, twice that and so on
            up to ``extrapolate``; None: not asked, or it does not answer its own.
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
    extrapolate: int = 0
    extrapolates_to: int | None = None

    def accuracy(self, axis: str) -> float:
        """When the budget of ``updates`` or ``seconds`` was spent; 1 once it had answered."""
        return float(getattr(self, f"accuracy_{axis}"))


def median_accuracy(rows: Sequence[Attempt], axis: str) -> float:
    """Of the seeds, each at its best learning rate; of two in the middle the lower."""
    seeds = {row.seed for row in rows}
    return statistics.median_low(
        max(row.accuracy(axis) for row in rows if row.seed == seed) for seed in seeds
    )


def horizon(rows: Sequence[Attempt], axis: str) -> int | None:
    """The longest lag of one arm and task that is answered in the median; None: not the first."""
    lags = sorted({row.lag for row in rows})
    answered = [
        lag for lag in lags if median_accuracy([r for r in rows if r.lag == lag], axis) >= SOLVED
    ]
    return max(answered, default=None)


def told_horizon(rows: Sequence[Attempt], axis: str) -> str:
    """The horizon of one arm and task in a table, as a bound where no other lag was tried."""
    tried_at, found = [row.lag for row in rows], horizon(rows, axis)
    if found is None:
        return f"< {min(tried_at):,}"
    return f"≥ {found:,}" if found == max(tried_at) else f"{found:,}"


def extrapolation(rows: Sequence[Attempt], axis: str) -> int | None:
    """The longest lag that the median seed answers as trained, of attempts at one lag.

    Each seed at the learning rate that takes it farthest; of two in the middle the lower. 0: the
    median seed does not answer the lag that it was trained at. None: none was asked.
    """
    asked = [row for row in rows if row.extrapolate]
    if not asked:
        return None
    answered: dict[int, int] = {}
    for row in asked:
        found = (row.extrapolates_to or 0) if row.accuracy(axis) >= SOLVED else 0
        answered[row.seed] = max(answered.get(row.seed, 0), found)
    return statistics.median_low(answered.values())


def extrapolations(rows: Sequence[Attempt]) -> list[list[str]]:
    """A table of them with its header: a line per task and arm, a column per lag trained at.

    Empty where none was asked.
    """
    lags = sorted({row.lag for row in rows if row.extrapolate})
    if not lags:
        return []
    table = [["task: arm", *(f"trained at {lag:,}" for lag in lags)]]
    for task, arm in dict.fromkeys((row.task, row.arm) for row in rows if row.extrapolate):
        cells = []
        for lag in lags:
            here = [r for r in rows if (r.task, r.arm, r.lag) == (task, arm, lag)]
            found = [extrapolation(here, axis) for axis in AXES]
            limit = max((row.extrapolate for row in here), default=0)
            cells.append(" / ".join(_told_beyond(one, limit) for one in found))
        table.append([f"{task}: {arm}", *cells])
    return table


def _told_beyond(found: int | None, limit: int) -> str:
    """As a bound where the next lag was not asked."""
    if found is None:
        return "-"
    return f"≥ {found:,}" if found and 2 * found > limit else f"{found:,}"


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
