"""Chooses the costs at which arms may be compared, as other programs may have slowed their runs.

A run that other programs disturbed holds its devices for longer than its own work needs. Its
updates, audio and FLOPs stay those of its own work. Its CPU time hardly changes: programs that
share caches or a core's hardware threads (SMT) with the run raise it.
"""

from collections.abc import Callable, Sequence

from asr.formatting import count, digits, listed, prefixed, times
from asr.report.costs import arm_spent, cost_ratio, hours_unit, run_spent, waited, wer_at_in_words
from asr.report.groups import Arm, Group
from asr.report.runs import Run, part

WALL = "device_hours"
# Names and formats of the costs that other programs hardly change.
STEADY: dict[str, tuple[str, Callable[[float], str]]] = {
    "updates": ("updates", count),
    "audio_hours": ("audio-hours", digits),
    "train_flops": ("training compute", lambda flops: prefixed(flops, "FLOP")),
    "cpu_hours": ("CPU time", lambda hours: f"{count(3600 * hours)} CPU seconds"),
}
EQUAL_COST = 1.10  # largest ratio of costs at which arms count as equal in cost


def disturbed(arms: Sequence[Arm]) -> list[Run]:
    """The runs that other programs disturbed, failed ones included."""
    return [run for arm in arms for run in [*arm.runs, *arm.failed] if run.disturbances]


def _names(arms: Sequence[Arm]) -> str:
    return listed([arm.label for arm in arms if disturbed([arm])])


def budget_kind(arms: Sequence[Arm]) -> str:
    """The cost that the budgets of all arms limit; device-hours if they limit several costs."""
    budgets = [part(run.recipe, ("budget",)) for arm in arms for run in arm.runs]
    limits = {
        tuple(k.removeprefix("budget.") for k, v in budget.items() if v is not None)
        for budget in budgets
    }
    (first, *others) = limits
    return first[0] if not others and len(first) == 1 and first[0] in STEADY else WALL


def _steady(arms: Sequence[Arm]) -> list[str]:
    """The costs in ``STEADY`` that can be compared.

    CPU time is not one of them on a GPU, which it does not measure, or if a process has several
    threads, because threads that wait for each other use CPU time without any work.
    """
    works = all(run.device_kind == "cpu" and run.num_threads == 1 for a in arms for run in a.runs)
    return [axis for axis in STEADY if axis != "cpu_hours" or works]


def equal_costs(arms: Sequence[Arm]) -> list[str]:
    """Names of the known costs that other programs hardly change; none if one of them differs.

    All have to be equal, because one of several costs can be equal by chance.
    """
    known = {STEADY[axis][0]: ratio for axis in _steady(arms) if (ratio := cost_ratio(arms, axis))}
    return list(known) if all(ratio <= EQUAL_COST for ratio in known.values()) else []


def refused(arms: Sequence[Arm]) -> str:
    """Why the errors of arms cannot be compared at equal cost; empty if they can."""
    if not disturbed(arms) or budget_kind(arms) != WALL or equal_costs(arms):
        return ""
    return (
        f"runs of {_names(arms)} were disturbed, so equal {hours_unit(Group(list(arms)))} are not "
        "equal shares of the machine"
    )


def no_front(group: Group) -> str:
    """Why no trade-off of errors, training cost and speed is the best; empty if one can be."""
    if disturbed(group.arms):
        return f"runs of {_names(group.arms)} were disturbed"
    why = waited(group.arms)
    return f"evaluations {why}" if why else ""


def at_cost(group: Group, best: Arm, next_best: Arm) -> str:
    """The cost at which the two best arms of a group are compared, in words."""
    arms = [best, next_best] if disturbed(group.arms) else group.arms
    axis = budget_kind(arms)
    if axis == WALL and disturbed(arms):
        return f" at equal {listed(equal_costs(arms))} (runs of {_names(arms)} were disturbed)"
    name = STEADY[axis][0] if axis != WALL else hours_unit(group)
    ratio = cost_ratio(arms, axis)
    if ratio is None:
        return " (cost not known)"
    if ratio <= EQUAL_COST:
        return " at equal cost" if axis == WALL else f" at equal {name}"
    order = sorted(arms, key=lambda arm: arm_spent(arm, axis) or 0)
    cheapest, dearest = order[0].label, order[-1].label
    return f" at unequal cost ({dearest} had {times(ratio)} the {name} of {cheapest})"


def resource(arms: Sequence[Arm]) -> str | None:
    """The cost that tells what arms need: device-hours, or CPU time if runs were disturbed.

    None if the CPU time of a disturbed run cannot be compared.
    """
    if budget_kind(arms) != "cpu_hours" and not disturbed(arms):
        return WALL
    known = "cpu_hours" in _steady(arms) and cost_ratio(arms, "cpu_hours") is not None
    return "cpu_hours" if known else None


def at_equal_costs(arms: Sequence[Arm]) -> str:
    """The validation WERs of arms at equal costs in ``STEADY``, as a sentence."""
    told = []
    for axis in _steady(arms):
        amounts = [run_spent(run, axis) for arm in arms for run in arm.runs]
        if None in amounts or not (least := min(a for a in amounts if a is not None)):
            continue
        name, show = STEADY[axis]
        rates = ", ".join(wer_at_in_words(arm, least, axis) for arm in arms)
        told.append(f"at equal {name} ({show(least)}) {rates}")
    how = "(means over seeds, between validations interpolated, not tested)"
    return f"Validation WER {how}: {'; '.join(told)}." if told else ""
