import math

import numpy as np
import pytest
import scipy.stats

from asr.claims.censoring import (
    log_rank,
    log_rank_scores,
    mean_cost,
    median_cost,
    olympic_mean,
    reference_limit,
    survival,
)

REFERENCE = [16, 14, 16, 17, 16, 16, 15, 16, 15, 16]


def some_runs(seed, number):
    """Costs with ties, about a third of the runs stopped before the target."""
    random = np.random.default_rng(seed)
    return random.integers(1, 12, number).astype(float), random.random(number) < 0.65


def censored(costs, reached):
    return scipy.stats.CensoredData.right_censored(costs, ~np.asarray(reached))


@pytest.mark.parametrize("seed", range(5))
def test_survival_is_that_of_scipy(seed):
    costs, reached = some_runs(seed, 15)
    found = survival(costs, reached)
    exact = scipy.stats.ecdf(censored(costs, reached)).sf
    assert found.share == pytest.approx(exact.evaluate(found.costs))


def test_a_run_that_never_arrives_counts_as_still_going():
    """1, 2 reached; 5, 5, 5 stopped: the mean of those that arrived would be 1.5."""
    costs, reached = [1, 2, 5, 5, 5], [True, True, False, False, False]
    assert median_cost(costs, reached).value == math.inf
    assert median_cost(costs, reached).interval[1] == math.inf
    assert mean_cost(costs, reached, limit=5).value == pytest.approx((1 + 2 + 3 * 5) / 5)


def test_without_censoring_it_is_the_plain_median_and_mean():
    costs = [3.0, 1.0, 7.0, 4.0, 9.0]
    assert median_cost(costs, [True] * 5).value == np.median(costs)
    assert mean_cost(costs, [True] * 5, limit=10).value == pytest.approx(np.mean(costs))
    low, high = median_cost(costs, [True] * 5, level=0.99999).interval
    assert (low, high) == (1, 9)


def test_runs_that_stopped_early_are_weighted_by_those_that_went_on():
    """By hand: S falls to 2/3 at 1, the run stopped at 2 leaves one, S falls to 0 at 4."""
    found = mean_cost([1, 2, 4], [True, False, True], limit=4)
    assert found.value == pytest.approx(1 + 2 / 3 * 3)


@pytest.mark.parametrize("number", [3, 5, 10])
def test_intervals_of_the_mean_cost_hold_the_truth(number):
    """Cost 10 +- 1 as in MLPerf's spread, given up at 11."""
    random = np.random.default_rng(number)
    truth = np.minimum(random.normal(10, 1, 200_000), 11).mean()
    held = 0
    for seed in range(300):
        costs = random.normal(10, 1, number)
        spent, reached = np.minimum(costs, 11), costs < 11
        low, high = mean_cost(spent, reached, 11, resamples=100, seed=seed).interval
        held += low <= truth <= high
    assert 0.89 < held / 300 <= 0.99


@pytest.mark.parametrize("seed", range(3))
def test_log_rank_of_few_runs_is_scipys_permutation_test(seed):
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


def test_log_rank_of_many_runs_is_scipys_chi_squared_test():
    random = np.random.default_rng(5)
    a, b = random.exponential(1, 80), random.exponential(1.5, 80)
    spent = [np.minimum(costs, 2) for costs in (a, b)]
    exact = scipy.stats.logrank(*(censored(s, s < 2) for s in spent)).pvalue
    ours = log_rank(spent[0], spent[0] < 2, spent[1], spent[1] < 2)
    assert ours == pytest.approx(exact, abs=0.01)
    assert 0.001 < exact < 0.5


def test_scores_of_all_runs_sum_to_zero():
    assert log_rank_scores(*some_runs(7, 40)).sum() == pytest.approx(0, abs=1e-12)


def test_three_runs_against_three_prove_nothing_and_four_do():
    assert log_rank([1, 2, 3], [True] * 3, [7, 8, 9], [True] * 3) == pytest.approx(2 / 20)
    assert log_rank([1, 2, 3, 4], [True] * 4, [7, 8, 9, 10], [True] * 4) == pytest.approx(2 / 70)


def test_the_olympic_mean_drops_the_ends_and_a_failure_is_the_slowest():
    assert olympic_mean(REFERENCE, [True] * 10) == pytest.approx(15.75)
    assert np.sort(REFERENCE)[1:-1].std() == pytest.approx(0.43, abs=0.005)
    assert olympic_mean([5, 6, 7, 2], [True, True, True, False]) == pytest.approx(6.5)
    assert olympic_mean([5, 6, 2, 2], [True, True, False, False]) == math.inf


def test_reference_convergence_points_are_those_of_mlperf():
    """Five runs must need 15.21 epochs or more on average, 3.53 % below the reference."""
    limit = reference_limit(REFERENCE, 5)
    assert limit == pytest.approx(15.21, abs=0.005)
    assert 15.75 / limit - 1 == pytest.approx(0.0353, abs=5e-5)
    passing = olympic_mean([15, 15, 15, 16, 16], [True] * 5)
    assert passing == pytest.approx(15.33, abs=0.005)
    assert passing > limit


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: survival([], []), "not one per run"),
        (lambda: survival([1, math.nan], [True, True]), "not finite"),
        (lambda: mean_cost([1, 2], [True, False], limit=5), "at most 2"),
        (lambda: olympic_mean([1, 2], [True, True]), "2 runs leave none"),
        (lambda: reference_limit([1, 2, 3], 2), "fewer than 3 runs"),
    ],
)
def test_what_cannot_be_estimated_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
