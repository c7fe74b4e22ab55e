"""Computes an interval for the WER of each arm, and compares all pairs of arms of a group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from asr.formatting import listed
from asr.report.costs import arm_wer
from asr.report.disturbed import refused
from asr.report.groups import Arm, Group
from asr.statistics.bootstrap import bootstrap_interval, resampling_unit
from asr.statistics.comparison import (
    METHOD,
    MIN_SEEDS,
    Comparison,
    Statement,
    compare_all,
)
from asr.statistics.contrast import Contrast
from asr.statistics.mpsswe import matched_pairs

LEVEL = 0.95  # simultaneous confidence level of all pairs, or of all planned contrasts
ERRORS = ("substitutions", "deletions", "insertions")


@dataclass(frozen=True)
class Utterances:
    """The errors of an arm on the evaluated split.

    Attributes:
        ids: (B,) sorted utterance ids.
        errors: (seeds, B) number of word errors of each trained model.
        words: (B,) number of reference words.
        speakers: (B,) speaker ids.
        texts: (B,) reference and hypothesis of the first model; empty if they were not stored.
    """

    ids: list[str]
    errors: np.ndarray
    words: np.ndarray
    speakers: list[str]
    texts: list[tuple[str, str]]


@dataclass(frozen=True)
class Pair:
    """The comparison of arm B with arm A on the same utterances.

    Attributes:
        comparison: difference and statement; None if the arms could not be compared.
        reason: why there is not enough evidence, see ``Comparison``.
        matched: p-value of the matched-pairs test; None unless each arm has one trained model.
    """

    a: Arm
    b: Arm
    comparison: Comparison | None
    reason: str
    matched: float | None = None

    @property
    def statement(self) -> Statement:
        """What the comparison says about arm B, relative to arm A."""
        return "not enough evidence" if self.comparison is None else self.comparison.statement


@dataclass(frozen=True)
class Evidence:
    """The statistics of a group of runs.

    Attributes:
        targets: target WERs on the validation split; the report states the cost to reach each.
        registered: whether a study registered the targets before its runs.
        pairs: all pairs of arms, of which A has the lower WER.
        intervals: interval of the WER of each arm, by label; None if the arm was not evaluated.
        method: how the arms were compared, in words; empty if they were not.
        caveat: a sentence that restricts what the intervals mean; empty if nothing does.
        contrasts: the planned contrasts that this group measures; None if no study planned any.
        planned: all planned contrasts of the study, whether they are measured or not.
        seeds: the registered seeds; empty without a study.
    """

    group: Group
    targets: list[float]
    pairs: list[Pair]
    intervals: dict[str, tuple[float, float] | None]
    method: str
    caveat: str = ""
    contrasts: Sequence[Contrast] | None = None
    registered: bool = False
    planned: Sequence[Contrast] = ()
    seeds: Sequence[int] = ()

    @property
    def level(self) -> float:
        """Confidence level of one of all planned contrasts, by which all hold together."""
        return 1 - (1 - LEVEL) / max(1, len(self.planned))

    def arms(self, contrast: Contrast) -> tuple[Arm, Arm]:
        """Returns the subject and the reference of a contrast of this group."""
        named = {arm.name: arm for arm in self.group.arms}
        return named[contrast.subject], named[contrast.reference]

    def undecided(self, contrast: Contrast) -> str:
        """Why a contrast has no verdict, whatever its interval is; empty if it may have one.

        A verdict needs all registered seeds and no others: who may look after each seed, and stop,
        finds false differences more often. Errors have no value for a seed that failed, and those
        that remain are a biased sample. In a cost, a failed seed is one that never got there. An
        amendment after the first trial, which is the caveat, has the same effect.
        """
        why = [self.caveat.removesuffix(".")] if self.caveat else []
        for arm in self.arms(contrast):
            done = {run.seed for run in arm.runs}
            failed = {run.seed for run in arm.failed} - done
            for words, found in (
                ("that have not ended", set(self.seeds) - done - failed),
                ("that are not registered", done - set(self.seeds) if self.seeds else set()),
                ("that failed", failed if contrast.estimator == "errors" else set()),
            ):
                if found:
                    why.append(f"seeds of {arm.label} {words}: {listed(sorted(map(str, found)))}")
        return "; ".join(why)

    def pair(self, a: Arm, b: Arm) -> Pair:
        """Returns the pair of these two arms, which may be given in either order."""
        labels = {a.label, b.label}
        return next(p for p in self.pairs if {p.a.label, p.b.label} == labels)


def compare_arms(
    group: Group,
    targets: Sequence[float],
    caveat: str = "",
    *,
    contrasts: Sequence[Contrast] | None = None,
    registered: bool = False,
    planned: Sequence[Contrast] | None = None,
    seeds: Sequence[int] = (),
) -> Evidence:
    """Compares all pairs of arms of a group.

    If a study planned contrasts, only these are tested, and all other pairs are description.
    Otherwise all pairs are one family, because the same results show which arm is the best.
    ``planned`` are all contrasts of the study, by default those of this group. A contrast without
    an arm keeps its share of false positives, so the level does not depend on what was measured.
    A planned pair gets no statement before all registered ``seeds`` have ended, see ``undecided``.
    """
    tables = {arm.label: utterances(arm) for arm in group.arms}
    planned = (contrasts or ()) if planned is None else planned
    family = None
    if contrasts is not None:
        names = {arm.name: arm.label for arm in group.arms}
        contrasts = [c for c in contrasts if {c.subject, c.reference} <= names.keys()]
        errors = [c for c in contrasts if c.estimator == "errors"]
        family = {(names[c.reference], names[c.subject]): c.margin / 100 for c in errors}
    pairs, method = compare_group(group, tables, family, len(planned))
    intervals = {arm.label: interval(arm, tables[arm.label]) for arm in group.arms}
    wanted = list(targets)
    found = Evidence(
        group, wanted, pairs, intervals, method, caveat, contrasts, registered, planned, seeds
    )
    for contrast in contrasts or ():
        if contrast.estimator == "errors" and (why := found.undecided(contrast)):
            pair = found.pair(*found.arms(contrast))
            if pair.comparison is not None:
                told = replace(pair.comparison, statement="not enough evidence", reason=why)
                pairs[pairs.index(pair)] = replace(pair, comparison=told, reason=why)
    return found


def utterances(arm: Arm) -> Utterances | None:
    """Returns the errors of all seeds; None if a seed has no hypotheses or other utterances."""
    tables = [{row["id"]: row for row in run.hypotheses} for run in arm.runs if run.hypotheses]
    if len(tables) < len(arm.runs) or any(t.keys() != tables[0].keys() for t in tables):
        return None
    ids = sorted(tables[0])
    rows = [tables[0][i] for i in ids]
    return Utterances(
        ids=ids,
        errors=np.array([[sum(t[i][kind] for kind in ERRORS) for i in ids] for t in tables]),
        words=np.array([r["hits"] + r["substitutions"] + r["deletions"] for r in rows]),
        speakers=[str(r.get("speaker_id")) for r in rows],
        texts=[(r["reference"], r["hypothesis"]) for r in rows if "hypothesis" in r],
    )


def interval(arm: Arm, table: Utterances | None) -> tuple[float, float] | None:
    """Returns the 95 % interval of a WER over speakers, and over seeds if there are several."""
    if len(arm.runs) == 1:
        return arm.runs[0].wer_interval
    if table is None:
        return None
    return bootstrap_interval(table.errors, table.words, table.speakers)


def compare_group(
    group: Group,
    tables: dict[str, Utterances | None],
    family: Mapping[tuple[str, str], float] | None = None,
    number: int = 0,
) -> tuple[list[Pair], str]:
    """Returns all pairs of arms, the lowest WER first, and the method of comparison in words.

    ``family`` has the margins of the planned pairs; see ``compare_all``. Each of the ``number``
    planned contrasts, also one of costs or without runs, has an equal share of false positives.
    """
    arms = sorted(group.arms, key=lambda arm: (arm_wer(arm) is None, arm_wer(arm) or 0.0))
    reasons = {arm.label: _why_not_compared(arm, tables[arm.label]) for arm in arms}
    known = [arm.label for arm in arms if not reasons[arm.label]]
    first = tables[known[0]] if known else None
    for label in known:
        other = tables[label]
        same = first and other and first.ids == other.ids and (first.words == other.words).all()
        if not same:
            reasons[label] = f"{label} was evaluated on other utterances"
    usable = {
        label: table
        for label in known
        if not reasons[label] and (table := tables[label]) is not None
    }
    comparisons: dict[tuple[str, str], Comparison] = {}
    if first is not None and len(usable) > 1:
        errors = {label: table.errors for label, table in usable.items()}
        able = {label for label, seeds in errors.items() if len(seeds) >= MIN_SEEDS}
        tested = sum(able.issuperset(pair) for pair in family or ())
        level = 1 - (1 - LEVEL) * tested / number if tested else LEVEL
        comparisons = compare_all(errors, first.words, first.speakers, family=family, level=level)
    pairs = []
    for index, a in enumerate(arms):
        for b in arms[index + 1 :]:
            refusal = refused([a, b])
            comparison = None if refusal else comparisons.get((a.label, b.label))
            if comparison is None:
                why = [reasons[arm.label] for arm in (a, b) if reasons[arm.label]] or [refusal]
                pairs.append(Pair(a, b, None, listed(why)))
            else:
                matched = _matched(usable[a.label], usable[b.label])
                pairs.append(Pair(a, b, comparison, comparison.reason, matched))
    return pairs, _method(first, comparisons, group.by_budget, family)


def _why_not_compared(arm: Arm, table: Utterances | None) -> str:
    """Returns why an arm cannot be compared; empty if it can."""
    if any(run.metrics is None for run in arm.runs):
        stale = any(run.stale for run in arm.runs)
        why = " with its current model (the evaluation is out of date)" if stale else ""
        return f"{arm.label} was not evaluated{why}"
    return f"the hypotheses of {arm.label} are missing" if table is None else ""


def _matched(a: Utterances, b: Utterances) -> float | None:
    """Returns the p-value of MPSSWE for two trained models; None if an arm has several seeds."""
    if len(a.errors) + len(b.errors) > 2 or not a.texts or not b.texts:
        return None
    references, hypotheses = zip(*a.texts, strict=True)
    try:
        return matched_pairs(references, hypotheses, [text for _, text in b.texts]).p
    except ValueError:  # fewer than two segments have errors
        return None


def _method(
    first: Utterances | None,
    comparisons: dict[tuple[str, str], Comparison],
    by_budget: bool,
    family: Mapping[tuple[str, str], float] | None,
) -> str:
    """Describes how the arms were compared; empty if they were not."""
    if first is None or not comparisons:
        return ""
    example = next(iter(comparisons.values()))
    number, where = len(comparisons), " at this budget" if by_budget else ""
    together = (
        "All their intervals hold at once with a probability of 95 % (min-p method of Westfall and "
        "Young, 1993)."
    )
    told = f" All {number} pairs of arms{where} are one family, because the same errors show which "
    told = f"{told}is best. {together}" if number > 1 else ""
    same = "10 % of the mean of the two rates"
    if family is not None:
        told = (
            f" The study planned {len(family)} of the {number} differences{where}. They are one "
            f"family, together with its contrasts of costs. {together} The other differences are "
            "description: each has an interval of its own, and no statement is made about it."
        )
        same = "the margin that the study registered"
    elif by_budget:
        told += (
            " Each budget is a comparison and a family of its own: the 95 % apply to each "
            "budget, not for all budgets together."
        )
    unit = resampling_unit(first.speakers)
    return (
        "The differences are those of pooled word error rates, paired by utterance. Their "
        f"intervals use {METHOD}, over {unit}.{told} The statements are about {example.scope}. "
        f"No difference means that the whole interval lies within {same}. "
        f"A true difference as large as the detectable one would be found {example.chance}."
    )
