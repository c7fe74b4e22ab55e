import itertools

import numpy as np
import pytest
import scipy.stats

from asr.statistics.censoring import log_rank
from asr.statistics.comparison import holm
from asr.statistics.power import (
    comparisons_to_decide,
    detectable_shift,
    least_log_rank,
    log_rank_floor,
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


@pytest.mark.parametrize(("a", "b"), [(2, 3), (3, 3), (4, 4)])
@pytest.mark.parametrize("seed", range(6))
def test_the_lowest_p_of_tied_runs_equals_that_over_all_their_permutations(a, b, seed):
    """Costs of few values, about half of the runs stopped: every deal's p, by the test itself."""
    random = np.random.default_rng([a, b, seed])
    costs = random.integers(1, 4, a + b).astype(float)
    reached = random.random(a + b) < 0.5
    deals = []
    for first in itertools.combinations(range(a + b), a):
        rest = [place for place in range(a + b) if place not in first]
        mine, theirs = list(first), rest
        deals.append(log_rank(costs[mine], reached[mine], costs[theirs], reached[theirs]))
    for mine in (range(a), range(b, a + b)):
        rest = [place for place in range(a + b) if place not in mine]
        sides = (costs[list(mine)], reached[list(mine)], costs[rest], reached[rest])
        assert log_rank_floor(*sides) == pytest.approx(min(deals))


def test_without_a_run_that_reached_the_target_all_permutations_are_equal():
    assert log_rank_floor([5, 5], [False] * 2, [5, 5, 5], [False] * 3) == 1


def test_the_required_seeds_are_the_fewest_that_pass_holms_procedure():
    """With as many of them the lowest p of a whole family is significant, with fewer it is not."""
    for pairs in range(1, 30):
        seeds = seeds_to_decide(pairs)
        for number, decides in ((seeds, True), (seeds - 1, False)):
            family = [least_log_rank(number, number)] * pairs
            assert (holm(family) < 0.05).all() == decides
    assert [seeds_to_decide(pairs) for pairs in (1, 6, 7, 10**6)] == [4, 5, 6, None]
    for seeds in range(2, 8):
        least = least_log_rank(seeds, seeds)
        most = comparisons_to_decide(least)
        assert most == 0 or (holm([least] * most) < 0.05).all()
        assert (holm([least] * (most + 1)) >= 0.05).all()


def test_many_runs_are_permuted_at_random():
    a, b = np.arange(1, 11), np.arange(101, 111)
    assert log_rank(a, [True] * 10, b, [True] * 10) >= least_log_rank(10, 10) == 1 / 20_001
    assert log_rank_floor(a, [True] * 10, b, [True] * 10) == 1 / 20_001


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


def test_an_impossible_power_is_refused():
    with pytest.raises(ValueError, match=r"a power of 1\.0 is not between"):
        detectable_shift(5, 0.95, 1.0)
