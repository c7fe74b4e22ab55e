import math

import numpy as np
import pytest
import scipy.stats

from asr.statistics.censoring import (
    crossing,
    log_rank,
    log_rank_scores,
    median_cost,
    ratio_interval,
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


@pytest.mark.parametrize("seed", range(3))
def test_the_log_rank_test_of_few_runs_equals_the_permutation_test_of_scipy(seed):
    (a, came_a), (b, came_b) = some_runs(seed, 5), some_runs(seed + 10, 6)

    def statistic(x, y):
        """Observed less expected, from scipy; runs that stopped are negative."""
        pair = [censored(np.abs(v), v > 0) for v in (x, y)]
        at = np.unique(np.abs(np.concatenate([x[x > 0], y[y > 0]])))
        expected = [
            ((np.abs(x) >= t).sum() / (np.abs(np.concatenate([x, y])) >= t).sum())
            * (np.concatenate([x, y]) == t).sum()
            for t in at
        ]
        assert len(pair) == 2
        return (x > 0).sum() - sum(expected)

    signed = [np.where(came, costs, -costs) for costs, came in ((a, came_a), (b, came_b))]
    exact = scipy.stats.permutation_test(
        signed, lambda x, y: abs(statistic(x, y)), n_resamples=np.inf, alternative="greater"
    )
    assert log_rank(a, came_a, b, came_b) == pytest.approx(exact.pvalue)


def test_the_log_rank_test_of_many_runs_approaches_the_chi_squared_test_of_scipy():
    random = np.random.default_rng(5)
    a, b = random.exponential(1, 80), random.exponential(1.5, 80)
    spent = [np.minimum(costs, 2) for costs in (a, b)]
    exact = scipy.stats.logrank(*(censored(s, s < 2) for s in spent)).pvalue
    ours = log_rank(spent[0], spent[0] < 2, spent[1], spent[1] < 2)
    assert ours == pytest.approx(exact, abs=0.01)
    assert 0.001 < exact < 0.5


def test_scores_of_all_runs_sum_to_zero():
    assert log_rank_scores(*some_runs(7, 40)).sum() == pytest.approx(0, abs=1e-12)


def test_three_runs_against_three_cannot_be_significant_and_four_can():
    assert log_rank([1, 2, 3], [True] * 3, [7, 8, 9], [True] * 3) == pytest.approx(2 / 20)
    assert log_rank([1, 2, 3, 4], [True] * 4, [7, 8, 9, 10], [True] * 4) == pytest.approx(2 / 70)


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


def test_the_interval_of_a_ratio_holds_the_ratios_that_the_test_does_not_reject():
    random = np.random.default_rng(2)
    for _ in range(5):
        a, b = np.exp(random.normal(size=(2, 5)))
        reached = random.random((2, 5)) < 0.8
        low, high = ratio_interval(a, reached[0], b, reached[1])
        for ratio in np.exp(random.normal(size=12)):
            kept = log_rank(a, reached[0], ratio * b, reached[1]) >= 0.05
            assert kept == (low < ratio < high)


def test_the_interval_of_a_ratio_holds_the_truth_in_19_of_20_cases():
    random = np.random.default_rng(3)
    inside = 0
    for _ in range(150):
        a, b = np.exp(0.1 * random.normal(size=(2, 5)))
        low, high = ratio_interval(1.5 * a, [True] * 5, b, [True] * 5)
        inside += low < 1.5 < high
    assert inside >= scipy.stats.binom.ppf(0.001, 150, 0.95)
    assert ratio_interval([1, 2, 3], [True] * 3, [7, 8, 9], [True] * 3) == (0, np.inf)
    assert ratio_interval([1, 2, 3, 4], [True] * 4, [5] * 4, [False] * 4)[0] == 0
