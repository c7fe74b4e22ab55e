"""What to transcribe: files, folders, globs and standard input, each with a name of its own."""

import glob
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr.audio import SUFFIXES
from asr.folders import counted, walk

log = logging.getLogger(__name__)

STDIN = "-"


@dataclass(frozen=True)
class Source:
    """Something to transcribe.

    Attributes:
        name: how it is called.
        output: how the files of its transcript are called, without endings; unique.
        audio: a path, or the bytes of a file.
    """

    name: str
    output: str
    audio: Path | bytes


def find(inputs: Iterable[str], recursive: bool = False) -> list[Source]:
    """Files, folders, globs and ``-`` -> what to transcribe, each once, folders in sorted order.

    Raises:
        ValueError: an input names nothing.
    """
    found: dict[Path | str, tuple[str, Path | bytes]] = {}
    for entry in inputs:
        if entry == STDIN:
            if STDIN not in found:
                found[STDIN] = ("stdin", sys.stdin.buffer.read())
            continue
        for path in _paths(entry, recursive):
            found.setdefault(path.resolve(), (str(path), path))
    if not found:
        raise ValueError("nothing to transcribe: give audio files, folders, globs, or - for stdin")
    outputs = output_names([name for name, _ in found.values()])
    return [
        Source(name, output, audio)
        for (name, audio), output in zip(found.values(), outputs, strict=True)
    ]


def output_names(names: Sequence[str]) -> list[str]:
    """A distinct file name without ending for each input: ``a.wav`` gives ``a``.

    Where that would be shared, also by names that differ in capitals only, the folders come before
    it as far as needed (``x/a.wav`` gives ``x-a``), then its own ending is kept, then a number.
    """
    steps = [_candidates(name) for name in names]
    level = [0] * len(names)
    while True:
        chosen = [steps[i][min(level[i], len(steps[i]) - 1)] for i in range(len(names))]
        shared = Counter(name.lower() for name in chosen)
        clashing = [i for i, name in enumerate(chosen) if shared[name.lower()] > 1]
        if not clashing:
            return chosen
        for i in clashing:
            level[i] += 1
            if level[i] >= len(steps[i]):
                steps[i].append(f"{steps[i][-1]}-{i + 1}")


def _paths(entry: str, recursive: bool) -> list[Path]:
    path = Path(entry)
    if path.is_dir():
        # The foreign are refused by the decoder: a folder of them is not passed over in silence.
        walked = walk(path, SUFFIXES, recursive)
        if walked.passed_over:
            log.warning("%s: passed over %s", entry, counted(walked.passed_over))
        found = sorted(walked.files)
        if not found:
            inside = "" if recursive else "; --recursive looks into its folders"
            raise ValueError(f"{entry} holds no audio file ({' '.join(sorted(SUFFIXES))}){inside}")
        return found
    if path.exists():
        return [path]
    found = sorted(p for name in glob.glob(entry, recursive=True) if (p := Path(name)).is_file())
    if not found:
        kind = "no file matches this pattern" if glob.has_magic(entry) else "no such file"
        raise ValueError(f"{entry}: {kind}; check the path")
    return found


def _candidates(name: str) -> list[str]:
    path = Path(name)
    folders = [part for part in path.parts[:-1] if part not in ("..", path.anchor)]
    names = ["-".join([*folders[i:], path.stem]) for i in range(len(folders), -1, -1)]
    return [*names, "-".join([*folders, path.name])]
