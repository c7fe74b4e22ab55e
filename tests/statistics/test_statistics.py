import math

import numpy as np
import pytest
import scipy.stats

from asr.statistics.bootstrap import bootstrap_interval, resampling_unit


def test_independent_errors_give_the_binomial_half_width():
    """Word errors drawn alone at 6 % of 52,400 words: 1.96 sqrt(p q / n) = 0.203 % absolute."""
    random = np.random.default_rng(1)
    words = np.full(2620, 20)
    errors = random.binomial(words, 0.06)
    low, high = bootstrap_interval(errors, words)
    rate = errors.sum() / 52_400
    expected = 1.96 * math.sqrt(0.06 * 0.94 / 52_400)
    assert expected == pytest.approx(0.00203, abs=1e-5)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.05)
    assert low < rate < high


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_agrees_with_scipy(level):
    random = np.random.default_rng(2)
    words = random.integers(1, 40, 200)
    errors = random.binomial(words, random.beta(1, 9, 200))
    ours = bootstrap_interval(errors, words, level=level)
    theirs = scipy.stats.bootstrap(
        (errors, words),
        lambda e, w, axis: e.sum(axis) / w.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=10_000,
        confidence_level=level,
        random_state=3,
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_resampling_speakers_equals_resampling_their_sums():
    random = np.random.default_rng(6)
    words = random.integers(1, 30, 300)
    errors = random.binomial(words, 0.2)
    speakers = [f"s{n}" for n in random.integers(0, 12, 300)]
    names = sorted(set(speakers))
    sums = [
        [sum(c for c, s in zip(counts, speakers, strict=True) if s == name) for name in names]
        for counts in (errors, words)
    ]
    assert bootstrap_interval(errors, words, speakers) == bootstrap_interval(*sums)


def test_a_speaker_effect_widens_the_interval():
    """20 speakers of 50 utterances; all errors are those of 2 bad speakers."""
    speakers = np.repeat(np.arange(20), 50).astype(str)
    errors = np.where(np.isin(speakers, ["3", "7"]), 5, 0)
    words = np.full(1000, 10)
    by_utterance = bootstrap_interval(errors, words)
    by_speaker = bootstrap_interval(errors, words, list(speakers))
    assert by_speaker[1] - by_speaker[0] > 4 * (by_utterance[1] - by_utterance[0])


def test_few_speakers_have_students_interval_and_one_speaker_has_none():
    """All speakers have as many words, so the interval is that of a mean of rates."""
    errors, words = [10, 12, 20, 22, 9, 14, 30, 31], [100] * 8
    few = list("aabbccdd")
    rates = np.array([22, 42, 23, 61]) / 200
    exact = scipy.stats.t.interval(0.95, 3, rates.mean(), scipy.stats.sem(rates))
    assert bootstrap_interval(errors, words, few) == pytest.approx((max(0, exact[0]), exact[1]))
    assert resampling_unit(few) == "4 speakers (too few: Student's t alone)"
    assert bootstrap_interval(errors, words, ["a"] * 8) == bootstrap_interval(errors, words)
    assert "does not hold for other speakers" in resampling_unit(["a"] * 8)
    assert resampling_unit(None) == "utterances"
    assert resampling_unit(list("abcdefgh")) == "8 speakers"


def of_speakers(random, number, mean=0.1):
    """Errors in 1,000 words of each speaker; what speakers differ by outweighs chance."""
    rates = np.clip(random.normal(mean, 0.03, number), 0, 1)
    return random.binomial(1000, rates), np.full(number, 1000)


@pytest.mark.parametrize("number", [2, 4, 5, 10])
@pytest.mark.parametrize("level", [0.95, 1 - 0.05 / 3])
def test_intervals_of_few_speakers_have_their_nominal_coverage(number, level):
    """A plain percentile interval: 84 % instead of 95 % with 5 speakers, 89 % with 10."""
    random = np.random.default_rng(number)
    held = 0
    for seed in range(500):
        errors, words = of_speakers(random, number)
        names = [f"s{n}" for n in range(number)]
        low, high = bootstrap_interval(errors, words, names, 1000, seed, level)
        held += low <= 0.1 <= high
    assert level - 0.025 < held / 500 < level + 0.025


@pytest.mark.parametrize(("number", "t"), [(5, 2.776), (10, 2.262), (2000, 1.961)])
def test_an_interval_is_the_percentile_interval_widened_by_students_t(number, t):
    random = np.random.default_rng(10)
    errors, words = random.integers(0, 9, number), np.full(number, 10)
    rates = errors[random.integers(number, size=(40_000, number))].mean(axis=1) / 10
    mean = errors.mean() / 10
    factor = math.sqrt(number / (number - 1)) * t / 1.960
    expected = mean + factor * (np.quantile(rates, [0.025, 0.975]) - mean)
    assert bootstrap_interval(errors, words) == pytest.approx(tuple(expected), rel=0.03)


def test_a_rate_is_never_below_zero():
    assert bootstrap_interval([0, 0, 0, 0, 3], [10] * 5)[0] == 0


def test_the_same_seed_gives_the_same_interval_whatever_the_chunks(monkeypatch):
    errors, words = [1, 0, 2, 1, 0, 3], [10, 5, 7, 9, 8, 6]
    whole = bootstrap_interval(errors, words)
    assert bootstrap_interval(errors, words, seed=1) != whole
    monkeypatch.setattr("asr.statistics.bootstrap.MAX_DRAWS", 100)
    assert bootstrap_interval(errors, words) == whole


def test_utterances_without_words_count_their_insertions():
    low, high = bootstrap_interval([1, 0, 0], [0, 10, 10])
    assert low == 0
    assert high >= 0.1  # the resamples made of the empty utterance alone have no rate


@pytest.mark.parametrize(
    ("errors", "words", "groups", "message"),
    [
        ([0, 1], [0, 0], None, "no reference words"),
        ([0, 1], [3], None, "differ in length"),
        ([0, 1], [3, 3], ["a"], "differ in length"),
        ([0, -1], [3, 3], None, "negative"),
        ([], [], None, "no reference words"),
    ],
)
def test_impossible_counts_are_refused(errors, words, groups, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(errors, words, groups)
