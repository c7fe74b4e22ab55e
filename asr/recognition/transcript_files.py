"""Reads files of references, and of hypotheses that any recogniser wrote."""

import bisect
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from asr.corpora.manifest import open_text, read_lines
from asr.formatting import numbered

# Keys of JSON lines and columns of tables. NeMo's output has the reference as text, and pred_text.
IDS = ("id", "utt_id", "utterance_id", "utt", "utterance", "key", "audio_filepath", "file_name")
SPEAKERS = ("speaker", "speaker_id", "spk", "spk_id")
TEXTS = ("text", "transcription", "transcript", "sentence")
REFERENCE = ("reference", "ref", *TEXTS)
HYPOTHESIS = ("hypothesis", "hyp", "pred_text", "prediction", *TEXTS)

UNSCORED = "ignore_time_segment_in_scoring"
ALTERNATIVES = re.compile(r"\{.*\s/\s.*\}|<alt", re.IGNORECASE)
SHOWN = 3  # largest number of ids that an error names


class Entry(NamedTuple):
    """The text of an utterance; the speaker is empty if it is not known."""

    id: str
    text: str
    speaker: str = ""


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

    The endings of the names tell the formats, see ``READERS``. Plain text is joined line by line.
    Words of a CTM are joined with the segments of an STM by their times, see ``_spread``.

    Args:
        references: file of the correct texts.
        hypotheses: file of a recogniser.
        missing_as_empty: whether a reference without a hypothesis gets an empty one; otherwise it
            is an error.

    Raises:
        ValueError: a line cannot be read, an id occurs twice, or the files do not match.
        OSError: a file cannot be read.
    """
    kinds = [_kind(path) for path in (references, hypotheses)]
    both = f"{references.name} and {hypotheses.name}"
    if kinds[1] == ".stm" or kinds.count(".ctm") != kinds.count(".stm"):
        raise ValueError(
            f"{both}: .ctm (words with times) are hypotheses for references in .stm (segments with "
            "times); give these two, or two files with ids"
        )
    if kinds.count(".txt") == 1:
        raise ValueError(f"{both}: plain text (.txt) has no ids; give both files as .txt")
    wanted = _entries(references, kinds[0], REFERENCE)
    notes: list[str] = []
    if kinds[1] == ".ctm":
        wanted, found, notes = _spread(wanted, hypotheses)
    else:
        found = {one.id: one.text for one in _entries(hypotheses, kinds[1], HYPOTHESIS)}
    if kinds[1] == ".txt":
        _check_plain(both, [one.text for one in wanted], [*found.values()])
    if missing := [one.id for one in wanted if one.id not in found]:
        why = f"{hypotheses}: no hypothesis for {_named(missing)}"
        if not missing_as_empty:
            raise ValueError(
                f"{why}; add them, or count their words as deleted: --missing-as-empty"
            )
        notes.append(f"{why}: their words count as deleted")
    if extra := sorted(found.keys() - {one.id for one in wanted}):
        raise ValueError(f"{references}: no reference for {_named(extra)}; add or remove them")
    known = [one.speaker for one in wanted if one.speaker]
    return Pairs(
        [one.id for one in wanted],
        known if len(known) == len(wanted) else [],
        [one.text for one in wanted],
        [found.get(one.id, "") for one in wanted],
        notes,
    )


def _kind(path: Path) -> str:
    """The ending of a file, in lower case."""
    kind = path.suffix.lower()
    if kind not in READERS:
        known = ", ".join(one or "no ending (Kaldi's text)" for one in READERS)
        raise ValueError(f"{path}: the ending of the name tells the format; rename it to {known}")
    return kind


def _entries(path: Path, kind: str, keys: Sequence[str]) -> list[Entry]:
    """Reads all utterances of a file.

    Raises:
        ValueError: a text is not UTF-8 or lists alternatives, or an id occurs twice.
    """
    entries = [*READERS[kind](path, keys)]
    for one in entries:
        if re.search("[\ud800-\udfff]", one.text + one.id):
            raise ValueError(f"{path}: {one.id} is not UTF-8; convert the file")
        if kind in (".trn", ".stm") and ALTERNATIVES.search(one.text):
            raise ValueError(
                f"{path}: {one.id} lists alternatives, as {{ a / b }}; write the words that count"
            )
    repeated = [i for i, number in Counter(one.id for one in entries).items() if number > 1]
    if repeated:
        raise ValueError(f"{path}: more than one line for {_named(repeated)}; keep one of each")
    if not entries:
        raise ValueError(f"{path}: no utterances; check the file")
    return entries


def _named(ids: Sequence[str]) -> str:
    """The first ids and the number of the others."""
    left = len(ids) - SHOWN
    return ", ".join(ids[:SHOWN]) + (f" and {left} more" if left > 0 else "")


def _check_plain(both: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Refuses another number of lines, and lines that begin with the same ids."""
    if len(wanted) != len(found):
        raise ValueError(f"{both}: {len(wanted)} lines and {len(found)}; they must match by line")
    first = [text.split(maxsplit=1)[:1] for text in wanted]
    same = first == [text.split(maxsplit=1)[:1] for text in found]
    if same and len(wanted) > 2 and len({tuple(word) for word in first}) == len(wanted):
        raise ValueError(
            f"{both}: each line begins with a word of its own, the same in both files "
            f"({_named([*map(' '.join, first)])}); if these are ids, remove .txt from the names"
        )


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Place and fields of each line but empty ones and comments (``;;``)."""
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if (fields := line.split()) and not fields[0].startswith(";;"):
                yield f"{path.name}, line {number}", fields


def _plain(path: Path, keys: Sequence[str]) -> Iterator[Entry]:
    """A text on each line; its number is the id."""
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            yield Entry(str(number), line.strip())


def _kaldi(path: Path, keys: Sequence[str]) -> Iterator[Entry]:
    """The id, then the text."""
    for _, fields in _lines(path):
        yield Entry(fields[0], " ".join(fields[1:]))


def _trn(path: Path, keys: Sequence[str]) -> Iterator[Entry]:
    """The text, then (id); the speaker ends at the first - or _, as for sclite's ``spu_id``."""
    for where, fields in _lines(path):
        if not (found := re.fullmatch(r"(.*)\(([^()\s]+)\)", " ".join(fields))):
            raise ValueError(f"{where} does not end in an utterance's id, as (speaker-number)")
        parts = re.split("[-_]", found[2], maxsplit=1)
        yield Entry(found[2], found[1].strip(), parts[0] if len(parts) > 1 else "")


def _table(path: Path, keys: Sequence[str]) -> Iterator[Entry]:
    """A JSON object on each line, or a table with a header; ``keys`` may hold the text."""
    for number, line in read_lines(path):
        where = f"{path.name}, line {number}"
        if isinstance(line, str):
            raise ValueError(f"{where}: {line}")
        name, text, speaker = (
            next((line[key] for key in names if key in line), None)
            for names in (IDS, keys, SPEAKERS)
        )
        if not isinstance(name, str) or not isinstance(text, str):
            shown = ", ".join(f"{key}: {value!r:.20}" for key, value in line.items())
            raise ValueError(
                f"{where} needs an id ({', '.join(IDS)}) and a text ({', '.join(keys)}), and has "
                f"{shown or 'nothing'}"
            )
        if "id" not in line and line.get("offset"):
            name += f"@{line['offset']}"  # a part of a long recording
        yield Entry(name, text, str(speaker or ""))


def _stm(path: Path, keys: Sequence[str]) -> Iterator[Entry]:
    """File, channel, speaker, begin, end, labels if they are known, text."""
    for where, fields in _lines(path):
        if len(fields) < 5 or _seconds(fields[3], where) > _seconds(fields[4], where):
            raise ValueError(f"{where} does not begin with file, channel, speaker, begin and end")
        words = fields[5:]
        if words and re.fullmatch("<[^<>]*>", words[0]):
            words = words[1:]
        name = " ".join([*fields[:2], "-".join(fields[3:5])])
        yield Entry(name, " ".join(words), fields[2])


def _seconds(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{where}: {text!r} is not a time in seconds") from None


# The formats by the ending of the file; that of a CTM is in ``_spread``, which needs the segments.
READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[Entry]]] = {
    ".trn": _trn,
    ".stm": _stm,
    ".ctm": _kaldi,
    ".jsonl": _table,
    ".json": _table,
    ".csv": _table,
    ".tsv": _table,
    ".txt": _plain,
    "": _kaldi,
}


def _spread(segments: list[Entry], path: Path) -> tuple[list[Entry], dict[str, str], list[str]]:
    """Gives each word of a CTM to the segment of the STM that holds the middle of the word.

    A word between two segments belongs to the later one, and a word after the last one to the last
    one, where it counts as inserted; NIST's sclite does the same. Segments that the STM excludes
    are left out with their words.

    Returns:
        The segments that count, their texts by id, and notes.
    """
    places: dict[tuple[str, ...], list[tuple[float, float, Entry]]] = defaultdict(list)
    for one in segments:
        *recording, times = one.id.rsplit(" ", 2)
        start, end = map(float, re.split(r"(?<=[\d.])-", times, maxsplit=1))
        places[tuple(recording)].append((start, end, one))
    for own in places.values():
        own.sort(key=lambda place: place[:2])
    heard: dict[tuple[str, ...], list[tuple[float, str]]] = defaultdict(list)
    for where, fields in _lines(path):
        if len(fields) < 5 or ALTERNATIVES.match(fields[4]):
            raise ValueError(f"{where} needs file, channel, begin, duration and one word")
        begin, length = (_seconds(text, where) for text in fields[2:4])
        heard[tuple(fields[:2])].append((begin + length / 2, fields[4]))
    if extra := [" ".join(key) for key in heard if key not in places]:
        raise ValueError(f"{path}: no segment of file and channel {_named(extra)}; check the names")
    found: dict[str, list[str]] = {
        one.id: [] for key, own in places.items() if key in heard for _, _, one in own
    }
    outside = 0
    for key, words in heard.items():
        own = places[key]
        ends = [end for _, end, _ in own]
        for middle, word in sorted(words, key=lambda pair: pair[0]):
            number = min(bisect.bisect_left(ends, middle), len(own) - 1)
            found[own[number][2].id].append(word)
            outside += not own[number][0] <= middle <= own[number][1]
    unscored = {one.id for one in segments if one.text.lower() == UNSCORED}
    overlapping = sum(b[0] < a[1] for own in places.values() for a, b in pairwise(own))
    notes = {
        f"{numbered(outside, 'word')} in no segment: given to the next one": outside,
        f"{numbered(len(unscored), 'segment')} excluded by {UNSCORED}": len(unscored),
        f"{numbered(overlapping, 'segment')} beginning before the last one ends: a word in two is "
        "given to the one that began first": overlapping,
    }
    return (
        [one for one in segments if one.id not in unscored],
        {i: " ".join(words) for i, words in found.items() if i not in unscored},
        [note for note, number in notes.items() if number],
    )
