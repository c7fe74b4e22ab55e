"""How far an encoder remembers: trained to answer at a lag, at equal updates and equal seconds.

The **horizon** of an arm is the longest lag of the grid that it answers in the median of its seeds,
trained at that very lag, at the best of the learning rates that every arm tries; "answers" means
90 % of the accuracy that chance leaves.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from asr.document.blocks import Block, Picture, Text
from asr.probes.probe import Columns, Measured, Option, Part, Probe, grouped, table, whole_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOLVED = 0.9  # of the accuracy that chance leaves
AXES = ("updates", "seconds")  # on which budgets are equal
TASK_NAMES = ("latch", "recall", "latch-mixed", "recall-mixed")
LAGS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
ONE_WAY: dict[str, Any] = {"bidirectional": False, "dropout": 0.0}
CAUSAL: dict[str, Any] = {"heads": 4, "causal": True, "dropout": 0.0}
# About 100,000 parameters in the blocks of each. ``bias``: of the forget gates at the start.
ARMS: dict[str, tuple[str, dict[str, Any], float | str | None]] = {
    "lstm, bias 0": ("LSTM", {**ONE_WAY, "dim": 80, "layers": 2}, 0.0),
    "lstm, bias 1": ("LSTM", {**ONE_WAY, "dim": 80, "layers": 2}, 1.0),
    "lstm, chrono": ("LSTM", {**ONE_WAY, "dim": 80, "layers": 2}, "chrono"),
    "gru": ("GRU", {**ONE_WAY, "dim": 92, "layers": 2}, None),
    "minlstm": ("MinLSTM", {**ONE_WAY, "dim": 64, "layers": 2}, None),
    "statespace": ("StateSpace", {**ONE_WAY, "dim": 64, "layers": 3, "heads": 4}, None),
    "transformer": ("Transformer", {**CAUSAL, "dim": 64, "layers": 2}, None),
    "window 200": ("Transformer", {**CAUSAL, "dim": 64, "layers": 2, "left_context": 199}, None),
    "hierarchical": ("Hierarchical", {"heads": 4, "dim": 56, "layers": 2, "dropout": 0.0}, None),
    "convolution": (
        "Convolution",
        {"dim": 79, "layers": 6, "dilations": [1, 4, 16], "causal": True, "dropout": 0.0},
        None,
    ),
}
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
    """One training at one lag; accuracies are corrected for chance."""

    arm: str
    task: str
    lag: int
    seed: int
    rate: float  # learning rate
    parameters: int  # of the blocks
    accuracy_updates: float  # when the budget of updates was spent
    accuracy_seconds: float
    solved_updates: int | None  # after how many it answered; None: it did not
    solved_seconds: float | None
    updates: int  # spent in all
    seconds: float  # spent in all; of training, without tests
    budget_updates: int
    budget_seconds: float
    device_name: str
    git_commit: str | None = None  # of the code; None: not written down
    extrapolate: int = 0  # the longest lag that it was to be asked as trained; 0: none
    # The longest lag that it answered as trained, of its own, twice that and so on; None: it was
    # not asked, or does not answer its own.
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


def format_tried(rows: Sequence[Attempt]) -> tuple[str, str]:
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


def format_horizon(rows: Sequence[Attempt], axis: str) -> str:
    """The horizon of one arm and task in a table, as a bound where no other lag was tried."""
    tried_at, found = [row.lag for row in rows], horizon(rows, axis)
    if found is None:
        return f"< {min(tried_at):,}"
    return f"≥ {found:,}" if found == max(tried_at) else f"{found:,}"


def _format_beyond(own: Sequence[Attempt], lag: int) -> str:
    """``512 / ≥ 4,096``: extrapolations, as bounds where the next lag was not asked."""
    here = [row for row in own if row.lag == lag]
    limit = max((row.extrapolate for row in here), default=0)
    cells = []
    for axis in AXES:
        found = extrapolation(here, axis)
        bound = "≥ " * bool(found and 2 * found > limit)
        cells.append("-" if found is None else f"{bound}{found:,}")
    return " / ".join(cells)


def _format_accuracy(own: Sequence[Attempt], lag: int) -> str:
    """``1.00 / 0.94``: median accuracies on both axes."""
    here = [row for row in own if row.lag == lag]
    accuracies = [f"{median_accuracy(here, axis):z.2f}" for axis in AXES] if here else []
    return " / ".join(accuracies) or "not tried"


def draw(measured: Measured) -> list[Block]:
    """A line per task and arm; below it the lags answered untrained."""
    attempts: Sequence[Attempt] = measured.rows
    first = attempts[0]
    arms = [own for _, own in sorted_arms(attempts)]
    columns: Columns = {
        "task: arm": lambda own: f"{own[0].task}: {own[0].arm}",
        "parameters": lambda own: f"{own[0].parameters:,}",
        "seeds": lambda own: format_tried(own)[0],
        "learning rates": lambda own: format_tried(own)[1],
        **{f"horizon in steps, equal {axis}": partial(format_horizon, axis=axis) for axis in AXES},
        **{
            f"lag {lag:,}": partial(_format_accuracy, lag=lag)
            for lag in sorted({row.lag for row in attempts})
        },
    }
    note = (
        f"Trained at each lag with {first.budget_updates} updates, and with "
        f"{first.budget_seconds:g} s. Horizon: the longest lag that is answered. Accuracies, at "
        "equal updates / at equal seconds: 0 is chance, 1 is all; a lag is answered from 0.9 on, "
        "in the median of the seeds, each at the best of its learning rates. An arm that misses "
        "two lags in a row is not tried at longer ones, nor at lags that its attempts were not "
        "asked for. Arms compare only where they had the same seeds and learning rates."
    )
    words = (
        "Longest lag answered. Hollow: not even the shortest. Arrow: the longest that was tried."
    )
    commits = dict.fromkeys(row.git_commit or "not recorded" for row in attempts)
    return [
        Picture("horizon", lambda: draw_figure(attempts), words),
        table(arms, columns),
        Text([note, NOTES, f"Commits of the attempts: {', '.join(commits)}."], "list"),
        *extrapolations(attempts),
    ]


def sorted_arms(attempts: Sequence[Attempt]) -> list[tuple[tuple[Any, ...], list[Attempt]]]:
    """Attempts by task and arm: tasks in the order in which they come, and so the arms of each."""
    tasks = list(dict.fromkeys(row.task for row in attempts))
    found = grouped(attempts, "task", "arm")
    return sorted(found, key=lambda one: tasks.index(one[0][0]))


def extrapolations(attempts: Sequence[Attempt]) -> list[Block]:
    """A line per task and arm, a column per lag trained at; none where nothing was asked."""
    asked = [row for row in attempts if row.extrapolate]
    if not asked:
        return []
    columns: Columns = {
        "task: arm": lambda own: f"{own[0].task}: {own[0].arm}",
        **{
            f"trained at {lag:,}": partial(_format_beyond, lag=lag)
            for lag in sorted({row.lag for row in asked})
        },
    }
    own = [
        [row for row in attempts if (row.task, row.arm) == names]
        for names, _ in grouped(asked, "task", "arm")
    ]
    return [table(own, columns), Text([EXTRAPOLATED])]


def draw_figure(attempts: Sequence[Attempt]) -> "Figure":
    """Longest lag that each arm answers, by task, at equal updates and at equal seconds."""
    from asr.document.figures import COLOURS, FAINT, INK, PAPER, new_figure

    tasks = list(dict.fromkeys(row.task for row in attempts))
    arms = list(dict.fromkeys(row.arm for row in attempts))
    lags = sorted({row.lag for row in attempts})
    looks = list(zip(AXES, COLOURS, ("o", "s"), (-0.14, 0.14), strict=False))
    figure, panels = new_figure(1.6 + 0.36 * len(arms), len(tasks), sharex=True, sharey=True)
    for (task, arm), own in grouped(attempts, "task", "arm"):
        panel = panels[tasks.index(task)]
        for axis, colour, marker, shift in looks:
            row, found = arms.index(arm) + shift, horizon(own, axis)
            place = min(a.lag for a in own) / 1.5 if found is None else found
            face = PAPER if found is None else colour
            panel.plot([lags[0] / 1.5, place], [row] * 2, color=FAINT, linewidth=0.8)
            panel.plot(
                place, row, color=colour, marker=marker, markerfacecolor=face, markersize=7,
                linestyle="none",
            )  # fmt: skip
            if found == max(a.lag for a in own):
                panel.annotate(
                    "→", (place, row), xytext=(6, 0), textcoords="offset points", va="center",
                    fontsize=10, color=INK,
                )  # fmt: skip
    for panel, task in zip(panels, tasks, strict=True):
        panel.set_xscale("log", base=2)
        panel.set_xticks(lags, [str(lag) for lag in lags], rotation=45, fontsize=9)
        panel.minorticks_off()
        panel.set_xlim(lags[0] / 1.8, lags[-1] * 1.5)  # the arrows' room
        panel.set_title(task, fontsize=11)
        panel.set_xlabel("longest lag answered, frames")
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    handles = [
        panels[0].plot(
            [], [], color=colour, marker=marker, linestyle="none", label=f"equal {axis}"
        )[0]
        for axis, colour, marker, _ in looks
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return figure


PROBE = Probe(
    name="horizon",
    title="Memory horizon",
    meaning="how far back encoders remember, trained at equal updates and at equal seconds; "
    "continues where it was interrupted",
    example="asr claims horizon --lags 64 128 256 --output claims",
    module="asr.probes.horizon_measure",
    row=Attempt,
    options=(
        Option("arms", (), "encoders to train", str, "ARM", f"all of {'; '.join(ARMS)}"),
        Option(
            "tasks",
            ("latch", "recall"),
            "memory tasks; a mixed task trains on lags drawn from 1 to the lag of its test",
            choices=TASK_NAMES,
        ),
        Option("lags", LAGS, "steps between the symbol and the question", whole_number, "K"),
        Option("seeds", 3, "number of seeds of each arm", whole_number, "N"),
        Option(
            "rates", (1e-3, 3e-3), "learning rates; the best one of each seed counts", float, "LR"
        ),
        Option("updates", 1500, "training budget in updates", whole_number, "N"),
        Option("seconds", 60.0, "training budget in seconds", float, "S"),
        Option(
            "extrapolate",
            0,
            "test the arms that solve a lag also at 2, 4, 8, ... times this lag, up to K, without "
            "further training",
            whole_number,
            "K",
            "no such test",
        ),
    ),
    parts=(Part("C3", "By task and arm", draw),),
    key="",
)
