import itertools

import numpy as np
import pytest
import scipy.stats

from asr.statistics.censoring import log_rank
from asr.statistics.power import (
    detectable_cost,
    detectable_shift,
    expected_error,
    least_log_rank,
    power,
    seeds_to_decide,
)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, 4), (2, 2), (2, 3), (3, 3), (3, 4)])
def test_the_lowest_p_over_all_orders_of_runs_equals_the_formula(a, b):
    """Every way in which the runs of two arms can come in, without ties, up to renaming."""
    found = set()
    for first in itertools.combinations(range(a + b), a):
        rest = [place for place in range(a + b) if place not in first]
        found.add(log_rank([1 + place for place in first], [True] * a, np.add(rest, 1), [True] * b))
    assert min(found) == pytest.approx(least_log_rank(a, b))


def test_the_required_seeds_are_the_fewest_that_pass_bonferroni():
    for pairs in range(1, 30):
        seeds = seeds_to_decide(pairs)
        assert pairs * least_log_rank(seeds, seeds) < 0.05
        assert pairs * least_log_rank(seeds - 1, seeds - 1) >= 0.05
    assert [seeds_to_decide(pairs) for pairs in (1, 6, 7, 10**6)] == [4, 5, 6, None]


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


def test_many_runs_are_permuted_at_random():
    a, b = np.arange(1, 11), np.arange(101, 111)
    assert log_rank(a, [True] * 10, b, [True] * 10) >= least_log_rank(10, 10) == 1 / 20_001


def test_a_test_without_runs_in_one_arm_is_refused():
    with pytest.raises(ValueError, match="0 runs against 5"):
        least_log_rank(0, 5)


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
    """By Welch's test on the logarithms of costs that scatter by 9 %, with 5 seeds an arm."""
    random = np.random.default_rng(1)
    logs = random.normal(size=5)
    logs = 0.09 * (logs - logs.mean()) / logs.std(ddof=1)
    ratio = detectable_cost(logs, logs + 3)
    a, b = 0.09 * random.normal(size=(2, 4000, 5))
    found = scipy.stats.ttest_ind(a, b + np.log(ratio), axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)
    assert detectable_cost([1.0, 1.0], [2.0, 2.0]) == 1


def test_an_impossible_power_is_refused():
    with pytest.raises(ValueError, match=r"a power of 1\.0 is not between"):
        detectable_shift(5, 0.95, 1.0)
