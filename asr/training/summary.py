"""The summary that ``asr train`` prints when a run has ended."""

import math
import shlex
from pathlib import Path
from typing import Any

from asr.data.utterances import read_corpus
from asr.formatting import hours_of, numbered
from asr.metering.ledger_format import read_ledger, read_totals
from asr.model_folder import WEIGHTS
from asr.recipe.schema import Recipe
from asr.text.scoring import ranked

PHASES = {
    "startup": "start-up",
    "compilation": "compilation",
    "step": "training",
    "data_wait": "waiting for data",
    "validation": "validation",
    "checkpoint": "checkpoints",
}


def trained(folder: Path, recipe: Recipe) -> str:
    """Describes the result and the cost of a run, and suggests the next commands."""
    last = read_totals(folder)
    validations = [e for e in read_ledger(folder) if e["event"] == "validation"]
    metric, other = ("cer", "wer") if last.get("validation_metric") == "cer" else ("wer", "cer")
    best = min(validations, key=lambda e: ranked(e["validation"], metric))
    final = validations[-1]
    rates = [f"{100 * e['validation'][metric]:.2f} %" for e in (best, final)]
    beside = f"{other.upper()} is {100 * best['validation'].get(other, math.nan):.2f} %"
    words = final["validation"]["words"]
    spent = {PHASES[name]: seconds for name, seconds in last["seconds"].items()}
    spent["lost to crashes"] = last["wasted_seconds"]
    digits = 2 if last["device_hours"] >= 1 else 4
    phases = [
        f"{name} {last['device_hours'] * seconds / last['wall_seconds']:.{digits}f} h "
        f"({100 * seconds / last['wall_seconds']:.0f} %)"
        for name, seconds in spent.items()
        if seconds
    ]
    busy = last["seconds"]["step"] + last["seconds"]["data_wait"]
    millions = sum(last["parameters"].values()) / 1e6
    lines = [
        f"{folder}: {last['reason']}",
        f"  {metric.upper()}       best {rates[0]} after {numbered(best['updates'], 'update')}, "
        f"last {rates[1]} after {final['updates']} (split {recipe.data.validation}, {words} words)",
        f"            the {metric.upper()} chose the best model, whose {beside}",
        f"  trained   {numbered(last['updates'], 'update')}, {last['audio_seconds'] / 3600:.3g} "
        f"audio-hours, {millions:.3g} M parameters, seed {last['seed']}",
        f"  cost      {cost(last)}",
        f"            {', '.join(phases)}",
        *(f"  disturbed {one['text']}" for one in last.get("disturbances") or []),
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


def cost(last: dict[str, Any]) -> str:
    """Describes the hours of the last line of a ledger."""
    on_cpu = last["device_kind"] == "cpu"
    words = [
        f"{last['device_hours']:.3g} {hours_of([last['device_kind']])} on {last['num_devices']} "
        f"x {last['device_name']}{' core' * on_cpu}"
    ]
    if (cpu := last.get("cpu_seconds")) is not None:
        words.append(f"{sum(cpu.values()) / 3600:.3g} CPU-hours")
    if (share := last.get("core_wait_share")) is not None:
        words.append(f"{100 * share:.0f} % of the time spent waiting for a core")
    return ", ".join(words)


def trained_language_model(folder: Path) -> str:
    """Describes the result and cost of the run of a language model."""
    last = read_totals(folder)
    lines = [e for e in read_ledger(folder) if e["event"] == "validation"]
    best = min((e["validation"] for e in lines), key=lambda v: float(v["loss"]))
    millions = sum(last["parameters"].values()) / 1e6
    mebibytes = (folder / "best" / WEIGHTS).stat().st_size / 2**20
    size = f"{millions:.3g} M parameters" if millions else f"n-grams of {mebibytes:.3g} MiB"
    return "\n".join(
        [
            f"{folder}: {last['reason']}",
            f"  perplexity {best['word_perplexity']:.1f} per word, {best['perplexity']:.2f} per "
            f"token ({best['sentences']} sentences, {best['words']} words)",
            f"  trained    {numbered(last['updates'], 'update')}, {last['tokens']} tokens, "
            f"{size}, seed {last['seed']}",
            f"  cost       {cost(last)}",
            *(f"  disturbed  {one['text']}" for one in last.get("disturbances") or []),
            f"  next       asr tune-decoding RUN --language-model {shlex.quote(str(folder))}",
        ]
    )
