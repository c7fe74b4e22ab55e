"""What training and transcription print when they are done."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.data.utterances import read_corpus
from asr.files import read_json
from asr.metering.meter import read_ledger
from asr.recipe.schema import Recipe
from asr.recognition.transcribe import Result
from asr.recognition.writers import FORMATS
from asr.text.scoring import ranked

SHOWN = 20  # files named one by one
PHASES = {
    "startup": "start-up",
    "compilation": "compilation",
    "step": "training",
    "data_wait": "waiting for data",
    "validation": "validation",
    "checkpoint": "checkpoints",
}


def trained(folder: Path, recipe: Recipe) -> str:
    """What a run reached, what it cost and what to do next."""
    last = read_json(folder / "ledger.json")
    validations = [e for e in read_ledger(folder / "ledger.jsonl") if e["event"] == "validation"]
    metric, other = ("cer", "wer") if last.get("validation_metric") == "cer" else ("wer", "cer")
    best = min(validations, key=lambda e: ranked(e["validation"], metric))
    final = validations[-1]
    rates = [f"{100 * e['validation'][metric]:.2f} %" for e in (best, final)]
    beside = f"{other.upper()} is {100 * best['validation'].get(other, math.nan):.2f} %"
    words = final["validation"]["words"]
    spent = {PHASES[name]: seconds for name, seconds in last["seconds"].items()}
    spent["lost to crashes"] = last["wasted_seconds"]
    phases = [f"{words} {hours(last, s)}" for words, s in spent.items() if s]
    busy = last["seconds"]["step"] + last["seconds"]["data_wait"]
    millions = sum(last["parameters"].values()) / 1e6
    lines = [
        f"{folder}: {last['reason']}",
        f"  {metric.upper()}       best {rates[0]} after {count(best['updates'], 'update')}, last "
        f"{rates[1]} after {final['updates']} (split {recipe.data.validation}, {words} words)",
        f"            the {metric.upper()} chose the best model, whose {beside}",
        f"  trained   {count(last['updates'], 'update')}, {last['audio_seconds'] / 3600:.3g} "
        f"audio-hours, {millions:.3g} M parameters, seed {last['seed']}",
        f"  cost      {last['device_hours']:.3g} device-hours on {last['num_devices']} x "
        f"{last['device_name']}",
        f"            {', '.join(phases)}",
        f"  speed     {last['audio_seconds'] / max(busy, 1e-9):.0f} seconds of audio per second of "
        f"training, peak memory {last['peak_memory_bytes'] / 2**20:.0f} MiB",
    ]
    if last["energy_joules"] is not None:
        lines.append(f"  energy    {last['energy_joules'] / 3.6e6:.3g} kWh")
    if last["nonfinite_updates"]:
        lines.append(f"  skipped   {last['nonfinite_updates']} updates without finite gradient")
    try:
        present = read_corpus(recipe.data.corpus)["splits"]
    except ValueError:
        present = {"test": None}
    split = "test" if "test" in present else recipe.data.validation
    lines.append(f"  next      asr evaluate {shlex.quote(str(folder))} --split {split}")
    return "\n".join(lines)


def trained_language_model(folder: Path) -> str:
    """What a language model's run reached, and what it cost."""
    last = read_json(folder / "ledger.json")
    lines = [e for e in read_ledger(folder / "ledger.jsonl") if e["event"] == "validation"]
    best = min((e["validation"] for e in lines), key=lambda v: float(v["loss"]))
    millions = sum(last["parameters"].values()) / 1e6
    return "\n".join(
        [
            f"{folder}: {last['reason']}",
            f"  perplexity {best['word_perplexity']:.1f} per word, {best['perplexity']:.2f} per "
            f"token ({best['sentences']} sentences, {best['words']} words)",
            f"  trained    {count(last['updates'], 'update')}, {last['tokens']} tokens, "
            f"{millions:.3g} M parameters, seed {last['seed']}",
            f"  cost       {last['device_hours']:.3g} device-hours on {last['num_devices']} x "
            f"{last['device_name']}",
            f"  next       asr tune-decoding RUN --language-model {shlex.quote(str(folder))}",
        ]
    )


def hours(line: dict[str, Any], seconds: float) -> str:
    """Device-hours of a phase, and their share."""
    share = seconds / line["wall_seconds"]
    spent, digits = seconds * line["num_devices"] / 3600, 2 if line["device_hours"] >= 1 else 4
    return f"{spent:.{digits}f} h ({100 * share:.0f} %)"


def transcribed(results: Sequence[Result], folder: Path | None, kind: str) -> str:
    """The transcripts, with the names of their files where there are several; or where they are."""
    done = [(r, r.transcript) for r in results if r.transcript is not None]
    if folder is None:
        texts = [(result.source, FORMATS[kind](transcript)) for result, transcript in done]
        named = len(results) > 1
        return "".join(f"{source}: {text}" if named else text for source, text in texts)
    lines = [f"{r.source} -> {', '.join(map(str, r.outputs.values()))}" for r, _ in done[:SHOWN]]
    lines += [f"... and {len(done) - SHOWN} more"] if len(done) > SHOWN else []
    seconds = sum(transcript.duration for _, transcript in done)
    lines.append(f"{count(len(done), 'file')}, {seconds:.1f} s of audio, transcribed into {folder}")
    if left := sum(r.transcript is None and r.error is None for r in results):
        lines.append(f"{count(left, 'file')} not heard again: all transcripts are there")
    return "\n".join(lines) + "\n"


def count(number: int, one: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {one}" + "s" * (number != 1)


def tuned(result: dict[str, Any]) -> str:
    """The best ways to search that were found, what they buy over the default, and their cost."""
    trials = sorted(result["trials"], key=lambda trial: float(trial["wer"]))
    lines = [
        f"{len(trials)} trials on split {result['split']}, {trials[0]['words']} words, "
        f"{result['device_hours']:.3g} device-hours on {result['device_name']}"
    ]
    shown = [("default", result["trials"][0]), *(("", trial) for trial in trials[:5])]
    shown += [("beam", trial) for trial in result["beams"]]
    for name, trial in shown:
        options = ", ".join(f"{key} {value:g}" for key, value in trial["options"].items())
        lines.append(
            f"  {name:8} WER {100 * trial['wer']:6.2f} %  {trial['seconds']:6.1f} s  {options}"
        )
    chosen = ", ".join(f"{key} {value:g}" for key, value in result["chosen"].items())
    lines += [f"stored with the model: {chosen}", _calibrated(result["confidence"])]
    return "\n".join(lines)


def _calibrated(confidence: dict[str, Any] | None) -> str:
    """What calibration changes for words that it was not fitted to."""
    if confidence is None:
        return "confidences are not calibrated: there are none, or all of their words are alike"
    before, after = confidence["before"], confidence["cross_fitted"]
    return (
        f"confidences of {before['count']} words "
        f"{'calibrated' if confidence['kept'] else 'left as they are, which is better'}: "
        f"calibration error {before['ece']:.3f} -> {after['ece']:.3f}, normalised cross entropy "
        f"{before['nce']:.3f} -> {after['nce']:.3f} ({confidence['folds']}-fold cross-fitting)"
    )
