"""Compares a model with PocketSphinx: word error rate and CPU seconds per second of audio.

    python -m benchmarks.against_pocketsphinx MODEL --corpus FOLDER --split test --utterances 60

The first call installs PocketSphinx and its English model into an environment of its own, the
folder of ``--environment``. The comparison keeps these things equal:

- Audio: both sides get the same 16-bit samples at 16 kHz, as one file per utterance. The utterances
  are drawn from the split with ``--seed``.
- Machine: both sides recognise each utterance before the next one begins, so a slow moment of the
  machine affects both. Each side is one process that computes with one thread.
- Text: ``english`` normalises references and hypotheses. PocketSphinx marks a pronunciation other
  than the first of a word by a number, as in ``a(2)``. The number is removed.
- Errors: both sides are scored by the same alignment. Intervals hold for other speakers, and that
  of the difference is of pairs: both sides recognised the same utterances.

PocketSphinx has the settings that its ``Decoder`` has without arguments, as of version 5: the
language model of three words, and a running mean of the cepstra that goes on from utterance to
utterance. asr transcribes as ``asr transcribe`` does a single file, with the search and language
model that were saved with the model.

CPU seconds are those of recognition alone, in all threads of a process. Those of asr include the
decoding of the audio file, and those of PocketSphinx do not, because it gets samples. Loading is
told apart. It is the CPU time to read the model; for asr it includes a first recognition that does
not count, because it loads kernels and modules. The start of Python and the imports do not count.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import random
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from asr.audio.sources import AudioInput
from asr.commands.options import Parser, fail
from asr.data.utterances import decode_rows, read_corpus, read_rows
from asr.files import write
from asr.formatting import digits, numbered, percent_interval, points_interval, whole_number
from asr.items import one_line
from asr.metering.environment import environment
from asr.model import SpeechModel, load_model
from asr.recognition.transcribe import transcribe
from asr.statistics.bootstrap import bootstrap_interval, resampling_unit
from asr.statistics.comparison import MIN_SPEAKERS, Difference, compare_all
from asr.text.normalisers import english, without_tags
from asr.text.scoring import align

VERSION = "5.1.1"  # of June 2026, the newest in December 2026
RATE = 16000  # Hz, of PocketSphinx's English model
WORKER = Path(__file__).with_name("pocketsphinx_worker.py")
ENVIRONMENT = Path(__file__).parents[1] / ".venv-pocketsphinx"
PRONUNCIATION = re.compile(r"\(\d+\)")
THEIRS, OURS = "PocketSphinx", "asr"


@dataclass
class Drawn:
    """The utterances to recognise, in the order of the draw.

    Attributes:
        ids: id of each utterance.
        speakers: its speaker.
        references: its normalised text.
        waves: its samples (N,) int16 at ``RATE``.
        rows_sha256: checksum of the split.
    """

    ids: list[str]
    speakers: list[str]
    references: list[str]
    waves: list[np.ndarray]
    rows_sha256: str

    @property
    def seconds(self) -> float:
        """Length of all utterances together."""
        return sum(map(len, self.waves)) / RATE


@dataclass
class Recognised:
    """What one side recognised.

    Attributes:
        loading: CPU seconds to load the model.
        texts: normalised text of each utterance.
        seconds: CPU seconds of each utterance.
    """

    loading: float
    texts: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, text: str, seconds: float) -> None:
        """Adds the next utterance with its text as it was recognised."""
        self.texts.append(normalised(text))
        self.seconds.append(seconds)


class PocketSphinx:
    """PocketSphinx in a process of its own environment.

    Attributes:
        version: version of PocketSphinx.
        loading: CPU seconds to load its model.
    """

    def __init__(self, folder: Path) -> None:
        """Starts the process with the Python of an environment.

        Raises:
            ValueError: the process failed.
        """
        command = [str(python_of(folder)), str(WORKER)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        about = self._answer()
        self.version, self.loading = about["version"], about["loading"]

    def recognise(self, name: str, wave: np.ndarray) -> tuple[str, float]:
        """Returns the text of the samples (N,) int16 of an utterance, and the CPU seconds.

        Raises:
            ValueError: the process failed.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # ``_answer`` reports that the process ended
            self._process.stdin.write(len(wave).to_bytes(4, "little"))
            self._process.stdin.write(wave.astype("<i2").tobytes())
            self._process.stdin.flush()
        answer = self._answer(f" at {name}")
        return answer["text"], answer["seconds"]

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _answer(self, place: str = "") -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            ended = f"PocketSphinx ended with status {self._process.wait()}{place}"
            raise ValueError(f"{ended}; its messages are above")
        return json.loads(line)


class Asr:
    """A model of asr in this process.

    Attributes:
        model: the model with its own search and language model.
        loading: CPU seconds to load it and to recognise an utterance for the first time.
    """

    def __init__(self, path: str, name: str, first: np.ndarray) -> None:
        """Loads a model, and recognises samples (N,) int16 in a recognition that does not count.

        Raises:
            ValueError: there is no such model, or it cannot recognise the samples.
        """
        began = time.process_time()
        self.model: SpeechModel = load_model(path)
        self.recognise(name, first)
        self.loading = time.process_time() - began

    def recognise(self, name: str, wave: np.ndarray) -> tuple[str, float]:
        """Returns the text of the samples (N,) int16 of an utterance, and the CPU seconds.

        Raises:
            ValueError: the samples cannot be recognised.
        """
        file = io.BytesIO()
        soundfile.write(file, wave, RATE, format="WAV", subtype="PCM_16")
        source = AudioInput(name, name, file.getvalue())
        with contextlib.redirect_stderr(io.StringIO()):  # no bar for a single file
            began = time.process_time()
            [result] = transcribe(self.model, [source])
            spent = time.process_time() - began
        if result.transcript is None:
            raise ValueError(f"asr: {result.error}")
        return result.transcript.text, spent


def normalised(text: str) -> str:
    """Returns the words of a text without tags and without numbers of pronunciations."""
    return english(without_tags(PRONUNCIATION.sub("", text)))


def python_of(folder: Path) -> Path:
    """The Python of an environment."""
    return folder / "bin" / "python"


def install(folder: Path) -> None:
    """Makes the environment of PocketSphinx unless it is there.

    Raises:
        ValueError: the environment cannot be made, or there is no wheel for this machine.
    """
    python = str(python_of(folder))
    wanted = f"import importlib.metadata as m; exit(m.version('pocketsphinx') != {VERSION!r})"
    if python_of(folder).exists():
        if subprocess.run([python, "-c", wanted], capture_output=True).returncode == 0:
            return
    else:
        _call([sys.executable, "-m", "venv", str(folder)], f"no environment in {folder}")
    print(f"installing PocketSphinx {VERSION} into {folder}", file=sys.stderr)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _call(
        [*pip, "--only-binary", "pocketsphinx", f"pocketsphinx=={VERSION}"],
        f"no wheel of pocketsphinx {VERSION} could be installed into {folder}",
    )


def _call(command: Sequence[str], problem: str) -> None:
    """Runs a command; raises ValueError with the problem and its last line if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise ValueError(f"{problem}: {said[-1]}")


def draw(corpus: str, split: str, number: int, seed: int) -> Drawn:
    """Draws utterances of a split and decodes them.

    Raises:
        ValueError: there is no such corpus or split, it has fewer utterances, its sample rate is
            lower than that of PocketSphinx's model, or no utterance that was drawn has a word.
    """
    rows, about = read_rows(corpus, [split]), read_corpus(corpus)
    if (rate := about["sample_rate"]) < RATE:
        raise ValueError(
            f"{corpus} has audio of {rate} Hz, and the model of PocketSphinx needs {RATE} Hz; "
            "prepare the corpus at that rate"
        )
    if len(rows) < number:
        raise ValueError(
            f"--utterances {number}: the split {split!r} of {corpus} has only "
            f"{numbered(len(rows), 'utterance')}; ask for at most so many"
        )
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    order = order[:number]
    waves = decode_rows(rows, RATE, sorted(order))
    ids, speakers, texts = (
        [column[row] for row in order] for column in (rows["id"], rows["speaker_id"], rows["text"])
    )
    references = [normalised(text) for text in texts]
    if not any(references):
        raise ValueError(f"no drawn utterance of the split {split!r} of {corpus} has a word")
    checksum = about["splits"][split]["rows_sha256"]
    return Drawn(ids, speakers, references, [waves[row] for row in order], checksum)


def recognise(drawn: Drawn, theirs: PocketSphinx, ours: Asr) -> dict[str, Recognised]:
    """Recognises each utterance with both sides, which take turns to be first."""
    found = {THEIRS: Recognised(theirs.loading), OURS: Recognised(ours.loading)}
    sides = [(found[THEIRS], theirs), (found[OURS], ours)]
    for name, wave in zip(drawn.ids, tqdm(drawn.waves, disable=None), strict=True):
        for result, side in sides:
            result.add(*side.recognise(name, wave))
        sides.reverse()
    return found


def errors_of(drawn: Drawn, found: Recognised) -> tuple[list[int], list[int]]:
    """Returns the errors and the reference words of each utterance."""
    alignments = align(drawn.references, found.texts)[0]
    return [own.errors for own in alignments], [own.words for own in alignments]


def compare(drawn: Drawn, found: dict[str, Recognised]) -> tuple[dict[str, Any], Difference]:
    """Returns rates and costs of each side, and the WER of asr minus that of PocketSphinx."""
    rows, errors, words = {}, {}, []
    for name, side in found.items():
        errors[name], words = errors_of(drawn, side)
        rows[name] = {
            "wer": sum(errors[name]) / sum(words),
            "interval": bootstrap_interval(errors[name], words, drawn.speakers),
            "errors": sum(errors[name]),
            "words": sum(words),
            "cpu_seconds_per_second": sum(side.seconds) / drawn.seconds,
            "loading_cpu_seconds": side.loading,
        }
    return rows, compare_all(errors, words, drawn.speakers)[THEIRS, OURS].difference


def utterances(drawn: Drawn, found: dict[str, Recognised]) -> list[dict[str, Any]]:
    """Returns what each side recognised in each utterance, with the CPU seconds."""
    return [
        {
            "id": drawn.ids[i],
            "speaker": drawn.speakers[i],
            "reference": drawn.references[i],
            **{name: side.texts[i] for name, side in found.items()},
            **{f"{name} CPU seconds": side.seconds[i] for name, side in found.items()},
        }
        for i in range(len(drawn.ids))
    ]


def table(rows: dict[str, Any], difference: Difference, names: dict[str, str]) -> str:
    """The rows in Markdown, with the names of both sides."""
    lines = [
        "| recogniser | WER [95 % interval] | CPU-s per second of audio | CPU-s to load |",
        "| --- | --: | --: | --: |",
    ]
    for side, row in rows.items():
        wer = percent_interval(row["wer"], row["interval"])
        cost = digits(row["cpu_seconds_per_second"]), digits(row["loading_cpu_seconds"])
        lines.append(f"| {names[side]} | {wer} | {' | '.join(cost)} |")
    ratio = rows[OURS]["cpu_seconds_per_second"] / rows[THEIRS]["cpu_seconds_per_second"]
    points = points_interval(difference.value, difference.interval)
    lines.append(f"| asr minus PocketSphinx | {points} | {digits(ratio)} times | |")
    return "\n".join(lines)


def verdict(difference: Difference, speakers: int) -> str:
    """What the interval of the difference says, in a sentence."""
    low, high = difference.interval
    if speakers < MIN_SPEAKERS:
        found = numbered(speakers, "speaker")
        return f"The test has only {found}, too few for a statement; {MIN_SPEAKERS} are needed."
    if low <= 0 <= high:
        return "The interval of the difference contains 0: neither side is shown to be better."
    fewer = "fewer" if high < 0 else "more"
    return f"asr makes {fewer} errors: the interval of the difference does not contain 0."


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares and prints the table: 0, or 2 for a mistake."""
    try:
        return run(list(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, OSError) as error:
        return fail(f"against_pocketsphinx: {one_line(error)}")


def run(arguments: Sequence[str]) -> int:
    """Runs the comparison that the arguments ask for.

    Raises:
        ValueError: an argument is wrong, or one side failed.
        OSError: a file cannot be read or written.
    """
    parser = Parser(
        prog="python -m benchmarks.against_pocketsphinx",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="run folder, model folder or shipped model")
    parser.add_argument("--corpus", required=True, metavar="FOLDER", help="prepared corpus")
    parser.add_argument("--split", default="test", help="split of the corpus; test")
    parser.add_argument("--utterances", type=whole_number, default=60, metavar="N", help="60")
    parser.add_argument("--seed", type=int, default=1, help="seed of the draw; 1")
    parser.add_argument(
        "--environment", type=Path, default=ENVIRONMENT, metavar="FOLDER",
        help="environment of PocketSphinx, made if missing; .venv-pocketsphinx of the checkout",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("runs/against_pocketsphinx.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.basicConfig(format="%(message)s")
    load = os.getloadavg()[0]
    drawn = draw(options.corpus, options.split, options.utterances, options.seed)
    ours = Asr(options.model, drawn.ids[0], drawn.waves[0])
    install(options.environment)
    theirs = PocketSphinx(options.environment)
    try:
        found = recognise(drawn, theirs, ours)
    finally:
        theirs.close()
    rows, difference = compare(drawn, found)
    names = {THEIRS: f"PocketSphinx {theirs.version}", OURS: f"asr, {options.model}"}
    seen = ours.model.summary.get("tuning", {}).get("rows_sha256") == drawn.rows_sha256
    machine = environment() | {"load_before": load, "load_after": os.getloadavg()[0]}
    report = {
        "options": {key: str(value) for key, value in vars(options).items()},
        "search": repr(ours.model.search),
        "tuned_on_it": seen,
        "versions": {"asr": machine["asr"], "pocketsphinx": theirs.version},
        "machine": machine,
        "audio_seconds": drawn.seconds,
        "rows": rows,
        "difference": {"value": difference.value, "interval": difference.interval},
        "utterances": utterances(drawn, found),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write(options.output, json.dumps(report, indent=1) + "\n")
    print(table(rows, difference, names))
    print(f"\n{verdict(difference, len(set(drawn.speakers)))}")
    if seen:
        print("The search of the model was chosen on these same utterances: take another split.")
    print(
        f"{numbered(len(drawn.ids), 'utterance')} ({drawn.seconds:.0f} s, {rows[OURS]['words']} "
        f"words) of the split {options.split} of {options.corpus}, seed {options.seed}; intervals "
        f"over {resampling_unit(drawn.speakers)}; normaliser english"
    )
    print(f"asr {machine['asr']} ({machine['git_commit']}), search {report['search']}")
    print(
        f"{machine['cpu']}, {machine['cores']} cores, load {load:.1f} before and "
        f"{machine['load_after']:.1f} after, one thread each; "
        f"Python {machine['python']}, torch {machine['torch']}"
    )
    print(f"{parser.prog} {shlex.join(arguments)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
