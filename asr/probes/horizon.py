"""Draws the page of the probe ``horizon``: the longest lag that each encoder solves.

Each arm is trained at each lag with several seeds and learning rates, at equal updates and at equal
seconds. It solves a lag if the median seed, at its best learning rate, reaches an accuracy of 0.9
after correction for chance (0 is chance, 1 is perfect), in a test and in a larger one that confirms
it. The **horizon** of an arm is the longest
lag that it solves.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from asr.document.blocks import Block, Picture, Text
from asr.formatting import whole_number
from asr.probes.probe import Columns, Measured, Option, Part, Probe, grouped, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOLVED = 0.9  # minimum accuracy, corrected for chance, at which a lag counts as solved
AXES = ("updates", "seconds")  # units in which all arms have the same budget
TASK_NAMES = ("latch", "recall", "latch-mixed", "recall-mixed")
LAGS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
ONE_WAY: dict[str, Any] = {"bidirectional": False, "dropout": 0.0}
CAUSAL: dict[str, Any] = {"heads": 4, "causal": True, "dropout": 0.0}
# The blocks of each arm have about 100,000 parameters. The last value is the initial forget bias.
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
    "In latch, a symbol is followed by noise, and the encoder must name the symbol. In recall, "
    "pairs of a key and a value are followed by a key, and it must name the value. Mixed tasks "
    "train at lags drawn log-uniformly up to the lag of the test, so equal updates are fewer "
    "tokens. Tests are repeated while an arm trains, so the first that succeeds is confirmed with "
    "2,048 new questions, which give the accuracy. A test ends early if many answers are wrong, so "
    "an accuracy far below 0.9 may come from only 50 questions (standard error 0.05)."
)
EXTRAPOLATED = (
    "The longest lag solved without further training: the training lag or 2, 4, 8, ... times "
    "that lag, at equal updates / equal seconds. It is the lower median of the seeds, each at its "
    "best learning rate. For a mixed task, the training lag is the longest lag trained on. "
    "0: the training lag is not solved; -: not tested."
)


@dataclass(frozen=True)
class Attempt:
    """One training run at one lag. Accuracies are corrected for chance."""

    arm: str
    task: str
    lag: int
    seed: int
    rate: float  # learning rate
    parameters: int  # number of parameters of the blocks
    accuracy_updates: float  # at the end of the budget of updates
    accuracy_seconds: float  # at the end of the budget of seconds
    solved_updates: int | None  # updates until the lag was solved; None: never solved
    solved_seconds: float | None  # seconds until the lag was solved; None: never solved
    updates: int  # total number of updates
    seconds: float  # total training time, excluding tests
    budget_updates: int
    budget_seconds: float
    device_name: str
    git_commit: str | None = None  # commit of the code; None: not recorded
    extrapolate: int = 0  # longest lag to test without further training; 0: no such test
    # The longest lag solved without further training: the training lag, or 2, 4, 8, ... times it.
    # None if this was not tested, or if the training lag is not solved.
    extrapolates_to: int | None = None
    # Shorter lags that had to be solved before.
    curriculum: list[int] = field(default_factory=list)
    # Updates at this lag, without those of the curriculum; None: not recorded.
    updates_here: int | None = None

    @property
    def updates_at_lag(self) -> int:
        """Updates at this lag; 0 if there was a curriculum and they were not recorded."""
        unknown = 0 if self.curriculum else self.updates
        return unknown if self.updates_here is None else self.updates_here

    def accuracy(self, axis: str) -> float:
        """Accuracy at the end of the budget of ``updates`` or ``seconds``; 1 if solved."""
        return float(getattr(self, f"accuracy_{axis}"))


def median_accuracy(rows: Sequence[Attempt], axis: str) -> float:
    """The lower median of the accuracies of the seeds, each at its best learning rate."""
    seeds = {row.seed for row in rows}
    return statistics.median_low(
        max(row.accuracy(axis) for row in rows if row.seed == seed) for seed in seeds
    )


def horizon(rows: Sequence[Attempt], axis: str) -> int | None:
    """The longest lag that one arm solves in one task; None if it solves no lag."""
    lags = sorted({row.lag for row in rows})
    solved = [
        lag for lag in lags if median_accuracy([r for r in rows if r.lag == lag], axis) >= SOLVED
    ]
    return max(solved, default=None)


def extrapolation(rows: Sequence[Attempt], axis: str) -> int | None:
    """The longest lag that models trained at a single lag solve without further training.

    This is the lower median of the seeds, each at its best learning rate. It is 0 if the median
    seed does not solve its training lag, and None if longer lags were not tested.
    """
    tested = [row for row in rows if row.extrapolate]
    if not tested:
        return None
    longest: dict[int, int] = {}  # by seed
    for row in tested:
        lag = (row.extrapolates_to or 0) if row.accuracy(axis) >= SOLVED else 0
        longest[row.seed] = max(longest.get(row.seed, 0), lag)
    return statistics.median_low(longest.values())


def format_tried(rows: Sequence[Attempt]) -> tuple[str, str]:
    """The number of seeds and the learning rates of an arm at each lag of a task, in words.

    The words also say if some seeds lack some rates, for instance after an interruption.
    """
    lags = {row.lag for row in rows}
    seeds = sorted({len({row.seed for row in rows if row.lag == lag}) for lag in lags})
    rates = sorted({row.rate for row in rows})
    pairs = {(row.lag, row.seed) for row in rows}
    complete = len({(row.lag, row.seed, row.rate) for row in rows}) == len(pairs) * len(rates)
    number = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    listed = ", ".join(f"{rate:g}" for rate in rates)
    return number, listed if complete else f"{listed}, not all by every seed"


def format_horizon(rows: Sequence[Attempt], axis: str) -> str:
    """The horizon of one arm and task as a table cell; a bound (< or ≥) at the ends of the lags."""
    lags, longest = [row.lag for row in rows], horizon(rows, axis)
    if longest is None:
        return f"< {min(lags):,}"
    return f"≥ {longest:,}" if longest == max(lags) else f"{longest:,}"


def _format_extrapolation(rows: Sequence[Attempt], lag: int) -> str:
    """Formats extrapolations as ``512 / ≥ 4,096``; ≥ if the next longer lag was not tested."""
    at_lag = [row for row in rows if row.lag == lag]
    limit = max((row.extrapolate for row in at_lag), default=0)
    cells = []
    for axis in AXES:
        longest = extrapolation(at_lag, axis)
        bound = "≥ " * bool(longest and 2 * longest > limit)
        cells.append("-" if longest is None else f"{bound}{longest:,}")
    return " / ".join(cells)


def _format_accuracy(rows: Sequence[Attempt], lag: int) -> str:
    """Formats the median accuracies at equal updates and equal seconds as ``1.00 / 0.94``."""
    at_lag = [row for row in rows if row.lag == lag]
    accuracies = [f"{median_accuracy(at_lag, axis):z.2f}" for axis in AXES] if at_lag else []
    return " / ".join(accuracies) or "not tried"


def draw(measured: Measured) -> list[Block]:
    """A figure, a table with a line per task and arm, notes, and the table of extrapolations."""
    attempts: Sequence[Attempt] = measured.rows
    first = attempts[0]
    tasks = list(dict.fromkeys(row.task for row in attempts))
    groups = grouped(attempts, "task", "arm")
    arms = [rows for _, rows in sorted(groups, key=lambda group: tasks.index(group[0][0]))]
    columns: Columns = {
        "task: arm": lambda rows: f"{rows[0].task}: {rows[0].arm}",
        "parameters": lambda rows: f"{rows[0].parameters:,}",
        "seeds": lambda rows: format_tried(rows)[0],
        "learning rates": lambda rows: format_tried(rows)[1],
        **{f"horizon in steps, equal {axis}": partial(format_horizon, axis=axis) for axis in AXES},
        **{
            f"lag {lag:,}": partial(_format_accuracy, lag=lag)
            for lag in sorted({row.lag for row in attempts})
        },
    }
    shorter = ", ".join(f"{lag:,}" for lag in first.curriculum)
    before = f", first at the lags {shorter} until each was solved" * bool(shorter)
    note = (
        f"Each arm is trained at each lag with {first.budget_updates} updates, and with "
        f"{first.budget_seconds:g} s{before}. Horizon: the longest lag solved. Accuracies are "
        "given at equal updates / at equal seconds: 0 is chance, 1 is perfect. A lag is solved if "
        "the accuracy of the median seed, at its best learning rate, is 0.9 or more. An arm that "
        "misses two lags in a row is not tried at longer lags. Arms can be compared only if "
        "they had the same seeds and learning rates."
    )
    words = (
        "Longest lag solved. A hollow mark means that the shortest lag is not solved. An arrow "
        "means that the longest lag tried is solved."
    )
    commits = dict.fromkeys(row.git_commit or "not recorded" for row in attempts)
    return [
        Picture("horizon", lambda: draw_figure(attempts), words),
        table(arms, columns),
        Text([note, NOTES, f"Commits of the attempts: {', '.join(commits)}."], "list"),
        *extrapolations(attempts),
    ]


def extrapolations(attempts: Sequence[Attempt]) -> list[Block]:
    """A table with a line per task and arm, and a column per training lag; empty if untested."""
    tested = [row for row in attempts if row.extrapolate]
    if not tested:
        return []
    columns: Columns = {
        "task: arm": lambda rows: f"{rows[0].task}: {rows[0].arm}",
        **{
            f"trained at {lag:,}": partial(_format_extrapolation, lag=lag)
            for lag in sorted({row.lag for row in tested})
        },
    }
    arms = [
        [row for row in attempts if (row.task, row.arm) == names]
        for names, _ in grouped(tested, "task", "arm")
    ]
    return [table(arms, columns), Text([EXTRAPOLATED])]


def draw_figure(attempts: Sequence[Attempt]) -> "Figure":
    """Draws the longest lag that each arm solves, by task, at equal updates and equal seconds."""
    from asr.document.figures import COLOURS, FAINT, INK, PAPER, new_figure

    tasks = list(dict.fromkeys(row.task for row in attempts))
    arms = list(dict.fromkeys(row.arm for row in attempts))
    lags = sorted({row.lag for row in attempts})
    looks = list(zip(AXES, COLOURS, ("o", "s"), (-0.14, 0.14), strict=False))
    figure, panels = new_figure(1.6 + 0.36 * len(arms), len(tasks), sharex=True, sharey=True)
    for (task, arm), rows in grouped(attempts, "task", "arm"):
        panel = panels[tasks.index(task)]
        for axis, colour, marker, shift in looks:
            y, longest = arms.index(arm) + shift, horizon(rows, axis)
            x = min(row.lag for row in rows) / 1.5 if longest is None else longest
            face = PAPER if longest is None else colour
            panel.plot([lags[0] / 1.5, x], [y] * 2, color=FAINT, linewidth=0.8)
            panel.plot(
                x, y, color=colour, marker=marker, markerfacecolor=face, markersize=7,
                linestyle="none",
            )  # fmt: skip
            if longest == max(row.lag for row in rows):
                panel.annotate(
                    "→", (x, y), xytext=(6, 0), textcoords="offset points", va="center",
                    fontsize=10, color=INK,
                )  # fmt: skip
    for panel, task in zip(panels, tasks, strict=True):
        panel.set_xscale("log", base=2)
        panel.set_xticks(lags, [str(lag) for lag in lags], rotation=45, fontsize=9)
        panel.minorticks_off()
        panel.set_xlim(lags[0] / 1.8, lags[-1] * 1.5)  # leaves room for the arrows
        panel.set_title(task, fontsize=11)
        panel.set_xlabel("longest lag solved, frames")
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
    meaning="how far back encoders remember after equal updates and after equal seconds of "
    "training; continues where it was interrupted",
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
            "also test an arm that solves a lag at 2, 4, 8, ... times this lag, up to K, without "
            "further training",
            whole_number,
            "K",
            "no such test",
        ),
        Option(
            "curriculum",
            (),
            "shorter lags to train at first, each until it is solved; they count in the budgets",
            whole_number,
            "K",
            "none",
        ),
    ),
    parts=(Part("C3", "By task and arm", draw),),
    key="",
)
