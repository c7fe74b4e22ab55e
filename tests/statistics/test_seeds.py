"""Seeds outside, speakers inside: variance components, coverage, and what one seed cannot say."""

import numpy as np
import pytest
import scipy.stats

from asr.statistics.bootstrap import bootstrap_interval
from asr.statistics.comparison import compare_all
from asr.statistics.variance_components import arm_of, over_speakers, scatter

NAMES = [f"s{n}" for n in range(40)]


def difference(a, b, words, names):
    return compare_all({"a": a, "b": b}, words, names)["a", "b"].difference


def table(random, seeds=5, speakers=8, words=500):
    """Errors (G, seeds) with effects of both, and words (G,); every speaker has as many words."""
    mean = 30 + 6 * random.normal(size=(speakers, 1)) + 3 * random.normal(size=seeds)
    return mean + 2 * random.normal(size=(speakers, seeds)), np.full(speakers, words)


def test_mean_squares_equal_those_of_a_two_way_analysis_of_variance():
    """With as many words everywhere, the mean squares can be written down cell by cell."""
    errors, words = table(np.random.default_rng(0))
    x, found = errors / 500, arm_of(errors, words)
    number, seeds = x.shape
    between = ((x.mean(axis=0) - x.mean()) ** 2).sum() / (seeds - 1)
    left = sum(
        (x[g, s] - x[g].mean() - x[:, s].mean() + x.mean()) ** 2 for g, s in np.ndindex(x.shape)
    ) / ((seeds - 1) * (number - 1))
    assert found.rate == pytest.approx(x.mean())
    assert found.seeds == pytest.approx(between / seeds)
    assert found.rest == pytest.approx(left / number / seeds)
    assert over_speakers(found.off) == pytest.approx(x.mean(axis=1).var(ddof=1) / number)


def test_components_are_unbiased():
    """Seeds 3, speakers 6, rest 2: variances of the mean are known."""
    random = np.random.default_rng(2)
    found = []
    for _ in range(4000):
        one = arm_of(*table(random, 3))
        found.append((one.seeds - one.rest, over_speakers(one.off) - one.rest, one.rest))
    truth = [9 / 3, 36 / 8, 4 / 3 / 8]
    assert np.mean(found, axis=0) * 500**2 == pytest.approx(truth, rel=0.05)


def test_without_speaker_effects_the_test_is_welchs_over_seeds_with_rounded_freedom():
    a, b = np.array([50, 53, 55, 58, 51]), np.array([60, 44, 76])
    errors = [np.repeat(arm[:, None], 10, axis=1) for arm in (a, b)]
    found = difference(*errors, np.full(10, 1000), NAMES[:10])
    exact = scipy.stats.ttest_ind(b, a, equal_var=False)
    assert found.value * 1000 == pytest.approx(b.mean() - a.mean())
    assert found.value / found.scatter.error == pytest.approx(exact.statistic)
    assert found.scatter.freedom == int(exact.df)
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(abs(exact.statistic), int(exact.df)))


def test_without_seed_effects_the_test_is_a_paired_t_test_over_speakers():
    random = np.random.default_rng(3)
    a = random.integers(20, 200, 40)
    b = a + random.integers(-20, 40, 40)
    found = difference([a] * 3, [b] * 3, np.full(40, 1000), NAMES)
    exact = scipy.stats.ttest_rel(b, a)
    assert found.scatter.freedom == 39
    assert found.p == pytest.approx(exact.pvalue)
    low, high = exact.confidence_interval()
    assert found.interval == pytest.approx((low / 1000, high / 1000))
    one = difference(a, b, np.full(40, 1000), NAMES)
    assert one.interval == pytest.approx(found.interval)


@pytest.mark.parametrize("speakers", [2, 4, 6, 20])
@pytest.mark.parametrize("scatters", [(0.03, 0.03), (0.02, 0.3)])
def test_intervals_over_seeds_have_at_least_their_nominal_coverage(speakers, scatters):
    """Seeds as one group of numbers, or speakers alone, would hold it in 60 to 90 %."""
    random = np.random.default_rng([speakers, len(set(scatters))])
    held = rates = 0
    names, words = NAMES[:speakers], np.full(speakers, 1000)
    for seed in range(600):
        hard = random.gamma(6, 1 / 6, speakers)
        arms = [
            random.poisson(
                60
                * hard
                * random.normal(1, 0.1, speakers)
                * random.gamma(scatter**-2, scatter**2, (3, 1))
                * random.normal(1, 0.1, (3, speakers))
            )
            for scatter in scatters
        ]
        found = difference(*arms, words, names)
        held += found.interval[0] <= 0 <= found.interval[1]
        low, high = bootstrap_interval(arms[0], words, names, resamples=300, seed=seed)
        rates += low <= 0.06 <= high
    assert held / 600 >= 0.93
    assert 0.89 <= rates / 600 <= 0.99


def test_an_arm_without_a_seed_is_refused():
    with pytest.raises(ValueError, match="an arm has no seed"):
        difference([[1, 2]], np.zeros((0, 2)), [9, 9], ["a", "b"])


def test_arms_may_differ_in_their_number_of_seeds():
    random = np.random.default_rng(7)
    a, b = random.poisson(60, (4, 20)), random.poisson(60, (3, 20))
    found = difference(a, b, np.full(20, 1000), NAMES[:20])
    assert found.value == pytest.approx((b.sum() / 3 - a.sum() / 4) / 20_000)


def test_the_variation_of_two_models_has_no_part_of_their_seeds():
    random = np.random.default_rng(8)
    a, b = random.poisson(60, (2, 20))
    words = np.full(20, 1000)
    arms = [arm_of(x[:, None].astype(float), words) for x in (a, b)]
    assert scatter(arms).error * 1000 == pytest.approx((b - a).std(ddof=1) / np.sqrt(20))
