import numpy as np
import pytest
import scipy.stats

from asr.statistics.median import median_interval


@pytest.mark.parametrize("number", [6, 7, 9, 12, 20])
def test_the_interval_of_a_median_is_the_narrowest_of_the_sign_test(number):
    values = np.random.default_rng(0).permutation(number).tolist()
    value, low, high = median_interval(values)
    assert value == np.median(values)
    outside = [2 * scipy.stats.binom.cdf(low + more, number, 0.5) for more in (0, 1)]
    assert outside[0] <= 0.05 < outside[1]
    assert high == number - 1 - low  # values are ranks


def test_few_values_give_their_least_and_greatest():
    assert median_interval([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert median_interval([4.0]) == (4.0, 4.0, 4.0)


def test_the_interval_holds_the_median_of_a_skewed_distribution():
    draws = np.random.default_rng(1).exponential(size=(2000, 6))
    found = [median_interval(row) for row in draws]
    held = np.mean([low <= np.log(2) <= high for _, low, high in found])
    assert held == pytest.approx(1 - 2 / 2**6, abs=0.02)
