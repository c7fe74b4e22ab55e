"""An interval for the median of a few repeats, which assumes no distribution."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

MIN_REPEATS = 6  # 5 repeats do not hold the median in 95 of 100 cases
OUTSIDE = 0.05  # share of the cases in which the interval may miss the median


class Median(NamedTuple):
    """A median, and an interval for the median of all repeats that one could make."""

    value: float
    low: float
    high: float


def median_interval(values: Sequence[float]) -> Median:
    """The median, between the order statistics that hold it in 95 of 100 cases (the sign test).

    These are the least and the greatest of 6 to 8 values, and the second ones of 9 to 11. Fewer
    values also give their least and greatest, which hold the median less often.
    """
    ordered, number, left_out = sorted(values), len(values), 0
    while 2 * _below(number, left_out + 1) <= OUTSIDE:
        left_out += 1
    return Median(statistics.median(ordered), ordered[left_out], ordered[-1 - left_out])


def _below(number: int, most: int) -> float:
    """The probability that at most ``most`` of the values lie below the median."""
    return sum(math.comb(number, k) for k in range(most + 1)) / 2**number
