"""Writes the section about a study: the plan, its total cost, and the gain from tuning."""

from functools import partial
from typing import Any

from asr.document.blocks import Block, Picture, Section, Table, Text
from asr.formatting import digits, listed, percent, percent_interval
from asr.report.costs import budget_in_words, mean
from asr.report.plots import Curve, tuning
from asr.report.study import FAILED_WER, Account, StudyRecord, sum_hours
from asr.statistics.tuning import expected_best, expected_best_interval


def study_section(study: StudyRecord, broken: list[str]) -> Section:
    """The section that lets a reader judge the study; contradictions come first."""
    registered, plan = study.registered, study.plan
    told = partial(budget_in_words, kinds=[registered["device_kind"]])
    said = (
        "Results, runs and the registered file agree: every run was trained with a recipe of the "
        "registered file, and records the hash of this file."
    )
    blocks: list[Block] = [
        Text([f"RESULTS AND REGISTERED FILE DISAGREE: {line}"], "warning") for line in broken
    ] or [Text([said])]
    facts = [
        ["study", f"{registered['name']}, {study.folder}"],
        ["registered", f"{registered['registered']}, by the first start of asr study"],
        ["SHA-256 of the registered file", registered["study_sha256"]],
        ["arms", ", ".join(study.recipes)],
        ["seeds of the final runs", ", ".join(str(seed) for seed in plan["seeds"])],
        ["budgets", "; ".join(f"{k}: {told(v)}" for k, v in plan["budgets"].items())],
        ["trials per arm", f"{plan['tuning']['trials']} of {told(plan['tuning']['budget'])}"],
        ["tuning ranges of all arms", _ranges(plan["tuning"]["ranges"])],
        *[
            [f"further tuning ranges of {name}", _ranges(arm["ranges"])]
            for name, arm in plan["arms"].items()
            if arm.get("ranges")
        ],
        *[[f"contrast of {c['claim']}", _contrast(c)] for c in plan.get("contrasts", [])],
        ["chosen by", "lowest validation WER; the test split was not used"],
    ]
    blocks.append(Table(["", "value"], facts))
    if notes := study.remarks():
        blocks.append(Text(notes, "list"))
    return "The study: registration, tuning and total cost", [
        *blocks,
        *_costs(study),
        *_best(study),
    ]


def _contrast(contrast: dict[str, Any]) -> str:
    target = f" of {contrast['target']:g} % WER" if contrast["target"] else ""
    role = "" if contrast["primary"] else "; does not decide"
    return (
        f"{contrast['subject']} (subject) and {contrast['reference']}: {contrast['estimator']}"
        f"{target}, {contrast['unit']}, margin {contrast['margin']:g}{role}"
    )


def _ranges(ranges: dict[str, dict[str, float | str]]) -> str:
    told = [f"{key} {r['low']:g} to {r['high']:g} ({r['scale']})" for key, r in ranges.items()]
    return "; ".join(told) or "none"


def _costs(study: StudyRecord) -> list[Block]:
    """Hours of trials, final runs and failures, per arm and in total."""
    unit = study.unit
    header = ["arm", "trials", f"{unit} of trials", "final runs", f"{unit} of final runs"]
    header += [f"failed ({unit})", f"{unit} in all"]
    accounts = study.accounts
    all_arms = Account(
        "all", [r for a in accounts for r in a.trials], [r for a in accounts for r in a.finals]
    )
    rows = [
        [
            account.arm,
            str(len(account.trials)),
            digits(sum_hours(account.trials)),
            str(len(account.finals)),
            digits(sum_hours(account.finals)),
            f"{len(account.failed)} ({digits(sum_hours(account.failed))})",
            digits(sum_hours(account.ended)),
        ]
        for account in [*accounts, all_arms]
    ]
    note = (
        "The hours of trials, of final runs and in all include failures. They are hours of "
        "training, without the recognition of the evaluated split."
    )
    return [Table(header, rows), Text([note])]


def _best(study: StudyRecord) -> list[Block]:
    """The expected best WER of n trials, as a plot and a table."""
    tuned = [account for account in study.accounts if account.trials]
    if not tuned:
        return [Text(["No trials: every arm was trained with the settings of its recipe."])]
    curves: list[Curve] = []
    hours, rows = [], []
    most = max(len(account.trials) for account in tuned)
    for account in tuned:
        best = expected_best(account.trial_wers).tolist()
        bounds = expected_best_interval(account.trial_wers)
        low, high = (bound.clip(min=0).tolist() for bound in bounds)  # a WER is at least 0
        curves.append((account.arm, best, low, high))
        hours.append(mean([row["device_hours"] for row in account.trials]) or 0.0)
        cells = [
            percent(b) if bound[0] != bound[0] else percent_interval(b, bound)
            for b, bound in zip(best, zip(low, high, strict=True), strict=True)
        ]
        rows.append([account.arm, digits(hours[-1]), *cells, *[""] * (most - len(cells))])
    header = ["expected best validation WER", f"{study.unit} of a trial"]
    header += [f"of {n} trial{'s' if n > 1 else ''}" for n in range(1, most + 1)]
    note = (
        "The estimate is unbiased, over all subsets of the trials (Tang et al. 2020); a failed "
        f"trial counts as {percent(FAILED_WER)}. Intervals are a bootstrap over trials, for up to "
        "half of the trials. If curves cross, the ranking depends on the tuning budget."
    )
    crossing = _crossing(curves)
    words = (
        "Expected best validation WER against the number of trials and against their cost. "
        "Whiskers: 95 % intervals for up to half of the trials, cut off at 100 %."
    )
    return [
        Picture("tuning", lambda: tuning(curves, hours, study.unit), words),
        Table(header, rows),
        Text([note + (f" Here they cross: {crossing}." if crossing else "")]),
    ]


def _crossing(curves: list[Curve]) -> str:
    """Pairs of arms that have another order after one trial than after all trials."""
    found = []
    for index, (a, first, *_) in enumerate(curves):
        for b, second, *_ in curves[index + 1 :]:
            n = min(len(first), len(second)) - 1
            if (first[0] - second[0]) * (first[n] - second[n]) < 0:
                found.append(f"{a} with {b}")
    return listed(found)
