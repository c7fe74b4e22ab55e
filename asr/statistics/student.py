"""Student's t, central and not: what intervals, p-values and power of few values rest on."""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

TINY = 1e-300  # stands for 0 in a denominator of the continued fraction
STEPS = 400  # of the integral over the estimated standard deviation
HALVINGS = 200  # more than doubles can tell apart


def tail(value: float, freedom: float) -> float:
    """Probability that Student's t exceeds ``value``; ``freedom`` may be broken or infinite.

    Half the regularised incomplete beta function of freedom / (freedom + value ** 2), by its
    continued fraction (DLMF 8.17.22): 10 digits, far tails included.
    """
    if math.isinf(freedom):
        return math.erfc(value / math.sqrt(2)) / 2
    half = _beta(freedom / 2, 0.5, value**2, freedom) / 2
    return half if value >= 0 else 1 - half


@lru_cache(maxsize=1024)
def student(level: float, freedom: float) -> float:
    """The t that Student's distribution stays within, on both sides, with probability ``level``."""
    above, low, high = (1 - level) / 2, 0.0, 1.0
    while tail(high, freedom) > above:
        high *= 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if tail(middle, freedom) > above else (low, middle)
    return (low + high) / 2


def normal(level: float) -> float:
    """The same of the standard normal distribution: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + level) / 2)


def power(shift: float, freedom: float, level: float = 0.95) -> float:
    """Probability that a two-sided t-test of this level finds a true difference.

    Args:
        shift: the true difference in standard errors (the noncentrality).
        freedom: degrees of freedom of the estimated standard error.
        level: 1 - the rate of false positives.

    The noncentral t is (Z + shift) / S with S ** 2 chi-squared over its freedom. The integral over
    the logarithm of S is Simpson's, right to 1e-7.
    """
    critical, cdf = student(level, freedom), NormalDist().cdf
    if math.isinf(freedom):
        return cdf(shift - critical) + cdf(-shift - critical)
    low = -math.sqrt(31 / freedom) - 21 / freedom  # the density below, or above, is under 1e-9
    logarithm = np.linspace(low, math.log1p(12 / math.sqrt(2 * freedom)), STEPS + 1)
    spread = np.exp(logarithm)
    density = np.exp(freedom * (logarithm - (spread**2 - 1) / 2))
    density *= np.array([1, *[4, 2] * (STEPS // 2 - 1), 4, 1])  # Simpson's weights
    found = [cdf(shift - critical * s) + cdf(-shift - critical * s) for s in spread]
    return float(density @ found / density.sum())


@lru_cache(maxsize=1024)
def detectable_shift(freedom: float, level: float = 0.95, chance: float = 0.80) -> float:
    """The true difference, in standard errors, that a t-test of this level finds with ``chance``.

    Solves ``power`` for its shift by halving, to 1e-6.

    Raises:
        ValueError: the chance is not between 1 - level and 1.
    """
    if not 1 - level < chance < 1:
        raise ValueError(
            f"a power of {chance} is not between the false positives' {1 - level:.3g} and 1; "
            "give 0.8"
        )
    low, high = 0.0, 1.0
    while power(high, freedom, level) < chance:
        high *= 2
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, freedom, level) < chance else (low, middle)
    return high


def _beta(a: float, b: float, square: float, freedom: float) -> float:
    """Regularised incomplete beta function at x = freedom / (freedom + square).

    Both x and 1 - x are given by their numerators, as 1 - x would lose the digits of small squares.
    """
    x, rest = freedom / (freedom + square), square / (freedom + square)
    if rest == 0:
        return 1.0
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(logarithm + a * math.log(x) + b * math.log(rest)) if x else 0.0
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, rest) / b


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or TINY)
    value, m = d, 0
    while True:
        m += 1
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for factor in (even, odd):
            d = 1 / (1 + factor * d or TINY)
            c = 1 + factor / c or TINY
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            return value
