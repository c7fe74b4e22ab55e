import json
import logging
import pickle

import pytest

from asr.batch import BLANK, EOS, UNKNOWN
from asr.text.tokenizers import Characters, SentencePiece, restore

TEXTS = [
    "turn the light on",
    "turn the light off at seven",
    "it's monday june twenty one",
    "stop now",
    "set the alarm for sunday at eleven",
]
AWKWARD = ["", " ", "a", "é日本", "a  b", " lead and trail ", "it's", "\u2581", "🙂", "x" * 5000]


TOKENIZERS = {
    "characters": lambda: Characters(TEXTS),
    "alphabet": lambda: Characters(TEXTS, alphabet="abc '"),
    "bpe": lambda: SentencePiece(TEXTS, size=40),
    "unigram": lambda: SentencePiece(TEXTS, size=40, kind="unigram"),
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def test_texts_of_known_characters_survive_a_round_trip(tokenizer):
    if isinstance(tokenizer, Characters) and "t" not in tokenizer.characters:
        texts = ["a cab", "bac'a", ""]
    else:
        texts = [*TEXTS, "", "t", "one two  three"]
    for text in texts:
        ids = tokenizer.encode(text)
        assert UNKNOWN not in ids
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", AWKWARD)
def test_any_text_encodes_within_the_vocabulary_and_decodes(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(UNKNOWN <= i < tokenizer.vocabulary_size for i in ids)
    assert isinstance(tokenizer.decode(ids), str)


def test_every_id_decodes(tokenizer):
    for i in range(tokenizer.vocabulary_size):
        assert isinstance(tokenizer.decode([i]), str)


def test_blank_and_eos_decode_to_nothing(tokenizer):
    ids = tokenizer.encode("a")
    assert tokenizer.decode([BLANK, EOS, *ids, EOS, BLANK]) == "a"
    assert tokenizer.decode([BLANK, EOS]) == ""


def test_unseen_characters_are_decoded_as_a_visible_unknown_mark(tokenizer):
    assert tokenizer.encode("a\u65e5").count(UNKNOWN) == 1
    assert "\ufffd" in tokenizer.decode(tokenizer.encode("a\u65e5"))


def test_the_state_survives_json_and_restores_an_equal_tokenizer(tokenizer):
    again = restore(json.loads(json.dumps(tokenizer.state())))
    assert type(again) is type(tokenizer)
    assert again.vocabulary_size == tokenizer.vocabulary_size
    assert again.state() == tokenizer.state()
    for text in TEXTS + AWKWARD:
        assert again.encode(text) == tokenizer.encode(text)


def test_a_tokenizer_can_be_pickled(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode("turn on") == tokenizer.encode("turn on")


def test_characters_are_numbered_from_three_by_code_point():
    tokenizer = Characters(["b a", "c"])
    assert tokenizer.characters == " abc"
    assert tokenizer.encode("abc ") == [4, 5, 6, 3]
    assert tokenizer.vocabulary_size == 7


def test_the_order_of_the_texts_does_not_matter_to_characters():
    assert Characters(TEXTS).state() == Characters(reversed(TEXTS)).state()


@pytest.mark.parametrize("make", [Characters, SentencePiece])
@pytest.mark.parametrize("texts", [[], [""], iter(())])
def test_training_without_text_is_an_error(make, texts):
    with pytest.raises(ValueError, match="the training texts are empty"):
        make(texts)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_that_is_too_large_is_reduced_with_a_warning(caplog, kind):
    with caplog.at_level(logging.WARNING):
        tokenizer = SentencePiece(["ab ab", "ba"], size=500, kind=kind)
    assert tokenizer.vocabulary_size < 30
    assert f"vocabulary of {tokenizer.vocabulary_size} instead of 500" in caplog.text
    assert tokenizer.decode(tokenizer.encode("ab ba")) == "ab ba"


def test_a_vocabulary_that_is_too_small_is_enlarged_to_hold_the_characters(caplog):
    with caplog.at_level(logging.WARNING):
        tokenizer = SentencePiece(TEXTS, size=3)
    assert "instead of 3" in caplog.text
    assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]


def test_a_vocabulary_size_that_fits_is_met_exactly(caplog):
    with caplog.at_level(logging.WARNING):
        assert SentencePiece(TEXTS, size=45).vocabulary_size == 45
    assert caplog.text == ""


def test_frequent_words_become_few_pieces():
    tokenizer = SentencePiece(TEXTS * 10, size=80)
    assert len(tokenizer.encode("turn the light")) < len("turn the light") / 2


def test_training_is_silent_and_repeatable(capfd):
    states = [SentencePiece(TEXTS, size=40).state() for _ in range(2)]
    assert states[0] == states[1]
    assert capfd.readouterr() == ("", "")


def test_a_foreign_state_is_refused():
    for state in ({}, {"class": "Words"}, {"class": "Characters"}):
        with pytest.raises(ValueError, match="not the state of a tokenizer"):
            restore(state)


def test_pieces_spell_the_text_of_their_ids():
    for tokenizer in (Characters(TEXTS), SentencePiece(TEXTS, size=50)):
        pieces = tokenizer.pieces()
        assert len(pieces) == tokenizer.vocabulary_size
        assert pieces[:3] == ["<blank>", "</s>", "<unk>"]
        for text in TEXTS:
            spelt = "".join(pieces[token] for token in tokenizer.encode(text))
            assert spelt.removeprefix("\u2581") == text.replace(" ", "\u2581")


def test_a_given_alphabet_is_composed_and_that_of_a_trained_model_is_kept():
    assert Characters((), alphabet="te\u0301").characters == "t\u00e9"
    old = {"class": "Characters", "characters": "et\u0301"}  # of decomposed texts
    assert restore(old).state() == old
    assert restore(old).decode(restore(old).encode("e\u0301t")) == "e\u0301t"
