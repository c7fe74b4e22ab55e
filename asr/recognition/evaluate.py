"""Evaluates a model on a split: word and character error rates with their intervals."""

import contextlib
import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from asr.files import Content, new_folder, write_all
from asr.items import attempt_each
from asr.metering.cpu import SHARES, times_disturbed
from asr.metering.environment import environment
from asr.metering.meter import device_name
from asr.metering.use import Use
from asr.model import SpeechModel
from asr.recognition.alignment import CONFIDENCE, aligns
from asr.recognition.error_rates import error_rates, in_words, worst, worst_in_words
from asr.recognition.recognise import Recognised, SplitReader, recognise
from asr.recognition.reliability import diagram, judged
from asr.recognition.transcript import Word
from asr.search import Hypothesis
from asr.search.calibration import confidence_measures
from asr.text.scoring import Alignment, align, pooled

log = logging.getLogger(__name__)

DURATION_BINS = 5
FIGURE = "calibration.png"
CHOSEN_HERE = "chosen on these same utterances"
COLUMNS = ("id", "speaker_id", "text", "original_text", "duration")
SHOWN_FAILURES = 3
WARM_UP = 4  # utterances recognised before the clock runs


def evaluate(
    model: SpeechModel,
    corpus_folder: str | Path,
    split: str,
    *,
    output: str | Path,
    model_name: str = "",
    batch_seconds: float = 120.0,
) -> dict[str, Any]:
    """Recognises a split; writes ``metrics.json``, ``hypotheses.jsonl``, ``calibration.png``.

    References are the normalised texts of the corpus. Hypotheses are normalised in the same way, so
    that all models are measured alike. The WER without normalisation compares the original text
    with the raw output.

    The real-time factor counts features, encoder and search (``decode_seconds``). It does not count
    reading files, the alignment of words (``alignment_seconds``), or the warm-up, in which a few
    short utterances load the kernels. ``encode_seconds`` (features and encoder) and
    ``search_seconds`` are also given separately, because models that differ only in their encoder
    share the search. Device, threads, batch size and commit are recorded, since times depend on
    them. ``cpu_seconds`` is the CPU time of features, encoder and search, and ``core_wait_share``
    the share of the time in which other programs used the cores of the evaluation. On a GPU,
    ``gpu_shared_share`` and ``gpu_throttled_share`` are the shares in which other processes used
    the GPU and in which its driver slowed it down.

    The figure shows the share of correct words at each confidence; there is no figure if no word
    has a confidence. Results on the rows that ``asr tune-decoding`` used are too good, and are
    labelled so. An utterance that cannot be decoded or recognised is left out of all rates and
    listed with the reason under ``failed``.

    Args:
        model: speech model; its device does the work.
        corpus_folder: folder that ``asr prepare`` wrote.
        split: name of one of its splits.
        output: folder for these files; created if missing. Earlier results are replaced.
        model_name: name of the model in the results, for instance its folder.
        batch_seconds: largest batch, in seconds: length of the longest utterance times number of
            utterances.

    Returns:
        The content of ``metrics.json``.

    Raises:
        ValueError: no such corpus, split or normaliser, no utterance that can be recognised, no
            reference word, or a batch too large for the device's memory.
        OSError: the output cannot be written.
    """
    data = SplitReader(corpus_folder, split, model.features.sample_rate)
    _warn_of_differences(data.corpus, model)
    if not len(data.rows):
        raise ValueError(f"split {split!r} of {corpus_folder} has no utterances")
    output = Path(output)
    model.eval()
    with new_folder(output):
        found, seconds = _recognise(model, data, batch_seconds)
        failed = data.failures()
        if not found:
            first = f"the first is {failed[0]['id']}: {failed[0]['reason']}"
            raise ValueError(f"all {len(data.rows)} utterances of {split!r} failed; {first}")
        columns = {key: data.rows[key] for key in COLUMNS}
        rows = {key: [column[i] for i in found] for key, column in columns.items()}
        raw = [model.text(best) for best, _ in found.values()]
        hypotheses = [data.normalise(text) for text in raw]
        alignments, confusions = align(rows["text"], hypotheses)
        lines = _lines(rows, hypotheses, alignments, found)
        seen = model.summary.get("tuning", {}).get("rows_sha256") == data.about["rows_sha256"]
        words = [own for _, own in found.values() if own is not None]
        confidence, figure = _confidence(model, data, words, rows["text"], seen)
        metrics = {
            "model": model_name,
            "corpus": {**data.about, "synthetic": data.corpus["synthetic"]},
            "split": split,
            "tuned_on_it": seen,
            "normaliser": data.corpus["normaliser"],
            "search": repr(model.search),
            "batch_seconds": batch_seconds,
            "device_name": device_name(model.device),
            "threads": torch.get_num_threads(),
            "git_commit": environment()["git_commit"],
            "failed": failed,
            **error_rates(rows, alignments, hypotheses, raw),
            **seconds,
            "real_time_factor": seconds["decode_seconds"] / seconds["audio_seconds"],
            "by_duration": by_duration(rows["duration"], alignments),
            "worst": worst(lines, alignments),
            "confusions": confusions,
            "unfinished": sum(not line["finished"] for line in lines),
            "confidence": confidence,
            "training": model.summary,
        }
        files: dict[Path, Content] = {
            output / "hypotheses.jsonl": "".join(
                json.dumps(line, ensure_ascii=False) + "\n" for line in lines
            ),
            output / "metrics.json": json.dumps(metrics, indent=1) + "\n",
        }
        if figure is None:
            (output / FIGURE).unlink(missing_ok=True)  # of an earlier evaluation
        else:
            files[output / FIGURE] = figure
        write_all(files)
    return metrics


def evaluation_summary(metrics: dict[str, Any]) -> str:
    """The summary of ``evaluate``'s result that the command prints."""
    wer = metrics["wer"]
    failed = metrics["failed"]
    lines = [f"failed: {one['id']}: {one['reason']}" for one in failed[:SHOWN_FAILURES]]
    if failed:
        total = len(failed) + metrics["utterances"]
        lines.insert(0, f"{len(failed)} of {total} utterances failed and are in none of the rates")
    lines += [
        f"{metrics['corpus']['name']} {metrics['split']}: {metrics['utterances']} utterances, "
        f"{metrics['audio_seconds'] / 3600:.2f} h, {wer['words']} words, "
        f"normaliser {metrics['normaliser']}" + ", synthetic" * metrics["corpus"]["synthetic"],
        *in_words(metrics),
        f"real-time factor {metrics['real_time_factor']:.4f} on {metrics['device_name']} ("
        f"{100 * metrics['encode_seconds'] / metrics['decode_seconds']:.0f} % features and "
        f"encoder), search {metrics['search']}",
        f"CPU time {metrics['cpu_seconds'] / metrics['audio_seconds']:.4f} s per second of audio",
    ]
    if why := times_disturbed(metrics):
        lines[-1] += f"; {why}"
    if (confidence := metrics["confidence"]) is not None:
        kind = "calibrated" if confidence["calibration"] else "as the aligner gives them"
        named = {
            "ece": "calibration error",
            "nce": "normalised cross entropy",
            "auc": "area under the curve",
        }
        known = {key: name for key, name in named.items() if confidence[key] is not None}
        values = ", ".join(f"{confidence[key]:.3f} {name}" for key, name in known.items())
        count = f"confidences of {confidence['count']} words, {kind}"
        lines.append(f"{count}: {values}" if values else count)
    if metrics["tuned_on_it"]:
        lines.append(f"search and calibration were {CHOSEN_HERE}: judge them on another split")
    if metrics["unfinished"]:
        lines.append(f"{metrics['unfinished']} hypotheses did not end by themselves")
    return "\n".join(lines + worst_in_words(metrics))


# The best hypothesis of each row and its words with times, by the number of the row; no words
# where the model cannot find their times.
Found = dict[int, tuple[Hypothesis, list[Word] | None]]


def _recognise(
    model: SpeechModel, data: SplitReader, batch_seconds: float
) -> tuple[Found, dict[str, Any]]:
    """The hypotheses of all rows that did not fail, and the seconds spent by step."""
    remedy = f"lower batch_seconds, which is {batch_seconds}"
    timed = aligns(model.decoder)
    found: Found = {}
    steps = ("encode", "search", "alignment")
    seconds = dict.fromkeys((*steps, *(f"{step}_cpu" for step in steps), "audio"), 0.0)
    started = time.perf_counter()
    timed_use = contextlib.closing(Use(model.device))
    with ThreadPoolExecutor() as pool, timed_use as use:

        def work(batch: Sequence[int]) -> Recognised:
            # Audio is not decoded ahead, because on a CPU that would slow down the timed work.
            waves = list(pool.map(data.wave, batch))
            use.begin()
            result = recognise(model, waves, remedy, words=timed)
            use.end()
            result.seconds["audio"] = sum(map(len, waves)) / model.features.sample_rate
            return result

        batches = data.batches(batch_seconds)
        # An utterance that fails in the warm-up fails again below and is reported there.
        for _ in attempt_each(work, [batches[-1][:WARM_UP]], lambda row, why: None):
            pass
        shown = tqdm(batches, unit="batch", disable=None)
        for batch, result in attempt_each(work, shown, data.fail):
            words = result.words if timed else [None] * len(batch)
            found |= zip(batch, zip(result.best, words, strict=True), strict=True)
            for step, value in result.seconds.items():
                seconds[step] += value
    seconds["total"] = time.perf_counter() - started
    spent: dict[str, Any] = {f"{step}_seconds": value for step, value in seconds.items()}
    spent["decode_seconds"] = seconds["encode"] + seconds["search"]
    spent["cpu_seconds"] = seconds["encode_cpu"] + seconds["search_cpu"]
    spent |= {name: use.facts()[name] for name in SHARES}
    return dict(sorted(found.items())), spent


def _lines(
    rows: dict[str, list[Any]],
    hypotheses: Sequence[str],
    alignments: Sequence[Alignment],
    found: Found,
) -> list[dict[str, Any]]:
    """A line of ``hypotheses.jsonl`` for each utterance."""
    return [
        {
            **{key: rows[key][i] for key in ("id", "speaker_id", "duration")},
            "reference": rows["text"][i],
            "hypothesis": hypotheses[i],
            "score": best.score,
            **alignments[i]._asdict(),
            "finished": best.finished,
            "words": None if words is None else [word.described() for word in words],
        }
        for i, (best, words) in enumerate(found.values())
    ]


def _confidence(
    model: SpeechModel,
    data: SplitReader,
    words: Sequence[list[Word]],
    references: Sequence[str],
    seen: bool,
) -> tuple[dict[str, Any] | None, bytes | None]:
    """Measures of reliability of the confidences, and their diagram; None without confidences.

    ``seen``: whether the confidences were calibrated on these rows; the diagram then says so.
    """
    if not words:
        log.warning(
            "The model has no CTC head and is no transducer: its words have no times and no "
            "confidences."
        )
        return None, None
    judgement = judged(words, references, data.normalise)
    content = {
        "of": CONFIDENCE,
        "calibration": None if model.calibration is None else asdict(model.calibration),
        "left_out": judgement.left_out,
        **confidence_measures(judgement.confidences, judgement.correct),
    }
    note = f"calibration {CHOSEN_HERE}" if seen and model.calibration else ""
    return content, diagram(content, note) if judgement.confidences else None


def by_duration(durations: Sequence[float], words: Sequence[Alignment]) -> list[dict[str, Any]]:
    """WER by fifths of the utterances, from the shortest to the longest utterances.

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


def _warn_of_differences(corpus: dict[str, Any], model: SpeechModel) -> None:
    """Warns if the normaliser or the sample rate of the model differs from the corpus."""
    if corpus["normaliser"] != model.normaliser:
        log.warning(
            "The model was trained with normaliser %r; its output is scored with the corpus' %r.",
            model.normaliser, corpus["normaliser"],
        )  # fmt: skip
    if corpus["sample_rate"] != model.features.sample_rate:
        log.warning(
            "The corpus is resampled from %d to %d Hz, the rate of the model; frequencies that "
            "preparing it removed stay lost.", corpus["sample_rate"], model.features.sample_rate
        )  # fmt: skip
