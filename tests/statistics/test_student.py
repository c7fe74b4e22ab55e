import math

import pytest
import scipy.stats

from asr.statistics.student import detectable_shift, normal, power, student, tail


@pytest.mark.parametrize("freedom", [1, 1.5, 2, 4, 9.3, 100, 100_000, math.inf])
@pytest.mark.parametrize("value", [-2.0, 0.0, 1e-9, 0.1, 3, 30])
def test_the_tail_is_that_of_scipy_however_far(freedom, value):
    exact = scipy.stats.norm if math.isinf(freedom) else scipy.stats.t(freedom)
    assert tail(value, freedom) == pytest.approx(exact.sf(value), rel=1e-8)


@pytest.mark.parametrize("freedom", [1, 2, 4, 5, 9.3, 30, 500, 100_000])
@pytest.mark.parametrize("level", [0.8, 0.95, 1 - 0.05 / 3, 1 - 0.05 / 153])
def test_quantiles_are_those_of_scipy(freedom, level):
    expected = scipy.stats.t.ppf((1 + level) / 2, freedom)
    assert student(level, freedom) == pytest.approx(expected, rel=1e-9)
    assert normal(level) == pytest.approx(scipy.stats.norm.ppf((1 + level) / 2))


@pytest.mark.parametrize("freedom", [1, 1.5, 2, 3, 8, 38.5, 500])
@pytest.mark.parametrize("shift", [0, 1, 3, 6])
def test_power_is_that_of_scipys_noncentral_t(freedom, shift):
    critical = scipy.stats.t.ppf(0.975, freedom)
    exact = scipy.stats.nct(freedom, shift)
    expected = exact.sf(critical) + exact.cdf(-critical)
    assert power(shift, freedom) == pytest.approx(expected, abs=1e-7)
    assert power(-shift, freedom) == pytest.approx(power(shift, freedom))


def test_power_of_a_known_error_is_the_normals():
    expected = scipy.stats.norm.sf(1.959964 - 2) + scipy.stats.norm.cdf(-1.959964 - 2)
    assert power(2, math.inf) == pytest.approx(expected, abs=1e-6)
    assert power(2, 1e6) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("freedom", [1, 2, 8, 18.7, math.inf])
def test_the_detectable_shift_is_found_four_times_in_five(freedom):
    assert power(detectable_shift(freedom), freedom) == pytest.approx(0.8, abs=1e-6)


def test_a_power_that_no_test_can_have_is_refused():
    with pytest.raises(ValueError, match=r"a power of 1\.0 is not between"):
        detectable_shift(5, 0.95, 1.0)
