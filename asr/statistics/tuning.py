"""Estimates the expected best error rate of n tuning trials."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
EDGE = 0.05  # share of a range at which a better value may lie beyond it


def expected_best(values: ArrayLike) -> Floats:
    """Expected lowest WER (N,) of n = 1 ... N trials, from WERs (N,) of random trials.

    The estimate is the mean of the minimum over all subsets of n trials: with v ascending, sum_i
    v_(i) C(N - i, n - 1) / C(N, n). It is unbiased (Tang et al., "Showing Your Work Doesn't Always
    Work", ACL 2020). The estimator of Dodge et al. ("Show Your Work", EMNLP 2019) draws with
    replacement and is too high, because a trial that is drawn twice counts as two.

    Raises:
        ValueError: there is no trial, or a value is not finite.
    """
    return _weights(len(_checked(values))) @ np.sort(_checked(values))


def expected_best_interval(
    values: ArrayLike, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[Floats, Floats]:
    """Intervals (N,) by a bootstrap over the trials; NaN if n is more than half of N.

    If n is close to N, the estimate depends on the best trial alone, and no resample has a better
    one, so an interval would be too short (at n = N, it would contain the true value in 55 to 60 %
    of cases). The percentiles are stretched by sqrt(N / (N - 1)) t / z. The true value then lies in
    90 to 95 % of 95 % intervals up to n = N / 3, and in 84 to 86 % at n = N / 2 (for 8 and 20
    trials with uniformly distributed values).

    Raises:
        ValueError: there is no trial, or a value is not finite.
    """
    from scipy import special

    trials = _checked(values)
    number = len(trials)
    drawn = np.random.default_rng(seed).choice(trials, (resamples, number))
    best = np.sort(drawn, axis=1) @ _weights(number).T  # (resamples, N)
    best[:, number // 2 :] = np.nan
    freedom = max(1, number - 1)
    t, z = special.stdtrit(freedom, (1 + level) / 2), special.ndtri((1 + level) / 2)
    stretch = math.sqrt(number / freedom) * t / z
    value = expected_best(trials)
    low, high = value + stretch * (
        np.quantile(best, [(1 - level) / 2, (1 + level) / 2], axis=0) - value
    )
    return low, high


def edge(value: float, low: float, high: float, log: bool) -> str:
    """``lower`` or ``upper`` if a value lies in the nearest 5 % of its range; otherwise empty.

    Args:
        value: the value.
        low: lower end of the range.
        high: upper end.
        log: whether shares of the range are measured in the logarithm.
    """
    place, first, last = np.log([value, low, high]) if log else (value, low, high)
    share = (place - first) / (last - first)
    return "lower" if share <= EDGE else "upper" if share >= 1 - EDGE else ""


def _weights(number: int) -> Floats:
    """Probabilities (n, i) that the i-th best trial is the best of n without replacement."""
    rows = [
        [math.comb(number - i, n - 1) / math.comb(number, n) for i in range(1, number + 1)]
        for n in range(1, number + 1)
    ]
    return np.array(rows)


def _checked(values: ArrayLike) -> Floats:
    trials = np.asarray(values, dtype=np.float64)
    if trials.ndim != 1 or not len(trials):
        raise ValueError("there are no trials; give one WER per trial")
    if not np.isfinite(trials).all():
        raise ValueError("a trial has no WER; give a failed trial the WER of empty output, 1")
    return trials
