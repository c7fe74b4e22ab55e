"""The built-in corpus: sentences of a small grammar, spoken by eSpeak NG in many voices."""

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import numpy as np

from asr.corpora import espeak
from asr.corpora.corpus import Corpus, Origin, Row, Rows
from asr.items import ahead

T = TypeVar("T")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
# These are variants of eSpeak NG 1.52. Variants that whisper, creak, hurry, clip or sound like
# robots are left out, as are those far from every plain voice in mel-spectral distance and those
# with breath, whose noise differs from run to run.
VARIANTS = {
    "train": _words(
        "f1 steph steph2 steph3 grandma shelby m1 m3 m4 m6 m7 m8 max Mike john Mario Gene rob"
        " robert iven3 Henrique Diogo Hugo michel miguel pablo ed edward adam benjamin klatt4"
        " klatt6 travis mike2 Reed Andy marcelo gustave"
    ),
    "validation": _words("belinda m2 aunty norbert Alex Michael iven4 Nguyen"),
    "test": _words("f4 m5 linda boris Denis Annie quincy paul"),
}
SINGLE_WORDS = 0.3  # share of utterances of one word, with which a curriculum begins
# Faster speech would have more characters than encoder frames, which CTC cannot align.
WORDS_PER_MINUTE = (120, 180)
PITCH = (25, 75)
CHUNK = 64  # utterances per eSpeak process; another number changes the audio
MARGIN_SECONDS = 0.08  # silence that is kept before and after the speech

# A context-free grammar. Words in capitals are rules, and alternatives are equally likely.
GRAMMAR: dict[str, Sequence[str]] = {
    "DIGIT": _words("zero one two three four five six seven eight nine"),
    "UNIT": _words("one two three four five six seven eight nine"),
    "TEEN": _words(
        "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
    ),
    "TENS": _words("twenty thirty forty fifty sixty seventy eighty ninety"),
    "NUMBER": ("UNIT", "TEEN", "TENS", "TENS UNIT", "TENS UNIT"),
    "DAY": _words("monday tuesday wednesday thursday friday saturday sunday"),
    "MONTH": _words(
        "january february march april may june july august september october november december"
    ),
    "DATE": ("MONTH NUMBER", "DAY MONTH NUMBER", "DAY MONTH NUMBER at NUMBER"),
    "SWITCH": ("on", "off"),
    "DEVICE": ("light", "heater", "radio", "fan"),
    "OPENING": ("door", "window"),
    "WHEN": ("at NUMBER", "on DAY", "on DAY at NUMBER", "now"),
    "COMMAND": (
        "stop now",
        "turn SWITCH the DEVICE",
        "turn SWITCH the DEVICE WHEN",
        "open the OPENING WHEN",
        "close the OPENING WHEN",
        "set the timer for NUMBER minutes",
        "set the alarm for NUMBER",
        "set the alarm for DAY at NUMBER",
        "stop the DEVICE WHEN",
        "turn the volume up",
        "turn the volume down",
    ),
    "ALL": ("COMMAND", "COMMAND", "DATE", "NUMBER"),
}
ROOTS = {"digits": "DIGIT", "commands": "COMMAND", "all": "ALL"}


@dataclass(frozen=True, kw_only=True)
class Spoken(Corpus):
    """Synthetic speech, generated offline: ids and texts depend on the options alone.

    Args:
        train: number of utterances in the split train.
        validation: number of utterances in the split validation, spoken by other voices than the
            other splits.
        test: number of utterances in the split test, spoken by other voices than the other splits.
        seed: random seed of the texts, voices, speeds and pitches.
        max_words: largest number of words in a sentence; 30 % of the utterances are single words.
        grammar: kind of sentences: "digits" (strings of digits), "commands", or "all" (both, with
            dates and numbers).
    """

    train: int = 5000
    validation: int = 200
    test: int = 400
    seed: int = 0
    max_words: int = 8
    grammar: Literal["digits", "commands", "all"] = "all"

    def __post_init__(self) -> None:
        for split in VARIANTS:
            if getattr(self, split) < 1:
                raise ValueError(f"{split} {getattr(self, split)}: give at least 1 utterance")
        if self.max_words < 1:
            raise ValueError(f"max_words {self.max_words}: a sentence has at least 1 word")

    def splits(self) -> dict[str, Rows]:
        """Returns train, validation and test, which share no voice."""
        sizes = {split: getattr(self, split) for split in VARIANTS}
        return {s: Rows(partial(self._read, s, size), size) for s, size in sizes.items()}

    def origin(self) -> Origin:
        """States that the corpus is synthetic; eSpeak NG's GPL does not cover its output."""
        return Origin(
            name="spoken",
            source="sentences of a grammar in asr/corpora/spoken.py, spoken by eSpeak NG",
            licence="CC0: machine-made; eSpeak NG itself is GPL-3.0-or-later",
            synthetic=True,
            remarks=("Synthetic speech: results do not carry over to human speech.",),
        )

    def _read(self, split: str, size: int) -> Iterator[Row]:
        requests = plan(split, size, self.seed, self.max_words, self.grammar)
        chunks = [requests[i : i + CHUNK] for i in range(0, size, CHUNK)]
        index = 0
        workers = os.cpu_count() or 1  # each waits for an eSpeak process
        spoken = ahead(espeak.speak, chunks, workers, workers)
        for chunk, (rate, waves) in zip(chunks, spoken, strict=True):
            for request, samples in zip(chunk, waves, strict=True):
                yield Row(
                    id=f"spoken-{split}-{index:06d}",
                    audio=_trim(np.frombuffer(samples, np.int16), rate),
                    text=request.text,
                    speaker_id=request.voice,
                    language="en",
                    sample_rate=rate,
                )
                index += 1


def plan(split: str, size: int, seed: int, max_words: int, grammar: str) -> list[espeak.Request]:
    """Plans the utterances of a split; a larger plan begins with a smaller one of the same seed."""
    # Only random() keeps its sequence in every version of Python, so all draws use it.
    generator = random.Random(f"{seed}/{split}/{max_words}/{grammar}")
    words = [word for word in vocabulary(ROOTS[grammar]) if word != "for"]  # alone it is "four"
    requests = []
    for _ in range(size):
        if max_words == 1 or generator.random() < SINGLE_WORDS:
            text = _pick(words, generator)
        elif grammar == "digits" or (grammar == "all" and generator.random() < 0.2):
            length = 2 + int(generator.random() * (max_words - 1))
            text = " ".join(_pick(GRAMMAR["DIGIT"], generator) for _ in range(length))
        else:
            sentence: list[str] = []
            while not 2 <= len(sentence) <= max_words:  # every root has sentences of two words
                sentence = _expand(ROOTS[grammar], generator)
            text = " ".join(sentence)
        voice = f"{_pick(ACCENTS, generator)}+{_pick(VARIANTS[split], generator)}"
        speed = _between(WORDS_PER_MINUTE, generator)
        requests.append(espeak.Request(text, voice, speed, _between(PITCH, generator)))
    return requests


def vocabulary(root: str) -> list[str]:
    """Returns the sorted words that a rule of the grammar can produce; "ALL" includes digits."""
    found: set[str] = set(GRAMMAR["DIGIT"]) if root == "ALL" else set()
    waiting, seen = [root], set()
    while waiting:
        rule = waiting.pop()
        seen.add(rule)
        for word in (word for alternative in GRAMMAR[rule] for word in alternative.split()):
            if word not in GRAMMAR:
                found.add(word)
            elif word not in seen:
                waiting.append(word)
    return sorted(found)


def _expand(symbol: str, generator: random.Random) -> list[str]:
    if symbol not in GRAMMAR:
        return [symbol]
    alternative = _pick(GRAMMAR[symbol], generator)
    return [word for part in alternative.split() for word in _expand(part, generator)]


def _pick(values: Sequence[T], generator: random.Random) -> T:
    return values[int(generator.random() * len(values))]


def _between(limits: tuple[int, int], generator: random.Random) -> int:
    return limits[0] + int(generator.random() * (limits[1] - limits[0] + 1))


def _trim(wave: np.ndarray, rate: int) -> np.ndarray:
    """Shortens the silence around the speech to a margin, because silence only costs time."""
    loud = np.flatnonzero(np.abs(wave.astype(np.int32)) > 100)
    if len(loud) == 0:
        return wave  # preflight drops and counts a silent wave
    margin = round(MARGIN_SECONDS * rate)
    return wave[max(0, loud[0] - margin) : loud[-1] + margin]
