from itertools import combinations, product

import numpy as np
import pytest

from asr.statistics.tuning import edge, expected_best, expected_best_interval

TRIALS = [0.30, 0.25, 0.20, 0.40]


def test_four_trials_give_the_published_arithmetic():
    found = expected_best(TRIALS)
    assert found[[0, 1, 3]] == pytest.approx([0.2875, 0.233333, 0.20], abs=1e-6)


def test_the_expected_best_is_the_mean_over_all_subsets_not_over_draws_with_replacement():
    """Dodge et al. draw with replacement, which gives .246875 for two of these trials."""
    values = np.random.default_rng(0).random(7)
    for n, found in enumerate(expected_best(values), 1):
        assert found == pytest.approx(np.mean([min(some) for some in combinations(values, n)]))
    with_replacement = np.mean([min(pair) for pair in product(TRIALS, repeat=2)])
    assert with_replacement == pytest.approx(0.246875)
    assert expected_best(TRIALS)[1] < with_replacement


def test_the_expected_best_is_unbiased_for_any_number_of_trials():
    """Trials from 0 to 1, evenly: the best of n is 1 / (n + 1)."""
    random = np.random.default_rng(1)
    mean = np.mean([expected_best(random.random(6)) for _ in range(5000)], axis=0)
    assert mean == pytest.approx(1 / np.arange(2, 8), abs=0.006)


def test_intervals_have_their_coverage_up_to_a_third_of_the_trials_and_end_at_half():
    random = np.random.default_rng(2)
    held = np.zeros(20)
    truth = 0.1 + 0.1 / np.arange(2, 22)
    for seed in range(300):
        trials = 0.1 + 0.1 * random.random(20)
        low, high = expected_best_interval(trials, resamples=400, seed=seed)
        held += (low <= truth) & (truth <= high)
    assert (held[:6] / 300 > 0.86).all()
    assert np.isfinite(low[:10]).all()
    assert np.isnan(low[10:]).all()
    assert np.isnan(high[10:]).all()


@pytest.mark.parametrize(
    ("trials", "message"), [([], "no trials"), ([0.1, float("nan")], "failed trial the WER")]
)
def test_trials_without_a_result_are_refused(trials, message):
    with pytest.raises(ValueError, match=message):
        expected_best(trials)


def test_a_value_in_the_nearest_twentieth_of_its_range_lies_at_an_edge():
    linear = {0.0: "lower", 0.14: "lower", 0.16: "", 1.5: "", 2.84: "", 2.86: "upper", 3.0: "upper"}
    for value, side in linear.items():
        assert edge(value, 0.0, 3.0, log=False) == side
        assert edge(10**value, 1.0, 1000.0, log=True) == side
