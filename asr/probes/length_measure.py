"""Measures the word error rate of trained models on recordings of several lengths.

Utterances of one speaker (and one chapter, if the corpus has chapters) are joined in the order of
their ids until they hold a minimum number of words. All lengths therefore have the same audio and
the same words, and differ only in the cuts. The models were trained on short utterances.
"""

import argparse
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asr.audio.audio_file import decode
from asr.config.strict_yaml import load_file
from asr.data.batches import bucket
from asr.data.utterances import read_corpus, read_rows
from asr.model import SpeechModel, corpus_of, load_model
from asr.probes.instrument import facts
from asr.probes.length import LengthPoint
from asr.probes.probe import Measured
from asr.recognition.recognise import recognise
from asr.search import Hypothesis
from asr.statistics.bootstrap import bootstrap_interval
from asr.text.normalisers import normaliser
from asr.text.scoring import Alignment, align, pooled

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """Consecutive utterances that are recognised as one.

    Attributes:
        rows: indices of the utterances in the split, in order.
        text: reference text.
        speaker: speaker id.
        seconds: duration.
    """

    rows: tuple[int, ...]
    text: str
    speaker: str
    seconds: float


def join(rows: Any, words: int) -> list[Recording]:
    """Joins the rows of a split to recordings of at least ``words`` words; each row is used once.

    The last recording of a speaker or chapter has the remaining rows and may have fewer words.
    """
    columns = {name: list(rows[name]) for name in ("id", "text", "speaker_id", "duration")}
    keys = [
        (str(speaker), str(chapter))
        for speaker, chapter in zip(columns["speaker_id"], rows["chapter_id"], strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda i: (keys[i], columns["id"][i]))
    groups: list[list[int]] = []
    held, before = 0, None
    for index in order:
        if keys[index] != before or held >= words:
            groups.append([])
            held, before = 0, keys[index]
        groups[-1].append(index)
        held += len(columns["text"][index].split())
    return [
        Recording(
            tuple(group),
            " ".join(columns["text"][i] for i in group),
            keys[group[0]][0],
            sum(columns["duration"][i] for i in group),
        )
        for group in groups
    ]


def wave(rows: Any, recording: Recording, rate: int) -> np.ndarray:
    """Returns the samples (N,) float32 of a recording."""
    return np.concatenate([decode(rows.encoded(i), rate) for i in recording.rows])


def described(run: str, model: SpeechModel) -> dict[str, Any]:
    """The fields of a row that identify the model."""
    return {
        "run": run,
        "encoder": model.description["encoder"]["class_path"],
        "decoder": model.description["decoder"]["class_path"],
        "seed": model.summary.get("seed", 0),
    }


def scores(alignments: Sequence[Alignment], speakers: Sequence[str]) -> dict[str, Any]:
    """The fields of a row about pooled errors, with the 95 % interval over speakers."""
    total = pooled(alignments)
    errors, words = [a.errors for a in alignments], [a.words for a in alignments]
    low, high = bootstrap_interval(errors, words, speakers)
    wer = total.errors / total.words
    counts = {"errors": total.errors, "reference_words": total.words}
    return {**counts, "wer": wer, "low": low, "high": high}


def measure_lengths(
    run: str, model: SpeechModel, corpus: str, split: str, lengths: Iterable[int], batch: float
) -> list[LengthPoint]:
    """Measures one model at every length, the shortest first."""
    rows = read_rows(corpus, [split])
    normalise = normaliser(read_corpus(corpus)["normaliser"])
    curve = []
    for words in sorted(lengths):
        recordings = join(rows, words)
        found: dict[int, Hypothesis] = {}
        seconds = 0.0
        for numbers in bucket([recording.seconds for recording in recordings], batch):
            waves = [wave(rows, recordings[i], model.features.sample_rate) for i in numbers]
            result = recognise(model, waves, f"lower --batch-seconds, which is {batch}")
            seconds += sum(result.seconds.values())
            found |= zip(numbers, result.best, strict=True)
        hypotheses = [found[i] for i in range(len(recordings))]
        texts = [normalise(model.text(hypothesis)) for hypothesis in hypotheses]
        alignments, _ = align([recording.text for recording in recordings], texts)
        total = pooled(alignments)
        audio = [recording.seconds for recording in recordings]
        curve.append(
            LengthPoint(
                **described(run, model),
                **scores(alignments, [recording.speaker for recording in recordings]),
                words=words,
                recordings=len(recordings),
                mean_words=total.words / len(recordings),
                mean_seconds=sum(audio) / len(recordings),
                longest_seconds=max(audio),
                deletions=total.deletions / total.words,
                unfinished=sum(not hypothesis.finished for hypothesis in hypotheses),
                empty=sum(not text for text in texts),
                real_time_factor=seconds / sum(audio),
            )
        )
        log.info("%s, %d words: WER %.2f %%", run, words, 100 * curve[-1].wer)
    return curve


def measure(options: argparse.Namespace, device: str) -> Iterator[Measured]:
    """Measures one model after another.

    Raises:
        ValueError: a model or the corpus does not exist.
    """
    search = options.search
    if search is not None and search.endswith((".yaml", ".yml")):
        search = load_file(search)
    machine, curve = facts(device), []
    for folder in options.runs:
        model = load_model(folder, device, search)
        corpus = options.corpus or corpus_of(model, folder)
        curve += measure_lengths(
            folder, model, corpus, options.split, options.words, options.batch_seconds
        )
        yield Measured(curve, machine, {"split": options.split})
