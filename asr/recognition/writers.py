"""A transcript as txt, json, srt, vtt, tsv or ctm."""

import html
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asr.recognition.alignment import Word

# What broadcasters' style guides ask of subtitles (BBC, Netflix): two lines of 42 characters at
# most, seven seconds at most, on the screen for about a second at least.
LINE_CHARACTERS = 42
LINES = 2
LONGEST_SECONDS = 7.0
SHORTEST_SECONDS = 1.0
PAUSE_SECONDS = 0.8  # a silence that always ends a subtitle


@dataclass(frozen=True)
class Segment:
    """What a subtitle shows at once.

    Attributes:
        start: seconds.
        end: seconds.
        text: its words, separated by spaces.
    """

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Recording:
    """Which file was heard, as far as that is known without reading it.

    Attributes:
        path: absolute, links followed.
        size_bytes: of the file.
        modified_seconds: when it last changed, since 1970.
    """

    path: str
    size_bytes: int
    modified_seconds: float


def recording(audio: Path | bytes) -> Recording | None:
    """None of bytes, and of a file that is gone, of which an attempt to read it will say so."""
    if isinstance(audio, bytes):
        return None
    try:
        facts = audio.stat()
    except OSError:
        return None
    return Recording(str(audio.resolve()), facts.st_size, facts.st_mtime)


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """What was said in one file.

    Attributes:
        source: the file, or ``stdin``.
        name: how files of the transcript are called, but for their endings.
        text: its words, separated by spaces.
        words: with times; empty unless a format with times was asked for.
        duration: seconds of audio.
        model: what recognised it.
        search: how.
        min_confidence: words of a lower one were left out; None where all were kept.
        score: log-probability of the hypotheses, summed over windows.
        formats: in which it was asked for at once.
        recording: the file as it was then; None of ``stdin``.
        notes: what a reader should know: too short, silent or noise, cut off, words that were left
            out, times that are guesses.
    """

    source: str
    name: str
    text: str
    words: tuple[Word, ...]
    duration: float
    model: str
    search: str
    score: float
    formats: tuple[str, ...]
    recording: Recording | None
    min_confidence: float | None = None
    notes: tuple[str, ...] = ()


def segments(words: Sequence[Word], duration: float) -> list[Segment]:
    """Words of a file -> subtitles: parted at pauses, and on until each fits two lines and 7 s."""
    groups = [group for run in _runs(words) for group in _parts(run)]
    shown = []
    for group, after in itertools.zip_longest(groups, groups[1:]):
        start = group[0].start
        end = min(group[-1].end, start + LONGEST_SECONDS)
        limit = after[0].start if after else duration
        end = max(end, min(start + SHORTEST_SECONDS, limit))
        shown.append(Segment(start, end, " ".join(word.text for word in group)))
    return shown


def lines(text: str) -> list[str]:
    """One line, or two as equal as they can be when one is too long."""
    if len(text) <= LINE_CHARACTERS or " " not in text:
        return [text]
    places = [i for i, character in enumerate(text) if character == " "]
    middle = min(places, key=lambda i: max(i, len(text) - i - 1))
    return [text[:middle], text[middle + 1 :]]


def txt(transcript: Transcript) -> str:
    """The text on one line."""
    return transcript.text + "\n"


def as_json(transcript: Transcript) -> str:
    """Everything; times in seconds, rounded to milliseconds."""
    content = asdict(transcript)
    content["segments"] = [
        {"start": round(s.start, 3), "end": round(s.end, 3), "text": s.text}
        for s in segments(transcript.words, transcript.duration)
    ]
    content["words"] = [described(word) for word in transcript.words]
    content["duration"] = round(transcript.duration, 3)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def described(word: Word) -> dict[str, Any]:
    """Plain values; times in seconds, rounded to milliseconds."""
    return {
        "word": word.text,
        "start": round(word.start, 3),
        "end": round(word.end, 3),
        "confidence": None if word.confidence is None else round(word.confidence, 4),
    }


def disagreement(path: Path, heard: Recording | None, labels: Mapping[str, Any]) -> str | None:
    """How a json file differs from what transcribing a recording again would say of itself.

    Args:
        path: the file, as ``as_json`` wrote it, or anything.
        heard: the recording as it is now.
        labels: model, search, min_confidence and formats of the new transcript.

    Returns:
        A predicate for an error message, or None: it is the transcript of this recording, by this
        model and search, and was written together with the other formats.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        told = content["recording"] and Recording(**content["recording"])
        whose = told.path if told else content["source"]
        by, together = (content["model"], content["search"]), set(content["formats"])
        least = content.get("min_confidence")
    except (OSError, ValueError, KeyError, TypeError):
        return "does not say of which recording it is"
    if told is None or heard is None or told.path != heard.path:
        return f"is of another recording ({whose})"
    if told != heard:
        return f"is of {whose} as it was before it changed"
    if by != (labels["model"], labels["search"]):
        return f"is by another model or search ({', '.join(by)})"
    if least != labels["min_confidence"]:
        return f"has the words of min_confidence {least}"
    if new := set(labels["formats"]) - together:
        return f"was written without {', '.join(sorted(new))}"
    return None


def srt(transcript: Transcript) -> str:
    """SubRip: numbered subtitles; an arrow in the text would be read as a time."""
    blocks = []
    for number, segment in enumerate(segments(transcript.words, transcript.duration), start=1):
        times = f"{clock(segment.start, ',')} --> {clock(segment.end, ',')}"
        text = "\n".join(lines(segment.text)).replace("-->", "->")
        blocks.append(f"{number}\n{times}\n{text}\n")
    return "\n".join(blocks)


def vtt(transcript: Transcript) -> str:
    """WebVTT (W3C): ``&``, ``<`` and ``>`` are escaped, which disarms ``-->`` as well."""
    blocks = ["WEBVTT\n"]
    for segment in segments(transcript.words, transcript.duration):
        times = f"{clock(segment.start, '.')} --> {clock(segment.end, '.')}"
        text = html.escape("\n".join(lines(segment.text)), quote=False)
        blocks.append(f"{times}\n{text}\n")
    return "\n".join(blocks)


def tsv(transcript: Transcript) -> str:
    """One word a line: start and end in seconds, word, confidence."""
    rows = ["start\tend\tword\tconfidence"]
    for word in transcript.words:
        confidence = "" if word.confidence is None else f"{word.confidence:.4f}"
        rows.append(f"{word.start:.3f}\t{word.end:.3f}\t{word.text}\t{confidence}")
    return "\n".join(rows) + "\n"


def ctm(transcript: Transcript) -> str:
    """Words as NIST's scorer reads them (sclite: "time marked conversation"), one a line.

    Waveform as the file itself is called, channel 1, start and duration in seconds, word, and its
    confidence unless there is none. Fields are parted by blanks, so that a name has none.
    """
    waveform = "_".join(transcript.name.split())
    rows = []
    for word in map(described, transcript.words):
        duration = word["end"] - word["start"]
        fields = [waveform, "1", f"{word['start']:.3f}", f"{duration:.3f}", word["word"]]
        if word["confidence"] is not None:
            fields.append(f"{word['confidence']:.4f}")
        rows.append(" ".join(fields) + "\n")
    return "".join(rows)


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": txt,
    "json": as_json,
    "srt": srt,
    "vtt": vtt,
    "tsv": tsv,
    "ctm": ctm,
}
TIMED = frozenset(FORMATS) - {"txt"}


def clock(seconds: float, point: str) -> str:
    """``01:02:03,456``; ``point`` is what stands before the milliseconds."""
    rest, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(rest, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}{point}{milliseconds:03}"


def _runs(words: Sequence[Word]) -> list[list[Word]]:
    """Words without a pause between them."""
    runs: list[list[Word]] = []
    for word in words:
        if not runs or word.start - runs[-1][-1].end >= PAUSE_SECONDS:
            runs.append([])
        runs[-1].append(word)
    return runs


def _parts(run: list[Word]) -> list[list[Word]]:
    """Halves a run, and the halves again, until every part fits."""
    if len(run) == 1 or _fits(run):
        return [run]

    def merit(place: int) -> float:
        """Rather at a longer gap, rather near the middle."""
        gap = run[place].start - run[place - 1].end
        return (gap + 0.05) * min(place, len(run) - place)

    place = max(range(1, len(run)), key=merit)
    return _parts(run[:place]) + _parts(run[place:])


def _fits(run: list[Word]) -> bool:
    shown = lines(" ".join(word.text for word in run))
    short = len(shown) <= LINES and all(len(line) <= LINE_CHARACTERS for line in shown)
    return short and run[-1].end - run[0].start <= LONGEST_SECONDS
