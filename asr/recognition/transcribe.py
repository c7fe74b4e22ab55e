"""Transcribes audio files of any length; needs a model folder only."""

import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from asr.audio.audio_file import name as name_of_audio
from asr.audio.audio_file import pieces
from asr.audio.modulation import kind_of
from asr.audio.sources import AudioInput, find
from asr.audio.windows import cut, natural_window
from asr.data.batches import bucket
from asr.files import new_folder, write_all
from asr.formatting import numbered
from asr.items import ahead, attempt_each, one_line, reason
from asr.model import SpeechModel
from asr.recognition.alignment import aligns
from asr.recognition.recognise import recognise
from asr.recognition.transcript import RecordedFile, Transcript, Word, disagreement
from asr.recognition.writers import FORMATS, SUBTITLES, subtitles

log = logging.getLogger(__name__)

Existing = Literal["refuse", "replace", "skip"]
Interval = tuple[float, float]  # start and end, in seconds from the beginning of the file

MIN_SECONDS = 0.1  # no word is shorter
SILENCE = 1e-4  # a peak of -80 dB; below it, a recogniser would hallucinate words
POOL_BATCHES = 8  # number of batches whose windows are sorted by length together
# Number of files that are decoded at a time, and of the windows of each file that wait in memory.
FILES_AHEAD = min(16, os.cpu_count() or 1)
WINDOWS_AHEAD = 4
SHOWN = 20  # largest number of files that are named one by one


@dataclass(frozen=True)
class Result:
    """The result of one input.

    Attributes:
        source: the file, or ``stdin``.
        transcript: the transcript; None if the input failed or its transcripts existed.
        outputs: the transcripts that were written or existed, by format.
        error: the error in one line; None if there is none.
    """

    source: str
    transcript: Transcript | None
    outputs: dict[str, Path]
    error: str | None = None


class WindowResult(NamedTuple):
    """The result of a window; word times are relative to the beginning of the file.

    Attributes:
        doubtful: whether the window has text but may contain only noise.
    """

    span: Interval
    text: str
    words: tuple[Word, ...]
    score: float
    finished: bool
    doubtful: bool


@dataclass
class Reading:
    """The state of a source while it is read and recognised.

    Attributes:
        outputs: the files to write, by format.
        error: the first error; None if there is none.
        recording: facts that identify the file, taken before it was read.
        kept: whether the file is skipped because its transcripts exist.
        samples: number of samples read so far.
        results: results of the windows, in any order.
        steady: parts that sound like hum or noise, which are not recognised.
    """

    source: AudioInput
    outputs: dict[str, Path]
    error: str | None = None
    recording: RecordedFile | None = None
    kept: bool = False
    samples: int = 0
    results: list[WindowResult] = field(default_factory=list)
    steady: list[Interval] = field(default_factory=list)

    def fail(self, why: str) -> None:
        """Keeps the first error, with the name of the source."""
        name = self.source.name
        # Messages about the audio begin with its path, or with its size if it has no path.
        why = why.replace(one_line(ValueError(name_of_audio(self.source.audio))), name)
        self.error = self.error or (why if why.startswith(name) else f"{name}: {why}")


class AudioWindow(NamedTuple):
    """A part of a source: its (N,) samples and its position.

    Attributes:
        doubtful: whether its level changes almost as little as the level of noise.
    """

    reading: Reading
    span: Interval
    wave: np.ndarray
    doubtful: bool


def transcribe(
    model: SpeechModel,
    inputs: Sequence[str | AudioInput],
    *,
    output_dir: str | Path | None = None,
    formats: Sequence[str] = ("txt",),
    recursive: bool = False,
    existing: Existing = "refuse",
    window_seconds: float | None = None,
    batch_seconds: float = 120.0,
    min_confidence: float | None = None,
    max_chars_per_second: float | None = None,
    model_name: str = "",
) -> list[Result]:
    """Transcribes files, folders and globs of any rate, channels and length.

    An error of one input does not stop the others; its result carries the error. Transcripts are
    written as soon as their file has been recognised.

    Args:
        model: speech model.
        inputs: audio files, folders, glob patterns, or ``-`` for the bytes of a file on stdin; or
            the result of ``asr.audio.sources.find``.
        output_dir: folder for the transcripts, created if missing; None: nothing is written.
        formats: keys of ``asr.recognition.writers.FORMATS``; all but txt need a transducer or a
            CTC head.
        recursive: whether to read the folders within a folder, too.
        existing: treatment of a file that has transcripts: report an error ("refuse"), replace them
            ("replace"), or skip the file ("skip"). A file is skipped only if all formats exist and
            its json, which must be one of them, names the same recording, model and search.
        window_seconds: longest window in seconds; longer audio is cut at the quietest point of the
            last third of a window. None: the length of the longest training utterance, within 3 to
            30 s.
        batch_seconds: largest batch, in seconds: length of the longest window times number of
            windows.
        min_confidence: words with a lower or unknown confidence are left out; a note gives their
            number.
        max_chars_per_second: reading speed of subtitles. A faster one stays on the screen, at most
            until the next one begins; a note gives the number of those that stay too fast. Style
            guides have about 17 for European languages, and 9 for Chinese. None: no limit.
        model_name: name of the model in the transcripts, for instance its folder.

    Returns:
        One result per input file, in order.

    Raises:
        ValueError: there is nothing to transcribe, ``check_request`` refuses the options, the
            model cannot give the times or confidences that are needed, or memory is too small.
        OSError: the folder cannot be written, or the disk is full.
    """
    if window_seconds is None:
        window_seconds = natural_window(model.summary)
    limits = {"min_confidence": min_confidence, "max_chars_per_second": max_chars_per_second}
    check_request(formats, output_dir, window_seconds, existing, **limits)
    kinds = [kind for kind in formats if FORMATS[kind].timed]
    if (kinds or min_confidence is not None) and not aligns(model.decoder):
        needed = f"{kinds[0]} needs the times" if kinds else "min_confidence needs the confidences"
        remedy = "ask for txt" if kinds else "leave it out"
        raise ValueError(
            f"{needed} of words, and this model has no CTC head to find them; {remedy}"
        )
    found = [entry for entry in inputs if isinstance(entry, AudioInput)]
    sources = found or find([str(entry) for entry in inputs], recursive)
    folder = None if output_dir is None else Path(output_dir)
    labels: dict[str, Any] = {"model": model_name, "search": repr(model.search)}
    labels |= {"formats": tuple(formats), **limits}
    timed = bool(kinds) or min_confidence is not None
    run = Transcription(
        model.eval(), folder, existing, window_seconds, batch_seconds, timed, labels
    )
    with nullcontext() if folder is None else new_folder(folder):
        return list(tqdm(run(sources), total=len(sources), unit="file", disable=None))


def check_request(
    formats: Sequence[str],
    output_dir: str | Path | None,
    window_seconds: float | None,
    existing: Existing,
    min_confidence: float | None,
    max_chars_per_second: float | None,
) -> None:
    """Refuses options that are wrong for every model.

    Raises:
        ValueError: a format is unknown, a folder or the format json is missing, or a number is out
            of range.
    """
    unknown = [kind for kind in formats if kind not in FORMATS]
    if unknown or not formats:
        asked = ", ".join(unknown) or "none"
        raise ValueError(f"formats: {asked}; choose from {', '.join(FORMATS)}")
    if output_dir is None and len(set(formats)) > 1:
        raise ValueError(f"{' and '.join(formats)} need a folder: give --output-dir")
    if existing == "skip" and output_dir is None:
        raise ValueError("--skip-existing needs --output-dir, where the transcripts are")
    if existing == "skip" and "json" not in formats:
        raise ValueError(
            f"--skip-existing needs json among --formats (now {' '.join(formats)}), because json "
            "names the recording; add it, or transcribe all again with --overwrite"
        )
    if window_seconds is not None and window_seconds < 1:
        raise ValueError(f"window_seconds is {window_seconds}; it must be at least 1")
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise ValueError(f"min_confidence is {min_confidence}; it must be from 0 to 1")
    if max_chars_per_second is not None and not 0 < max_chars_per_second < math.inf:
        raise ValueError(f"max_chars_per_second is {max_chars_per_second}; it must be above 0")
    if max_chars_per_second is not None and not set(SUBTITLES) & set(formats):
        raise ValueError(
            f"max_chars_per_second needs one of the formats {', '.join(SUBTITLES)}, which hold "
            f"subtitles, and not {' and '.join(formats)} alone"
        )


@dataclass(frozen=True)
class Transcription:
    """Transcribes sources; a batch can hold windows of several files.

    Attributes:
        timed: whether the times of words are needed.
        labels: model, search, limits and formats of all transcripts.
    """

    model: SpeechModel
    folder: Path | None
    existing: Existing
    window_seconds: float
    batch_seconds: float
    timed: bool
    labels: dict[str, Any]

    def __call__(self, sources: Iterable[AudioInput]) -> Iterator[Result]:
        """Yields the result of each source in order, once all of the source is recognised."""
        limit = POOL_BATCHES * self.batch_seconds * self.model.features.sample_rate
        pool: list[AudioWindow] = []  # consecutive windows of about POOL_BATCHES batches
        ended: list[Reading] = []
        samples = 0
        for reading, windows in self._streams(map(self._begin, sources)):
            for window in windows:
                pool.append(window)
                samples += len(window.wave)
                if samples >= limit:
                    self._recognise(pool)
                    yield from map(self._finish, ended)
                    pool, ended, samples = [], [], 0
            ended.append(reading)
        self._recognise(pool)
        yield from map(self._finish, ended)

    def _begin(self, source: AudioInput) -> Reading:
        """Starts a source; existing transcripts make it an error or a source to skip."""
        kinds = () if self.folder is None else self.labels["formats"]
        outputs = {kind: Path(self.folder or "", f"{source.output}.{kind}") for kind in kinds}
        reading = Reading(source, outputs, source.error)
        if source.error is not None:
            return reading
        try:
            reading.recording = RecordedFile.of(source.audio)
            gone = isinstance(source.audio, Path) and reading.recording is None
            there = [path for path in reading.outputs.values() if path.exists()]
            if there and self.existing != "replace" and not gone:
                reading.kept = True
                reading.error = self._in_the_way(reading, there)
        except Exception as error:
            reading.fail(reason(error))
        return reading

    def _in_the_way(self, reading: Reading, there: Sequence[Path]) -> str | None:
        """The error that existing files cause; None if they are current and the file is skipped."""
        outputs = reading.outputs
        if self.existing == "refuse":
            left = ", --skip-existing leaves it" if "json" in outputs else ""
            return f"{there[0]} exists; --overwrite replaces it{left}"
        if missing := [path.name for path in outputs.values() if path not in there]:
            return f"{there[0]} exists, {missing[0]} does not; --overwrite replaces the transcripts"
        if why := disagreement(outputs["json"], reading.recording, self.labels):
            remedy = "--overwrite replaces it, another --output-dir keeps both"
            return f"{outputs['json']} {why}; {remedy}"
        return None

    def _streams(
        self, readings: Iterable[Reading]
    ) -> Iterator[tuple[Reading, Iterator[AudioWindow]]]:
        """Yields each reading with its windows, and decodes the first windows of the next files.

        The memory needed does not depend on the length of a file: only its first windows are
        decoded ahead, the others when its turn comes.
        """

        def start(reading: Reading) -> tuple[Reading, list[AudioWindow], Iterator[AudioWindow]]:
            stream = self._windows(reading)
            return reading, list(islice(stream, WINDOWS_AHEAD)), stream

        for reading, first, rest in ahead(start, readings, FILES_AHEAD, FILES_AHEAD):
            yield reading, chain(first, rest)

    def _windows(self, reading: Reading) -> Iterator[AudioWindow]:
        """Reads the windows of a source one by one; leaves out silence and steady noise."""
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
                    yield AudioWindow(reading, span, wave, doubtful=kind == "doubtful")
        except Exception as error:
            reading.fail(reason(error))

    def _recognise(self, windows: Sequence[AudioWindow]) -> None:
        """Recognises windows, longest first, so that too large a batch fails early.

        If a window fails, its file fails.
        """
        seconds = [len(window.wave) / self.model.features.sample_rate for window in windows]
        order = sorted(range(len(windows)), key=lambda i: -seconds[i])
        numbers = bucket(seconds, self.batch_seconds, order)
        batches = [[windows[i] for i in batch] for batch in numbers]
        for batch, results in attempt_each(
            self._recognise_batch, batches, lambda window, why: window.reading.fail(why)
        ):
            for window, result in zip(batch, results, strict=True):
                window.reading.results.append(result)

    def _recognise_batch(self, windows: Sequence[AudioWindow]) -> list[WindowResult]:
        """Recognises a batch of windows."""
        limits = f"batch_seconds ({self.batch_seconds}) or window_seconds ({self.window_seconds})"
        waves = [window.wave for window in windows]
        recognised = recognise(self.model, waves, f"lower {limits}", words=self.timed)
        results = []
        for window, best, words in zip(windows, recognised.best, recognised.words, strict=True):
            text = " ".join(self.model.text(best).split())
            begin, last = window.span[0], len(window.wave) / self.model.features.sample_rate
            shifted = tuple(  # clipped at the end of the window, without its padding
                replace(w, start=begin + min(w.start, last), end=begin + min(w.end, last))
                for w in words
            )
            doubtful = window.doubtful and bool(text)
            results.append(
                WindowResult(window.span, text, shifted, best.score, best.finished, doubtful)
            )
        return results

    def _finish(self, reading: Reading) -> Result:
        """Writes the transcript, or reports why there is none."""
        name, outputs, transcript = reading.source.name, reading.outputs, None
        if reading.error is None and not reading.kept:
            try:
                transcript = self._transcript(reading)
                write_all({path: FORMATS[k].write(transcript) for k, path in outputs.items()})
            except Exception as error:
                reading.fail(reason(error))
        if reading.error is not None:
            log.error("%s", reading.error)
            return Result(name, None, {}, reading.error)
        for note in transcript.notes if transcript is not None else ():
            log.warning("%s: %s", name, note)
        return Result(name, transcript, outputs)

    def _transcript(self, reading: Reading) -> Transcript:
        """Joins the results of all windows of a file to its transcript."""
        results = sorted(reading.results, key=lambda result: result.span)
        seconds = reading.samples / self.model.features.sample_rate
        notes = _notes(reading, results, seconds)
        words = tuple(word for result in results for word in result.words)
        text = " ".join(result.text for result in results if result.text)
        if guessed := sum(word.confidence is None for word in words):
            why = "there are more tokens than frames"
            notes.append(f"the times of {guessed} words are estimates, because {why}")
        if (least := self.labels["min_confidence"]) is not None:
            total = len(words)
            words = tuple(w for w in words if w.confidence is not None and w.confidence >= least)
            text = " ".join(word.text for word in words)
            if removed := total - len(words):
                why = f"their confidence is below {least:g} or not known"
                notes.append(f"{removed} of {total} words were left out: {why}")
        transcript = Transcript(
            source=reading.source.name,
            name=reading.source.output,
            text=text,
            words=words,
            duration=seconds,
            score=sum(result.score for result in results),
            recording=reading.recording,
            notes=tuple(notes),
            **self.labels,
        )
        if (limit := transcript.max_chars_per_second) is None:
            return transcript
        shown = subtitles(transcript)
        fast = sum(len(s.text) > limit * (s.end - s.start) + 1e-6 for s in shown)
        why = f"{fast} of {len(shown)} subtitles have more than {limit:g} characters per second"
        why = f"{why}, because the speech is that fast"
        return replace(transcript, notes=(*notes, why)) if fast else transcript


def _notes(reading: Reading, results: Sequence[WindowResult], seconds: float) -> list[str]:
    """Remarks on the audio for the reader of a transcript."""
    notes = []
    if reading.steady:
        notes.append(
            f"{_listed(reading.steady)}: not transcribed, because the loudness hardly changes, as "
            "in hum or noise"
        )
    if doubtful := [result.span for result in results if result.doubtful]:
        notes.append(
            f"{_listed(doubtful)}: this may be noise instead of speech, because the loudness "
            "changes little; check the words"
        )
    if not results and not reading.steady:
        why = "too short to hold a word" if seconds < MIN_SECONDS else "silent"
        notes.append(f"the audio ({seconds:.2f} s) is {why}")
    if unfinished := sum(not result.finished for result in results):
        notes.append(f"the search was cut off in {unfinished} of {len(results)} windows")
    if reading.source.shortened:
        notes.append(f"the name is too long, so its files are called {reading.source.output}")
    return notes


def _listed(spans: Sequence[Interval]) -> str:
    """Lists intervals like ``0:00-1:30, 2:00-2:30``; joins consecutive ones."""
    joined: list[Interval] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            start = joined.pop()[0]
        joined.append((start, end))
    times = [[divmod(round(seconds), 60) for seconds in span] for span in joined]
    return ", ".join("-".join(f"{m}:{s:02}" for m, s in span) for span in times)


def transcription_summary(results: Sequence[Result], folder: Path | None, kind: str) -> str:
    """The text to print: the transcripts, or the paths of their files."""
    done = [(r, r.transcript) for r in results if r.transcript is not None]
    if folder is None:
        texts = [(result.source, FORMATS[kind].write(transcript)) for result, transcript in done]
        named = len(results) > 1
        return "".join(f"{source}: {text}" if named else text for source, text in texts)
    lines = [f"{r.source} -> {', '.join(map(str, r.outputs.values()))}" for r, _ in done[:SHOWN]]
    lines += [f"... and {len(done) - SHOWN} more"] if len(done) > SHOWN else []
    seconds = sum(transcript.duration for _, transcript in done)
    lines.append(
        f"{numbered(len(done), 'file')}, {seconds:.1f} s of audio, transcribed into {folder}"
    )
    if left := sum(r.transcript is None and r.error is None for r in results):
        lines.append(f"{numbered(left, 'file')} skipped: all transcripts are there")
    return "\n".join(lines) + "\n"
