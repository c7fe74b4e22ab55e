"""How far confidences can be believed: calibration error, cross entropy, and a map that mends them.

A confidence is calibrated where, of all words that have confidence c, a share of c is correct.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_BINS = 15  # of Guo et al. 2017
# A confidence is held this far from 0 and 1, lest one word of certainty that is wrong outweigh all.
EPSILON = 1e-6
NEWTON_STEPS = 100  # ten are enough where the data are not degenerate
TOLERANCE = 1e-10  # of the gradient per word

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Words of similar confidence.

    Attributes:
        low, high: low < confidence <= high; the first bin holds 0 as well.
        count: words.
        confidence: their mean; None without words.
        correct: the share of them that is; None without words.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    correct: float | None


@dataclass(frozen=True)
class Calibration:
    """sigmoid(slope * logit(confidence) + offset): Platt scaling (Platt 1999).

    Attributes:
        slope: below 1 where confidences are too extreme.
        offset: below 0 where they are too high.
    """

    slope: float
    offset: float

    def __post_init__(self) -> None:
        for name in ("slope", "offset"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} of the calibration is {getattr(self, name)}; fit it anew")

    def apply(self, confidence: float) -> float:
        """A probability -> a probability."""
        return float(_sigmoid(self.slope * _logit(np.float64(confidence)) + self.offset))

    @classmethod
    def fit(cls, confidences: ArrayLike, correct: ArrayLike) -> "Calibration":
        """The likeliest map of (W,) confidences to (W,) words that are correct or not.

        Slope and offset have a normal prior of variance 1 around 1 and 0, which weighs as much as
        a few words: without evidence confidences stay as they are, and where all words are correct
        the map is finite. The minimum is unique; Newton's method, its steps halved as long as they
        do not descend, finds it.

        Raises:
            ValueError: the lists differ in length, or a confidence is not in [0, 1].
        """
        values, right = _checked(confidences, correct)
        inputs = np.stack([_logit(values), np.ones_like(values)], axis=1)  # (W, 2)
        prior = np.array([1.0, 0.0])

        def cost(weights: Array) -> float:
            logits = inputs @ weights
            fit = np.logaddexp(0, logits).sum() - logits[right].sum()
            return float(fit + ((weights - prior) ** 2).sum() / 2)

        weights = prior
        for _ in range(NEWTON_STEPS):
            shares = _sigmoid(inputs @ weights)
            gradient = inputs.T @ (shares - right) + weights - prior
            if np.abs(gradient).max() <= TOLERANCE * max(len(values), 1):
                break
            curvature = (inputs.T * (shares * (1 - shares))) @ inputs + np.eye(2)
            step = np.linalg.solve(curvature, gradient)
            size, before = 1.0, cost(weights)
            while cost(weights - size * step) > before and size > TOLERANCE:
                size /= 2
            weights = weights - size * step
        return cls(*map(float, weights))


def cross_fitted(confidences: ArrayLike, correct: ArrayLike, folds: ArrayLike) -> Array:
    """(W,), (W,), (W,) fold of each word -> (W,) calibrated by what the words of other folds say.

    What is measured on them is an honest estimate, as what is measured on the words of the fit is
    not. Words of an utterance belong in one fold: they are right and wrong together.

    Raises:
        ValueError: as ``Calibration.fit``.
    """
    values, right = _checked(confidences, correct)
    folds = np.asarray(folds)
    result = values.copy()
    for fold in np.unique(folds):
        own = folds == fold
        calibration = Calibration.fit(values[~own], right[~own])
        result[own] = [calibration.apply(value) for value in values[own]]
    return result


def reliability(confidences: ArrayLike, correct: ArrayLike, bins: int = NUM_BINS) -> list[Bin]:
    """(W,), (W,) -> bins of equal width from 0 to 1 (Guo et al. 2017).

    Raises:
        ValueError: the lists differ in length, or a confidence is not in [0, 1].
    """
    values, right = _checked(confidences, correct)
    edges = np.linspace(0, 1, bins + 1)
    places = np.searchsorted(edges[1:-1], values, side="left")
    counts, sums, hits = (
        np.bincount(places, weights=weights, minlength=bins) for weights in (None, values, right)
    )
    return [
        Bin(
            float(edges[i]),
            float(edges[i + 1]),
            int(counts[i]),
            float(sums[i] / counts[i]) if counts[i] else None,
            float(hits[i] / counts[i]) if counts[i] else None,
        )
        for i in range(bins)
    ]


def expected_calibration_error(confidences: ArrayLike, correct: ArrayLike) -> float | None:
    """sum_b n_b / W |correct_b - confidence_b| over bins b (Guo et al. 2017); None without words.

    "On calibration of modern neural networks". 0 is calibrated, though to the bins' width alone.

    Raises:
        ValueError: as ``reliability``.
    """
    table = [row for row in reliability(confidences, correct) if row.count]
    gaps = [
        row.count * abs(row.correct - row.confidence)
        for row in table
        if row.correct is not None and row.confidence is not None
    ]
    return sum(gaps) / sum(row.count for row in table) if table else None


def normalised_cross_entropy(confidences: ArrayLike, correct: ArrayLike) -> float | None:
    """(H - H(confidences)) / H, H the entropy of knowing the share of correct words alone.

    Siu, Gish and Richardson 1997; NIST's measure of confidences. 1 is certain and right, 0 no
    better than that share for every word, below 0 worse. Confidences are held to
    [EPSILON, 1 - EPSILON]. None where all words are correct or none is, when H is 0.

    Raises:
        ValueError: as ``reliability``.
    """
    values, right = _checked(confidences, correct)
    share = right.mean() if len(right) else 0.0
    if share in (0.0, 1.0):
        return None
    most = _cross_entropy(np.full_like(values, share), right)
    return float((most - _cross_entropy(values, right)) / most)


def area_under_curve(confidences: ArrayLike, correct: ArrayLike) -> float | None:
    """The probability that a correct word has more confidence than a wrong one, equal counts half.

    The area under the receiver operating characteristic, by ranks (Mann and Whitney 1947). No
    rising map of the confidences changes it. None where all words are correct or none is.

    Raises:
        ValueError: as ``reliability``.
    """
    values, right = _checked(confidences, correct)
    good, bad = int(right.sum()), int((~right).sum())
    if not good or not bad:
        return None
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]  # from 1, the mean among equals
    return float((ranks[right].sum() - good * (good + 1) / 2) / (good * bad))


def measured(confidences: ArrayLike, correct: ArrayLike) -> dict[str, Any]:
    """All of these as plain values: ``count``, ``correct``, ``ece``, ``nce``, ``auc``, ``bins``.

    Raises:
        ValueError: as ``reliability``.
    """
    values, right = _checked(confidences, correct)
    return {
        "count": len(values),
        "correct": int(right.sum()),
        "ece": expected_calibration_error(values, right),
        "nce": normalised_cross_entropy(values, right),
        "auc": area_under_curve(values, right),
        "bins": [row.__dict__ for row in reliability(values, right)],
    }


def _cross_entropy(values: Array, right: NDArray[np.bool_]) -> float:
    held = np.clip(values, EPSILON, 1 - EPSILON)
    return -float(np.log2(np.where(right, held, 1 - held)).sum())


def _logit(values: Any) -> Any:
    held = np.clip(values, EPSILON, 1 - EPSILON)
    return np.log(held) - np.log1p(-held)


def _sigmoid(values: Any) -> Any:
    return np.exp(-np.logaddexp(0, -values))


def _checked(confidences: ArrayLike, correct: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    values, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=bool)
    if values.shape != right.shape:
        raise ValueError(f"{len(values)} confidences but {len(right)} words; give one of each")
    if not ((values >= 0) & (values <= 1)).all():
        strange: Sequence[float] = values[~((values >= 0) & (values <= 1))].tolist()
        raise ValueError(f"a confidence of {strange[0]}: a probability is from 0 to 1")
    return values, right
