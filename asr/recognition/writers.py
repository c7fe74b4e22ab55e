"""The formats of transcripts: ``FORMATS`` has one entry for each."""

import html
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

from asr.recognition.transcript import Transcript, Word

# Limits of subtitles in the style guides of the BBC and Netflix: at most two lines of 42
# characters, at most seven seconds, and at least about one second on the screen. A wide character,
# as of Chinese, counts as two.
LINE_CHARACTERS = 42
LINES = 2
LONGEST_SECONDS = 7.0
SHORTEST_SECONDS = 1.0
PAUSE_SECONDS = 0.8  # a silence that always ends a subtitle
SUBTITLES = ("json", "srt", "vtt")  # formats that hold subtitles
# Scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Chinese, Japanese.
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u31f0-\u9fff"
    "\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)
# No line begins with a mark, a closing bracket, other punctuation, or a vowel or sign that belongs
# to the character before it; none ends with an opening bracket, or a vowel before its consonant.
CLOSING = re.compile(
    "[\u0e2f\u0e30\u0e32\u0e33\u0e45\u0e46\u0eaf\u0eb0\u0eb2\u0eb3\u0ec6"
    "\u3005\u303b\u3041\u3043\u3045\u3047\u3049\u3063\u3083\u3085\u3087\u308e\u309b-\u309e"
    "\u30a1\u30a3\u30a5\u30a7\u30a9\u30c3\u30e3\u30e5\u30e7\u30ee\u30f5\u30f6\u30fc-\u30fe]"
)
OPENING = re.compile("[\u0e40-\u0e44\u0ec0-\u0ec4\u1039\u17d2\u200d]")


class Format(NamedTuple):
    """A file format of transcripts.

    Attributes:
        write: function that returns the content of the file of a transcript.
        timed: whether the file holds the times of words.
    """

    write: Callable[[Transcript], str]
    timed: bool = True


class Segment(NamedTuple):
    """A subtitle: start and end in seconds, and its words, separated by spaces."""

    start: float
    end: float
    text: str


class Part(NamedTuple):
    """A part of the text that stays on one line, and what stands between it and the part before."""

    text: str
    start: float
    end: float
    glue: str


def txt(transcript: Transcript) -> str:
    """The text on one line."""
    return transcript.text + "\n"


def as_json(transcript: Transcript) -> str:
    """The whole transcript as JSON; times in seconds, rounded to milliseconds."""
    content = asdict(transcript)
    content["segments"] = [
        {"start": round(s.start, 3), "end": round(s.end, 3), "text": s.text}
        for s in subtitles(transcript)
    ]
    content["words"] = [word.described() for word in transcript.words]
    content["duration"] = round(transcript.duration, 3)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def srt(transcript: Transcript) -> str:
    """SubRip: numbered subtitles; an arrow in the text would be read as a time."""
    blocks = _blocks(transcript, ",", lambda text: text.replace("-->", "->"))
    return "\n".join(f"{number}\n{text}" for number, text in enumerate(blocks, start=1))


def vtt(transcript: Transcript) -> str:
    """WebVTT (W3C): ``&``, ``<`` and ``>`` are escaped, which disarms ``-->`` as well."""
    return "\n".join(["WEBVTT\n", *_blocks(transcript, ".", partial(html.escape, quote=False))])


def _blocks(transcript: Transcript, point: str, escape: Callable[[str], str]) -> list[str]:
    """Times and lines of each subtitle; ``point`` stands before the milliseconds."""
    return [
        f"{clock(segment.start, point)} --> {clock(segment.end, point)}\n"
        + escape("\n".join(lines(segment.text)))
        + "\n"
        for segment in subtitles(transcript)
    ]


def tsv(transcript: Transcript) -> str:
    """Writes one word per line: start and end in seconds, word, confidence."""
    rows = ["start\tend\tword\tconfidence"]
    for word in transcript.words:
        confidence = "" if word.confidence is None else f"{word.confidence:.4f}"
        rows.append(f"{word.start:.3f}\t{word.end:.3f}\t{word.text}\t{confidence}")
    return "\n".join(rows) + "\n"


def ctm(transcript: Transcript) -> str:
    """Words as NIST's scorer reads them (sclite: "time marked conversation"), one a line.

    The fields are the name of the file without blanks, channel 1, start and duration in seconds,
    the word, and its confidence unless that is unknown. Blanks separate the fields.
    """
    waveform = "_".join(transcript.name.split())
    rows = []
    for word in (word.described() for word in transcript.words):
        duration = word["end"] - word["start"]
        fields = [waveform, "1", f"{word['start']:.3f}", f"{duration:.3f}", word["word"]]
        if word["confidence"] is not None:
            fields.append(f"{word['confidence']:.4f}")
        rows.append(" ".join(fields) + "\n")
    return "".join(rows)


FORMATS: dict[str, Format] = {
    "txt": Format(txt, timed=False),
    "json": Format(as_json),
    "srt": Format(srt),
    "vtt": Format(vtt),
    "tsv": Format(tsv),
    "ctm": Format(ctm),
}


def clock(seconds: float, point: str) -> str:
    """``01:02:03,456``, with ``point`` before the milliseconds."""
    rest, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(rest, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}{point}{milliseconds:03}"


def subtitles(transcript: Transcript) -> list[Segment]:
    """The subtitles of a transcript."""
    return segments(transcript.words, transcript.duration, transcript.max_chars_per_second)


def segments(
    words: Sequence[Word], duration: float, max_chars_per_second: float | None = None
) -> list[Segment]:
    """Words of a file -> subtitles, split at pauses until each fits two lines and 7 s.

    A subtitle that is faster than ``max_chars_per_second`` stays until the next one begins, or
    until it is slow enough.
    """
    runs: list[list[Part]] = []  # parts without a pause between them
    for part in itertools.chain.from_iterable(map(_parts, words)):
        if not runs or part.start - runs[-1][-1].end >= PAUSE_SECONDS:
            runs.append([])
        runs[-1].append(part)
    groups = [group for run in runs for group in _halves(run)]
    shown = []
    for group, after in itertools.zip_longest(groups, groups[1:]):
        start, text = group[0].start, _joined(group)
        end = min(group[-1].end, start + LONGEST_SECONDS)
        limit = after[0].start if after else duration
        least = max(SHORTEST_SECONDS, len(text) / (max_chars_per_second or float("inf")))
        end = max(end, min(start + least, limit))
        shown.append(Segment(start, end, text))
    return shown


def lines(text: str) -> list[str]:
    """Breaks a text that is too long for one line into two lines of similar length.

    It is broken at a space if both lines then fit, otherwise within a word, see ``pieces``.
    """
    if width(text) <= LINE_CHARACTERS:
        return [text]
    ends = [*itertools.accumulate(len(piece) for piece in re.split("( )", text))][:-1:2]
    pairs = [(text[:end], text[end + 1 :]) for end in ends]
    if not any(max(map(width, pair)) <= LINE_CHARACTERS for pair in pairs):
        within = [piece for word in re.split("(?= )", text) for piece in pieces(word)]
        places = [*itertools.accumulate(map(len, within))][:-1]
        pairs += [(text[:i], text[i:]) for i in places if " " not in text[i - 1 : i + 1]]
    return list(min(pairs, key=lambda pair: max(map(width, pair)))) if pairs else [text]


def width(text: str) -> int:
    """Number of characters, of which wide ones count as two."""
    return len(text) + sum(unicodedata.east_asian_width(c) in "WF" for c in text)


def pieces(word: str) -> list[str]:
    """Cuts a word where a line may end: in scripts without spaces, and anywhere if it is too long.

    Marks stay with their characters, and punctuation with the text that it belongs to.
    """
    found: list[str] = []
    for piece in _cut(word, _may_break):
        long = width(piece) > LINE_CHARACTERS
        found += _cut(piece, lambda before, after: not _joins(before, after)) if long else [piece]
    return found


def _cut(text: str, breaks: Callable[[str, str], bool]) -> list[str]:
    """Cuts a text between two characters where ``breaks`` is true for them."""
    places = [i for i in range(1, len(text)) if breaks(text[i - 1], text[i])]
    return [text[a:b] for a, b in itertools.pairwise([0, *places, len(text)])]


def _may_break(before: str, after: str) -> bool:
    """Whether a line may end between two characters of a word."""
    if not (UNSPACED.match(before) or UNSPACED.match(after)) or _joins(before, after):
        return False
    closing = unicodedata.category(after) in ("Pe", "Pf", "Po") or CLOSING.match(after)
    return not (closing or unicodedata.category(before) in ("Ps", "Pi") or OPENING.match(before))


def _joins(before: str, after: str) -> bool:
    """Whether two characters make one: a mark, a joiner, or a consonant below another one."""
    return unicodedata.category(after) in ("Mn", "Mc", "Me", "Cf") or before in "\u1039\u17d2\u200d"


def _parts(word: Word) -> list[Part]:
    """The pieces of a word with their times; characters without times share them equally."""
    texts, number = pieces(word.text), max(len(word.text), 1)
    known = len(word.letters) == number
    letters = word.letters if known else [(i / number, (i + 1) / number) for i in range(number)]
    length, found, place = word.end - word.start, [], 0
    for text in texts:
        begin, end = letters[place][0], letters[place + len(text) - 1][1]
        times = word.start + begin * length, word.start + end * length
        found.append(Part(text, *times, "" if place else " "))
        place += len(text)
    return found


def _joined(parts: Sequence[Part]) -> str:
    return "".join(part.glue + part.text for part in parts)[len(parts[0].glue) :]


def _halves(run: list[Part]) -> list[list[Part]]:
    """Splits a run of parts in two, again and again, until every one fits a subtitle."""
    text = _joined(run)
    short = width(text) <= LINES * (LINE_CHARACTERS + 1) and all(
        width(line) <= LINE_CHARACTERS for line in lines(text)
    )
    if len(run) == 1 or (short and run[-1].end - run[0].start <= LONGEST_SECONDS):
        return [run]

    def merit(place: int) -> float:
        """The score of a split before part ``place``: higher for long gaps and near the middle."""
        gap = run[place].start - run[place - 1].end
        return (gap + 0.05) * min(place, len(run) - place) * (1 if run[place].glue else 0.25)

    place = max(range(1, len(run)), key=merit)
    return _halves(run[:place]) + _halves(run[place:])
