"""Seeds outside, speakers inside: variance components, coverage, and what one seed cannot say."""

import itertools

import numpy as np
import pytest
import scipy.stats

from asr.statistics.bootstrap import bootstrap_difference, bootstrap_interval
from asr.statistics.variance_components import scatter, squares

SIGNS = np.array([-1 / 3] * 3 + [1 / 2] * 2)


def table(random, seeds=5, speakers=8, words=500):
    """(G, seeds + 1) errors with effects of both, and words; as many words at every speaker."""
    mean = 30 + 6 * random.normal(size=(speakers, 1)) + 3 * random.normal(size=seeds)
    errors = mean + 2 * random.normal(size=(speakers, seeds))
    return np.concatenate([errors, np.full((speakers, 1), words)], axis=1)


def test_mean_squares_equal_those_of_a_two_way_analysis_of_variance():
    """With as many words everywhere the mean squares can be written down cell by cell."""
    blocks = table(np.random.default_rng(0))
    x = blocks[:, :-1] / 500
    number = len(x)
    found = squares(blocks, SIGNS)
    arms = [x[:, :3], x[:, 3:]]
    freedom = sum(arm.shape[1] - 1 for arm in arms)
    between = sum(((arm.mean(axis=0) - arm.mean()) ** 2).sum() for arm in arms) / freedom
    left = sum(
        (arm[g, s] - arm[g].mean() - arm[:, s].mean() + arm.mean()) ** 2
        for arm in arms
        for g, s in np.ndindex(arm.shape)
    ) / (freedom * (number - 1))
    contrast = arms[1].mean(axis=1) - arms[0].mean(axis=1)
    assert found.seeds == pytest.approx(between * (1 / 3 + 1 / 2))
    assert found.rest == pytest.approx(left / number * (1 / 3 + 1 / 2))
    assert found.speakers == pytest.approx(contrast.var(ddof=1) / number)


def test_the_variance_of_draws_equals_that_over_every_possible_draw():
    """Two seeds of one arm, three speakers: all 4 x 27 resamples written out."""
    random = np.random.default_rng(1)
    blocks = table(random, seeds=2, speakers=3)
    values = [
        blocks[np.ix_(g, s)].sum() / 2 / (3 * 500)
        for s in itertools.product(range(2), repeat=2)
        for g in itertools.product(range(3), repeat=3)
    ]
    found = scatter(blocks, np.array([0.5, 0.5]))
    assert found.resampled == pytest.approx(np.std(values))


def test_components_are_unbiased():
    """Seeds 3, speakers' taste 6 x sqrt 2, rest 2: variances of the mean are known."""
    random = np.random.default_rng(2)
    found = []
    for _ in range(4000):
        a, b = table(random, 3), table(random, 2)
        blocks = np.concatenate([a[:, :-1], b], axis=1)
        one = squares(blocks, SIGNS)
        found.append((one.seeds - one.rest, one.speakers - one.rest, one.rest))
    truth = [9 * (1 / 3 + 1 / 2), 2 * 36 / 8, 4 * (1 / 3 + 1 / 2) / 8]
    assert np.mean(found, axis=0) * 500**2 == pytest.approx(truth, rel=0.05)


def test_without_speaker_effects_the_test_is_a_t_test_over_seeds():
    """Speakers all alike: only the seeds scatter."""
    a, b = np.array([50, 53, 55, 58]), np.array([60, 54, 66, 61])
    errors = [np.repeat(arm[:, None], 10, axis=1) for arm in (a, b)]
    found = bootstrap_difference(*errors, np.full(10, 1000), list("abcdefghij"))
    exact = scipy.stats.ttest_ind(b, a)
    low, high = exact.confidence_interval()
    assert found.scatter.error * 1000 == pytest.approx((high - low) / 2 / 2.446912, rel=1e-6)
    assert found.scatter.freedom == pytest.approx(6)
    assert found.p == pytest.approx(exact.pvalue, rel=0.35)  # the draws are lumpy: 4 seeds
    assert found.value * 1000 == pytest.approx(b.mean() - a.mean())


def test_without_seed_effects_the_test_is_a_paired_t_test_over_speakers():
    random = np.random.default_rng(3)
    a = random.integers(20, 200, 40)
    b = a + random.integers(-20, 40, 40)
    names = [f"s{n}" for n in range(40)]
    found = bootstrap_difference([a] * 3, [b] * 3, np.full(40, 1000), names)
    exact = scipy.stats.ttest_rel(b, a)
    assert found.scatter.freedom == pytest.approx(39)
    assert found.scatter.error * 1000 == pytest.approx((b - a).std(ddof=1) / np.sqrt(40))
    assert found.p == pytest.approx(exact.pvalue, rel=0.3)
    one = bootstrap_difference(a, b, np.full(40, 1000), names)
    assert one.interval == pytest.approx(found.interval)
    assert found.seeds_measured
    assert not one.seeds_measured


def test_p_of_two_models_is_close_to_that_of_a_permutation_test_over_speakers():
    random = np.random.default_rng(4)
    a = random.integers(0, 60, 14)
    b = a + random.integers(-5, 12, 14)
    names = [f"s{n}" for n in range(14)]
    found = bootstrap_difference(a, b, np.full(14, 500), names)
    exact = scipy.stats.permutation_test(
        (b - a,), np.sum, permutation_type="samples", n_resamples=np.inf
    )
    assert 0.001 < exact.pvalue < 0.2
    assert found.p == pytest.approx(exact.pvalue, rel=0.4)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_p_and_interval_agree(level):
    random = np.random.default_rng(5)
    seen = set()
    for seed in range(200):
        a, b = random.poisson(20, (3, 12)), random.poisson(24, (2, 12))
        options = {"resamples": 500, "seed": seed, "level": level}
        found = bootstrap_difference(a, b, np.full(12, 200), list("abcdefghijkl"), **options)
        outside = found.interval[0] > 0 or found.interval[1] < 0
        assert outside == (found.p < 1 - level)
        seen.add(outside)
    assert True in seen or level > 0.99
    assert False in seen


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("speakers", [6, 20])
def test_intervals_over_seeds_have_at_least_their_nominal_coverage(seeds, speakers):
    """Seeds as one group of numbers, or speakers alone, would hold it in 60 to 90 %."""
    random = np.random.default_rng([seeds, speakers])
    held = rates = 0
    names = [f"s{n}" for n in range(speakers)]
    words = np.full(speakers, 1000)
    for seed in range(400):
        hard = random.gamma(6, 1 / 6, speakers)
        arms = [
            random.poisson(
                60
                * hard
                * random.normal(1, 0.1, speakers)
                * random.normal(1, 0.05, (seeds, 1))
                * random.normal(1, 0.1, (seeds, speakers))
            )
            for _ in "ab"
        ]
        found = bootstrap_difference(*arms, words, names, resamples=500, seed=seed)
        held += found.interval[0] <= 0 <= found.interval[1]
        low, high = bootstrap_interval(arms[0], words, names, resamples=500, seed=seed)
        rates += low <= 0.06 <= high
    assert 0.935 <= held / 400 <= 0.995
    assert 0.90 <= rates / 400 <= 0.985


def test_a_seed_deviation_is_assumed_only_where_none_is_measured():
    random = np.random.default_rng(6)
    a, b = random.poisson(60, (2, 2, 20))
    names = [f"s{n}" for n in range(20)]
    words = np.full(20, 1000)
    plain = bootstrap_difference(a[0], b[0], words, names)
    wider = bootstrap_difference(a[0], b[0], words, names, seed_deviation=0.03)
    rates = [arm[0].sum() / 20_000 for arm in (a, b)]
    added = sum((0.03 * rate) ** 2 for rate in rates)
    assert wider.scatter.error**2 == pytest.approx(plain.scatter.error**2 + added)
    measured = bootstrap_difference(a, b, words, names)
    assert bootstrap_difference(a, b, words, names, seed_deviation=0.03) == measured


def test_an_arm_without_a_seed_is_refused():
    with pytest.raises(ValueError, match="an arm has no seed"):
        bootstrap_difference([[1, 2]], np.zeros((0, 2)), [9, 9])


def test_arms_may_differ_in_their_number_of_seeds():
    random = np.random.default_rng(7)
    a, b = random.poisson(60, (4, 20)), random.poisson(60, 20)
    found = bootstrap_difference(a, b, np.full(20, 1000), [f"s{n}" for n in range(20)])
    assert found.value == pytest.approx((b.sum() - a.sum() / 4) / 20_000)
    assert found.seeds_measured
