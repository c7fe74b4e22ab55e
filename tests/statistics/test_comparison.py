"""What is said of arms against what is known of them."""

import numpy as np
import pytest
import scipy.stats

from asr.statistics.comparison import compare_all, holm, holm_levels

NAMES = [f"s{n % 20}" for n in range(400)]
WORDS = np.full(400, 50)


def arm(random, rate, seeds=3):
    return random.binomial(50, rate, (seeds, 400))


def compared(a, b, words, speakers, **options):
    return compare_all({"a": a, "b": b}, words, speakers, **options)["a", "b"]


def said(a, b, **options):
    return compared(a, b, WORDS, NAMES, resamples=1000, **options)


def test_fewer_errors_are_better_and_more_are_worse():
    random = np.random.default_rng(0)
    a, b = arm(random, 0.10), arm(random, 0.05)
    assert said(a, b).statement == "better"
    assert said(b, a).statement == "worse"
    assert said(a, b).rates == pytest.approx((a.mean() / 50, b.mean() / 50))
    assert said(a, b).difference.value == pytest.approx(b.mean() / 50 - a.mean() / 50)


def test_an_arm_against_itself_has_no_difference():
    a = arm(np.random.default_rng(1), 0.1)[:1]
    found = said(a, a, seed_deviation=None)
    assert found.statement == "no difference"
    assert found.difference.interval == (0, 0)
    assert found.difference.p == 1
    assert found.detectable == 0
    assert "two trained models" in found.scope


def test_no_difference_needs_the_whole_interval_inside_the_margin():
    random = np.random.default_rng(2)
    a, b = arm(random, 0.3, 10), arm(random, 0.3, 10)
    half = max(map(abs, said(a, b).difference.interval)) / np.mean(said(a, b).rates)
    assert said(a, b, margin=1.01 * half).statement == "no difference"
    close = said(a, b, margin=0.99 * half)
    assert close.statement == "not enough evidence"
    assert "points that count as no difference" in close.reason


def test_a_difference_too_small_to_matter_is_still_a_difference():
    random = np.random.default_rng(3)
    a = random.binomial(50, 0.3, (1, 400))
    b = a + (random.random(400) < 0.1)
    found = said(a, b, seed_deviation=None)
    assert found.statement == "worse"
    low, high = found.difference.interval
    assert 0 < low < high < found.margin * sum(found.rates) / 2


@pytest.mark.parametrize(
    ("errors", "words", "speakers", "reason", "decidable"),
    [
        (np.zeros(400, int), WORDS, NAMES, "no arm made an error on 20,000 words", True),
        (np.zeros(40, int), np.full(40, 10), NAMES[:40], "only 400 words", False),
        (np.ones(40, int), np.full(40, 10), NAMES[:40], "only 400 words", False),
        (np.ones(400, int), WORDS, ["a", "b", "c", "d"] * 100, "only 4 speakers", False),
    ],
)
def test_a_test_set_that_is_too_small_decides_nothing_even_for_a_large_difference(
    errors, words, speakers, reason, decidable
):
    """Errors could have told the arms apart where there are words and speakers: none is one."""
    found = compared(errors, 5 * errors, words, speakers, resamples=200)
    assert found.statement == "not enough evidence"
    assert reason in found.reason
    assert found.decidable == decidable


def test_few_resamples_or_speakers_do_not_limit_p():
    """100 draws, 5 speakers and 2 seeds could give no p below 0.01, 2 / 32 and 1 / 3 if counted."""
    names = [f"s{n % 5}" for n in range(400)]
    steady = np.tile(np.arange(400) % 2, (2, 1))
    found = compared(steady, steady + 5, WORDS, names, resamples=100)
    assert found.decidable
    assert found.difference.p < 0.001


def test_a_comparison_of_one_seed_each_states_its_assumption():
    random = np.random.default_rng(4)
    a, b = arm(random, 0.1, 1), arm(random, 0.1, 1)
    assert "assumed to be 3 % of the error rate" in said(a, b).scope
    assert said(a, b).assumed == 0.03
    assert said(arm(random, 0.1), b).assumed is None
    assert "(3 and 1 seeds)" in said(arm(random, 0.1), b).scope


def test_equal_arms_with_one_seed_each_differ_in_one_test_of_twenty():
    """Without the assumption, models of different seeds are told apart: as they are different."""
    random = np.random.default_rng(5)
    kinds = {"assumed": 0.03, "models": None}
    wrong = dict.fromkeys(kinds, 0)
    for seed in range(300):
        a, b = (
            random.poisson(15 * random.normal(1, 0.03), (1, 400)) for _ in "ab"
        )  # 6,000 errors: s.d. 1.3 %, less than the seeds'
        for kind, deviation in kinds.items():
            found = compared(a, b, WORDS, NAMES, seed_deviation=deviation, resamples=300, seed=seed)
            wrong[kind] += found.statement in ("better", "worse")
    assert wrong["assumed"] / 300 == pytest.approx(0.05, abs=0.04)
    assert wrong["models"] / 300 > 0.3


def test_holm_adjusted_values_equal_those_worked_out_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    levels = holm_levels([0.01, 0.04, 0.03, 0.005])  # 0.03 is not below 0.05 / 2, and ends it
    assert levels == pytest.approx([1 - 0.05 / 3, 1 - 0.05 / 2, 1 - 0.05 / 2, 1 - 0.05 / 4])


def test_holm_rejects_what_the_closed_test_of_bonferroni_tests_rejects():
    """Marcus, Peritz and Gabriel: H_i falls when every set of hypotheses with it does."""
    random = np.random.default_rng(7)
    for _ in range(200):
        p = random.random(5) ** 3
        closed = [
            max(
                min(1, bin(s).count("1") * min(p[j] for j in range(5) if s >> j & 1))
                for s in range(32)
                if s >> i & 1
            )
            for i in range(5)
        ]
        assert holm(p) == pytest.approx(closed)
        rejected = holm(p) < 0.05
        assert ((p < 1 - holm_levels(p)) == rejected).all()


def test_intervals_and_adjusted_p_values_of_a_family_agree():
    random = np.random.default_rng(8)
    arms = {
        name: arm(random, rate) for name, rate in zip("abcd", (0.1, 0.1, 0.11, 0.15), strict=True)
    }
    found = compare_all(arms, WORDS, NAMES, resamples=1000)
    assert len(found) == 6
    assert found["a", "d"].statement == "worse"
    for (a, b), one in found.items():
        significant = one.statement in ("better", "worse")
        assert significant == (one.adjusted_p < 0.05)
        low, high = one.difference.interval
        assert significant == (low > 0 or high < 0)
        alone = said(arms[a], arms[b])
        assert one.difference.p == alone.difference.p
        assert one.adjusted_p >= alone.adjusted_p == alone.difference.p


def test_the_best_of_eight_equal_arms_is_seldom_called_better():
    random = np.random.default_rng(9)
    wrong = 0
    for seed in range(60):
        arms = {str(n): arm(random, 0.1, 2) for n in range(8)}
        found = compare_all(arms, WORDS, NAMES, resamples=200, seed=seed)
        wrong += any(one.statement in ("better", "worse") for one in found.values())
    assert wrong <= scipy.stats.binom.ppf(0.999, 60, 0.05)
