"""Word error rate against the length of what is heard at once, for trained models.

Utterances of one speaker, in the order of their ids (of one chapter, where the corpus has any),
are joined until they hold so many words. Every length therefore hears the same audio and is asked
for the same words; only where it is cut differs, and models are trained on short utterances.
"""

import argparse
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr.audio.audio_file import decode
from asr.config.strict_yaml import load_file
from asr.data.batches import bucket
from asr.data.utterances import read_corpus, read_rows
from asr.files import new_folder
from asr.model import SpeechModel, corpus_of, load_model
from asr.probes.measure import equal_precision
from asr.probes.output import threads, write_probe
from asr.probes.scaling import count, facts
from asr.recognition.recognise import recognise
from asr.search import Hypothesis
from asr.statistics.bootstrap import bootstrap_interval
from asr.text.normalisers import normaliser
from asr.text.scoring import align, pooled

log = logging.getLogger(__name__)

WORDS = (1, 5, 10, 20, 50)
RESAMPLES = 10_000


@dataclass(frozen=True)
class Recording:
    """Utterances that are heard as one.

    Attributes:
        rows: of the split, in order.
        text: what is said.
        speaker: who says it.
        seconds: how long it takes.
    """

    rows: tuple[int, ...]
    text: str
    speaker: str
    seconds: float


@dataclass(frozen=True)
class Point:
    """One model at one length.

    Attributes:
        run: folder of the model.
        encoder, decoder, seed: of the run.
        words: least number of words of a recording; the last of a speaker may hold fewer.
        recordings, mean_words, mean_seconds, longest_seconds: what was heard.
        errors, reference_words: pooled.
        wer, low, high: with its 95 % interval over speakers.
        deletions: share of the reference words that are missing.
        unfinished, empty: hypotheses that did not end, and that said nothing.
        real_time_factor: seconds of recognition per second of audio.
    """

    run: str
    encoder: str
    decoder: str
    seed: int
    words: int
    recordings: int
    mean_words: float
    mean_seconds: float
    longest_seconds: float
    errors: int
    reference_words: int
    wer: float
    low: float
    high: float
    deletions: float
    unfinished: int
    empty: int
    real_time_factor: float


def join(rows: Any, words: int) -> list[Recording]:
    """The rows of a split as recordings of at least so many words, each row in one of them.

    The last recording of a speaker or chapter is as long as what is left.
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
    """(N,) float32 samples of a recording."""
    return np.concatenate([decode(rows[i]["audio"]["bytes"], rate) for i in recording.rows])


def points(
    run: str, model: SpeechModel, corpus: str, split: str, lengths: Iterable[int], batch: float
) -> list[Point]:
    """One model at every length, shortest first."""
    rows = read_rows(corpus, [split])
    normalise = normaliser(read_corpus(corpus)["normaliser"])
    description, made = model.description, model.summary.get("seed", 0)
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
        low, high = bootstrap_interval(
            [a.errors for a in alignments],
            [a.words for a in alignments],
            [recording.speaker for recording in recordings],
            resamples=RESAMPLES,
        )
        audio = [recording.seconds for recording in recordings]
        curve.append(
            Point(
                run=run,
                encoder=description["encoder"]["class_path"],
                decoder=description["decoder"]["class_path"],
                seed=made,
                words=words,
                recordings=len(recordings),
                mean_words=total.words / len(recordings),
                mean_seconds=sum(audio) / len(recordings),
                longest_seconds=max(audio),
                errors=total.errors,
                reference_words=total.words,
                wer=total.errors / total.words,
                low=low,
                high=high,
                deletions=total.deletions / total.words,
                unfinished=sum(not hypothesis.finished for hypothesis in hypotheses),
                empty=sum(not text for text in texts),
                real_time_factor=seconds / sum(audio),
            )
        )
        log.info("%s, %d words: WER %.2f %%", run, words, 100 * curve[-1].wer)
    return curve


def add_options(options: argparse.ArgumentParser) -> None:
    """Those of ``asr claims length``, beside --device and --output."""
    options.add_argument("runs", nargs="+", metavar="RUN", help="run or model folders")
    options.add_argument("--corpus", metavar="FOLDER", help="prepared; that of the training")
    options.add_argument("--split", default="test", help="of the corpus; test")
    options.add_argument(
        "--words", nargs="+", type=count, default=list(WORDS), metavar="N", help="1 5 10 20 50"
    )
    options.add_argument(
        "--search", help="Greedy, Beam or a YAML file, for all models; each one's own"
    )
    options.add_argument(
        "--batch-seconds", type=float, default=120.0, metavar="S", help="audio in a batch; 120"
    )


def run(known: argparse.Namespace, device: str) -> int:
    """Measures, writes length.json, .csv and .md, and prints the last.

    Raises:
        ValueError: no such model or corpus.
    """
    search = known.search
    if search is not None and search.endswith((".yaml", ".yml")):
        search = load_file(search)
    curve: list[Point] = []
    with new_folder(known.output), equal_precision(device):
        for folder in known.runs:
            model = load_model(folder, device, search)
            corpus = known.corpus or corpus_of(model, folder)
            curve += points(folder, model, corpus, known.split, known.words, known.batch_seconds)
            page = save(curve, facts(device), known.output, known.split)
    print(page, end="")
    print(f"written: {known.output / 'length.md'} (beside it length.csv, length.json)")
    return 0


def save(curve: Sequence[Point], machine: dict[str, Any], output: Path, split: str) -> str:
    """Writes the three files; the Markdown page."""
    points = [asdict(point) for point in curve]
    page = to_page(curve, machine, split)
    everything = {"machine": machine, "split": split, "points": points}
    write_probe(output, "length", points, everything, page)
    return page


def to_page(curve: Sequence[Point], machine: dict[str, Any], split: str) -> str:
    """A row per model, a column per length."""
    lengths = sorted({point.words for point in curve})
    first = {point.words: point for point in reversed(curve)}
    head = ["run", "encoder", "decoder", "seed"]
    head += [f"{n} words ({first[n].mean_seconds:.1f} s)" for n in lengths]
    head += ["did not end", "empty"]
    table = [head, ["---"] * len(head)]
    for name in dict.fromkeys(point.run for point in curve):
        own = {point.words: point for point in curve if point.run == name}
        one = next(iter(own.values()))
        cells = [name, one.encoder, one.decoder, str(one.seed)]
        for n in lengths:
            p = own[n]
            cells.append(f"{100 * p.wer:.2f} [{100 * p.low:.2f}, {100 * p.high:.2f}]")
        cells += [
            str(sum(getattr(p, key) for p in own.values())) for key in ("unfinished", "empty")
        ]
        table.append(cells)
    return (
        "\n\n".join(
            [
                "# Word error rate against length",
                f"{machine['device_name']}, {threads(machine)}; torch "
                f"{machine['torch']}; commit {machine['git_commit']}. Split {split}: the same "
                "audio at every length, cut in recordings of at least so many words (mean "
                "seconds); WER in percent with 95 % intervals over speakers.",
                "\n".join(f"| {' | '.join(cells)} |" for cells in table),
            ]
        )
        + "\n"
    )
