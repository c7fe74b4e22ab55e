"""Pruning by relative entropy against the relative entropy of whole distributions."""

import math

import numpy as np
import pytest
import torch

from asr.batch import EOS
from asr.language_models.backoff import START, Grams, automaton
from asr.language_models.compact import pack, unpack
from asr.language_models.kneser_ney import estimate
from asr.language_models.lookup import Lookup
from asr.language_models.pruning import prune
from tests.language_models.test_ngram import random_sentences

V = 9


def orders(order=3, count=60):
    return estimate(random_sentences(V, count), V, order)


def spelt(grams):
    """The n-grams of each order as tuples."""
    found, longer = [], [()]
    for each in grams:
        rows = zip(each.context.tolist(), each.token.tolist(), strict=True)
        longer = [(*longer[context if found else 0], token) for context, token in rows]
        found.append(longer)
    return found


def distribution(grams, context):
    """(V,) probabilities of the next token after the tokens of a context."""
    lookup = Lookup(automaton(grams), len(grams))
    state = torch.zeros(1, dtype=torch.long)
    for token in context:
        state = lookup.read(torch.tensor([EOS if token == START else token]), state)[1]
    return lookup.predict(state)[0].double().exp().numpy()


def without(grams, gone):
    """The model without one n-gram of the highest order, normalised by hand."""
    *lower, last = grams
    names = spelt(grams)[-1]
    keep = np.array([name != gone for name in names])
    last = Grams(*(values[keep] for values in vars(last).values()))
    row = spelt(grams)[-2].index(gone[:-1])
    after = last.context == row
    left = 1 - np.exp(last.log_prob[after]).sum()
    shorter = distribution(lower, gone[1:-1])
    backoffs = lower[-1].log_backoff.copy()
    backoffs[row] = math.log(left / (1 - shorter[last.token[after]].sum()))
    return [*lower[:-1], Grams(*[*vars(lower[-1]).values()][:3], backoffs), last]


def cost(grams, gone):
    """p(h) times the relative entropy of the distributions after h, from their definition."""
    before, after = (distribution(each, gone[:-1])[1:] for each in (grams, without(grams, gone)))
    history = distribution(grams, ())[EOS if gone[0] == START else gone[0]]
    for place in range(1, len(gone) - 1):
        history *= distribution(grams, gone[:place])[gone[place]]
    return history * float((before * np.log(before / after)).sum())


def test_the_trigrams_that_cost_least_are_left_out():
    grams = orders()
    names = spelt(grams)[-1]
    costs = {name: cost(grams, name) for name in names}
    bigrams = len(grams[0].token) + len(grams[1].token)
    for keep in (5, len(names) - 1):
        pruned = prune(grams, bigrams + keep)
        kept = {*spelt(pruned)[-1]}
        dropped = {*names} - kept
        threshold = max(costs[name] for name in dropped)
        assert threshold <= min(costs[name] for name in kept) * 1.01
    assert len(names) > 60


@pytest.mark.parametrize("size", [0.3, 0.6, 0.9])
def test_what_is_left_has_the_size_is_whole_and_sums_to_1(size):
    grams = orders(4, 200)
    total = sum(len(each.token) for each in grams)
    pruned = prune(grams, int(size * total))
    # A context costs as much as what follows it, and goes with it.
    assert 0 <= int(size * total) - sum(len(each.token) for each in pruned) < 4
    names = spelt(pruned)
    assert all({*here} <= {*before} for here, before in zip(names, spelt(grams), strict=True))
    lookup = Lookup(automaton(pruned), len(pruned))
    contexts = torch.arange(len(lookup.starts) - 1)
    sums = lookup.predict(contexts).double().exp().sum(1)
    np.testing.assert_allclose(sums, 1, atol=1e-5)


def test_a_model_that_is_small_enough_keeps_its_n_grams_and_probabilities():
    grams = orders()
    for one, other in zip(prune(grams, 10**6), grams, strict=True):
        assert np.array_equal(one.token, other.token)
        np.testing.assert_allclose(one.log_prob, other.log_prob)
        np.testing.assert_allclose(one.log_backoff, other.log_backoff, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_what_is_packed_is_unpacked_with_16_bits(order):
    grams = orders(order)
    tables = pack(grams)
    assert {table.element_size() for table in tables.values()} == {1, 2, 8}
    for one, other in zip(unpack(tables), grams, strict=True):
        assert np.array_equal(one.context, other.context)
        assert np.array_equal(one.token, other.token)
        np.testing.assert_allclose(one.log_prob, other.log_prob, rtol=1e-3)
        np.testing.assert_allclose(one.log_backoff, other.log_backoff, rtol=1e-3, atol=1e-7)
