"""Chooses the settings of the search on a validation split, and stores them with the model.

Every arm of a comparison gets the same number of trials, drawn from the same ranges by the same
generator; their cost counts. The encoder runs once, and each trial is one search over the split.
"""

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from asr.config.strict_yaml import Component
from asr.files import write
from asr.formatting import hours_of
from asr.items import attempt_each
from asr.language_models import Mixture
from asr.metering.device_clock import cores_held
from asr.metering.meter import device_name
from asr.model import SpeechModel, find_model, give_calibration, save_model
from asr.recognition.alignment import aligns
from asr.recognition.recognise import (
    Encoded,
    SplitReader,
    encode_waves,
    locate_words,
    search_frames,
)
from asr.recognition.reliability import judged
from asr.recognition.transcript import Word
from asr.search import Beam, Hypothesis, Search
from asr.search.calibration import Calibration, confidence_measures, cross_fitted
from asr.text.scoring import align, pooled

log = logging.getLogger(__name__)

FOLDS = 5  # number of parts of the utterances in the cross-fitting of a calibration


@dataclass(frozen=True)
class Trial:
    """The options of a search and its results.

    Attributes:
        options: keyword arguments of the search.
        errors, words: numbers of word errors and reference words, summed over the split.
        unfinished: number of hypotheses that did not end by themselves.
        seconds: time of the search, without the encoder.
    """

    options: dict[str, Any]
    errors: int
    words: int
    unfinished: int
    seconds: float

    @property
    def wer(self) -> float:
        """Errors per reference word."""
        return self.errors / self.words


def draws(
    ranges: Mapping[str, tuple[float, float]],
    keys: Sequence[str],
    number: int,
    seed: int,
    models: int = 1,
) -> list[dict[str, Any]]:
    """``number`` settings of these keys; the n-th draw of a key is the same for every decoder.

    Several language ``models`` share the weight that one of them would have.
    """
    settings: list[dict[str, Any]] = []
    for trial in range(number):
        random = np.random.default_rng([seed, trial])
        drawn = {key: float(random.uniform(low, high)) for key, (low, high) in ranges.items()}
        if "internal_lm_weight" in drawn:
            drawn["internal_lm_weight"] *= drawn["lm_weight"]
        settings.append({key: round(drawn[key], 3) for key in keys})
        if models > 1 and "lm_weight" in keys:
            shares = random.dirichlet(np.ones(models)) * drawn["lm_weight"]
            settings[-1]["lm_weight"] = shares.round(3).tolist()
    return settings


def tune_decoding(
    model: SpeechModel,
    folder: str | Path,
    corpus_folder: str | Path,
    split: str = "validation",
    *,
    trials: int = 20,
    beam: int = 8,
    seed: int = 1,
    batch_seconds: float = 120.0,
) -> dict[str, Any]:
    """Tries settings of the search on a split and stores the best ones in the model folder.

    The first trial has no length bonus and the default weights; the others are drawn from the
    ``ranges`` of the model's search. All trials have the same beam, and the earlier one wins a tie.
    The best settings are then tried with each of the ``beams`` of the search. The smallest beam is
    kept that has a WER not above the WER of any larger beam. The confidences of the words are
    calibrated if that improves them.

    Args:
        model: speech model, with the language model to use, if any.
        folder: run folder or model folder; the settings are stored in its model.
        corpus_folder: folder that ``asr prepare`` wrote.
        split: split to tune on; results must not be reported on it.
        trials: number of trials, including the default settings.
        beam: beam of the trials.
        seed: random seed of the draws.
        batch_seconds: largest batch, in seconds: length of the longest utterance times number of
            utterances.

    Returns:
        The content of ``tuning.json``, which is written beside the model. ``failed`` lists the
        utterances that could not be decoded; they are left out.

    Raises:
        ValueError: there is no such corpus or split, the split is ``test``, the references have no
            words, or memory is too small. The model folder is then unchanged.
        OSError: the folder cannot be written.
    """
    if "test" in split.lower():
        raise ValueError(f"--split {split}: this split is for final results; tune on validation")
    if trials < 1:
        raise ValueError(f"--trials {trials}: expects 1 or more; the first trial is the default")
    kind = type(model.search) if model.search.ranges else Beam
    started = time.perf_counter()
    data = SplitReader(corpus_folder, split, model.features.sample_rate)
    lower = f"lower batch_seconds, which is {batch_seconds}"

    def encode_rows(batch: Sequence[int]) -> Encoded:
        waves = [data.wave(row) for row in batch]
        return encode_waves(
            model, waves, f"{lower}, or use a smaller split: memory holds all of it"
        )

    encoded = list(attempt_each(encode_rows, data.batches(batch_seconds), data.fail))
    numbers = sorted(itertools.chain(*(batch for batch, _ in encoded)))
    references = [data.rows["text"][i] for i in numbers]
    if not any(text.split() for text in references):
        raise ValueError(f"split {split!r} of {corpus_folder} has no reference words")
    encoding = time.perf_counter() - started

    def attempt(options: dict[str, Any]) -> tuple[Trial, dict[int, Hypothesis]]:
        began = time.perf_counter()
        search = kind(**options)
        found: dict[int, Hypothesis] = {}
        for batch, frames in encoded:
            beam_is = f"{lower}, or the beam, which is {options['beam']}"
            best = search_frames(model, frames, beam_is, search)
            found |= zip(batch, best, strict=True)
        texts = [data.normalise(model.text(found[i])) for i in numbers]
        total = pooled(align(references, texts)[0])
        unfinished = sum(not hypothesis.finished for hypothesis in found.values())
        seconds = time.perf_counter() - began
        return Trial(options, total.errors, total.words, unfinished, seconds), found

    widths = sorted({beam, *kind.beams})
    with tqdm(total=trials + len(widths), unit="trial", disable=None) as bar:
        done: list[Trial] = []
        for options in _settings(kind, model, trials, beam, seed):
            done.append(attempt(options)[0])
            bar.update()
        best = min(done, key=lambda trial: trial.errors)
        wider = [attempt({**best.options, "beam": width}) for width in widths]
        bar.update(len(widths))
    chosen, hypotheses = min(wider, key=lambda one: (one[0].errors, one[0].options["beam"]))
    for edge in edges(kind.ranges, chosen.options, widths[-1]):
        log.warning("%s: better settings may lie beyond", edge)
    confidence = _calibrate(model, encoded, hypotheses, references, data.normalise)
    seconds = time.perf_counter() - started
    result = {
        "corpus": data.about,
        "split": split,
        "failed": data.failures(),
        "seed": seed,
        "ranges": dict(kind.ranges),
        "device_name": device_name(model.device),
        "device_kind": model.device.type,
        "device_hours": cores_held(model.device) * seconds / 3600,
        "encoding_seconds": encoding,
        "chosen": chosen.options,
        "wer": chosen.wer,
        "default_wer": done[0].wer,
        "trials": [{**vars(trial), "wer": trial.wer} for trial in done],
        "beams": [{**vars(trial), "wer": trial.wer} for trial, _ in wider],
        "confidence": confidence,
    }
    _store(model, kind, find_model(folder), result)
    return result


def _settings(
    kind: type[Search], model: SpeechModel, trials: int, beam: int, seed: int
) -> list[dict[str, Any]]:
    """The options of all trials: first the defaults, then draws."""
    keys = kind.tuned(model.decoder, model.language_model)
    mixed = model.language_model
    models = len(mixed.models) if isinstance(mixed, Mixture) else 1
    weight = 0.3 if models == 1 else [round(0.3 / models, 3)] * models
    default = {"lm_weight": weight} if "lm_weight" in keys else {}
    drawn = draws(kind.ranges, keys, trials - 1, seed, models)
    return [{"beam": beam, **own} for own in (default, *drawn)]


def edges(
    ranges: Mapping[str, tuple[float, float]], options: Mapping[str, Any], widest: int
) -> Iterator[str]:
    """Names the options that are within a twentieth of an edge of what was tried."""
    weight = float(np.sum(options.get("lm_weight", 0)))
    for key in ranges.keys() & options.keys():
        low, high = ranges[key]
        value = weight if key == "lm_weight" else options[key]
        share = value / weight if key == "internal_lm_weight" and weight else value
        below = share < low + (high - low) / 20 and low != 0  # 0 is the smallest value there is
        if below or share > high - (high - low) / 20:
            yield f"{key} {value:g} is best, at the edge of the range from {low:g} to {high:g}"
    if options["beam"] == widest:
        yield f"beam {widest} is best, the widest that was tried"


def _calibrate(
    model: SpeechModel,
    encoded: Sequence[tuple[Sequence[int], Encoded]],
    hypotheses: dict[int, Hypothesis],
    references: Sequence[str],
    normalise: Callable[[str], str],
) -> dict[str, Any] | None:
    """Calibrates the confidences of the model if that improves them; returns the measures.

    Each utterance is judged by a calibration that was fitted to the other four fifths. Returns None
    if there is nothing to calibrate.
    """
    give_calibration(model, None)
    if not aligns(model.decoder):
        return None
    words: dict[int, list[Word]] = {}
    for batch, frames in encoded:
        found = locate_words(model, frames, [hypotheses[i] for i in batch], "lower batch_seconds")
        words |= zip(batch, found, strict=True)
    judgement = judged([words[i] for i in sorted(words)], references, normalise)
    confidences, correct = judgement.confidences, judgement.correct
    if len(set(correct)) < 2:
        return None  # all words are correct, or all are wrong
    fitted = cross_fitted(confidences, correct, np.array(judgement.utterances) % FOLDS)
    before, after = confidence_measures(confidences, correct), confidence_measures(fitted, correct)
    kept = after["nce"] > before["nce"]
    if kept:
        give_calibration(model, Calibration.fit(confidences, correct))
    return {"kept": kept, "folds": FOLDS, "before": before, "cross_fitted": after}


def _store(model: SpeechModel, kind: type[Search], folder: Path, result: dict[str, Any]) -> None:
    """Writes the model with the chosen search, and ``tuning.json`` with all trials."""
    model.search = kind(**result["chosen"])
    model.description["search"] = Component(kind, result["chosen"]).tree()
    tuning = {key: result[key] for key in ("split", "seed", "device_hours", "wer", "default_wer")}
    tuning |= {"trials": len(result["trials"]), "rows_sha256": result["corpus"]["rows_sha256"]}
    model.summary = {**model.summary, "tuning": tuning}
    save_model(model, folder, model.summary)
    write(folder / "tuning.json", json.dumps(result, indent=1) + "\n")


def tuning_summary(result: dict[str, Any]) -> str:
    """The summary to print: the best trials, the default, the beams and the calibration."""
    trials = sorted(result["trials"], key=lambda trial: float(trial["wer"]))
    lines = [
        f"{len(trials)} trials on split {result['split']}, {trials[0]['words']} words, "
        f"{result['device_hours']:.3g} {hours_of([result['device_kind']])} on "
        f"{result['device_name']}"
    ]
    shown = [("default", result["trials"][0]), *(("", trial) for trial in trials[:5])]
    shown += [("beam", trial) for trial in result["beams"]]
    for name, trial in shown:
        options = ", ".join(f"{key} {value}" for key, value in trial["options"].items())
        lines.append(
            f"  {name:8} WER {100 * trial['wer']:6.2f} %  {trial['seconds']:6.1f} s  {options}"
        )
    chosen = ", ".join(f"{key} {value}" for key, value in result["chosen"].items())
    lines.append(f"stored with the model: {chosen}")
    if (confidence := result["confidence"]) is None:
        lines.append(
            "confidences are not calibrated: no word has one, or all words are correct or all wrong"
        )
        return "\n".join(lines)
    before, after = confidence["before"], confidence["cross_fitted"]
    lines.append(
        f"confidences of {before['count']} words "
        f"{'calibrated' if confidence['kept'] else 'left as they are (no improvement)'}: "
        f"calibration error {before['ece']:.3f} -> {after['ece']:.3f}, normalised cross entropy "
        f"{before['nce']:.3f} -> {after['nce']:.3f} ({confidence['folds']}-fold cross-fitting)"
    )
    return "\n".join(lines)
