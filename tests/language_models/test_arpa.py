"""ARPA files: one written by hand, what comes back, and what is refused."""

import gzip
import logging
import math
import re

import numpy as np
import pytest
import torch

from asr.batch import EOS, UNKNOWN
from asr.language_models import arpa
from asr.language_models.kneser_ney import estimate
from asr.language_models.ngram import NGram
from tests import arpa_writer

PIECES = ["<blank>", "</s>", "<unk>", "\u2581a", "b", "é"]
A, B, E = 3, 4, 5
# Trigrams, in no order; log10, one back-off left out, one n-gram ("b é") that no bigram "é" ends.
TEXT = """made by hand

\\data\\
ngram 1=6
ngram 2=4
ngram 3=2

\\1-grams:
-0.9\tb\t-0.1
-99\t<s>\t-0.2
-0.4\t▁a -0.3
-1.0\té
-0.7\t</s>
-1.2\t<unk>

\\2-grams:
-0.25\t▁a b\t-0.15
-0.5\t<s> ▁a\t-0.35
-0.6\tb é
-0.05\tb </s>

\\3-grams:
-0.02\t<s> ▁a b
-0.01\t▁a b </s>

\\end\\
"""


def written(tmp_path, text, name="model.arpa"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def loaded(path, order=3, pieces=PIECES):
    model = NGram(len(pieces), order=order, arpa=str(path))
    model.fit([], pieces)
    return model


def log10s(model, *sentence):
    tokens = torch.tensor([sentence], dtype=torch.long)
    return (model.log_probs(tokens, torch.tensor([len(sentence)]))[0] / math.log(10)).tolist()


def random_sentences(seed=0):
    generator = np.random.default_rng(seed)
    rates = generator.dirichlet(np.full(3, 0.4), size=len(PIECES))
    sentences = []
    for _ in range(200):
        sentence = [EOS]
        for _ in range(generator.integers(9)):
            sentence.append(3 + int(generator.choice(3, p=rates[sentence[-1]])))
        sentences.append(sentence[1:])
    return sentences


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        # p(a | <s>), p(b | <s> a), p(</s> | a b)
        ((A, B), (-0.5, -0.02, -0.01)),
        # b after <s>: back-off of <s>. é after b: a bigram. </s> after é: no context, weight 1.
        ((B, E), (-0.2 - 0.9, -0.6, -0.7)),
        # a after <s> a: two back-offs. b after a a: that is a bigram, and "a a" no context.
        ((A, A, B), (-0.5, -0.35 - 0.3 - 0.4, -0.25, -0.01)),
        # é after <s> a b: back-off of "a b", then the bigram. <unk> after "b é": no context.
        ((A, B, E, UNKNOWN), (-0.5, -0.02, -0.15 - 0.6, -1.2, -0.7)),
        # a after a b: back-offs of "a b" and b.
        ((A, B, A), (-0.5, -0.02, -0.15 - 0.1 - 0.4, -0.3 - 0.7)),
        ((), (-0.2 - 0.7,)),
    ],
)
def test_probabilities_and_backoffs_of_a_handwritten_file_follow_the_format(
    tmp_path, sentence, expected
):
    model = loaded(written(tmp_path, TEXT))
    np.testing.assert_allclose(log10s(model, *sentence), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n", "\r\n"),
        ("ngram 2=4", "ngram\t2 = 4 "),
        ("\t", "   "),
        ("\n-", "\n  -"),
        ("-0.1\n", "-0.1 \t\n\n"),
        ("<unk>", "<UNK>"),
    ],
)
def test_white_space_and_the_spelling_of_unknown_do_not_matter(tmp_path, old, new):
    path = tmp_path / "model.arpa"
    path.write_bytes(TEXT.replace(old, new).encode())
    assert path.read_bytes() != TEXT.encode()
    reference = loaded(written(tmp_path, TEXT, "reference.arpa"))
    for sentence in ((A, B, E, UNKNOWN), (A, A, B), ()):
        assert log10s(loaded(path), *sentence) == log10s(reference, *sentence)


def test_an_order_without_n_grams_is_accepted(tmp_path):
    text = TEXT.replace("ngram 3=2", "ngram 3=0").replace("-0.02\t<s> ▁a b\n-0.01\t▁a b </s>\n", "")
    model = loaded(written(tmp_path, text))
    np.testing.assert_allclose(log10s(model, A, B), (-0.5, -0.35 - 0.25, -0.15 - 0.05), rtol=1e-5)


def test_an_n_gram_whose_suffix_is_missing_is_accepted(tmp_path):
    """As SRILM prunes: "<s> a b" is a context, "a b" is not an n-gram."""
    text = """\\data\\
ngram 1=6
ngram 2=3
ngram 3=2
ngram 4=1
\\1-grams:
-0.9 b -0.1
-99 <s> -0.2
-0.4 ▁a -0.3
-1.0 é
-0.7 </s>
-1.2 <unk>
\\2-grams:
-0.5 <s> ▁a -0.35
-0.6 b é -0.45
-0.55 b b
\\3-grams:
-0.02 <s> ▁a b -0.6
-0.03 b é b
\\4-grams:
-0.04 <s> ▁a b ▁a
\\end\\
"""
    model = loaded(written(tmp_path, text), order=4)
    # é after <s> a b: its back-off, then b é at once; b after b é: the trigram.
    expected = (-0.5, -0.02, -0.6 - 0.6, -0.03, -0.1 - 0.7)
    np.testing.assert_allclose(log10s(model, A, B, E, B), expected, rtol=1e-5)
    np.testing.assert_allclose(log10s(model, A, B, A)[2], -0.04, rtol=1e-5)


@pytest.mark.parametrize("name", ["model.arpa", "model.arpa.gz"])
def test_a_written_file_reads_back_the_same(tmp_path, name):
    orders = estimate(random_sentences(), len(PIECES), 4)
    path = tmp_path / name
    arpa_writer.write(path, orders, PIECES)
    again = arpa.read_arpa(path, PIECES, 4)
    assert [len(grams.token) for grams in again] == [len(grams.token) for grams in orders]
    for new, old in zip(again, orders, strict=True):
        assert np.array_equal(new.context, old.context)
        assert np.array_equal(new.token, old.token)
        np.testing.assert_allclose(new.log_prob, old.log_prob, rtol=1e-7)
        np.testing.assert_allclose(new.log_backoff, old.log_backoff, rtol=1e-7, atol=1e-9)


def test_tokens_without_a_unigram_share_the_probability_of_unknown(tmp_path, caplog):
    pieces = [*PIECES, "x", "yz"]
    orders = estimate(random_sentences(), len(PIECES), 3)
    path = tmp_path / "model.arpa"
    arpa_writer.write(path, orders, PIECES)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        model = loaded(path, pieces=pieces)
    assert caplog.messages == [
        f"{path} lacks 2 of 8 tokens, 'x' the first: they share the probability of <unk>"
    ]
    whole = math.exp(orders[0].log_prob[UNKNOWN])
    contexts = torch.arange(len(model.starts) - 1)
    log_probs, cache = model.step(torch.full_like(contexts, UNKNOWN), {"context": contexts})
    assert log_probs[0, [UNKNOWN, 6, 7]].exp().tolist() == pytest.approx([whole / 3] * 3)
    for token in (EOS, A, B, E):
        log_probs, cache = model.step(torch.full_like(contexts, token), {"context": contexts})
        np.testing.assert_allclose(log_probs.double().exp().sum(-1), 1, atol=1e-6)


def test_n_grams_with_other_words_are_counted_and_left_out(tmp_path, caplog):
    text = TEXT.replace("1=6", "1=7").replace("2=4", "2=6")
    text = text.replace("-0.7\t</s>", "-0.7\t</s>\n-0.8\tword\t-0.1")
    text = text.replace("-0.05\tb </s>", "-0.05\tb </s>\n-0.1\tword b\n-0.1\tb word")
    path = written(tmp_path, text)
    with caplog.at_level(logging.WARNING):
        model = loaded(path)
    assert caplog.messages == [
        f"{path}: left out 1, 2, 0 n-grams of orders 1 to 3, which have words that are not tokens; "
        "probabilities sum to less than 1"
    ]
    reference = loaded(written(tmp_path, TEXT, "without.arpa"))
    assert log10s(model, A, B, E) == log10s(reference, A, B, E)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", r"has no line \data\; give an n-gram model in ARPA format"),
        ("ngram 2=4", "ngram 3=4", "line 5: expected ngram 2=COUNT, not ngram 3=4"),
        ("ngram 2=4", "ngram 2=x", "line 5: expected ngram 2=COUNT, not ngram 2=x"),
        ("ngram 1=6\nngram 2=4\nngram 3=2\n", "", "line 5: expected ngram 1=COUNT, not \\1-grams"),
        ("\\2-grams:", "\\3-grams:", "line 16: expected \\2-grams:, not \\3-grams:"),
        ("ngram 2=4", "ngram 2=3", "line 20: expected \\3-grams:, not -0.05"),
        ("ngram 2=4", "ngram 2=5", "line 22: expected a log-probability, 2 words, perhaps a back"),
        ("ngram 3=2", "ngram 3=1", "line 24: expected \\end\\ after 1 3-grams, not -0.01"),
        ("-0.6\tb é", "-0.6\tb", "line 19: expected a log-probability, 2 words, perhaps a"),
        ("-0.25\t▁a b\t-0.15", "-0.25\t▁a b\t-0.15\t0", "line 17: expected a log-probability, 2 w"),
        ("-0.25\t▁a b", "0.25\t▁a b", "line 17: expected a log-probability, 2 words, perhaps"),
        ("-0.25\t▁a b", "nan\t▁a b", "line 17: expected a log-probability, 2 words, perhaps"),
        ("-0.25\t▁a b", "x\t▁a b", "line 17: expected a log-probability, 2 words, perhaps"),
        ("▁a b\t-0.15", "▁a b\tinf", "line 17: expected a log-probability, 2 words, perhaps"),
        ("<s> ▁a b", "▁a ▁a b", "line 23: the first 2 words of this n-gram are not an n-gram"),
        ("-0.6\tb é", "-0.6\t▁a b", "line 19: this n-gram occurs twice; write the file"),
        ("-1.0\té", "-1.0\tb", "line 12: this n-gram occurs twice"),
        ("-0.6\tb é", "-0.6\tb <s>", "line 19: <s> can only be the first word, </s> the last"),
        ("-0.6\tb é", "-0.6\t</s> b", "line 19: <s> can only be the first word, </s> the last"),
        (
            "-0.7\t</s>",
            "-0.7\tother",
            "has no </s>: estimate it from text with a sentence per line",
        ),
        ("\\end\\", "", "ends after its 3-grams without \\end\\; copy it again"),
        ("-0.01\t▁a b </s>\n\n\\end\\", "", "ends after 1 of 2 3-grams; copy it again"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path, old, new, message):
    assert old in TEXT
    path = written(tmp_path, TEXT.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        loaded(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_tokens_cannot_be_missing_without_unknown(tmp_path):
    path = written(tmp_path, TEXT.replace("-1.2\t<unk>", "-1.2\tother"))
    loaded(path)  # nothing but <unk> itself is missing: it has probability 0
    assert log10s(loaded(path), UNKNOWN)[0] == -math.inf
    with pytest.raises(ValueError, match="lacks 1 of 7 tokens, 'x' the first, and <unk>"):
        loaded(path, pieces=[*PIECES, "x"])


def test_a_file_of_another_tokenizer_is_refused(tmp_path):
    path = written(tmp_path, TEXT)
    pieces = [*PIECES[:3], "turn", "the", "light"]
    with pytest.raises(ValueError, match="lacks 3 of 6 tokens, 'turn' the first: estimate it"):
        loaded(path, pieces=pieces)


def test_a_file_that_is_not_there_or_is_torn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file; give an n-gram model in ARPA format"):
        loaded(tmp_path / "none.arpa")
    path = tmp_path / "torn.arpa.gz"
    path.write_bytes(gzip.compress(TEXT.encode())[:-20])
    with pytest.raises(ValueError, match="is damaged .*; copy it again"):
        loaded(path)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([*PIECES, "\t"], r"token 6 is '\\t': an ARPA file cannot hold white space"),
        ([*PIECES, "b"], "tokens 4 and 6 are both spelt 'b'"),
        ([*PIECES, "<s>"], "tokens 0 and 6 are both spelt '<s>'"),
    ],
)
def test_pieces_that_the_format_cannot_distinguish_are_refused(tmp_path, pieces, message):
    with pytest.raises(ValueError, match=message):
        arpa.read_arpa(written(tmp_path, TEXT), pieces, 3)
