"""Texts with times: NIST's STM, subtitles (SubRip and WebVTT) and Praat's TextGrid."""

import functools
import html
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from asr.audio.audio_file import SUFFIXES
from asr.corpora import cells
from asr.corpora.corpus import Row
from asr.corpora.kaldi import channel_of_side
from asr.corpora.manifest import read_text
from asr.folders import Walk, examples, walk

Part = Mapping[str, Any] | str  # values for ``cells.row``, or an error message

NO_SPEECH = "ignore_time_segment_in_scoring"  # the text of an STM segment that holds no speech
CLOCK = r"(?:(\d+):)?(\d+):(\d+[.,]\d+)"
CUE_TIMES = re.compile(rf"\s*{CLOCK}\s*-->\s*{CLOCK}")
VOICE = re.compile(r"<v[.\w]*\s+([^>]+)>")
# Tags of style in WebVTT and SubRip, times of words, and positions in SubStation's form.
STYLE = re.compile(
    r"</?(?:[bisuvc]|rt|ruby|lang|font|span)(?:[\s.][^<>]*)?>|<[\d:.]+>|\{\\[^{}]*\}", re.I
)
# Praat reads numbers, quoted texts and flags that stand free; everything else is a comment.
PRAAT_VALUE = re.compile(r'(?<!\S)(?:"(?:[^"]|"")*"|[-+]?\d[\d.e+-]*|<\w+>)(?!\S)', re.I)
ALIGNED_TIER = re.compile(r"\b(words?|phones?|phonemes?|syllables?)$", re.I)


def find_stm(source: Path) -> Walk:
    """Returns an STM file, or those of a folder and its subfolders."""
    is_stm = source.suffix.lower() == ".stm"
    return walk(source, {".stm"}) if source.is_dir() else Walk([source] * is_stm)


def read_stm(source: Path, tables: Sequence[Path]) -> Iterator[Row]:
    """Reads the segments of STM files; a recording has the name that its segments give."""
    audio: dict[str, list[Path]] = defaultdict(list)
    for path in walk(source if source.is_dir() else source.parent, SUFFIXES).files:
        audio[path.stem].append(path)
    side = functools.cache(channel_of_side)
    for table in tables:
        for number, line in enumerate(read_text(table).split("\n"), start=1):
            where = f"{table.name}, line {number}"
            name, called, speaker, begin, end, text = (*line.split(maxsplit=5), *[""] * 6)[:6]
            if not name or name.startswith(";;"):
                continue
            files = audio.get(name) or audio.get(Path(name).stem) or [Path(f"{name}.wav")]
            text = re.sub(r"^<\S*>\s*", "", text).replace(NO_SPEECH, "").strip()
            why = f"{examples(files)} are all there; keep one" * (len(files) > 1)
            if re.search(r"\{.*/.*\}", text):
                why = f"its text has alternatives ({text:.60}); write one of them"
            try:
                start, duration = float(begin), float(end) - float(begin)
            except ValueError:
                why = "needs file, channel, speaker, start, end and text"
            if why:
                yield cells.unusable(where, why)
                continue
            yield cells.row(
                where, files[0], text, id=f"{name}@{start:.3f}-{speaker}", speaker=speaker,
                offset=start, duration=duration, channel=side(called, files[0]),
            )  # fmt: skip


def cues(path: Path) -> Iterator[Part]:
    """Reads the subtitles of a file; a voice (``<v Name>``) is the speaker."""
    is_vtt = path.suffix.lower() == ".vtt"
    blocks = re.split(r"\n\n+" if is_vtt else r"\n(?:[ \t]*\n)+", read_text(path))
    before = ("", 0.0)  # last line and end of the subtitle before
    for number, block in enumerate(blocks, start=1):
        lines = block.strip("\n").split("\n")
        times = next(filter(None, map(CUE_TIMES.match, lines[:2])), None)
        if times is None:
            if block.strip() and not (is_vtt and re.match("WEBVTT|NOTE|STYLE|REGION", lines[0])):
                yield f"block {number} of {path.name} has no times: {lines[0]:.60}"
            continue
        start, end = _seconds(*times.groups("0")[:3]), _seconds(*times.groups("0")[3:])
        lines = lines[lines.index(times.string) + 1 :]
        voices = {html.unescape(voice).strip() for voice in VOICE.findall("\n".join(lines))}
        shown = [" ".join(STYLE.sub("", line).split()) for line in lines]
        shown = [html.unescape(line) if is_vtt else line for line in shown if line]
        repeats = shown[:1] == [before[0]] and start - before[1] < 0.02
        before = ((shown or [""])[-1], end)
        if repeats:  # the automatic captions of YouTube move up line by line
            yield f"block {number} of {path.name} repeats the line before: {shown[0]:.60}"
            continue
        yield {
            "text": " ".join(shown),
            "offset": start,
            "duration": end - start,
            "speaker": voices.pop() if len(voices) == 1 else None,
        }


def _seconds(hours: str, minutes: str, seconds: str) -> float:
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds.replace(",", "."))


def intervals(path: Path) -> Iterator[Part]:
    """Reads the intervals of a TextGrid; one without text is a pause.

    Several tiers are the tiers of several speakers, whose names they have.
    """
    values = iter(PRAAT_VALUE.findall(read_text(path)))
    tiers: dict[str, list[list[str]]] = defaultdict(list)
    try:
        *_, kind, _, _, _, tier_count = islice(values, 6)
        if kind != '"TextGrid"':
            raise ValueError
        for _ in range(int(tier_count)):
            tier, name, _, _, count = islice(values, 5)
            wide = tier == '"IntervalTier"'
            entries = [[next(values) for _ in range(2 + wide)] for _ in range(int(count))]
            spoken = [entry for entry in entries if wide and entry[2].strip('"').strip()]
            tiers[name[1:-1]] += spoken
    except (StopIteration, ValueError):
        yield f"{path.name} is not a TextGrid in a text format; save it in Praat as a text file"
        return
    tiers = {name: spoken for name, spoken in tiers.items() if spoken}
    if aligned := [name for name in tiers if ALIGNED_TIER.search(name)]:
        why = f"{path.name} has tiers of single words or sounds ({examples(aligned)})"
        yield f"{why}; keep one tier of utterances for each speaker"
        return
    for name, spoken in tiers.items():
        for begin, end, text in spoken:
            times = {"offset": float(begin), "duration": float(end) - float(begin)}
            words = " ".join(text[1:-1].replace('""', '"').split())
            yield {"text": words, **times, "speaker": name if len(tiers) > 1 else None}
