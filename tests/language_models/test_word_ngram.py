"""N-grams of words against KenLM, against the formulas of their spelling, and within searches."""

import itertools
import logging
import math
import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.batch import BLANK, EOS, UNKNOWN
from asr.config.strict_yaml import Component
from asr.language_models import NGram, WordNGram
from asr.language_models.folder import (
    TrainedLanguageModel,
    load_language_model,
    save_language_model,
)
from asr.search import Beam
from asr.search.fusion import begin
from asr.text.tokenizers import Characters, SentencePiece
from tests.search import test_ctc, test_search, test_transducer

FILE = Path(__file__).parent / "words.arpa"
VOCABULARY = ["a", "an", "ant", "at", "tan"]
PIECES = ["<blank>", "</s>", "<unk>", "\u2581", "a", "n", "t", "an", "nt", "\u2581a", "\u2581an"]
PIECES += ["\u2581t", "tan", "\u2581tan"]
# Sums of what kenlm 0.3.0 says about the words of ``words.arpa`` and the sentence end, log10; words
# outside the vocabulary have the probability of <unk>.
KENLM = {
    "": -1.79758,
    "a": -0.802432 - 1.173823,
    "ant at a tan": -0.624527 - 0.778806 - 1.197608 - 0.862366 - 0.41952,
    "an an an": -0.719109 - 1.511207 - 1.113774 - 0.577651,
    "tan a tan at ant": -1.239546 - 0.957149 - 0.564517 - 1.343017 - 0.613586 - 0.615448,
    "nat a at": -1.202675 - 0.80618 - 0.561285 - 0.838079,
    "a a tan tan ant an at": -0.802432
    - 1.658306
    - 0.694749
    - 0.611006
    - 1.411939
    - 0.687254
    - 1.290275
    - 0.430624,
    "ta": -1.202675 - 0.80618,
}


def cut(text, pieces=PIECES):
    """The tokens of words between single spaces: the longest piece each time."""
    tokens, text = [], "".join("\u2581" + word for word in text.split())
    while text:
        fits = [t for t, piece in enumerate(pieces) if t > UNKNOWN and text.startswith(piece)]
        tokens.append(max(fits, key=lambda t: len(pieces[t]), default=UNKNOWN))
        text = text[len(pieces[tokens[-1]]) if fits else 1 :]
    return tokens


def model_of_file(pieces=PIECES, **options):
    model = WordNGram(len(pieces), arpa=str(FILE), **options)
    model.fit([], pieces, partial(cut, pieces=pieces))
    return model


def log_q(tokens, pieces=PIECES):
    """Of the tokens of an unknown word: how often words of the vocabulary have each, plus 1."""
    tokens, *words = (
        [t for t in row if pieces[t] != "\u2581"]
        for row in (tokens, *(cut(word, pieces) for word in VOCABULARY))
    )
    real = [t for t, piece in enumerate(pieces) if t >= UNKNOWN and piece != "\u2581"]
    inner = [t for t in real if not pieces[t].startswith("\u2581")]
    first, others = Counter(w[0] for w in words), Counter(t for w in words for t in w[1:])
    total = sum(others.values()) + len(inner) + len(words) + 1
    shares = [(first[tokens[0]] + 1) / (len(words) + len(real))]
    shares += [(others[t] + 1) / total for t in tokens[1:]] + [(len(words) + 1) / total]
    return sum(map(math.log, shares))


def score(model, tokens):
    lengths = torch.tensor([len(tokens)])
    return float(model.log_probs(torch.tensor([tokens], dtype=torch.long), lengths).sum())


@pytest.mark.parametrize("sentence", KENLM)
def test_tokens_have_the_probability_that_kenlm_gives_their_words(sentence):
    model, expected = model_of_file(), KENLM[sentence] * math.log(10)
    expected += sum(log_q(cut(word)) for word in sentence.split() if word not in VOCABULARY)
    tokens = cut(sentence)
    assert score(model, tokens) == pytest.approx(expected, abs=2e-3)  # logarithms of 16 bits
    spaces = [PIECES.index("\u2581")] * 2
    assert score(model, [*spaces, *tokens, *spaces]) == pytest.approx(expected, abs=2e-3)


def test_a_known_word_that_is_cut_differently_counts_as_unknown():
    ant = [PIECES.index("\u2581an"), PIECES.index("t")]
    assert cut("ant") == ant
    other = [PIECES.index("\u2581a"), PIECES.index("nt")]
    unknown = (-1.2026747 - 0.80617997) * math.log(10)  # <s> <unk>, <unk> </s>
    assert score(model_of_file(), other) == pytest.approx(unknown + log_q(other), abs=2e-3)
    assert score(model_of_file(), ant) > unknown


@pytest.mark.parametrize("lexicon", [True, False])
def test_a_lexicon_forbids_all_other_words_and_changes_no_sum(lexicon):
    model, free = model_of_file(lexicon=lexicon), model_of_file()
    for sentence in KENLM:
        tokens = cut(sentence)
        known = all(word in VOCABULARY for word in sentence.split())
        assert score(model, tokens) == score(free, tokens)  # a perplexity is finite
        expected = score(free, tokens) if known or not lexicon else -math.inf
        fusion, total = begin(model, 1, torch.device("cpu")), 0.0
        for token in [*tokens, EOS]:
            total += float(fusion.log_probs[0, token])
            fusion = fusion.follow(torch.tensor([0]), torch.tensor([token]))
        assert total == pytest.approx(expected, abs=1e-4)


def test_whatever_a_lexicon_lets_end_is_in_the_vocabulary():
    model, generator = model_of_file(lexicon=True), torch.Generator().manual_seed(0)
    fusion, texts, ended = begin(model, 40, torch.device("cpu")), [""] * 40, 0
    for _ in range(12):
        for text, stop in zip(texts, fusion.log_probs[:, EOS].tolist(), strict=True):
            known = {*text.replace("\u2581", " ").split()} <= {*VOCABULARY}
            assert known or stop == -math.inf
            ended += stop > -math.inf
        allowed = (fusion.log_probs > -math.inf).float().index_fill(1, torch.tensor([EOS]), 0)
        tokens = torch.multinomial(allowed, 1, generator=generator)[:, 0]
        texts = [text + PIECES[token] for text, token in zip(texts, tokens.tolist(), strict=True)]
        fusion = fusion.follow(torch.arange(40), tokens)
    assert ended > 100


def test_what_goes_on_and_what_ends_share_the_probability_of_a_beginning():
    """With unigrams. A known word may not be spelt as an unknown one."""
    tokenizer = Characters([" ant"])
    model = WordNGram(tokenizer.vocabulary_size, order=1)
    model.fit(
        [tokenizer.encode(" ".join(VOCABULARY)), tokenizer.encode("an tan")],
        tokenizer.pieces(),
        tokenizer.encode,
    )
    fusion = begin(model, 1, torch.device("cpu"))
    inner = [UNKNOWN, *map(tokenizer.pieces().index, "ant")]
    for text in ("a", "t", "ta", "tx", "xxx", "an", "nnnn", "at", "tan"):
        row = fusion
        for token in tokenizer.encode(text):
            row = row.follow(torch.tensor([0]), torch.tensor([token]))
        ends = row.log_probs[0, tokenizer.pieces().index("\u2581")]
        total = float(row.log_probs[0, inner].exp().sum() + ends.exp())
        if text in VOCABULARY:
            assert 0.7 < total < 1
        else:
            assert total == pytest.approx(1, abs=2e-3)


def test_rows_are_independent_and_the_state_stays_as_it_was():
    model = model_of_file()
    histories = torch.randint(2, len(PIECES), (9, 7), generator=torch.Generator().manual_seed(0))
    log_probs, cache = model.step(torch.full((9,), EOS), model.start(9))
    for place in range(7):
        assert log_probs.shape == (9, len(PIECES))
        assert log_probs[:, BLANK].isneginf().all()
        before = {name: value.clone() for name, value in cache.items()}
        rows = torch.tensor([8, 2, 2, 5])
        chosen = {name: value[rows] for name, value in cache.items()}
        log_probs, after = model.step(histories[:, place], cache)
        assert all(cache[name].equal(value) for name, value in before.items())
        assert model.step(histories[rows, place], chosen)[0].equal(log_probs[rows])
        cache = after
    assert model.step(torch.zeros(0, dtype=torch.long), model.start(0))[0].shape == (0, len(PIECES))


def test_padding_and_company_change_nothing():
    model = model_of_file()
    rows = [cut(sentence) for sentence in KENLM]
    lengths = torch.tensor([len(row) for row in rows])
    for padding in (BLANK, 5):
        tokens = torch.full((len(rows), 40), padding)
        for row, own in zip(rows, tokens, strict=True):
            own[: len(row)] = torch.tensor(row)
        scores = model.log_probs(tokens, lengths)
        for row, own in zip(rows, scores, strict=True):
            assert own[len(row) + 1 :].eq(0).all()
            assert float(own.sum()) == pytest.approx(score(model, row), abs=1e-5)


@pytest.mark.parametrize("lexicon", [True, False])
def test_a_saved_model_is_loaded_with_the_same_scores(tmp_path, lexicon):
    tokenizer = SentencePiece(["ant at a tan", "a tan an ant"], size=14)
    texts = [" ".join(words) for words in itertools.product(VOCABULARY, repeat=3)]
    options = {"max_ngrams": 60, "lexicon": lexicon}
    model = WordNGram(tokenizer.vocabulary_size, **options)
    model.fit([tokenizer.encode(text) for text in texts], tokenizer.pieces(), tokenizer.encode)
    component = Component(WordNGram, options)
    save_language_model(TrainedLanguageModel(model, component, tokenizer, "none"), tmp_path)
    loaded = load_language_model(tmp_path).model
    assert set(loaded.state_dict()) == set(model.state_dict())
    for text in [*texts[:20], "nat a", "x"]:
        assert score(loaded, tokenizer.encode(text)) == score(model, tokenizer.encode(text))
    with pytest.raises(RuntimeError, match=f"spelt with {len(tokenizer.pieces())} tokens, not"):
        WordNGram(5).load_state_dict(model.state_dict())


# --- the vocabulary of a text ---


def fitted(texts, **options):
    tokenizer = Characters(["abcdef "])
    model = WordNGram(tokenizer.vocabulary_size, **options)
    model.fit([tokenizer.encode(text) for text in texts], tokenizer.pieces(), tokenizer.encode)
    return model, tokenizer


def test_rare_words_and_words_with_unknown_characters_count_as_unknown():
    texts = ["a a b  bx c", "a c", " a b", "d xx a"]
    model, tokenizer = fitted(texts, min_count=2, order=2)
    assert [tokenizer.decode([token]) for token in model.spelt.tolist()] == ["a", "b", "c"]
    words = NGram(6, order=2)  # the same model of words, of which <unk> is 2
    words.fit([[3, 3, 4, 2, 5], [3, 5], [3, 4], [2, 2, 3]], ["<blank>", "</s>", "<unk>", *"abc"])
    # Both give <unk> different shares of the probability below unigrams: 1 here, 1 / 5 there.
    step = {"context": torch.zeros(1, dtype=torch.long)}
    expected = words.step(torch.tensor([EOS]), step)[0][0]
    found = [score(model, tokenizer.encode(text)) for text in ("a", "b")]
    assert found[0] > found[1]
    assert expected[3] > expected[4]


def test_a_language_without_spaces_is_refused():
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list("abcdef"), 9)) for _ in range(20)]
    with pytest.raises(ValueError, match="20 sentences have 20 words, of which 20 differ: .*NGram"):
        fitted(texts)
    fitted(["a", "b", "a", "c", "b", "c", "a"])  # commands of one word


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 0}, "order is 0: it must be at least 1"),
        ({"min_count": 0}, "min_count is 0: it must be at least 1"),
        ({"max_ngrams": 0}, "max_ngrams is 0: it must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WordNGram(6, **options)


def test_what_does_not_fit_the_words_is_refused():
    with pytest.raises(ValueError, match="max_ngrams is 7, but the vocabulary has 5 words: raise"):
        model_of_file(max_ngrams=7)
    with pytest.raises(ValueError, match="'a\u2581b' has parts of two words: .*NGram"):
        model_of_file([*PIECES, "a\u2581b"])
    with pytest.raises(ValueError, match="order is 2, but .* is of order 3: set order to 3"):
        model_of_file(order=2)
    pieces = [piece.upper() for piece in PIECES]
    with pytest.raises(ValueError, match="5 of 5 words, 'a' the first, have .*transcripts"):
        model_of_file(pieces)


def test_words_that_cannot_be_spelt_are_reported(tmp_path, caplog):
    path = tmp_path / "words.arpa"
    path.write_text(FILE.read_text().replace("tan", "t\u00e4n"))
    with caplog.at_level(logging.WARNING):
        model_of_file()
        assert caplog.messages == []
        model = WordNGram(len(PIECES), arpa=str(path))
        model.fit([], PIECES, cut)
    (message,) = caplog.messages
    assert message.startswith(
        f"{path}: 1 of 5 words, 't\u00e4n' the first, have characters that no"
    )
    assert score(model, cut("a an")) == pytest.approx(score(model_of_file(), cut("a an")), abs=0.2)


def test_the_error_of_a_model_of_tokens_names_the_model_of_words():
    pieces = [*PIECES[:3], *"xyz"]
    with pytest.raises(ValueError, match=re.escape("read it with class_path: WordNGram")):
        NGram(6, order=3, arpa=str(FILE)).fit([], pieces)


# --- within searches ---


def katz():
    """The probability of a word after those before it, by the definition of the file, log10."""
    grams = {}
    for line in FILE.read_text().splitlines():
        number, _, rest = line.partition("\t")
        if rest:
            words, _, backoff = rest.partition("\t")
            grams[tuple(words.split())] = float(number), float(backoff or 0)

    def chance(word, context):
        if (*context, word) in grams:
            return grams[*context, word][0]
        return grams.get(context, (0, 0))[1] + chance(word, context[1:])

    return chance


class OfWords(WordNGram):
    """Also knows what it should say about tokens, from their text."""

    def score(self, tokens):
        """Of tokens that end with EOS, from the words that they spell."""
        assert tokens[-1] == EOS
        pieces, words, total = PIECES_OF_SEARCH, [], 0.0
        for token in tokens[:-1]:
            if pieces[token].startswith("\u2581") or not words:
                words.append([])
            words[-1] += [token] if pieces[token] != "\u2581" else []
        words = [word for word in words if word]
        cuts = {tuple(t for t in cut(w, pieces) if pieces[t] != "\u2581"): w for w in VOCABULARY}
        known = ["<s>", *(cuts.get(tuple(word), "<unk>") for word in words), "</s>"]
        if self.lexicon and "<unk>" in known:
            return -math.inf
        for place in range(1, len(known)):
            context = tuple(known[max(0, place - 2) : place])
            total += CHANCE(known[place], context) * math.log(10)
        return total + sum(log_q(word, pieces) for word in words if tuple(word) not in cuts)


CHANCE = katz()
PIECES_OF_SEARCH = ["<blank>", "</s>", "<unk>", "\u2581", "a", "n", "t", "\u2581an"]


@pytest.mark.parametrize("lexicon", [True, False])
@pytest.mark.parametrize("decoder", ["CTC", "attention", "transducer"])
def test_a_search_that_holds_everything_finds_the_best_of_an_enumeration(decoder, lexicon):
    V = len(PIECES_OF_SEARCH)
    model = OfWords(V, arpa=str(FILE), lexicon=lexicon)
    model.fit([], PIECES_OF_SEARCH, partial(cut, pieces=PIECES_OF_SEARCH))
    options = {"lm_weight": 0.8, "length_bonus": 0.3}
    if decoder == "CTC":
        x, lengths = test_ctc.frames(4, V=V, seed=1)
        search = Beam(beam=2000, **options)
        rows = test_ctc.enumerate_hypotheses(x[0], search, model)
        expected = {row[1]: row[0] for row in rows}
        found = search(test_ctc.Head(V), x, lengths, model)[0]
    elif decoder == "attention":
        network, (x, lengths) = test_search.Recurrent(V, seed=2), test_search.frames(3)
        search = Beam(beam=400, nbest=8, ctc_weight=0.3, **options)
        rows = test_search.enumerate_hypotheses(network, x, lengths, search, model)
        expected = {row[1]: row[0] for row in rows}
        found = search(network, x, lengths, model)[0]
    else:
        network = test_transducer.Lattice(V, 1, blank=4.0)
        x, lengths = test_transducer.frames(2, V=V, seed=1)
        search = Beam(beam=1500, nbest=8, **options)
        every = [t for size in range(5) for t in itertools.product(range(2, V), repeat=size)]
        expected = {t: test_transducer.expected(network, x[0], t, search, model)[2] for t in every}
        found = search(network, x, lengths, model)[0]
    best = sorted(expected.values(), reverse=True)
    found = [hypothesis for hypothesis in found if hypothesis.finished][:8]
    assert len({hypothesis.tokens for hypothesis in found}) == 8
    for hypothesis, value in zip(found, best, strict=False):
        assert hypothesis.score == pytest.approx(value, abs=1e-2)  # logarithms of 16 bits
        assert hypothesis.score == pytest.approx(expected[hypothesis.tokens], abs=1e-2)
