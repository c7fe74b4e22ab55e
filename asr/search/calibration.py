"""Calibration of confidences: calibration error, cross entropy, and a calibrating map.

Confidences are calibrated if, among all words with confidence c, the share of correct words is c.
The functions take (W,) confidences and (W,) booleans (whether each word is correct). They raise a
ValueError if the lengths differ or a confidence is not in [0, 1].
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_BINS = 15  # of Guo et al. 2017
# Confidences are clipped this far from 0 and 1, so that no single certain error outweighs the rest.
EPSILON = 1e-6
TOLERANCE = 1e-13  # of the gradient per word

Array = NDArray[np.float64]


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
        the map is finite. The minimum is unique.
        """
        from scipy.optimize import minimize  # imported here: a model is loaded without scipy

        values, right = _checked(confidences, correct)
        inputs = np.stack([_logit(values), np.ones_like(values)], axis=1)  # (W, 2)
        prior = np.array([1.0, 0.0])

        def cost(weights: Array) -> float:
            logits = inputs @ weights
            fit = np.logaddexp(0, logits).sum() - logits[right].sum()
            return float(fit + ((weights - prior) ** 2).sum() / 2)

        def gradient(weights: Array) -> Array:
            return np.asarray(inputs.T @ (_sigmoid(inputs @ weights) - right) + weights - prior)

        def curvature(weights: Array) -> Array:
            shares = _sigmoid(inputs @ weights)
            return np.asarray((inputs.T * (shares * (1 - shares))) @ inputs + np.eye(2))

        found = minimize(
            cost, prior, method="trust-exact", jac=gradient, hess=curvature,
            options={"gtol": TOLERANCE * max(len(values), 1)},
        )  # fmt: skip
        return cls(*map(float, found.x))


def cross_fitted(confidences: ArrayLike, correct: ArrayLike, folds: ArrayLike) -> Array:
    """(W,), (W,), (W,) fold of each word -> (W,) calibrated by a fit to the words of other folds.

    Measures of them are honest estimates; measures on the words of the fit are not. The words of an
    utterance belong in one fold: they are right and wrong together.
    """
    values, right = _checked(confidences, correct)
    folds = np.asarray(folds)
    result = values.copy()
    for fold in np.unique(folds):
        own = folds == fold
        calibration = Calibration.fit(values[~own], right[~own])
        result[own] = [calibration.apply(value) for value in values[own]]
    return result


def reliability(
    confidences: ArrayLike, correct: ArrayLike, bins: int = NUM_BINS
) -> list[dict[str, Any]]:
    """(W,), (W,) -> bins of equal width from 0 to 1 (Guo et al. 2017).

    Each has ``low`` and ``high`` (low < confidence <= high; the first bin holds 0 as well), the
    ``count`` of words, their mean ``confidence`` and the share that is ``correct``, which are None
    without words.
    """
    values, right = _checked(confidences, correct)
    edges = np.linspace(0, 1, bins + 1)
    places = np.searchsorted(edges[1:-1], values, side="left")
    counts, sums, hits = (
        np.bincount(places, weights=weights, minlength=bins) for weights in (None, values, right)
    )
    return [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "count": int(counts[i]),
            "confidence": float(sums[i] / counts[i]) if counts[i] else None,
            "correct": float(hits[i] / counts[i]) if counts[i] else None,
        }
        for i in range(bins)
    ]


def expected_calibration_error(confidences: ArrayLike, correct: ArrayLike) -> float | None:
    """sum_b n_b / W |correct_b - confidence_b| over bins b (Guo et al. 2017); None without words.

    "On calibration of modern neural networks". 0 is calibrated, though to the bins' width alone.
    """
    table = [row for row in reliability(confidences, correct) if row["count"]]
    gaps = [row["count"] * abs(row["correct"] - row["confidence"]) for row in table]
    return sum(gaps) / sum(row["count"] for row in table) if table else None


def normalised_cross_entropy(confidences: ArrayLike, correct: ArrayLike) -> float | None:
    """(H - H(confidences)) / H, H the entropy of knowing the share of correct words alone.

    Siu, Gish and Richardson 1997; NIST's measure of confidences. 1 is certain and right, 0 no
    better than that share for every word, below 0 worse. Confidences are clipped to
    [EPSILON, 1 - EPSILON]. None where all words are correct or none is, when H is 0.
    """
    values, right = _checked(confidences, correct)
    share = right.mean() if len(right) else 0.0
    if share in (0.0, 1.0):
        return None

    def entropy(values: Array) -> float:
        clipped = np.clip(values, EPSILON, 1 - EPSILON)
        return -float(np.log2(np.where(right, clipped, 1 - clipped)).sum())

    most = entropy(np.full_like(values, share))
    return (most - entropy(values)) / most


def area_under_curve(confidences: ArrayLike, correct: ArrayLike) -> float | None:
    """The probability that a correct word has more confidence than a wrong one, equal counts half.

    The area under the receiver operating characteristic, by ranks (Mann and Whitney 1947). No
    rising map of the confidences changes it. None where all words are correct or none is.
    """
    values, right = _checked(confidences, correct)
    good, bad = int(right.sum()), int((~right).sum())
    if not good or not bad:
        return None
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]  # from 1, the mean among equals
    return float((ranks[right].sum() - good * (good + 1) / 2) / (good * bad))


def confidence_measures(confidences: ArrayLike, correct: ArrayLike) -> dict[str, Any]:
    """All of these as plain values: ``count``, ``correct``, ``ece``, ``nce``, ``auc``, ``bins``."""
    values, right = _checked(confidences, correct)
    return {
        "count": len(values),
        "correct": int(right.sum()),
        "ece": expected_calibration_error(values, right),
        "nce": normalised_cross_entropy(values, right),
        "auc": area_under_curve(values, right),
        "bins": reliability(values, right),
    }


def _logit(values: Any) -> Any:
    clipped = np.clip(values, EPSILON, 1 - EPSILON)
    return np.log(clipped) - np.log1p(-clipped)


def _sigmoid(values: Any) -> Any:
    return np.exp(-np.logaddexp(0, -values))


def _checked(confidences: ArrayLike, correct: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    values, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=bool)
    if values.shape != right.shape:
        raise ValueError(f"{len(values)} confidences but {len(right)} words; give one of each")
    if len(strange := values[~((values >= 0) & (values <= 1))]):
        raise ValueError(f"a confidence of {strange[0]}: a probability is from 0 to 1")
    return values, right
