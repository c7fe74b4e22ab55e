"""Contrasts that are planned before they are measured, and the decision that follows from one."""

import re
from dataclasses import dataclass
from typing import Literal

Decision = Literal["for", "against", "equivalent", "not enough evidence"]
Estimator = Literal["errors", "cost to a target"]
Unit = Literal["points", "device_hours", "cpu_hours", "updates", "audio_hours", "train_flops"]
MOST_POINTS, MOST_TIMES = 10, 2  # largest margins: larger differences matter to everyone


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A comparison that a study plans, to judge the claim "the subject is worse".

    Args:
        claim: the claim that the contrast is about: C1, C7 or a name of your own.
        subject: the arm that makes more errors, or costs more, according to the claim.
        reference: the arm that it is compared with.
        estimator: errors on the evaluated split at the largest budget, or the cost to a target.
        unit: points (of WER) for errors; for a cost, device_hours, cpu_hours, updates, audio_hours
            or train_flops. device_hours are CPU-hours if the budgets of the runs are.
        margin: the largest difference that does not matter, in points above 0 and up to 10, for
            instance a tenth of the expected WER; for a cost, the largest ratio, above 1 and up
            to 2.
        target: validation WER to reach, in percent; only for a cost.
        primary: whether the contrast decides the claim; each claim has exactly one that does.
        planned_after: results that were known when the contrast was planned, in words, such as
            those of an earlier version of the study; every verdict repeats them.
    """

    claim: str
    subject: str
    reference: str
    estimator: Estimator
    unit: Unit
    margin: float
    target: float | None = None
    primary: bool = True
    planned_after: str = ""

    def __post_init__(self) -> None:
        where = f"contrast of {self.subject} and {self.reference}"
        if not re.fullmatch(r"(?!c\d$)\S(.*\S)?", self.claim):
            raise ValueError(f"{where}: claim {self.claim!r}: expects C1, C7 or a name of your own")
        cost = self.estimator == "cost to a target"
        if self.subject == self.reference:
            raise ValueError(f"{where}: compares an arm with itself; name two arms")
        if cost and self.target is None:
            raise ValueError(f"{where}: {self.estimator} needs target, a validation WER in percent")
        if self.target is not None and not cost:
            raise ValueError(f"{where}: target {self.target:g}: errors have none; leave it out")
        if cost == (self.unit == "points"):
            raise ValueError(f"{where}: unit {self.unit} does not fit the estimator")
        most = MOST_TIMES if cost else MOST_POINTS
        if not cost < self.margin <= most:
            kind = f"a ratio above 1, up to {most}, such as 1.25"
            kind = kind if cost else f"points above 0, up to {most}: a tenth of the expected WER"
            raise ValueError(f"{where}: margin {self.margin:g}: expects {kind}")


def decide(low: float, high: float, margin: float) -> Decision:
    """The decision on "the subject is worse than the reference".

    Args:
        low: lower end of the interval of the difference; above 0, the subject is worse.
        high: upper end.
        margin: differences between -margin and margin do not matter; 0: all differences matter.
    """
    if -margin < low and high < margin:
        return "equivalent"
    if low > 0:
        return "for"
    return "against" if high < 0 else "not enough evidence"


def within_margin(low: float, high: float) -> str:
    """Names the side of an interval within the margin that excludes 0; empty if it holds 0."""
    side = "worse" if low > 0 else "better" if high < 0 else ""
    return side and f"{side}, but within the margin"
