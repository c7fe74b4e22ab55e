"""The formats of transcripts: ``FORMATS`` has one entry for each."""

import html
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

from asr.recognition.transcript import Transcript, Word

# Limits of subtitles in the style guides of the BBC and Netflix: at most two lines of 42
# characters, at most seven seconds, and at least about one second on the screen.
LINE_CHARACTERS = 42
LINES = 2
LONGEST_SECONDS = 7.0
SHORTEST_SECONDS = 1.0
PAUSE_SECONDS = 0.8  # a silence that always ends a subtitle


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


def txt(transcript: Transcript) -> str:
    """The text on one line."""
    return transcript.text + "\n"


def as_json(transcript: Transcript) -> str:
    """The whole transcript as JSON; times in seconds, rounded to milliseconds."""
    content = asdict(transcript)
    content["segments"] = [
        {"start": round(s.start, 3), "end": round(s.end, 3), "text": s.text}
        for s in segments(transcript.words, transcript.duration)
    ]
    content["words"] = [word.described() for word in transcript.words]
    content["duration"] = round(transcript.duration, 3)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def srt(transcript: Transcript) -> str:
    """SubRip: numbered subtitles; an arrow in the text would be read as a time."""
    subtitles = _subtitles(transcript, ",", lambda text: text.replace("-->", "->"))
    return "\n".join(f"{number}\n{text}" for number, text in enumerate(subtitles, start=1))


def vtt(transcript: Transcript) -> str:
    """WebVTT (W3C): ``&``, ``<`` and ``>`` are escaped, which disarms ``-->`` as well."""
    return "\n".join(["WEBVTT\n", *_subtitles(transcript, ".", partial(html.escape, quote=False))])


def _subtitles(transcript: Transcript, point: str, escape: Callable[[str], str]) -> list[str]:
    """Times and lines of each subtitle; ``point`` stands before the milliseconds."""
    return [
        f"{clock(segment.start, point)} --> {clock(segment.end, point)}\n"
        + escape("\n".join(lines(segment.text)))
        + "\n"
        for segment in segments(transcript.words, transcript.duration)
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


def segments(words: Sequence[Word], duration: float) -> list[Segment]:
    """Words of a file -> subtitles, split at pauses until each fits two lines and 7 s."""
    runs: list[list[Word]] = []  # words without a pause between them
    for word in words:
        if not runs or word.start - runs[-1][-1].end >= PAUSE_SECONDS:
            runs.append([])
        runs[-1].append(word)
    groups = [group for run in runs for group in _halves(run)]
    shown = []
    for group, after in itertools.zip_longest(groups, groups[1:]):
        start = group[0].start
        end = min(group[-1].end, start + LONGEST_SECONDS)
        limit = after[0].start if after else duration
        end = max(end, min(start + SHORTEST_SECONDS, limit))
        shown.append(Segment(start, end, " ".join(word.text for word in group)))
    return shown


def lines(text: str) -> list[str]:
    """Breaks a text that is too long for one line into two lines of similar length."""
    if len(text) <= LINE_CHARACTERS or " " not in text:
        return [text]
    places = [i for i, character in enumerate(text) if character == " "]
    middle = min(places, key=lambda i: max(i, len(text) - i - 1))
    return [text[:middle], text[middle + 1 :]]


def _halves(run: list[Word]) -> list[list[Word]]:
    """Splits a run of words in two, again and again, until every part fits a subtitle."""
    shown = lines(" ".join(word.text for word in run))
    short = len(shown) <= LINES and all(len(line) <= LINE_CHARACTERS for line in shown)
    if len(run) == 1 or (short and run[-1].end - run[0].start <= LONGEST_SECONDS):
        return [run]

    def merit(place: int) -> float:
        """The score of a split before word ``place``: higher for long gaps and near the middle."""
        gap = run[place].start - run[place - 1].end
        return (gap + 0.05) * min(place, len(run) - place)

    place = max(range(1, len(run)), key=merit)
    return _halves(run[:place]) + _halves(run[place:])
