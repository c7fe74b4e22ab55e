"""Named normalisers of transcripts, and the removal of bracketed tags."""

import itertools
import re
import unicodedata
from collections.abc import Callable

Normaliser = Callable[[str], str]

APOSTROPHES = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201b\u2032\u02bc\u02b9\u0060\u00b4\uff07", "'")
)


# Bracketed tags in transcripts are not spoken: [laughter], [[noise]], <unk>, <|en|>, {breath},
# ((unclear)), *cough*. Words in single parentheses may be spoken, except for these sounds.
SOUNDS = "applause|breath|cough|crosstalk|inaudible|laugh|music|nois|silence|unintelligible"
TAG = re.compile(
    r"\[+[^\[\]]+\]+|<+[^<>\s](?:[^<>]*[^<>\s])?>+|\{+[^{}]+\}+|\(\([^()]*\)\)|\*[^\s*]+\*|"
    rf"\((?:{SOUNDS})[a-z]*\)",
    re.IGNORECASE,
)
JOINERS = "\u200c\u200d"  # zero-width characters that matter in Persian and Hindi
NO_LANGUAGE = ("", "und", "mul", "unknown")


def composed(text: str) -> str:
    """Returns text in Unicode's composed form (NFC), in which é is always one character."""
    return unicodedata.normalize("NFC", text)


def lower(text: str) -> str:
    """Returns lower-case text in NFC; collapses white space and strips it from both ends."""
    return " ".join(composed(composed(text).lower()).split())


def english(text: str) -> str:
    """Returns English words in lower case, separated by single spaces, as LibriSpeech transcribes.

    In this order: curly and other single quotes become ``'``; Unicode NFKC; lower case; control
    and format characters (zero width, soft hyphen) vanish; every punctuation mark and symbol
    (Unicode categories P and S) becomes a space, except an apostrophe between two letters or
    digits (``it's``); white space is collapsed. Numerals, ``$`` and ``%`` are not spelled out:
    ``$3.50`` becomes ``3 50``. Applying it twice changes nothing.
    """
    text = text.translate(APOSTROPHES)
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if character == "'" or category[0] not in "PSC":
            kept.append(character)
        elif category[0] != "C" or character.isspace():
            kept.append(" ")
    text = re.sub(r"(?<![^\W_])'|'(?![^\W_])", " ", "".join(kept))
    return " ".join(text.split())


NORMALISERS: dict[str, Normaliser] = {"none": composed, "lower": lower, "english": english}


def without_tags(text: str) -> str:
    """Replaces each match of ``TAG`` by a space."""
    return re.sub(r"\s+", " ", TAG.sub(" ", text)).strip() if TAG.search(text) else text


def not_english(text: str, language: str) -> str:
    """Says why a text does not suit the normaliser ``english``; empty if it may.

    The language is a name or code, as "de" or "en-US"; empty if unknown.
    """
    if language.lower() not in NO_LANGUAGE and not language.lower().startswith("en"):
        return f"language {language}"
    if text.isascii():
        return ""
    joined = (before for before, mark in itertools.pairwise(text) if mark in JOINERS)
    if any(c.isalpha() or unicodedata.category(c) in ("Mc", "Mn") for c in joined):
        return "zero-width joiners are lost"
    letters = [c for c in unicodedata.normalize("NFKC", text) if c.isalpha()]
    foreign = [c for c in letters if not unicodedata.name(c, "").startswith("LATIN")]
    if 2 * len(foreign) < len(letters) or not foreign:
        return ""
    return f"script {unicodedata.name(foreign[0], 'unknown').split()[0].title()}"


def normaliser(name: str) -> Normaliser:
    """Returns the normaliser of a name; raises ValueError if there is none."""
    if name not in NORMALISERS:
        raise ValueError(f"normaliser {name!r}: choose one of {', '.join(NORMALISERS)}")
    return NORMALISERS[name]


def scoring_normaliser(name: str) -> Normaliser:
    """Returns a normaliser of texts that are only scored: one by name, or Whisper's for English.

    ``whisper`` is the English normaliser of Radford et al., "Robust speech recognition via
    large-scale weak supervision", 2022, appendix C. It writes numbers in digits, expands
    contractions, and takes British for American spelling, so no model should learn its texts.

    Raises:
        ValueError: there is none, or its package is not installed.
    """
    if name != "whisper":
        return normaliser(name)
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise ValueError(
            f"normaliser 'whisper': {error}; run: pip install whisper-normalizer"
        ) from None
    whisper: Normaliser = EnglishTextNormalizer()
    return whisper
