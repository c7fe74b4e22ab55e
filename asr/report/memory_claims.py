"""The rules of C3 (an LSTM's memory) and C6 (hierarchical attention), which the horizon decides."""

from collections.abc import Sequence

from asr.probes import PROBES
from asr.probes.horizon import Attempt, horizon
from asr.report.evidence import Evidence
from asr.report.findings import Rule, Verdict, conclude, unmeasured
from asr.report.probes import Probes, rows_of
from asr.statistics.contrast import Decision

TASK, AXIS = "latch-mixed", "updates"  # the task and the budget that decide
LSTM, HIERARCHICAL = "lstm, bias 1", "hierarchical"  # arms of the probe that decide
THOUSANDS, TEN_THOUSAND = 1_000, 10_000  # steps that the claims name
SEEDS = 3  # least number of seeds for a median
# A lag that was not learnt within fewer updates could still be learnt.
ENOUGH_UPDATES = 5_000


def lstm_memory(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C3, see ``LSTM_MEMORY``."""
    return _reach("C3", rows_of(probes, "horizon"), LSTM, THOUSANDS, "against", "for")


def hierarchy(found: Sequence[Evidence], probes: Probes) -> Verdict:
    """The rule of C6, see ``HIERARCHY``."""
    return _reach("C6", rows_of(probes, "horizon"), HIERARCHICAL, TEN_THOUSAND, "for", "against")


def _reach(
    claim: str, rows: Sequence[Attempt], arm: str, wanted: int, reached: Decision, missed: Decision
) -> Verdict:
    """The verdict from the longest lag that an arm solves; ``wanted`` is the lag of the claim."""
    rows = [row for row in rows if row.task == TASK]
    own = _with_median([row for row in rows if row.arm == arm])
    if not own:
        command = f'{PROBES["horizon"].command} --tasks {TASK} --arms "{arm}" --lags {wanted}'
        return unmeasured(claim, f"{arm} not measured with {SEEDS} seeds on {TASK}", command)
    longest = horizon(own, AXIS) or 0
    far = [row.lag for row in own if row.lag >= wanted]
    # The lag that decides: the longest one solved, or else the first one missed from wanted on.
    lag = longest if longest >= wanted or not far else min(far)
    here = [row for row in own if row.lag == lag] or own
    updates = min(row.budget_updates for row in here)
    trained = min(row.updates_at_lag for row in here)
    told = f"{arm}, longest lag solved after training on lags up to it, {longest:,} steps (exact, "
    told += f"median of {len({row.seed for row in here})} seeds, at most {updates:,} updates"
    told += f", {trained:,} at a lag of {lag:,}" * (lag > longest) + f"), threshold {wanted:,}"
    equal = _with_median([r for r in rows if r.arm != arm and r.budget_updates == updates])
    others = [[row for row in equal if row.arm == name] for name in {row.arm for row in equal}]
    decision, why = reached, ""
    if longest < wanted:
        decision = "not enough evidence"
        if not far:
            why = f"no lag of {wanted:,} or more was tried"
        elif trained < ENOUGH_UPDATES:
            why = f"a longer lag was not learnt, but {ENOUGH_UPDATES:,} updates might be enough"
        elif all((horizon(other, AXIS) or 0) < lag for other in others):
            why = f"no arm solved a lag of {lag:,} with equal updates, so the task may be too hard"
        else:
            decision = missed
    return conclude(claim, decision, told, own[0].device_name, why)


def _with_median(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts at lags that at least ``SEEDS`` seeds of the arm tried."""
    seeds: dict[tuple[str, str, int], set[int]] = {}
    for row in attempts:
        seeds.setdefault((row.task, row.arm, row.lag), set()).add(row.seed)
    return [row for row in attempts if len(seeds[row.task, row.arm, row.lag]) >= SEEDS]


REACH = (
    "The value is the longest lag that the median of at least 3 seeds solves with equal updates. "
    "The task is latch-mixed: the lags of training go up to the lag of the test."
)
MISSED = (
    "The first lag that is missed, from that of the claim on, decides only after "
    f"{ENOUGH_UPDATES:,} updates at this lag (those of a curriculum at shorter lags do not count), "
    "and only if another arm solves it or a longer one with the same budget. Otherwise the budget "
    "may be too small."
)
LSTM_MEMORY = Rule(
    "C3",
    "An LSTM remembers 100s of steps, not 1,000s or 10,000s.",
    (
        f"The verdict is that of the LSTM with a forget bias of 1. {REACH}",
        f"‘Against’ means that it solves a lag of 1,000 or more, ‘for’ that it does not. {MISSED}",
        "Other arms and tasks, the lags solved without further training, and the context that "
        "trained models use are description.",
    ),
    lstm_memory,
)
HIERARCHY = Rule(
    "C6",
    "A hierarchical attention encoder, 100 x 100, reaches 10,000 past vectors.",
    (
        f"The verdict is that of the hierarchical encoder. {REACH}",
        f"‘For’: it solves a lag of 10,000 or more. ‘Against’: it does not. {MISSED}",
        "Its time by length and its errors on speech are description.",
    ),
    hierarchy,
)
