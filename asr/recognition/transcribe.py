"""Audio files of any length -> transcripts; needs a model and nothing of the training."""

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tqdm import tqdm

from asr.audio.audio_file import name as name_of_audio
from asr.audio.audio_file import pieces
from asr.audio.modulation import kind_of
from asr.audio.sources import Source, find
from asr.audio.windows import cut, natural_window
from asr.data.batches import bucket
from asr.files import new_folder, write_all
from asr.items import attempt_each, one_line, reason
from asr.recognition.alignment import Word, aligns
from asr.recognition.recognise import recognise
from asr.recognition.writers import FORMATS, TIMED, Recording, Transcript, disagreement, recording

if TYPE_CHECKING:
    from asr.model import SpeechModel

log = logging.getLogger(__name__)

Format = Literal["txt", "json", "srt", "vtt", "tsv", "ctm"]
Existing = Literal["refuse", "replace", "skip"]

MIN_SECONDS = 0.1  # shorter than any word
SILENCE = 1e-4  # a peak of -80 dB: a recogniser only hallucinates there
POOL_BATCHES = 8  # whose windows are sorted by length
# Files that are decoded at a time, and windows of each that are held until its turn comes.
FILES_AHEAD = min(16, os.cpu_count() or 1)
WINDOWS_AHEAD = 4


@dataclass(frozen=True)
class Result:
    """What became of one input.

    Attributes:
        source: the file, or ``stdin``.
        transcript: None when it failed, or was there before.
        outputs: the files written, or there before, by format.
        error: one line, None when all went well.
    """

    source: str
    transcript: Transcript | None
    outputs: dict[str, Path]
    error: str | None = None


Span = tuple[float, float]  # from and to, seconds from the beginning of the file


@dataclass(frozen=True)
class Heard:
    """What was recognised in a window; times of words count from the beginning of the file.

    Attributes:
        doubtful: whether there is text, though the window may be noise without speech.
    """

    span: Span
    text: str
    words: tuple[Word, ...]
    score: float
    finished: bool
    doubtful: bool


@dataclass
class Reading:
    """How far a source has been read (samples) and heard, and what went wrong.

    Attributes:
        outputs: the files to write, by format.
        recording: the file as it was before it was read.
        kept: its transcripts are there and stay, so that it is not read.
        heard: in any order.
        steady: parts that sound like hum or noise, which are not recognised.
    """

    source: Source
    outputs: dict[str, Path]
    error: str | None = None
    recording: Recording | None = None
    kept: bool = False
    samples: int = 0
    heard: list[Heard] = field(default_factory=list)
    steady: list[Span] = field(default_factory=list)

    def fail(self, why: str) -> None:
        """Keeps the first error, with the name of the source."""
        name = self.source.name
        # Messages about the audio give its path, or its size where it has none.
        why = why.replace(one_line(ValueError(name_of_audio(self.source.audio))), name)
        self.error = self.error or (why if why.startswith(name) else f"{name}: {why}")


@dataclass(frozen=True)
class Window:
    """A part of a source: (N,) samples, and where it is.

    Attributes:
        doubtful: whether its level is almost as steady as that of a noise.
    """

    reading: Reading
    span: Span
    wave: np.ndarray
    doubtful: bool


def transcribe(
    model: "SpeechModel",
    inputs: Sequence[str | Source],
    *,
    output_dir: str | Path | None = None,
    formats: Sequence[Format] = ("txt",),
    recursive: bool = False,
    existing: Existing = "refuse",
    window_seconds: float | None = None,
    batch_seconds: float = 120.0,
    min_confidence: float | None = None,
    model_name: str = "",
    progress: bool = True,
) -> list[Result]:
    """Transcribes files, folders and globs of any rate, channels and length.

    An input that is not there or cannot be read, recognised or written does not stop the others;
    its result carries the error. Transcripts are written as soon as their file has been heard.

    Args:
        model: what recognises.
        inputs: audio files, folders, glob patterns, or ``-`` for the bytes of a file on stdin; or
            the sources that were found in them.
        output_dir: folder for the transcripts, made when missing; without one nothing is written.
        formats: any of txt, json, srt, vtt, tsv, ctm; all but txt need a transducer or a CTC
            head.
        recursive: look into the folders of folders too.
        existing: transcripts that exist are errors of their inputs ("refuse"); or replaced; or
            left, and the audio not heard again ("skip"), if all formats are there and the json,
            which must be one of them, tells that they are of this very recording, by a model and a
            search of these names, so that a call that was stopped can go on.
        window_seconds: longer audio is cut, at the quietest point of the last third of a window;
            not given: the longest utterance of the model's training, if known and under 30, or 30.
        batch_seconds: longest window times number of windows of a batch, at most.
        min_confidence: words of a lower confidence are left out, and those whose confidence is not
            known; notes count them.
        model_name: how the transcripts call the model, its folder for instance.
        progress: show a progress bar on a terminal.

    Returns:
        One result per input file, in order.

    Raises:
        ValueError: nothing to transcribe, an unknown format, several formats and no folder for
            them, existing transcripts to be left and no folder or no json that tells whose they
            are, times or confidences asked of a model that cannot find them, or out of memory.
        OSError: the folder cannot be written, or the disk is full.
    """
    if window_seconds is None:
        window_seconds = natural_window(model.summary)
    _check_request(model, formats, output_dir, window_seconds, existing, min_confidence)
    found = [entry for entry in inputs if isinstance(entry, Source)]
    sources = found or find([str(entry) for entry in inputs], recursive)
    folder = None if output_dir is None else Path(output_dir)
    results: list[Result] = []
    labels = {
        "model": model_name,
        "search": repr(model.search),
        "min_confidence": min_confidence,
        "formats": tuple(formats),
    }
    recogniser = Recogniser(model.eval(), window_seconds, batch_seconds, labels)
    readings = (_begin(source, folder, existing, recogniser) for source in sources)
    with (
        nullcontext() if folder is None else new_folder(folder),
        tqdm(total=len(sources), unit="file", disable=None if progress else True) as bar,
    ):
        for reading in recogniser(readings):
            results.append(_finish(reading, recogniser))
            bar.update()
    return results


@dataclass(frozen=True)
class Recogniser:
    """From sources to transcripts, with the windows of several files in one batch.

    Attributes:
        labels: model, search, min_confidence and formats of all transcripts.
    """

    model: "SpeechModel"
    window_seconds: float
    batch_seconds: float
    labels: dict[str, Any]

    def __call__(self, readings: Iterable[Reading]) -> Iterator[Reading]:
        """Each reading when all of it has been heard, in order."""
        limit = POOL_BATCHES * self.batch_seconds * self.model.features.sample_rate
        pool: list[Window] = []  # consecutive windows of about POOL_BATCHES batches
        ended: list[Reading] = []
        samples = 0
        for reading, windows in self._streams(readings):
            for window in windows:
                pool.append(window)
                samples += len(window.wave)
                if samples >= limit:
                    self._hear(pool)
                    yield from ended
                    ended, samples = [], 0
            ended.append(reading)
        self._hear(pool)
        yield from ended

    def _streams(self, readings: Iterable[Reading]) -> Iterator[tuple[Reading, Iterator[Window]]]:
        """Each reading with its windows; meanwhile the first windows of the next are decoded.

        What is held in memory depends on no header: a file that is longer than its first windows is
        decoded further when its turn has come.
        """
        waiting: deque[tuple[Reading, Future[list[Window]], Iterator[Window]]] = deque()
        with ThreadPoolExecutor(FILES_AHEAD) as pool:
            for reading in chain(readings, repeat(None, FILES_AHEAD)):
                if reading is not None:
                    stream = self._windows(reading)
                    first = pool.submit(list, islice(stream, WINDOWS_AHEAD))
                    waiting.append((reading, first, stream))
                if waiting and (reading is None or len(waiting) > FILES_AHEAD):
                    oldest, first, rest = waiting.popleft()
                    yield oldest, chain(first.result(), rest)

    def _windows(self, reading: Reading) -> Iterator[Window]:
        """Those in which something can be heard, read as they are asked for."""
        if reading.kept or reading.error is not None:
            return
        rate = self.model.features.sample_rate
        try:
            for start, wave in cut(pieces(reading.source.audio, rate), rate, self.window_seconds):
                reading.samples += len(wave)
                if len(wave) < MIN_SECONDS * rate or np.abs(wave).max() < SILENCE:
                    continue
                span = (start / rate, (start + len(wave)) / rate)
                kind = kind_of(wave, rate, SILENCE)
                if kind == "noise":
                    reading.steady.append(span)
                else:
                    yield Window(reading, span, wave, doubtful=kind == "doubtful")
        except Exception as error:
            reading.fail(reason(error))

    def _hear(self, windows: list[Window]) -> None:
        """Recognises windows and removes them; longest first: too large a batch fails soon.

        An error of a window is an error of its file.
        """
        seconds = [len(window.wave) / self.model.features.sample_rate for window in windows]
        longest_first = np.argsort([-value for value in seconds], kind="stable").tolist()
        batches = bucket(seconds, self.batch_seconds, longest_first)
        work = [[windows[i] for i in batch] for batch in batches]
        for batch, heard in attempt_each(self._recognise, work, lambda w, why: w.reading.fail(why)):
            for window, one in zip(batch, heard, strict=True):
                window.reading.heard.append(one)
        windows.clear()

    def _recognise(self, windows: Sequence[Window]) -> list[Heard]:
        """What was said in each window."""
        model = self.model
        remedy = f"lower batch_seconds ({self.batch_seconds}) or window_seconds "
        timed = self.labels["min_confidence"] is not None or TIMED & {*self.labels["formats"]}
        found = recognise(
            model, [window.wave for window in windows],
            f"{remedy}({self.window_seconds})", words=bool(timed),
        )  # fmt: skip
        heard = []
        for window, best, words in zip(windows, found.best, found.words, strict=True):
            text = " ".join(model.text(best).split())
            placed = tuple(_placed(word, window, model.features.sample_rate) for word in words)
            doubtful = window.doubtful and bool(text)
            heard.append(Heard(window.span, text, placed, best.score, best.finished, doubtful))
        return heard

    def transcript(self, reading: Reading) -> Transcript:
        """What was said in a file that has been heard."""
        heard = sorted(reading.heard, key=lambda one: one.span)
        seconds = reading.samples / self.model.features.sample_rate
        notes = []
        if reading.steady:
            notes.append(
                f"{_listed(reading.steady)}: the level is as steady as that of hum or noise; no "
                "speech was transcribed there"
            )
        if doubtful := [one.span for one in heard if one.doubtful]:
            notes.append(
                f"{_listed(doubtful)}: it is doubtful that there is speech; the level is almost as "
                "steady as that of noise"
            )
        if not heard and not reading.steady:
            reason = "too short to hold a word" if seconds < MIN_SECONDS else "silent"
            notes.append(f"{seconds:.2f} s of audio, {reason}")
        if unfinished := sum(not h.finished for h in heard):
            notes.append(f"{unfinished} of {len(heard)} windows did not end by themselves")
        if reading.source.shortened:
            notes.append(f"the name is too long, so its files are called {reading.source.output}")
        words = tuple(word for h in heard for word in h.words)
        if guessed := sum(word.confidence is None for word in words):
            notes.append(f"the times of {guessed} words are guesses: more tokens than frames")
        text = " ".join(h.text for h in heard if h.text)
        if (least := self.labels["min_confidence"]) is not None:
            total = len(words)
            words = tuple(w for w in words if w.confidence is not None and w.confidence >= least)
            text = " ".join(word.text for word in words)
            if left := total - len(words):
                why = f"their confidence is below {least:g} or not known"
                notes.append(f"{left} of {total} words were left out: {why}")
        return Transcript(
            source=reading.source.name,
            name=reading.source.output,
            text=text,
            words=words,
            duration=seconds,
            score=sum(h.score for h in heard),
            recording=reading.recording,
            notes=tuple(notes),
            **self.labels,
        )


def _check_request(
    model: "SpeechModel",
    formats: Sequence[str],
    output_dir: str | Path | None,
    window_seconds: float,
    existing: Existing,
    min_confidence: float | None,
) -> None:
    """What can be refused before any file is opened."""
    unknown = [kind for kind in formats if kind not in FORMATS]
    if unknown or not formats:
        asked = ", ".join(unknown) or "none"
        raise ValueError(f"formats: {asked}; choose from {', '.join(FORMATS)}")
    if output_dir is None and len(set(formats)) > 1:
        raise ValueError(f"{len(formats)} formats need a folder to write them in: give output_dir")
    if existing == "skip" and (output_dir is None or "json" not in formats):
        needed = "output_dir, their folder" if output_dir is None else "json among the formats"
        raise ValueError(f"to skip what has a transcript give {needed}: the json says whose it is")
    if window_seconds < 1:
        raise ValueError(f"window_seconds is {window_seconds}; it must be at least 1")
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise ValueError(f"min_confidence is {min_confidence}; it must be from 0 to 1")
    timed = sorted(TIMED.intersection(formats))
    if (timed or min_confidence is not None) and not aligns(model.decoder):
        needed = f"{timed[0]} needs the times" if timed else "min_confidence needs the confidences"
        remedy = "ask for txt" if timed else "leave it out"
        raise ValueError(
            f"{needed} of words, and this model has no CTC head to find them; {remedy}"
        )


def _begin(
    source: Source, folder: Path | None, existing: Existing, recogniser: Recogniser
) -> Reading:
    """The reading of a source; existing transcripts may be an error of it, or keep it unread."""
    outputs: dict[str, Path] = {}
    if folder is not None:
        outputs = {
            kind: folder / f"{source.output}.{kind}" for kind in recogniser.labels["formats"]
        }
    reading = Reading(source, outputs, error=source.error)
    if source.error is not None:
        return reading
    try:
        reading.recording = recording(source.audio)
        gone = isinstance(source.audio, Path) and reading.recording is None  # reading will say so
        there = [path for path in outputs.values() if path.exists()]
        if there and existing != "replace" and not gone:
            reading.kept = True
            reading.error = _in_the_way(reading, there, existing, recogniser)
    except Exception as error:
        reading.fail(reason(error))
    return reading


def _in_the_way(
    reading: Reading, there: Sequence[Path], existing: Existing, recogniser: Recogniser
) -> str | None:
    """Why existing files are an error of their input; None: they are its own, and are left."""
    outputs = reading.outputs
    if existing == "refuse":
        left = ", --skip-existing leaves it" if "json" in outputs else ""
        return f"{there[0]} exists; --overwrite replaces it{left}"
    if missing := [path.name for path in outputs.values() if path not in there]:
        return f"{there[0]} exists but no {missing[0]}; --overwrite replaces it"
    if why := disagreement(outputs["json"], reading.recording, recogniser.labels):
        return f"{outputs['json']} {why}; --overwrite replaces it, another --output-dir keeps both"
    return None


def _finish(reading: Reading, recogniser: Recogniser) -> Result:
    """Writes the transcript, or reports why there is none."""
    name, outputs, transcript = reading.source.name, reading.outputs, None
    if reading.error is None and not reading.kept:
        try:
            transcript = recogniser.transcript(reading)
            texts = {kind: FORMATS[kind](transcript) for kind in transcript.formats}
            write_all({path: texts[kind] for kind, path in outputs.items()})
        except Exception as error:
            reading.fail(reason(error))
    if reading.error is not None:
        log.error("%s", reading.error)
        return Result(name, None, {}, reading.error)
    for note in transcript.notes if transcript is not None else ():
        log.warning("%s: %s", name, note)
    return Result(name, transcript, outputs)


def _placed(word: Word, window: Window, sample_rate: int) -> Word:
    """From times within a window to times within the file; padding is no part of either."""
    begin, last = window.span[0], len(window.wave) / sample_rate
    start, end = min(word.start, last), min(word.end, last)
    return Word(word.text, begin + start, begin + end, word.confidence)


def _listed(spans: Sequence[Span]) -> str:
    """``0:00-1:30, 2:00-2:30``: consecutive windows as one."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            start = joined.pop()[0]
        joined.append((start, end))
    times = [[divmod(round(seconds), 60) for seconds in span] for span in joined]
    return ", ".join("-".join(f"{m}:{s:02}" for m, s in span) for span in times)
