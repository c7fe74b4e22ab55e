"""Contrasts that are planned before they are measured, and the verdict that follows from one."""

from dataclasses import dataclass
from typing import Literal

Estimator = Literal["errors", "cost to a target"]
Decision = Literal["for", "against", "equivalent", "not enough evidence"]


@dataclass(frozen=True)
class Contrast:
    """What a study compares to judge a claim; fixed before the first run.

    A study has one primary contrast for each claim. It decides the verdict. All other comparisons
    are description: they have no part in the verdict or in the family.

    Attributes:
        claim: the claim, as ``C1``.
        subject: label of the arm that the claim is about.
        reference: label of the arm that it is compared with.
        estimator: ``errors`` is the difference of error rates, subject minus reference;
            ``cost to a target`` is the logarithm of the ratio of the costs.
        unit: what the value is counted in, as ``points of WER`` or ``core-hours``.
        margin: values between -margin and margin do not matter; same scale as the value.
        family: number of contrasts that are tested together.
        target: the error rate to reach, for a cost to a target.
    """

    claim: str
    subject: str
    reference: str
    estimator: Estimator
    unit: str
    margin: float
    family: int = 1
    target: float | None = None

    def __post_init__(self) -> None:
        if self.margin <= 0:
            raise ValueError(f"margin {self.margin}: give the least difference that matters")
        if self.family < 1:
            raise ValueError(f"family {self.family}: give the number of contrasts, 1 or more")
        if (self.estimator == "cost to a target") != (self.target is not None):
            raise ValueError(
                f"target {self.target}: a cost to a target needs one, errors have none"
            )


def decide(contrast: Contrast, low: float, high: float) -> Decision:
    """The verdict on "the subject is worse than the reference", from the interval of the contrast.

    Args:
        contrast: the planned contrast.
        low: lower end of its simultaneous interval; above 0, the subject is worse.
        high: upper end.

    Raises:
        ValueError: the interval is empty.
    """
    if low > high:
        raise ValueError(f"an interval from {low} to {high} is empty")
    if -contrast.margin < low and high < contrast.margin:
        return "equivalent"
    if low > 0:
        return "for"
    return "against" if high < 0 else "not enough evidence"
