"""The layouts of folders: how each is recognised and read. ``LAYOUTS`` lists them all."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Literal, NamedTuple

from asr.corpora import beside, kaldi, lhotse, manifest, timed_text
from asr.corpora.corpus import Row
from asr.folders import Walk, examples, is_hidden, walk

Name = Literal["auto", "kaldi", "lhotse", "stm", "manifest", "text", "subtitles", "textgrid"]


class Layout(NamedTuple):
    """A way to store recordings and their texts.

    Attributes:
        find: returns the files of the layout in a folder, or the file itself; none if the folder
            or file has another layout.
        read: yields the rows of a folder or file; the second argument is what ``find`` returned.
        sign: what the layout is recognised by, for messages.
    """

    find: Callable[[Path], Walk]
    read: Callable[[Path, Sequence[Path]], Iterator[Row]]
    sign: str = ""


READERS, TABLES = ", ".join(beside.READERS), ", ".join(manifest.MANIFESTS)
LAYOUTS = {  # the first layout that finds its files is taken
    "kaldi": Layout(kaldi.find, kaldi.read, "wav.scp and text (Kaldi, ESPnet)"),
    "lhotse": Layout(lhotse.find, lhotse.read, "cuts, or recordings and supervisions (lhotse)"),
    "stm": Layout(timed_text.find_stm, timed_text.read_stm, ".stm"),
    "manifest": Layout(manifest.find, manifest.read, f"a manifest ({TABLES}, metadata.parquet)"),
    "beside": Layout(beside.find, beside.read, f"audio beside {READERS}"),
    "text": Layout(partial(beside.find, endings=(".txt",)), beside.read),
    "subtitles": Layout(partial(beside.find, endings=(".srt", ".vtt")), beside.read),
    "textgrid": Layout(partial(beside.find, endings=(".textgrid",)), beside.read),
}
REMEDIES = {  # what to do with files that are not read, by their endings
    ".ctm": "a .ctm has words and no utterances: give an .stm",
    ".eaf": "export .eaf files from ELAN as TextGrid",
    ".ark": "write the audio in .ark files to wav or flac files",
    ".scp": "give the folder that holds wav.scp, or name its folders train, dev and test",
    ".tar": "unpack the .tar files",
    ".parquet": "asr prepare hub --path reads .parquet files",
    **dict.fromkeys(manifest.MANIFESTS, "give the folder that holds the manifest"),
    **dict.fromkeys(beside.READERS, "give the folder that holds the texts and their audio"),
}


def layout_of(source: Path, wanted: Name = "auto") -> Layout:
    """Returns the wanted layout of a folder, or the first that finds its files there."""
    if source.is_dir() and wanted != "auto":
        return LAYOUTS[wanted]
    ending = source.suffix.lower()
    if source.is_file() and ending in REMEDIES.keys() - {".parquet", ".txt", *manifest.MANIFESTS}:
        raise ValueError(f"{source} is not a manifest; {REMEDIES[ending]}")
    other = LAYOUTS["manifest" if source.is_file() else "beside"]
    before = takewhile(lambda layout: layout is not other, LAYOUTS.values())
    return next((layout for layout in before if layout.find(source).files), other)


def read_all(source: Path, wanted: Name) -> list[Row]:
    """Lists the rows of one split without reading audio.

    Raises:
        ValueError: there are no rows, none is usable, or the texts are in files that are not read.
    """
    layout, is_folder = layout_of(source, wanted), source.is_dir()
    rows = list(layout.read(source, layout.find(source).files))
    if not any(row.text or row.fault for row in rows):
        names = [p for p in sorted(source.iterdir()) if not is_hidden(p.name)] if is_folder else []
        endings = {path.suffix.lower() for path in (walk(source).files if is_folder else ())}
        remedies = dict.fromkeys(REMEDIES[ending] for ending in REMEDIES if ending in endings)
        if not rows or remedies:
            signs = "; ".join(layout.sign for layout in LAYOUTS.values() if layout.sign)
            found = "; ".join([examples([path.name for path in names]) or "nothing", *remedies])
            raise ValueError(f"{source} holds no utterances; looked for {signs}; found {found}")
    if all(row.fault for row in rows) and rows[0].fault is not None:
        raise ValueError(f"{source}: none of {len(rows)} rows is usable; {rows[0].fault}")
    return rows
