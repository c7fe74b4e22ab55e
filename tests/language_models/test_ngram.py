"""Kneser-Ney against dictionaries and hand-made sums; the walk along contexts; saving."""

import copy
import itertools
import logging
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from asr.batch import BLANK, EOS, UNKNOWN
from asr.language_models.kneser_ney import FALLBACK, estimate
from asr.language_models.ngram import NGram
from tests import arpa_writer

PIECES = ["<blank>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]


def random_sentences(vocabulary, count, longest=12, seed=0):
    """Of skewed tokens that depend on the one before, so that all orders matter."""
    generator = np.random.default_rng(seed)
    rates = generator.dirichlet(np.full(vocabulary - 3, 0.3), size=vocabulary)
    sentences = []
    for _ in range(count):
        sentence = [EOS]
        for _ in range(generator.integers(longest)):
            sentence.append(3 + int(generator.choice(vocabulary - 3, p=rates[sentence[-1]])))
        sentences.append(sentence[1:])
    return sentences


class Dictionaries:
    """Modified Kneser-Ney from its formulas, an n-gram at a time."""

    def __init__(self, sentences, vocabulary, order, prune=0, open_vocabulary=False):
        self.vocabulary, self.order, self.open = vocabulary, order, open_vocabulary
        texts = [("<s>", *sentence, EOS) for sentence in sentences]
        self.raw = Counter(
            text[i : i + n]
            for text in texts
            for n in range(1, order + 1)
            for i in range(len(text) - n + 1)
        )
        before = defaultdict(set)
        for gram in self.raw:
            before[gram[1:]].add(gram[0])
        self.adjusted = {
            gram: count if len(gram) == order or gram[0] == "<s>" else len(before[gram])
            for gram, count in self.raw.items()
            if gram != ("<s>",)
        }
        self.pruned = {g for g in self.adjusted if len(g) > 2 and self.raw[g] <= prune}
        self.discounts = {n: self.estimated(n) for n in range(1, order + 1)}
        self.followers = defaultdict(list)
        for gram in self.adjusted:
            self.followers[gram[:-1]].append(gram)

    def estimated(self, n):
        having = Counter(count for gram, count in self.adjusted.items() if len(gram) == n)
        n1, n2, n3, n4 = (having[k] for k in (1, 2, 3, 4))
        if 0 in (n1, n2, n3, n4):
            return FALLBACK
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        return found if min(found) > 0 else FALLBACK

    def probability(self, token, context):
        """Of the token after a tuple of those before, the whole sentence so far if it is longer."""
        return self._probability(token, context[len(context) - min(len(context), self.order - 1) :])

    def _probability(self, token, context):
        below = float(token == UNKNOWN) if self.open else 1 / (self.vocabulary - 1)
        lower = self._probability(token, context[1:]) if context else below
        grams = self.followers[context]
        if not grams:
            return lower
        total = sum(self.adjusted[gram] for gram in grams)
        discounts = self.discounts[len(context) + 1]

        def discount(gram):
            return discounts[min(self.adjusted[gram], 3) - 1]

        freed = sum(self.adjusted[g] if g in self.pruned else discount(g) for g in grams)
        gram = (*context, token)
        own = self.adjusted[gram] - discount(gram) if gram in set(grams) - self.pruned else 0.0
        return own / total + freed / total * lower


def fitted(sentences, vocabulary, **options):
    model = NGram(vocabulary, **options)
    model.fit(sentences, PIECES[:vocabulary])
    return model


def distributions(model, sentence):
    """The model's log-probabilities at each step of a sentence, (U + 1, V)."""
    cache, rows = model.start(1), []
    for token in [EOS, *sentence]:
        log_probs, cache = model.step(torch.tensor([token]), cache)
        rows.append(log_probs[0])
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("order", "prune", "count"),
    [(1, 0, 300), (2, 0, 300), (3, 0, 300), (5, 0, 300), (4, 1, 300), (6, 2, 300), (5, 0, 3)],
)
def test_probabilities_equal_the_formulas(order, prune, count):
    vocabulary = 12
    sentences = random_sentences(vocabulary, count)
    model = fitted(sentences, vocabulary, order=order, prune=prune)
    oracle = Dictionaries(sentences, vocabulary, order, prune)
    for sentence in sentences[:5] + random_sentences(vocabulary, 8, seed=1) + [[UNKNOWN, 5, 6]]:
        found = distributions(model, sentence)
        for step in range(len(sentence) + 1):
            context = ("<s>", *sentence[:step])
            expected = [oracle.probability(token, context) for token in range(1, vocabulary)]
            np.testing.assert_allclose(found[step, 1:].double().exp(), expected, rtol=2e-6)


def test_unknown_gets_all_of_the_probability_below_an_open_vocabulary():
    sentences = random_sentences(12, 300)
    unigrams, bigrams = estimate(sentences, 12, 2, open_vocabulary=True)
    oracle = Dictionaries(sentences, 12, 2, open_vocabulary=True)
    expected = [oracle.probability(token, ()) for token in range(1, 12)]
    np.testing.assert_allclose(np.exp(unigrams.log_prob[1:]), expected, rtol=1e-12)
    expected = [
        oracle.probability(token, ("<s>" if context == 0 else context,))
        for context, token in zip(bigrams.context.tolist(), bigrams.token.tolist(), strict=True)
    ]
    np.testing.assert_allclose(np.exp(bigrams.log_prob), expected, rtol=1e-12)


def test_the_comparison_with_the_formulas_covers_discounts_other_than_fallbacks():
    oracle = Dictionaries(random_sentences(12, 300), 12, 5)
    assert sum(found != FALLBACK for found in oracle.discounts.values()) >= 3


def test_bigram_probabilities_equal_those_worked_out_by_hand():
    # <s> a b </s>, <s> a </s>, with a = 3 and b = 4. Bigrams: <s>a 2, ab 1, b</s> 1, a</s> 1.
    # Tokens before a: <s>; before b: a; before </s>: b and a. Too few counts: the discounts are
    # 0.5 for 1, 1 for 2. Unigrams: a and b (1 - 0.5) / 4, </s> (2 - 1) / 4, freed 2 / 4 among the
    # four tokens: 1 / 8 for each.
    model = fitted([[3, 4], [3]], 5, order=2)
    a, b, end, unknown = 1 / 4, 1 / 4, 3 / 8, 1 / 8
    # After <s>: a (2 - 1) / 2, freed 1 / 2. After a: b and </s> (1 - 0.5) / 2 each, freed 1 / 2.
    # After b: </s> (1 - 0.5) / 1, freed 1 / 2.
    expected = [
        [0, end / 2, unknown / 2, 1 / 2 + a / 2, b / 2],
        [0, 1 / 4 + end / 2, unknown / 2, a / 2, 1 / 4 + b / 2],
        [0, 1 / 2 + end / 2, unknown / 2, a / 2, b / 2],
    ]
    np.testing.assert_allclose(distributions(model, [3, 4]).exp(), expected, rtol=1e-6)


def test_discounts_equal_those_worked_out_by_hand(caplog):
    # Four tokens occur once, two twice, one thrice, one four times; EOS ten times. Y = 4 / 8:
    # D1 = 1 - 2 Y 2 / 4, D2 = 2 - 3 Y 1 / 2, D3 = 3 - 4 Y 1 / 1.
    body = [3, 4, 5, 6, 7, 7, 8, 8, 9, 9, 9, 10, 10, 10, 10]
    sentences = [body] + [[] for _ in range(9)]
    with caplog.at_level(logging.WARNING):
        (grams,) = estimate(sentences, 12, 1)
    assert caplog.messages == []
    freed = 4 * 0.5 + 2 * 1.25 + 3 * 1.0
    share = freed / 25 / 11
    expected = [0, 9, 0, *[0.5] * 4, 0.75, 0.75, 2, 3, 0]
    expected = [0] + [count / 25 + share for count in expected[1:]]
    np.testing.assert_allclose(np.exp(grams.log_prob), expected, rtol=1e-12)


def test_counts_that_define_no_discounts_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        estimate([[3, 4], [3]], 5, 2)
    assert caplog.messages == [
        "order 1: 2, 1, 0 and 0 n-grams with counts 1 to 4 define no Kneser-Ney discounts; "
        "0.5, 1 and 1.5 are used",
        "order 2: 3, 1, 0 and 0 n-grams with counts 1 to 4 define no Kneser-Ney discounts; "
        "0.5, 1 and 1.5 are used",
    ]


@pytest.mark.parametrize("prune", [0, 1, 3])
def test_probabilities_sum_to_1_in_every_context(prune):
    model = fitted(random_sentences(20, 500), 20, order=5, prune=prune)
    contexts = torch.arange(len(model.starts) - 1)
    assert len(contexts) > 100
    before = torch.full_like(contexts, UNKNOWN)  # never seen: leads to the empty context
    log_probs, cache = model.step(before, {"context": contexts})
    assert cache["context"].eq(0).all()
    sums = [log_probs.double().exp().sum(-1)]
    for token in [EOS, *range(3, 20)]:
        log_probs, _ = model.step(torch.full_like(contexts, token), {"context": contexts})
        assert log_probs[:, BLANK].isneginf().all()
        assert log_probs[:, 1:].isfinite().all()
        sums.append(log_probs.double().exp().sum(-1))
    np.testing.assert_allclose(torch.cat(sums), 1, atol=1e-6)


def test_the_probabilities_of_all_short_sentences_and_longer_prefixes_sum_to_1():
    model = fitted(random_sentences(6, 200, longest=5), 6, order=3)
    ended = 0.0
    for size in range(4):
        for sentence in itertools.product(range(2, 6), repeat=size):
            steps = distributions(model, sentence).double()
            spelt = [*sentence, EOS]
            ended += math.exp(sum(float(steps[i, token]) for i, token in enumerate(spelt)))
    going_on = 0.0
    for sentence in itertools.product(range(2, 6), repeat=4):
        steps = distributions(model, sentence).double()
        going_on += math.exp(sum(float(steps[i, token]) for i, token in enumerate(sentence)))
    assert ended + going_on == pytest.approx(1, abs=1e-6)


def test_log_probs_equal_those_of_the_steps_and_do_not_depend_on_padding():
    model = fitted(random_sentences(12, 300), 12, order=4)
    sentences = [[3, 4, 5, 5, 6, 11], [], [UNKNOWN, 7], [9, 9, 9]]
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    for padding in (BLANK, 7):
        tokens = torch.full((4, 8), padding)
        for row, sentence in enumerate(sentences):
            tokens[row, : len(sentence)] = torch.tensor(sentence, dtype=torch.long)
        scores = model.log_probs(tokens, lengths)
        assert scores.shape == (4, 9)
        for row, sentence in enumerate(sentences):
            steps = distributions(model, sentence)
            spelt = torch.tensor([*sentence, EOS])
            expected = steps.gather(1, spelt[:, None])[:, 0]
            torch.testing.assert_close(scores[row, : len(spelt)], expected)
            assert scores[row, len(spelt) :].eq(0).all()


def test_rows_are_independent_and_a_step_does_not_change_the_state():
    model = fitted(random_sentences(12, 300), 12, order=4)
    histories = torch.randint(3, 12, (7, 5), generator=torch.Generator().manual_seed(0))
    cache = model.step(torch.full((7,), EOS), model.start(7))[1]
    for place in range(5):
        before = cache["context"].clone()
        log_probs, after = model.step(histories[:, place], cache)
        assert cache["context"].equal(before)
        rows = torch.tensor([6, 2, 2])
        chosen = {"context": before[rows]}
        torch.testing.assert_close(
            model.step(histories[rows, place], chosen)[0], log_probs[rows], rtol=0, atol=0
        )
        cache = after


@pytest.mark.parametrize("order", [1, 4])
def test_empty_batches_and_empty_sequences_are_accepted(order):
    model = fitted(random_sentences(12, 30), 12, order=order)
    log_probs, cache = model.step(torch.zeros(0, dtype=torch.long), model.start(0))
    assert log_probs.shape == (0, 12)
    assert cache["context"].shape == (0,)
    nothing = model.log_probs(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, dtype=torch.long))
    ends = distributions(model, [])[:, EOS]
    torch.testing.assert_close(nothing, ends.expand(2, 1))


def test_a_new_sentence_starts_without_the_context_of_the_last_one():
    model = fitted(random_sentences(12, 300), 12, order=4)
    first = model.step(torch.tensor([EOS]), model.start(1))[1]
    read = model.step(torch.tensor([5]), first)[1]
    assert model.step(torch.tensor([EOS]), read)[1]["context"].equal(first["context"])


def test_tables_are_loaded_from_safetensors_into_a_new_model():
    model = fitted(random_sentences(12, 300), 12, order=4)
    state = load(save(model.state_dict()))
    for fresh in (NGram(12, order=4), fitted(random_sentences(12, 9), 12, order=4)):
        around = torch.nn.ModuleDict({"part": copy.deepcopy(fresh)})
        around.load_state_dict({f"part.{name}": value for name, value in state.items()})
        sentence = [3, 4, 5, 5, 6, 11]
        assert distributions(around["part"], sentence).equal(distributions(model, sentence))


def test_tables_of_another_vocabulary_are_refused():
    model = fitted(random_sentences(12, 30), 12, order=3)
    with pytest.raises(RuntimeError, match="n-grams have 12 tokens, the vocabulary has 13"):
        NGram(13, order=3).load_state_dict(model.state_dict())


def test_an_untrained_model_gives_all_tokens_equal_probability():
    expected = torch.tensor([-math.inf] + [-math.log(5)] * 5)
    torch.testing.assert_close(distributions(NGram(6), [3, 4]), expected.expand(3, 6))


def test_a_longer_model_predicts_held_out_text_of_its_kind_better():
    sentences = random_sentences(15, 3000)
    tokens = torch.tensor([s for s in random_sentences(15, 3600)[3000:] if len(s) == 8])
    lengths = torch.full((len(tokens),), 8)
    scores = [
        float(fitted(sentences[:3000], 15, order=order).log_probs(tokens, lengths).mean())
        for order in (1, 2)
    ]
    assert len(tokens) > 20
    assert scores[1] > scores[0] + 0.2


def test_an_n_gram_model_counts_no_flops():
    assert NGram(6).flops([3, 4]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 0}, "order is 0: it must be at least 1"),
        ({"prune": -1}, "prune is -1: it must be 0 or more"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NGram(6, **options)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ([], "there are no sentences to estimate n-grams from"),
        ([[3, 1]], "token 1 in a sentence: ids are 2 to 5"),
        ([[3], [6]], "token 6 in a sentence: ids are 2 to 5"),
    ],
)
def test_texts_that_cannot_be_counted_are_refused(sentences, message):
    with pytest.raises(ValueError, match=message):
        NGram(6).fit(sentences, PIECES[:6])


def test_an_arpa_file_of_another_order_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "bigram.arpa"
    arpa_writer.write(path, estimate(random_sentences(12, 30), 12, 2), PIECES[:12])
    with pytest.raises(ValueError, match="order is 5, but .* is of order 2: set order to 2"):
        NGram(12, arpa=str(path)).fit([], PIECES[:12])
