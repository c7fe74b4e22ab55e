"""A model and a split -> word and character error rates, with what is needed to judge them."""

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from asr.audio.audio_file import decode
from asr.data.utterances import bucket, read_corpus, read_rows
from asr.files import Content, new_folder, write_all
from asr.items import attempt_each
from asr.metering.device_memory import enough_memory
from asr.metering.environment import environment
from asr.metering.meter import device_name
from asr.recognition.alignment import CONFIDENCE, Word, aligns
from asr.recognition.alignment import align as align_words
from asr.recognition.reliability import diagram, judged
from asr.recognition.writers import described as described_word
from asr.search.calibration import measured
from asr.statistics.bootstrap import METHOD, bootstrap_interval, resampling_unit
from asr.text.normalisers import normaliser
from asr.text.scoring import Alignment, align, percent, pooled, score

if TYPE_CHECKING:
    from asr.model import SpeechModel
    from asr.search import Hypothesis

log = logging.getLogger(__name__)

RESAMPLES = 10_000
DURATION_BINS = 5
NUM_WORST = 20
FIGURE = "calibration.png"
CHOSEN_HERE = "chosen on these very utterances"
COLUMNS = ("id", "speaker_id", "text", "original_text", "duration")
SHOWN_FAILURES = 3
WARM_UP = 4  # utterances recognised before the clock runs


@dataclass
class Recognised:
    """What decoding a split gave, by the number of a row, and what it cost.

    Attributes:
        best: hypotheses of the rows that were recognised.
        words: of each of them, with times; empty where the model cannot find these.
        failed: why the others were not.
        seconds: audio, encode (features and encoder), search (with decoder and language model),
            alignment (times and confidences of words), total (reading and decoding files as well).
    """

    best: dict[int, "Hypothesis"] = field(default_factory=dict)
    words: dict[int, list[Word]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))


class Heard(NamedTuple):
    """(B, S, D), (B,), the best hypothesis of each utterance of a batch, and the seconds spent."""

    encoded: torch.Tensor
    frames: torch.Tensor
    best: list["Hypothesis"]
    seconds: dict[str, float]


def evaluate(
    model: "SpeechModel",
    corpus_folder: str | Path,
    split: str,
    *,
    output: str | Path,
    model_name: str = "",
    batch_seconds: float = 120.0,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Recognises a split; writes ``metrics.json``, ``hypotheses.jsonl``, ``calibration.png``.

    References are the corpus' normalised texts; hypotheses go through the corpus' normaliser too,
    so that all models are measured by the same yardstick. The WER without normalisation (original
    text against raw output) stands beside it.

    The real-time factor is that of features, encoder and search together (``decode_seconds``); the
    first two (``encode_seconds``) and the search with its decoder and language model
    (``search_seconds``) stand apart as well, since models that differ in their encoder alone share
    the search, and a large common part hides a small difference. Counted are neither the reading of
    files nor the warm-up (a few short utterances are recognised twice, since the first call pays
    for loading kernels), nor finding the times and confidences of words, whose seconds stand apart.

    The device, the number of threads of an operation on a processor, the longest batch and the
    commit stand beside them: without these, times of two evaluations cannot be compared.

    The figure shows what share of the words of each confidence is correct (``reliability``).
    There is none where no word has a confidence. What ``asr tune-decoding`` chose on the same rows
    looks better here than it is, and is said to.

    An utterance that cannot be decoded or recognised is left out of all rates and is listed with
    the reason under ``failed``.

    Args:
        model: what recognises.
        corpus_folder: folder that ``asr prepare`` wrote.
        split: name of one of its splits.
        output: folder for these files; made when missing, earlier results are replaced.
        model_name: how the results call the model, its folder for instance.
        batch_seconds: longest utterance times number of utterances of a batch, at most.
        device: where to compute, ``cpu`` or ``cuda``; where the model is when not given.
        progress: show a progress bar on a terminal.

    Returns:
        The content of ``metrics.json``.

    Raises:
        ValueError: no such corpus, split or normaliser, no utterance that can be recognised, no
            reference word, or a batch too large for the device's memory.
        OSError: the output cannot be written.
    """
    corpus = read_corpus(corpus_folder)
    rows = read_rows(corpus_folder, [split])
    normalise = normaliser(corpus["normaliser"])
    _warn_of_differences(corpus, model)
    if not len(rows):
        raise ValueError(f"split {split!r} of {corpus_folder} has no utterances")
    output = Path(output)
    place = torch.device(device) if device else model.device
    model.to(place).eval()
    with new_folder(output):
        recognised = _recognise(model, rows, place, batch_seconds, progress)
        ids = rows["id"]
        failed = [{"id": ids[i], "reason": why} for i, why in sorted(recognised.failed.items())]
        if not recognised.best:
            first = f"the first is {failed[0]['id']}: {failed[0]['reason']}"
            raise ValueError(f"all {len(rows)} utterances of {split!r} failed; {first}")
        numbers = sorted(recognised.best)
        columns = {key: rows[key] for key in COLUMNS}
        kept = {key: [own[i] for i in numbers] for key, own in columns.items()}
        raw = [model.text(recognised.best[i]) for i in numbers]
        metrics, lines = _measure(kept, recognised, raw, [normalise(text) for text in raw])
        rows_sha256 = corpus["splits"][split]["rows_sha256"]
        seen = model.summary.get("tuning", {}).get("rows_sha256") == rows_sha256
        believed, figure = _confidence(model, recognised, kept, normalise, seen)
        described = {
            "model": model_name,
            "corpus": {
                "name": corpus["name"],
                "path": str(corpus_folder),
                "rows_sha256": rows_sha256,
                "synthetic": corpus["synthetic"],
            },
            "split": split,
            "tuned_on_it": seen,
            "normaliser": corpus["normaliser"],
            "search": repr(model.search),
            "batch_seconds": batch_seconds,
            "device_name": device_name(place),
            "threads": torch.get_num_threads(),
            "git_commit": environment()["git_commit"],
            "failed": failed,
            **metrics,
            "confidence": believed,
            "training": model.summary,
        }
        files: dict[Path, Content] = {
            output / "hypotheses.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
            output / "metrics.json": json.dumps(described, indent=1) + "\n",
        }
        if figure is None:
            (output / FIGURE).unlink(missing_ok=True)  # of an earlier evaluation
        else:
            files[output / FIGURE] = figure
        write_all(files)
    return described


def summary(metrics: dict[str, Any]) -> str:
    """What the command prints of ``evaluate``'s result."""
    wer, cer = metrics["wer"], metrics["cer"]
    low, high = wer["interval"]
    failed = metrics["failed"]
    lines = [f"failed: {one['id']}: {one['reason']}" for one in failed[:SHOWN_FAILURES]]
    if failed:
        total = len(failed) + metrics["utterances"]
        lines.insert(0, f"{len(failed)} of {total} utterances failed and are in none of the rates")
    lines += [
        f"{metrics['corpus']['name']} {metrics['split']}: {metrics['utterances']} utterances, "
        f"{metrics['audio_seconds'] / 3600:.2f} h, {wer['words']} words, "
        f"normaliser {metrics['normaliser']}" + ", synthetic" * metrics["corpus"]["synthetic"],
        f"WER {percent(wer['rate'])} [{percent(low)}, {percent(high)}]  "
        f"{wer['substitutions']} substitutions, "
        f"{wer['deletions']} deletions, {wer['insertions']} insertions",
        f"CER {percent(cer['rate'])}  sentences with an error "
        f"{percent(metrics['sentence_error_rate'])}",
        f"real-time factor {metrics['real_time_factor']:.4f} on {metrics['device_name']} ("
        f"{100 * metrics['encode_seconds'] / metrics['decode_seconds']:.0f} % features and "
        f"encoder), search {metrics['search']}",
    ]
    if metrics["confidence"] is not None:
        lines.append(_believed(metrics["confidence"]))
    if metrics["tuned_on_it"]:
        lines.append(f"search and calibration were {CHOSEN_HERE}: judge them on another split")
    if metrics["unfinished"]:
        lines.append(f"{metrics['unfinished']} hypotheses did not end by themselves")
    wrong = [row for row in metrics["worst"][:3] if row["wer"] > 0]
    for row in wrong:
        lines += [
            f"worst: {row['id']}, WER {100 * row['wer']:.0f} %",
            f"  said       {row['reference']}",
            f"  recognised {row['hypothesis']}",
        ]
    return "\n".join(lines)


def _believed(confidence: dict[str, Any]) -> str:
    """The line of the summary about confidences."""
    kind = "as the aligner gives them" if confidence["calibration"] is None else "calibrated"
    values = ", ".join(
        f"{confidence[key]:.3f} {name}"
        for key, name in (
            ("ece", "calibration error"),
            ("nce", "normalised cross entropy"),
            ("auc", "area under the curve"),
        )
        if confidence[key] is not None
    )
    return f"confidences of {confidence['count']} words, {kind}" + f": {values}" * bool(values)


def _recognise(
    model: "SpeechModel", rows: Any, device: torch.device, batch_seconds: float, progress: bool
) -> Recognised:
    """The best hypothesis of each row. Longest batch first: too large a batch fails at once."""
    rate = model.features.sample_rate

    def wave(index: int) -> np.ndarray:
        return decode(rows[index]["audio"]["bytes"], rate)

    ids = list(rows["id"])
    timed = aligns(model.decoder)
    found = Recognised()

    @torch.inference_mode()
    def recognise(batch: Sequence[int]) -> None:
        # Nothing is decoded ahead: on a CPU it would slow down what is timed below.
        waves = list(pool.map(wave, batch))
        heard = _timed(model, waves, device, batch_seconds)
        began = time.perf_counter()
        words: list[list[Word]] = []
        if timed:
            words = align_words(
                model.decoder, heard.encoded, heard.frames, [own.tokens for own in heard.best],
                model.tokenizer, model.frame_seconds, model.calibration,
            )  # fmt: skip
        aligned = time.perf_counter() - began
        spent = {**heard.seconds, "alignment": aligned, "audio": sum(map(len, waves)) / rate}
        for name, seconds in spent.items():
            found.seconds[name] += seconds
        found.words.update(zip(batch, words, strict=timed))
        found.best.update(zip(batch, heard.best, strict=True))

    def fail(index: int, why: str) -> None:
        found.failed[index] = why
        log.error("%s: %s", ids[index], why)

    def warm_up(batch: Sequence[int]) -> None:
        _timed(model, [wave(index) for index in batch], device, batch_seconds)

    started = time.perf_counter()
    with (
        tqdm(total=len(rows), unit="utt", disable=None if progress else True) as bar,
        ThreadPoolExecutor() as pool,
    ):
        batches = bucket(list(rows["duration"]), batch_seconds)[::-1]
        # What fails here fails again below, and is reported there.
        attempt_each(warm_up, batches[-1][:WARM_UP], lambda index, why: None)
        for batch in batches:
            attempt_each(recognise, batch, fail)
            bar.update(len(batch))
    found.seconds["total"] = time.perf_counter() - started
    return found


@torch.inference_mode()
def _timed(
    model: "SpeechModel", waves: list[np.ndarray], device: torch.device, batch_seconds: float
) -> Heard:
    """The best hypothesis of each wave; the clock waits for the device between the two parts."""
    padded = pad_sequence([torch.from_numpy(wave) for wave in waves], batch_first=True).to(device)
    lengths = torch.tensor([len(wave) for wave in waves], device=device)  # (B,)
    _synchronise(device)
    started = time.perf_counter()
    with enough_memory(device, f"lower batch_seconds, which is {batch_seconds}"):
        encoded, frames = model.encode(padded, lengths)
        _synchronise(device)
        encoded_at = time.perf_counter()
        n_best = model.decode(encoded, frames)
        _synchronise(device)
    ended = time.perf_counter()
    seconds = {"encode": encoded_at - started, "search": ended - encoded_at}
    return Heard(encoded, frames, [hypotheses[0] for hypotheses in n_best], seconds)


def _measure(
    rows: Any, recognised: Recognised, raw: list[str], hypotheses: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(metrics without their description, one line per utterance)."""
    references, durations, speakers = rows["text"], rows["duration"], rows["speaker_id"]
    timed = bool(recognised.words)
    words, confusions = align(references, hypotheses)
    seconds = {f"{name}_seconds": value for name, value in recognised.seconds.items()}
    seconds["decode_seconds"] = seconds["encode_seconds"] + seconds["search_seconds"]
    verbatim = pooled(align(rows["original_text"], raw)[0])
    scores = score(words, references, hypotheses)
    errors, totals = [a.errors for a in words], [a.words for a in words]
    scores["wer"]["interval"] = list(
        bootstrap_interval(errors, totals, speakers, resamples=RESAMPLES)
    )
    scores["wer"]["interval_method"] = (
        f"95 % {METHOD}, {RESAMPLES} resamples of {resampling_unit(speakers)}"
    )
    lines = [
        {
            "id": rows["id"][i],
            "speaker_id": speakers[i],
            "duration": durations[i],
            "reference": references[i],
            "hypothesis": hypotheses[i],
            "score": best.score,
            **words[i]._asdict(),
            "finished": best.finished,
            "words": [described_word(w) for w in recognised.words[number]] if timed else None,
        }
        for i, (number, best) in enumerate(sorted(recognised.best.items()))
    ]
    metrics = {
        **scores,
        "wer_unnormalised": {"rate": verbatim.errors / verbatim.words if verbatim.words else None},
        **seconds,
        "real_time_factor": seconds["decode_seconds"] / seconds["audio_seconds"],
        "by_duration": by_duration(durations, words),
        "worst": _worst(lines, words),
        "confusions": confusions,
        "unfinished": sum(not line["finished"] for line in lines),
    }
    return metrics, lines


def _confidence(
    model: "SpeechModel",
    recognised: Recognised,
    rows: Any,
    normalise: Callable[[str], str],
    seen: bool,
) -> tuple[dict[str, Any] | None, bytes | None]:
    """(how far confidences can be believed, the diagram of that); None without any.

    ``seen``: whether they were calibrated on these rows, which the diagram says.
    """
    if not recognised.words:
        log.warning(
            "The model has no CTC head and is no transducer: its words have no times and no "
            "confidences."
        )
        return None, None
    words = [recognised.words[i] for i in sorted(recognised.words)]
    judgement = judged(words, rows["text"], normalise)
    content = {
        "of": CONFIDENCE,
        "calibration": None if model.calibration is None else asdict(model.calibration),
        "left_out": judgement.left_out,
        **measured(judgement.confidences, judgement.correct),
    }
    if not judgement.confidences:
        return content, None
    note = f"calibration {CHOSEN_HERE}" if seen and model.calibration else ""
    return content, diagram(judgement.confidences, judgement.correct, note)


def by_duration(durations: Sequence[float], words: Sequence[Alignment]) -> list[dict[str, Any]]:
    """WER of the shortest fifth of the utterances up to the longest; every one is in one bin.

    A bin holds durations d with from_seconds <= d < to_seconds, the last one its end as well. Equal
    durations stay together, so there are fewer bins when few lengths occur.
    """
    edges = np.unique(np.quantile(durations, np.linspace(0, 1, DURATION_BINS + 1)))
    bins = np.clip(np.searchsorted(edges, durations, side="right") - 1, 0, max(len(edges) - 2, 0))
    table = []
    for number in np.unique(bins):
        members = [words[i] for i in np.flatnonzero(bins == number).tolist()]
        total = pooled(members)
        table.append(
            {
                "from_seconds": float(edges[number]),
                "to_seconds": float(edges[min(number + 1, len(edges) - 1)]),
                "utterances": len(members),
                "words": total.words,
                "wer": total.errors / total.words if total.words else None,
            }
        )
    return table


def _worst(lines: Sequence[dict[str, Any]], words: Sequence[Alignment]) -> list[dict[str, Any]]:
    """Highest WER first, among equals the most errors; an empty reference counts as one word."""
    rated = [(own.errors / max(own.words, 1), own.errors, i) for i, own in enumerate(words)]
    rated.sort(key=lambda row: (-row[0], -row[1], lines[row[2]]["id"]))
    return [
        {"id": lines[i]["id"], "wer": wer}
        | {name: lines[i][name] for name in ("reference", "hypothesis")}
        for wer, _, i in rated[:NUM_WORST]
    ]


def _warn_of_differences(corpus: dict[str, Any], model: "SpeechModel") -> None:
    """A model that was trained on another normaliser or rate than that of the corpus."""
    told, rate = corpus["normaliser"], model.features.sample_rate
    if told != model.normaliser:
        log.warning(
            "The model was trained with normaliser %r; its output is scored with the corpus' %r.",
            model.normaliser,
            told,
        )
    if corpus["sample_rate"] != rate:
        log.warning(
            "The corpus is resampled from %d to %d Hz, the rate of the model; what it lost when it "
            "was prepared does not come back.",
            corpus["sample_rate"],
            rate,
        )


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
