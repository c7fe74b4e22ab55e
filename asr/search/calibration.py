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

NUM_BINS = 15  # as in Guo et al. 2017
# Confidences are clipped this far from 0 and 1, so that no single certain error outweighs the rest.
EPSILON = 1e-6
TOLERANCE = 1e-13  # largest gradient per word at the minimum

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """sigmoid(slope * logit(confidence) + offset): Platt scaling (Platt 1999).

    Attributes:
        slope: below 1 if confidences are too extreme.
        offset: below 0 if confidences are too high.
    """

    slope: float
    offset: float

    def __post_init__(self) -> None:
        for name in ("slope", "offset"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} of the calibration is {getattr(self, name)}; fit it anew")

    def apply(self, confidence: float) -> float:
        """Maps a confidence to a calibrated confidence."""
        return float(_sigmoid(self.slope * _logit(np.float64(confidence)) + self.offset))

    @classmethod
    def fit(cls, confidences: ArrayLike, correct: ArrayLike) -> "Calibration":
        """Fits the map to (W,) confidences and (W,) booleans by maximum a posteriori.

        Slope and offset have normal priors of variance 1 around 1 and 0, which weigh as much as a
        few words. Without evidence confidences therefore do not change, and if all words are
        correct the map is finite. The minimum is unique.
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
    """Calibrates each word by a map fitted to the words of the other folds.

    Measures of the result are unbiased, while measures on the words of the fit are optimistic. Put
    all words of an utterance into one fold, because their errors are correlated.
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
    """Sorts words into bins of equal width from 0 to 1 (Guo et al. 2017).

    Each bin has ``low`` and ``high`` (low < confidence <= high; the first bin also holds 0), the
    ``count`` of words, their mean ``confidence`` and the share that is ``correct``. The last two
    are None in an empty bin.
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
    """Computes sum_b n_b / W |correct_b - confidence_b| over bins b; None without words.

    See Guo et al. 2017, "On calibration of modern neural networks". Perfect calibration gives 0. An
    error within a bin does not count.
    """
    table = [row for row in reliability(confidences, correct) if row["count"]]
    gaps = [row["count"] * abs(row["correct"] - row["confidence"]) for row in table]
    return sum(gaps) / sum(row["count"] for row in table) if table else None


def normalised_cross_entropy(confidences: ArrayLike, correct: ArrayLike) -> float | None:
    """Computes (H - H(confidences)) / H; H is the entropy if only the share correct is known.

    This is NIST's measure of confidences (Siu, Gish and Richardson 1997). It is 1 if confidences
    are certain and right, 0 if they are no better than the share correct for every word, and
    negative if they are worse. Confidences are clipped to [EPSILON, 1 - EPSILON]. The value is
    None if all words are correct or none is, because H is then 0.
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
    """The probability that a correct word has a higher confidence than a wrong one.

    Equal confidences count half. This is the area under the receiver operating characteristic, by
    ranks (Mann and Whitney 1947). Increasing maps of the confidences do not change it. It is None
    if all words are correct or none is.
    """
    values, right = _checked(confidences, correct)
    good, bad = int(right.sum()), int((~right).sum())
    if not good or not bad:
        return None
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]  # from 1, the mean among equals
    return float((ranks[right].sum() - good * (good + 1) / 2) / (good * bad))


def confidence_measures(confidences: ArrayLike, correct: ArrayLike) -> dict[str, Any]:
    """Returns ``count``, ``correct``, ``ece``, ``nce``, ``auc`` and ``bins`` as plain values."""
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
