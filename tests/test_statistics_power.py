import math

import numpy as np
import pytest
import scipy.stats

from asr.claims.power import detectable_with_seeds, detectable_with_words


@pytest.mark.parametrize(("seeds", "percent"), [(2, 17.0), (3, 9.2), (5, 6.1), (8, 4.5), (10, 4.0)])
def test_three_percent_between_seeds_hides_these_differences(seeds, percent):
    assert 100 * detectable_with_seeds(0.03, seeds) == pytest.approx(percent, abs=0.05)


@pytest.mark.parametrize("seeds", [3, 5])
def test_a_t_test_over_seeds_finds_the_detectable_difference_four_times_in_five(seeds):
    random = np.random.default_rng(seeds)
    truth = detectable_with_seeds(0.03, seeds)
    a, b = random.normal(1, 0.03, (2, 20_000, seeds))
    p = scipy.stats.ttest_ind(a, b + truth, axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.01)


def test_two_models_on_many_speakers_need_what_mcnemars_test_needs():
    """(z + z') sqrt(disagreement / words), 20,000 words of which 6 % are told apart."""
    expected = (1.95996 + 0.84162) * math.sqrt(0.06 / 20_000)
    assert detectable_with_words(0.06, 20_000, 10_000) == pytest.approx(expected, rel=1e-3)


def test_few_speakers_and_speakers_that_err_alike_hide_more():
    many = detectable_with_words(0.06, 20_000, 40)
    assert detectable_with_words(0.06, 20_000, 6) > 1.2 * many
    assert detectable_with_words(0.06, 20_000, 40, design_effect=4) == pytest.approx(2 * many)


def test_words_of_a_simulated_test_set_are_found_as_often_as_said():
    """Two models that err apart, speakers as blocks, a t-test over speakers' differences."""
    random = np.random.default_rng(3)
    words, speakers, rate = 20_000, 20, 0.03
    truth = detectable_with_words(2 * rate, words, speakers)
    a = random.binomial(words // speakers, rate - truth / 2, (5000, speakers))
    b = random.binomial(words // speakers, rate + truth / 2, (5000, speakers))
    p = scipy.stats.ttest_1samp(b - a, 0, axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detectable_with_seeds(0.03, 1), "1 seed per arm"),
        (lambda: detectable_with_words(0, 100, 5), "disagreement of 0"),
        (lambda: detectable_with_words(0.1, 100, 1), "1 speakers"),
    ],
)
def test_what_shows_nothing_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
