"""Audio files with a file of text, subtitles or intervals beside each, which has the same name."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from asr.audio.audio_file import SUFFIXES
from asr.corpora import cells
from asr.corpora.corpus import Row
from asr.corpora.manifest import read_text
from asr.corpora.timed_text import Part, cues, intervals
from asr.folders import Walk, examples, walk


def _whole(path: Path) -> Iterator[Part]:
    lines = read_text(path).split("\n")
    yield {"text": " ".join(line.strip() for line in lines if line.strip())}


READERS: dict[str, Callable[[Path], Iterator[Part]]] = {
    ".txt": _whole,
    ".srt": cues,
    ".vtt": cues,
    ".textgrid": intervals,
}


def find(source: Path, endings: Sequence[str] = tuple(READERS)) -> Walk:
    """Returns the audio and the texts in a folder and its subfolders."""
    return walk(source, SUFFIXES | {*endings}) if source.is_dir() else Walk()


def read(folder: Path, files: Sequence[Path]) -> Iterator[Row]:
    """Reads pairs such as a.wav and a.txt; the name of a subfolder is the speaker."""
    audio: dict[str, list[Path]] = defaultdict(list)
    texts: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        # NFC is used because some systems decompose the letters of a file name and others do not.
        key = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
        (texts if path.suffix.lower() in READERS else audio)[key].append(path)
    for key in list(texts):  # a.en.vtt belongs to a.mp4, and a.mp4.srt as well
        if key not in audio and (shorter := str(Path(key).with_suffix(""))) in audio:
            texts[shorter] += texts.pop(key)
    for key in sorted({*audio, *texts}) if audio else ():
        for path in audio[key]:
            yield from _rows(key, path, texts[key])
        if not audio[key]:  # a README, or the text of a missing recording
            yield cells.unusable(key, "no audio file has this name", "text_without_audio")


def _rows(key: str, audio: Path, texts: list[Path]) -> Iterator[Row]:
    if len(texts) > 1:
        yield cells.unusable(key, f"{examples(texts)} are all there; keep one")
        return
    parts: list[Part] = [{"text": ""}]
    try:
        parts = list(READERS[texts[0].suffix.lower()](texts[0])) if texts else parts
    except (OSError, ValueError) as error:
        parts = [str(error)]
    where = f"{key}{texts[0].suffix if texts else '.txt'}"
    speaker = Path(key).parent.name
    for number, part in enumerate(parts, start=1):
        if isinstance(part, str):
            yield cells.unusable(key if len(parts) == 1 else f"{key}, part {number}", part)
            continue
        name = f"{key}@{part['offset']:.3f}" if "offset" in part else key
        name += f"-{part['speaker']}" if part.get("speaker") else ""  # two may speak at once
        values = {**part, "speaker": part.get("speaker") or speaker}
        yield cells.row(where, audio, values.pop("text"), id=name, **values)
