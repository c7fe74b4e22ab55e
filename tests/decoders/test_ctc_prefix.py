"""CTC prefix scores against enumeration of alignments and against the sequential recursion."""

import itertools
import math

import pytest
import torch

from asr.batch import BLANK, EOS, mask
from asr.decoders.ctc_prefix import empty_prefixes, expected_length, extend, extension_scores
from tests.alignments import alignments, log, random_log_probs, sequential


def prefix(log_probs, labels):
    """The forward variables of one prefix of one utterance, (S, V)."""
    prefixes = empty_prefixes(log_probs[None], torch.tensor([len(log_probs)]))
    for label in labels:
        prefixes = extend(prefixes, torch.zeros(1, 1, dtype=torch.long), torch.tensor([[label]]))
    return prefixes


@pytest.mark.parametrize(("S", "V"), [(1, 3), (2, 4), (3, 4), (4, 4), (5, 4), (5, 3)])
def test_prefix_scores_equal_the_sum_over_alignments(S, V):
    log_probs = random_log_probs(S, V, seed=S * V)
    totals = alignments(log_probs)
    for size in range(S + 2):
        for labels in itertools.product(range(2, V), repeat=size):
            scores = extension_scores(prefix(log_probs, labels))[0, 0].tolist()
            assert scores[BLANK] == -math.inf
            assert scores[EOS] == pytest.approx(log(totals.get(labels, 0.0)))
            for label in range(2, V):
                whole = (*labels, label)
                expected = sum(p for spelt, p in totals.items() if spelt[: size + 1] == whole)
                assert scores[label] == pytest.approx(log(expected))


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 8.0, 30.0])
def test_prefix_scores_are_stable_over_1500_frames(sharpness):
    log_probs = random_log_probs(1500, 12, seed=3, sharpness=sharpness)
    labels = torch.randint(2, 12, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    labels[7] = labels[6]
    exact = log_probs.double().numpy()
    for size in (1, 2, 8, 40):
        starts, alone = sequential(exact, labels[:size])
        before = extension_scores(prefix(log_probs, labels[: size - 1]))[0, 0]
        after = extension_scores(prefix(log_probs, labels[:size]))[0, 0]
        assert float(before[labels[size - 1]]) == pytest.approx(starts, abs=1e-8, rel=1e-11)
        assert float(after[EOS]) == pytest.approx(alone, abs=1e-8, rel=1e-11)


def test_the_probability_of_a_prefix_is_shared_by_its_extensions():
    scores = extension_scores(prefix(random_log_probs(200, 9, seed=5), [3, 3, 4]))[0, 0]
    starts, _ = sequential(random_log_probs(200, 9, seed=5).double().numpy(), [3, 3, 4])
    # EOS as a label of the CTC head is never an extension: it is the rest.
    assert float(scores.logsumexp(-1)) <= starts
    without = random_log_probs(200, 9, seed=5)
    without[:, EOS] = -math.inf
    without = without.log_softmax(-1)
    starts, _ = sequential(without.double().numpy(), [3, 3, 4])
    shared = extension_scores(prefix(without, [3, 3, 4]))[0, 0].logsumexp(-1)
    assert float(shared) == pytest.approx(starts)


def test_certain_frames_give_certain_labels():
    path = [BLANK, 3, 3, BLANK, 3, 4, BLANK]
    log_probs = torch.full((len(path), 5), -math.inf)
    log_probs[range(len(path)), path] = 0.0
    scores = extension_scores(prefix(log_probs, [3, 3, 4]))[0, 0]
    assert float(scores[EOS]) == pytest.approx(0.0)
    assert (scores[2:] <= -1e4).all()  # a zero, see LOG_ZERO
    assert float(extension_scores(prefix(log_probs, [3]))[0, 0, 3]) == pytest.approx(0.0)


def test_frames_in_which_a_prefix_cannot_end_are_left_out():
    prefixes = empty_prefixes(random_log_probs(2, 5, 6, seed=2), torch.tensor([5, 4]))
    for left in (5, 4, 3, 2, 1, 1):
        assert prefixes.total.shape[2] == prefixes.emitted.shape[2] + 1 == left + 1
        assert prefixes.probabilities.shape == (2, 6, left)
        prefixes = extend(prefixes, torch.zeros(2, 1, dtype=torch.long), torch.tensor([[2], [3]]))
    assert extension_scores(prefixes).eq(-math.inf).all()


def test_prefix_scores_do_not_depend_on_padding():
    lengths = torch.tensor([3, 7, 5])
    log_probs = random_log_probs(3, 7, 6, seed=2)
    log_probs[~mask(lengths, 7)] = math.nan
    labels = torch.tensor([[2, 3], [4, 4], [5, 2]])
    prefixes = extend(empty_prefixes(log_probs, lengths), torch.zeros_like(labels), labels)
    prefixes = extend(prefixes, torch.tensor([[0, 1]] * 3), torch.tensor([[2, 4]] * 3))
    together = extension_scores(prefixes)
    for row, length in enumerate(lengths.tolist()):
        for column in (0, 1):
            labels_here = [int(labels[row, column]), (2, 4)[column]]
            alone = extension_scores(prefix(log_probs[row, :length], labels_here))[0, 0]
            torch.testing.assert_close(together[row, column], alone, rtol=0, atol=1e-10)


def test_expected_length_is_the_mean_over_alignments():
    log_probs = random_log_probs(2, 5, 4, seed=8)
    lengths = torch.tensor([5, 3])
    means = expected_length(empty_prefixes(log_probs, lengths)).tolist()
    for row, length in enumerate(lengths.tolist()):
        totals = alignments(log_probs[row, :length])
        assert means[row] == pytest.approx(sum(len(spelt) * p for spelt, p in totals.items()))
