"""Reads files of references, and of hypotheses that any recogniser wrote."""

import bisect
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from asr.corpora.manifest import open_text, read_lines
from asr.formatting import numbered

# What a line of each format must be, as a pattern and in words. The speaker of a trn ends at the
# first - or _, as for sclite's spu_id.
LINES = {
    ".trn": (
        r"(?P<text>.*?) ?\((?P<id>(?:(?P<speaker>[^()\s_-]+)[_-])?[^()\s]+)\)",
        "a text and then an id in parentheses",
    ),
    ".stm": (
        r"(?P<id>(?P<recording>\S+ \S+) (?P<speaker>\S+) (?P<start>\d+\.?\d*) (?P<end>\d+\.?\d*))"
        r"(?: <[^<>]*>)?(?: (?P<text>.*))?",
        "file, channel, speaker, begin, end and text",
    ),
    ".ctm": (
        r"(?P<id>(?P<recording>\S+ \S+)) (?P<start>\d+\.?\d*) (?P<length>\d+\.?\d*) "
        r"(?P<text>(?!<ALT)\S+)(?: .*)?",
        "file, channel, begin, duration and word",
    ),
    ".txt": (r"(?P<text>.*)", "a text"),
    "": (r"(?P<id>\S+)(?: (?P<text>.*))?", "an id and a text"),
}
TABLES = (".jsonl", ".json", ".csv", ".tsv")
# Keys of JSON lines and columns of tables. NeMo's output has the reference as text, and pred_text.
IDS = ("id", "utt_id", "utterance_id", "utt", "utterance", "key", "audio_filepath", "file_name")
SPEAKERS = ("speaker", "speaker_id", "spk", "spk_id")
TEXTS = ("text", "transcription", "transcript", "sentence")
REFERENCE = ("reference", "ref", *TEXTS)
HYPOTHESIS = ("hypothesis", "hyp", "pred_text", "prediction", *TEXTS)

UNSCORED = "ignore_time_segment_in_scoring"
ALTERNATIVES = re.compile(r"\{.*\s/\s.*\}")
SHOWN = 3  # largest number of ids that an error names


class Entry(NamedTuple):
    """An utterance, a segment of an STM or a word of a CTM; what is not known is empty or 0.

    Attributes:
        recording: file and channel.
        start, end: times in seconds.
    """

    id: str
    text: str
    speaker: str = ""
    recording: str = ""
    start: float = 0.0
    end: float = 0.0


class Pairs(NamedTuple):
    """References and hypotheses of the same utterances, in the order of the references.

    Attributes:
        speakers: empty if the speaker of an utterance is not known.
        notes: what was left out or added, in sentences.
    """

    ids: list[str]
    speakers: list[str]
    references: list[str]
    hypotheses: list[str]
    notes: list[str]


def read_pairs(references: Path, hypotheses: Path, missing_as_empty: bool = False) -> Pairs:
    """Reads two files and joins them by the ids of utterances.

    The endings of the names tell the formats. Plain text is joined line by line, and words of a CTM
    with the segments of an STM by their times, see ``_spread``.

    Args:
        references: file of the correct texts.
        hypotheses: file of a recogniser.
        missing_as_empty: whether a reference without a hypothesis gets an empty one; otherwise it
            is an error.

    Raises:
        ValueError: a line cannot be read, an id occurs twice, or the files do not match.
        OSError: a file cannot be read.
    """
    both, kinds = f"{references.name} and {hypotheses.name}", []
    for path in (references, hypotheses):
        kinds.append(path.suffix.lower())
        if kinds[-1] not in (*LINES, *TABLES):
            known = ", ".join(filter(None, (*LINES, *TABLES)))
            raise ValueError(f"{path}: rename it; {known} or no ending tells its format")
    if kinds[1] == ".stm" or kinds.count(".ctm") != kinds.count(".stm"):
        raise ValueError(f"{both}: give references as .stm with hypotheses as .ctm, or neither")
    if kinds.count(".txt") == 1:
        raise ValueError(f"{both}: plain text (.txt) has no ids; give both files as .txt")
    wanted, heard = _entries(references, REFERENCE), _entries(hypotheses, HYPOTHESIS)
    notes: list[str] = []
    if kinds[1] == ".ctm":
        wanted, heard, notes = _spread(wanted, heard)
    for path, entries in ((references, wanted), (hypotheses, heard)):
        counted = Counter(one.id for one in entries)
        if repeated := [name for name, number in counted.items() if number > 1]:
            raise ValueError(f"{path}: more than one line for {_named(repeated)}; keep one of each")
    if kinds[1] == ".txt":
        _check_plain(both, [one.text for one in wanted], [one.text for one in heard])
    found, ids = {one.id: one.text for one in heard}, [one.id for one in wanted]
    if missing := [name for name in ids if name not in found]:
        why = f"{hypotheses}: no hypothesis for {_named(missing)}"
        if not missing_as_empty:
            raise ValueError(f"{why}; add them, or count them as empty: --missing-as-empty")
        notes.append(f"{why}: their words count as deleted")
    if extra := sorted(found.keys() - set(ids)):
        raise ValueError(f"{references}: no reference for {_named(extra)}; add or remove them")
    speakers = [one.speaker for one in wanted]
    texts, said = [one.text for one in wanted], [found.get(name, "") for name in ids]
    return Pairs(ids, speakers if all(speakers) else [], texts, said, notes)


def _named(ids: Sequence[str]) -> str:
    """Returns the first ids, and the number of the others."""
    left = len(ids) - SHOWN
    return ", ".join(ids[:SHOWN]) + (f" and {left} more" if left > 0 else "")


def _check_plain(both: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Refuses another number of lines, and lines that begin with the same ids."""
    if len(wanted) != len(found):
        raise ValueError(f"{both}: {len(wanted)} lines and {len(found)}; they must match by line")
    first, other = ([" ".join(t.split()[:1]) for t in own] for own in (wanted, found))
    if first == other and 2 < len(first) == len(set(first)):
        raise ValueError(
            f"{both}: each line begins with a word of its own, the same in both files "
            f"({_named(first)}); if these are ids, remove .txt from the names"
        )


def _entries(path: Path, keys: Sequence[str]) -> list[Entry]:
    """Reads a file; ``keys`` may hold the text of JSON lines or of a table."""
    kind, entries = path.suffix.lower(), []
    if kind in TABLES:
        entries = _table(path, keys)
    else:
        pattern, meaning = LINES[kind]
        with open_text(path) as file:
            for number, text in enumerate(file, start=1):
                line = " ".join(text.split())
                if kind != ".txt" and (not line or line.startswith(";;")):
                    continue
                if not (match := re.fullmatch(pattern, line)):
                    raise ValueError(f"{path.name}, line {number} is not {meaning}: {line:.60}")
                own = {"id": str(number), **match.groupdict("")}
                start, length = (float(own.pop(name, 0)) for name in ("start", "length"))
                end = float(own.pop("end", start + length))
                entries.append(Entry(**own, start=start, end=end))
    for one in entries:
        if re.search("[\ud800-\udfff]", one.id + one.text):
            raise ValueError(f"{path}: {one.id} is not UTF-8; convert the file")
        if kind in (".trn", ".stm") and ALTERNATIVES.search(one.text):
            raise ValueError(f"{path}: {one.id} has alternatives {{ a / b }}; write one of them")
    if not entries:
        raise ValueError(f"{path}: no utterances; check the file")
    return entries


def _table(path: Path, keys: Sequence[str]) -> list[Entry]:
    """Reads a JSON object on each line, or a table with a header."""
    entries = []
    for number, line in read_lines(path):
        where = f"{path.name}, line {number}"
        if isinstance(line, str):
            raise ValueError(f"{where}: {line}")
        name, text, speaker = (
            next((line[key] for key in names if key in line), None)
            for names in (IDS, keys, SPEAKERS)
        )
        if not isinstance(name, str) or not isinstance(text, str):
            shown = ", ".join(f"{key}: {value!r:.20}" for key, value in line.items()) or "nothing"
            raise ValueError(
                f"{where} needs an id ({', '.join(IDS)}) and a text ({', '.join(keys)}), and has "
                f"{shown}"
            )
        if "id" not in line and line.get("offset"):
            name += f"@{line['offset']}"  # a part of a long recording
        entries.append(Entry(name, text, str(speaker or "")))
    return entries


def _spread(
    segments: Sequence[Entry], words: Sequence[Entry]
) -> tuple[list[Entry], list[Entry], list[str]]:
    """Gives each word of a CTM to the segment of the STM that holds the middle of the word.

    A word between two segments belongs to the later one, and a word after the last one to the last
    one, where it counts as inserted; NIST's sclite does the same. Segments that the STM excludes
    are left out with their words. A recording without words has no hypotheses.

    Returns:
        The segments that count, their hypotheses, and notes.
    """
    places: dict[str, list[Entry]] = defaultdict(list)
    for one in sorted(segments, key=lambda one: (one.start, one.end)):
        places[one.recording].append(one)
    ends = {name: [one.end for one in own] for name, own in places.items()}
    heard = {word.recording for word in words}
    found: dict[Entry, list[str]] = {one: [] for one in segments if one.recording in heard}
    outside = 0
    for word in sorted(words, key=lambda word: word.start + word.end):
        middle, name = (word.start + word.end) / 2, word.recording
        if name not in places:
            raise ValueError(f"no segment of file and channel {name}; check the names in the .ctm")
        one = places[name][min(bisect.bisect_left(ends[name], middle), len(ends[name]) - 1)]
        found[one].append(word.text)
        outside += not one.start <= middle <= one.end
    scored = [one for one in segments if one.text.lower() != UNSCORED]
    excluded = len(segments) - len(scored)
    overlapping = sum(b.start < a.end for own in places.values() for a, b in pairwise(own))
    notes = {
        f"{numbered(outside, 'word')} in no segment: given to the next one": outside,
        f"{numbered(excluded, 'segment')} excluded by {UNSCORED}": excluded,
        f"{numbered(overlapping, 'segment')} beginning before the last one ends: a word in two is "
        "given to the one that began first": overlapping,
    }
    heard_in = [Entry(one.id, " ".join(found[one])) for one in scored if one in found]
    return scored, heard_in, [note for note, number in notes.items() if number]
