import numpy as np
import pytest
import scipy.stats

from asr.statistics.censoring import ratio_of_costs
from asr.statistics.power import (
    detectable_cost,
    detectable_shift,
    expected_error,
    power,
)


def test_the_error_expected_of_a_difference_is_that_of_simulated_studies():
    """Seeds scatter by 3 %, the difference between speakers by 5 %; 20 speakers of 500 words."""
    random = np.random.default_rng(0)
    rate, seeds, speakers, words = 0.4, 3, 20, 10_000
    shape = (4000, speakers)
    between = 0.05 * rate * random.normal(size=shape)
    arms = []
    for of_speaker in (between / 2, -between / 2):
        of_seeds = 0.03 * rate * random.normal(size=(shape[0], seeds)).mean(axis=1)
        errors = random.binomial(words // speakers, (rate + of_speaker).clip(0, 1))
        arms.append(errors.mean(axis=1) / (words // speakers) + of_seeds)
    error, freedom = expected_error(rate, seeds, speakers, words, 0.03, 0.05)
    assert error == pytest.approx((arms[0] - arms[1]).std(), rel=0.03)
    assert 2 * (seeds - 1) < freedom < 2 * (seeds - 1) + speakers


@pytest.mark.parametrize("freedom", [1, 1.5, 2, 3, 8, 38.5, 500])
@pytest.mark.parametrize("shift", [0, 1, 3, 6])
def test_power_equals_that_of_the_noncentral_t(freedom, shift):
    critical = scipy.stats.t.ppf(0.975, freedom)
    exact = scipy.stats.nct(freedom, shift)
    expected = exact.sf(critical) + exact.cdf(-critical)
    assert power(shift, freedom) == pytest.approx(expected, abs=1e-7)
    assert power(-shift, freedom) == pytest.approx(power(shift, freedom))


def test_power_with_many_degrees_of_freedom_approaches_that_of_the_normal():
    expected = scipy.stats.norm.sf(1.959964 - 2) + scipy.stats.norm.cdf(-1.959964 - 2)
    assert power(2, 1e6) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("freedom", [1, 2, 8, 18.7])
def test_the_detectable_shift_is_found_four_times_in_five(freedom):
    assert power(detectable_shift(freedom), freedom) == pytest.approx(0.8, abs=1e-6)


def test_the_detectable_ratio_of_costs_is_found_four_times_in_five():
    """By the interval of the page, on costs that scatter by 9 %, with 4 seeds an arm."""
    random = np.random.default_rng(1)
    logs = 0.09 * random.normal(size=(2000, 2, 4))
    stated = [np.log(detectable_cost(a, b)) for a, b in logs]
    ratio = np.exp(np.sqrt(np.mean(np.square(stated))))
    reached = [True] * 4
    found = [
        ratio_of_costs(ratio * np.exp(a), reached, np.exp(b), reached).interval[0] > 1
        for a, b in logs
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    assert detectable_cost(np.ones(2), np.full(2, 2.0)) == 1


def test_an_impossible_power_is_refused():
    with pytest.raises(ValueError, match=r"a power of 1\.0 is not between"):
        detectable_shift(5, 0.95, 1.0)
