"""The transcript of a file, and the facts that identify its recording."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Word:
    """A word with its times.

    Attributes:
        text: the word, without spaces.
        start, end: times in seconds.
        confidence: probability that the word is correct; None if the times are a guess, because
            there were more tokens than encoder frames.
        letters: begin and end of each character, as shares of the duration; empty if not known.
    """

    text: str
    start: float
    end: float
    confidence: float | None
    letters: tuple[tuple[float, float], ...] = field(default=(), compare=False, repr=False)

    def described(self) -> dict[str, Any]:
        """Plain values; times in seconds, rounded to milliseconds."""
        return {
            "word": self.text,
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "confidence": None if self.confidence is None else round(self.confidence, 4),
        }


@dataclass(frozen=True)
class RecordedFile:
    """Facts that identify an audio file without reading it.

    Attributes:
        path: absolute path, with links resolved.
        size_bytes: size of the file.
        modified_seconds: Unix time of the last change.
    """

    path: str
    size_bytes: int
    modified_seconds: float

    @classmethod
    def of(cls, audio: Path | bytes) -> "RecordedFile | None":
        """The facts of a file; None for bytes, and for a missing file (reading it fails later)."""
        if isinstance(audio, bytes) or not audio.exists():
            return None
        facts = audio.stat()
        return cls(str(audio.resolve()), facts.st_size, facts.st_mtime)


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """The transcript of one file.

    Attributes:
        source: the file, or ``stdin``.
        name: name of the transcript's files, without their suffixes.
        text: the words, separated by spaces.
        words: words with times; empty unless a format with times was requested.
        duration: seconds of audio.
        model: name of the model that recognised it.
        search: the search with its options.
        score: log-probability of the hypotheses, summed over windows.
        formats: all formats that were requested.
        recording: the file at that time; None for ``stdin``.
        min_confidence: words of a lower confidence were left out; None if all were kept.
        max_chars_per_second: reading speed that subtitles keep where they can; None: no limit.
        notes: remarks for the reader, for instance on silence, noise, unfinished hypotheses, words
            that were left out, or times that are estimates.
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
    recording: RecordedFile | None
    min_confidence: float | None = None
    max_chars_per_second: float | None = None
    notes: tuple[str, ...] = ()


def disagreement(
    path: Path, recording: RecordedFile | None, labels: Mapping[str, Any]
) -> str | None:
    """Returns how a json transcript differs from a new transcript of a recording.

    Args:
        path: a file of the format json, or any other file.
        recording: the recording as it is now.
        labels: model, search, min_confidence, max_chars_per_second and formats of the new
            transcript.

    Returns:
        A predicate for an error message, or None: it is the transcript of this recording, by this
        model and search, and was written together with the other formats.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        before = content["recording"] and RecordedFile(**content["recording"])
        whose = before.path if before else content["source"]
        by, together = (content["model"], content["search"]), set(content["formats"])
        limits = {name: content.get(name) for name in ("min_confidence", "max_chars_per_second")}
    except (OSError, ValueError, KeyError, TypeError):
        return "does not name its recording"
    if before is None or recording is None or before.path != recording.path:
        return f"is the transcript of another recording ({whose})"
    if before != recording:
        return f"was made before {whose} changed"
    if by != (labels["model"], labels["search"]):
        return f"was made by another model or search ({', '.join(by)})"
    for name, limit in limits.items():
        if limit != labels[name]:
            return f"was made with {name} {limit}"
    if new := set(labels["formats"]) - together:
        return f"was written without {', '.join(sorted(new))}"
    return None
