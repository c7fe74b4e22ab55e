import random
import unicodedata

import pytest

from asr.text.normalisers import NORMALISERS, english, lower, normaliser, not_english, without_tags

AWKWARD = ["", " ", "a", "é日本", "a  b", " lead and trail ", "it's", "\u2581", "🙂", "x" * 5000]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HE SAID", "he said"),
        ("", ""),
        ("  a \t b\n", "a b"),
        ("Hello, world! (yes)", "hello world yes"),
        ("it\u2019s Mr. O\u2019Neill\u2019s", "it's mr o'neill's"),
        ("'twas the dogs' rock \u2018n\u2019 roll", "twas the dogs rock n roll"),
        ("well-known", "well known"),
        ("\u201cquoted\u201d \u2014 dash\u2026", "quoted dash"),
        ("$3.50 + 20%", "3 50 20"),
        ("snake_case", "snake case"),
        ("zero\u200bwidth soft\u00adhyphen", "zerowidth softhyphen"),
        ("\uff21\uff22\uff23 \ufb01ne \u2460", "abc fine 1"),
        ("\u00c9t\u00e9 E\u0301te\u0301", "\u00e9t\u00e9 \u00e9t\u00e9"),
        ("\u65e5\u672c\u8a9e\u3002", "\u65e5\u672c\u8a9e"),
        ("'''", ""),
        ("a''b", "a b"),
        ("... !?", ""),
    ],
)
def test_the_english_normaliser_follows_its_documentation(text, expected):
    assert english(text) == expected


def test_normalising_twice_changes_nothing():
    generator = random.Random(0)
    alphabet = [chr(generator.randrange(1, 0x3000)) for _ in range(400)] + list("'\u2019 aB-_$.")
    alphabet += ["\u0130", "\u0301", "\ufb03", "\u00b4", "\u212b"]
    for normalise in NORMALISERS.values():
        for _ in range(1500):
            text = "".join(generator.choice(alphabet) for _ in range(generator.randrange(12)))
            once = normalise(text)
            assert normalise(once) == once, repr(text)


def test_other_normalisers_are_chosen_by_name():
    assert normaliser("none")(" A,  b ") == " A,  b "
    assert lower(" A,  b\n") == "a, b"
    with pytest.raises(ValueError, match="'french': choose one of none, lower, english"):
        normaliser("french")


@pytest.mark.parametrize("name", NORMALISERS)
def test_composed_and_decomposed_characters_give_the_same_text(name):
    for text in ("\u00e9t\u00e9", "\u00c5ngstr\u00f6m", "\ud55c\uad6d\uc5b4", "vi\u1ec7t"):
        typed = {normaliser(name)(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")}
        assert len(typed) == 1
        assert unicodedata.is_normalized("NFC", typed.pop())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("well [laughter] yes", "well yes"),
        ("[[noise]] <unk> a {breath}", "a"),
        ("<|en|><|notimestamps|> hello", "hello"),
        ("a < b and c > d", "a < b and c > d"),
        ("f(x)  [", "f(x)  ["),
        ("[a]b", "b"),
    ],
)
def test_tags_in_brackets_are_removed(text, left):
    assert without_tags(text) == left


@pytest.mark.parametrize(
    ("text", "language", "why"),
    [
        ("plain words", "", ""),
        ("plain words", "en-US", ""),
        ("plain words", "English", ""),
        ("plain words", "unknown", ""),
        ("na\u00efve caf\u00e9, \u00b5 and \U0001f469\u200d\U0001f469", "", ""),
        ("\uff21\uff22", "", ""),
        ("gr\u00fc\u00dfe", "de", "language de"),
        ("plain words", "fr_CA", "language fr_CA"),
        ("\u0633\u0644\u0627\u0645", "", "script Arabic"),
        ("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "", "script Thai"),
        ("\u043f\u0440\u0438\u0432\u0435\u0442 ok", "", "script Cyrillic"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "", "zero-width joiners are lost"),
        ("\u0915\u094d\u200d\u092f\u093e", "", "zero-width joiners are lost"),
    ],
)
def test_texts_in_other_languages_are_recognised_as_not_english(text, language, why):
    assert not_english(text, language) == why


def test_lower_keeps_every_sign_of_a_script():
    for text in (
        "\u0645\u06cc\u200c\u062e",
        "\u0915\u094d\u200d\u092f\u093e",
        "l\u00b7l",
        "\u0f56\u0f7c\u0f51\u0f0b",
    ):
        assert lower(text) == text
