import math

import numpy as np
import pytest
import scipy.stats

from asr.statistics.censoring import (
    crossing,
    median_cost,
    ratio_of_costs,
    runs_to_decide,
    survival,
)


def some_runs(seed, number):
    """Costs with ties, about a third of the runs stopped before the target."""
    random = np.random.default_rng(seed)
    return random.integers(1, 12, number).astype(float), random.random(number) < 0.65


def censored(costs, reached):
    return scipy.stats.CensoredData.right_censored(costs, ~np.asarray(reached))


@pytest.mark.parametrize("seed", range(5))
def test_survival_equals_that_of_scipy(seed):
    costs, reached = some_runs(seed, 15)
    found = survival(costs, reached)
    exact = scipy.stats.ecdf(censored(costs, reached)).sf
    assert found.share == pytest.approx(exact.evaluate(found.costs))


def test_a_run_that_misses_the_target_is_censored():
    """1, 2 reached; 5, 5, 5 stopped: the median of those that arrived would be 1.5."""
    costs, reached = [1, 2, 5, 5, 5], [True, True, False, False, False]
    assert median_cost(costs, reached).value == math.inf
    assert median_cost(costs, reached).interval[1] == math.inf


def test_without_censoring_the_median_cost_is_the_plain_median():
    costs = [3.0, 1.0, 7.0, 4.0, 9.0]
    assert median_cost(costs, [True] * 5).value == np.median(costs)
    low, high = median_cost(costs, [True] * 5, level=0.99999).interval
    assert (low, high) == (1, 9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: survival([], []), "need one value per run"),
        (lambda: survival([1, math.nan], [True, True]), "not finite"),
    ],
)
def test_quantities_that_cannot_be_estimated_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_target_is_reached_between_validations():
    """A rate that falls by as much with every doubling of the cost crosses where it should."""
    costs = np.array([1.0, 2.0, 3.0, 5.0, 8.0])
    rates = 0.9 - 0.1 * np.log2(costs)
    for target in (0.85, 0.8, 0.75, 0.62):
        assert crossing(costs, rates, target) == pytest.approx(2 ** ((0.9 - target) / 0.1))
    assert crossing(costs, rates, 0.95) == 1.0  # reached before the first validation
    assert crossing(costs, rates, 0.1) == np.inf
    assert crossing([1, 2, 3, 4], [0.9, 0.3, 0.5, 0.1], 0.3) == 2.0  # the first time counts


def test_more_frequent_validation_has_no_advantage():
    """Runs with the same curves and noise, of which some are validated twice as often."""
    random = np.random.default_rng(1)
    gains = []
    for _ in range(500):
        true = np.exp(0.09 * random.normal())
        found = []
        for step in (0.2, 0.1):
            costs = step * np.arange(1, round(3 / step))
            noise = np.exp(0.02 * random.normal(size=len(costs)))
            found.append(crossing(costs, 0.05 * true / costs * noise, 0.05))
        gains.append(np.log(found[0] / found[1]))
    assert abs(np.mean(gains)) < 0.01  # first validations: 0.05


def test_the_ratio_of_costs_that_all_runs_paid_is_that_of_welch():
    """With scipy's test, whose degrees of freedom are not rounded down: almost the same."""
    random = np.random.default_rng(2)
    a, b = np.exp(0.1 * random.normal(size=40) + 0.5), np.exp(0.3 * random.normal(size=60))
    value, (low, high) = ratio_of_costs(a, [True] * 40, b, [True] * 60)
    test = scipy.stats.ttest_ind(np.log(a), np.log(b), equal_var=False)
    exact = test.confidence_interval(0.95)
    assert value == pytest.approx(scipy.stats.gmean(a) / scipy.stats.gmean(b))
    assert (low, high) == pytest.approx((np.exp(exact.low), np.exp(exact.high)), rel=1e-3)
    assert ratio_of_costs([1, 2], [True] * 2, [7, 8], [True] * 2).interval == (0, np.inf)
    assert ratio_of_costs([2] * 3, [True] * 3, [1] * 3, [True] * 3).interval == (2, 2)


@pytest.mark.parametrize("scatters", [(0.09, 0.09), (0.09, 0.54), (0.03, 0.3)])
@pytest.mark.parametrize("budget", [np.inf, 1.6])
def test_the_interval_of_a_ratio_holds_the_truth_in_19_of_20_cases(scatters, budget):
    """Also if one arm scatters 10 times as much, and if runs stop before the target."""
    random = np.random.default_rng(3)
    inside = 0
    for _ in range(400):
        a, b = (np.exp(scatter * random.normal(size=6)) for scatter in scatters)
        a = 1.5 * a
        found = ratio_of_costs(a.clip(max=budget), a < budget, b.clip(max=budget), b < budget)
        inside += found.interval[0] <= 1.5 <= found.interval[1]
    assert inside >= scipy.stats.binom.ppf(0.001, 400, 0.95)


def test_runs_that_miss_the_target_decide_only_if_all_runs_of_an_arm_come_first():
    """6 runs of each arm suffice at 95 %: 2 heads or tails in 6 tosses have 2 / 64 < 5 %."""
    a, b = np.arange(1.0, 7), np.full(6, 12.0)
    never, reached = [False] * 6, [True] * 6
    assert ratio_of_costs(b, never, a, reached).interval == (2, np.inf)
    assert ratio_of_costs(a, reached, b, never) == (0, (0, 0.5))
    assert ratio_of_costs(a, reached, [5.5, *b[:5]], never).interval == (0, 6 / 5.5)
    assert ratio_of_costs(b[:5], never[:5], a, reached).interval == (0, np.inf)
    assert ratio_of_costs(b, never, a, reached, 0.975).interval == (0, np.inf)
    assert [runs_to_decide(level) for level in (0.75, 0.95, 0.975)] == [3, 6, 7]
