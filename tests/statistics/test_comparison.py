"""What is said of arms against what is known of them."""

import numpy as np
import pytest
import scipy.stats

from asr.statistics.comparison import (
    adjusted,
    compare_all,
    smallest_p,
    threshold,
)
from asr.statistics.variance_components import Arm

NAMES = [f"s{n % 20}" for n in range(400)]
WORDS = np.full(400, 50)


def arm(random, rate, seeds=3):
    return random.binomial(50, rate, (seeds, 400))


def compared(a, b, words, speakers, **options):
    return compare_all({"a": a, "b": b}, words, speakers, **options)["a", "b"]


def said(a, b, **options):
    return compared(a, b, WORDS, NAMES, **options)


def test_fewer_errors_are_better_and_more_are_worse():
    random = np.random.default_rng(0)
    a, b = arm(random, 0.10), arm(random, 0.05)
    assert said(a, b).statement == "better"
    assert said(b, a).statement == "worse"
    assert said(a, b).rates == pytest.approx((a.mean() / 50, b.mean() / 50))
    assert said(a, b).difference.value == pytest.approx(b.mean() / 50 - a.mean() / 50)


def test_an_arm_against_itself_has_no_difference():
    a = np.tile(arm(np.random.default_rng(1), 0.1)[:1], (3, 1))
    found = said(a, a)
    assert found.statement == "no difference"
    assert found.difference.interval == pytest.approx((0, 0))
    assert found.detectable == pytest.approx(0)


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
    a = np.tile(random.binomial(50, 0.3, 400), (3, 1))
    found = said(a, a + (random.random(400) < 0.1))
    assert (found.statement, found.reason) == ("no difference", "worse, but within the margin")
    low, high = found.difference.interval
    assert 0 < low < high < found.margin
    assert found.margin == pytest.approx(0.1 * sum(found.rates) / 2)


@pytest.mark.parametrize(
    ("errors", "words", "speakers", "reason", "decidable"),
    [
        (np.zeros(400, int), WORDS, NAMES, "no arm made an error on 20,000 words", True),
        (np.zeros(40, int), np.full(40, 10), ["a"] * 40, "only 1 speaker;", False),
        (np.ones(400, int), WORDS, ["a", "b", "c", "d"] * 100, "only 4 speakers", False),
    ],
)
def test_a_test_set_that_is_too_small_decides_nothing_even_for_a_large_difference(
    errors, words, speakers, reason, decidable
):
    """Errors could have told the arms apart where there are words and speakers: none is one."""
    found = compared([errors] * 3, [5 * errors] * 3, words, speakers)
    assert found.statement == "not enough evidence"
    assert reason in found.reason
    assert found.decidable == decidable


def test_few_speakers_and_seeds_do_not_limit_p():
    """5 speakers and 3 seeds could give no p below 2 / 32 and 0.1 if counted."""
    names = [f"s{n % 5}" for n in range(400)]
    steady = np.tile(np.arange(400) % 2, (3, 1))
    found = compared(steady, steady + 5, WORDS, names)
    assert found.decidable
    assert found.difference.p < 0.001


@pytest.mark.parametrize("seeds", [(1, 1), (2, 2), (1, 5), (2, 5)])
def test_arms_with_few_seeds_get_no_statement_however_large_the_difference(seeds):
    random = np.random.default_rng(4)
    a, b = (arm(random, rate, number) for rate, number in zip((0.1, 0.3), seeds, strict=True))
    found = said(a, b)
    assert found.statement == "not enough evidence"
    assert not found.decidable
    assert f"{seeds[0]} seed" in found.reason
    assert "3 seeds of each arm are needed" in found.reason
    assert "arms need 3 seeds each" in found.scope


def test_with_one_seed_the_outlook_gives_the_seeds_that_could_decide():
    """A difference of 0.1 of about 0.2, where two seeds' mean scatters by 0.3 x 0.2."""
    random = np.random.default_rng(5)
    words = said(arm(random, 0.2, 1), arm(random, 0.3, 1)).outlook
    assert "3 seeds per arm if seeds scatter by 1.5 % of the error rate" in words
    number = int(words.split(" and ")[1].split()[0])
    solved = scipy.stats.nct.sf  # an independent noncentral t; the speakers scatter little here
    for seeds, enough in ((number, True), (number - 3, False)):
        error = 0.3 * np.sqrt((0.2**2 + 0.3**2) / seeds)
        critical = scipy.stats.t.ppf(0.975, 2 * (seeds - 1))
        assert (solved(critical, 2 * (seeds - 1), 0.1 / error) > 0.8) == enough
    same = arm(random, 0.2, 1)
    assert said(same, same).outlook.endswith(
        "not be found 4 times in 5 even with 100 seeds per arm."
    )


def independent(number):
    """Arms whose pairs share nothing: each speaker effect belongs to one pair."""
    off = np.kron(np.eye(number), np.array([1.0, -1.0])) / 10
    zero = np.zeros(2 * number)
    arms = {f"b{n}": Arm(0.1, 3, row, 0.0, 0.0) for n, row in enumerate(off)}
    arms |= {f"a{n}": Arm(0.1, 3, zero, 0.0, 0.0) for n in range(number)}
    return arms, [(f"a{n}", f"b{n}") for n in range(number)]


def test_independent_pairs_are_adjusted_as_by_sidak_and_equal_pairs_not_at_all():
    arms, pairs = independent(6)
    least = smallest_p(arms, pairs)
    for p in (0.003, 0.02, 0.2):
        assert adjusted(p, least, 6) == pytest.approx(1 - (1 - p) ** 6, rel=0.06)
    assert threshold(0.05, least, 6) == pytest.approx(1 - 0.95 ** (1 / 6), rel=0.06)
    twins = {"a": arms["a0"], "b": arms["b0"], "c": arms["b0"]}
    same = smallest_p(twins, [("a", "b"), ("a", "c")])
    assert threshold(0.05, same, 2) == pytest.approx(0.05, rel=0.06)
    assert adjusted(1e-9, least, 6) == pytest.approx(6e-9)  # draws do not limit small values


def test_comparisons_with_a_control_have_the_critical_value_of_dunnett():
    """Only seeds scatter, all arms alike, so the correlation of two differences is 0.5."""
    names = "abcdefg"
    arms = {name: Arm(0.1, 1000, np.zeros(5), 1e-4, 0.0) for name in names}
    least = smallest_p(arms, [("a", name) for name in names[1:]])
    critical = scipy.stats.norm.isf(threshold(0.05, least, 6) / 2)
    samples = [np.random.default_rng(n).normal(size=1000) for n in range(7)]
    exact = scipy.stats.dunnett(*samples[1:], control=samples[0], rng=np.random.default_rng(0))
    width = exact.confidence_interval(0.95)
    error = np.sqrt(2 / 1000 * np.mean([s.var(ddof=1) for s in samples]))
    dunnett = (width.high - width.low)[0] / 2 / error
    assert critical == pytest.approx(dunnett, rel=0.02)


def test_intervals_and_adjusted_p_values_of_a_family_agree():
    random = np.random.default_rng(8)
    arms = {
        name: arm(random, rate) for name, rate in zip("abcd", (0.1, 0.1, 0.11, 0.15), strict=True)
    }
    found = compare_all(arms, WORDS, NAMES)
    assert len(found) == 6
    assert found["a", "d"].statement == "worse"
    for (a, b), one in found.items():
        significant = one.statement in ("better", "worse") or "but within" in one.reason
        assert significant == (one.adjusted_p < 0.05)
        low, high = one.difference.interval
        assert significant == (low > 0 or high < 0)
        alone = said(arms[a], arms[b])
        assert one.difference.p == alone.difference.p
        assert one.adjusted_p >= alone.adjusted_p == alone.difference.p
    alone = said(arms["a"], arms["d"])
    for pair in (("a", "d"), ("d", "a")):
        planned = compare_all(arms, WORDS, NAMES, family={pair: 0.5})
        assert planned["a", "d"].difference == alone.difference
        assert planned["a", "d"].margin == 0.5
        assert [one.statement for one in planned.values()].count("not planned") == 5
        assert all(one.difference.level == 0.95 for one in planned.values())


def test_the_best_of_eight_equal_arms_is_seldom_called_better():
    random = np.random.default_rng(9)
    wrong = 0
    for seed in range(60):
        arms = {str(n): arm(random, 0.1, 3) for n in range(8)}
        found = compare_all(arms, WORDS, NAMES, seed=seed)
        wrong += any(one.statement in ("better", "worse") for one in found.values())
    assert wrong <= scipy.stats.binom.ppf(0.999, 60, 0.05)
