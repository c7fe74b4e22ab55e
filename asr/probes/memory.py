"""Word error rate against the share of frames that is stored: gates beside their controls.

Reads runs of encoders with a ``memory`` and of the same without. What a similarity gate is worth is
what it loses less than storing as many frames at regular distances, or at random: both controls
belong into the table, and their absence is said.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from asr.config.strict_yaml import load_file
from asr.files import new_folder
from asr.metering.meter import read_ledger
from asr.probes.output import write_probe
from asr.probes.scaling import facts

CONTROLS = ("uniform", "random")
EVERYTHING = "none"  # the gate of an encoder that stores every frame


@dataclass(frozen=True)
class Point:
    """What one run stored and what it cost.

    Attributes:
        run: its folder.
        encoder, gate, seed: what it is; ``none``: every frame is stored.
        setting: threshold or rate.
        kept, kept_speech, kept_silence: shares of the validation frames stored at the end.
        validation_wer: the best one.
        wer, low, high: on the split that was evaluated; None: it was not.
        device_hours, train_flops: of training; FLOPs as if every frame were stored where a gate
            looks at them.
        real_time_factor: of the evaluation.
    """

    run: str
    encoder: str
    gate: str
    setting: float | None
    seed: int
    kept: float
    kept_speech: float | None
    kept_silence: float | None
    validation_wer: float
    wer: float | None
    low: float | None
    high: float | None
    device_hours: float
    train_flops: float
    real_time_factor: float | None


def read_run(folder: Path, split: str) -> Point:
    """What the files of a run folder say.

    Raises:
        ValueError: no run folder, or one without a validation.
    """
    if not (folder / "ledger.jsonl").is_file():
        raise ValueError(f"{folder} is no run folder (no ledger.jsonl); check the path")
    recipe = load_file(folder / "recipe.yaml")
    lines = [line for line in read_ledger(folder / "ledger.jsonl") if line.get("validation")]
    if not lines:
        raise ValueError(f"{folder} has no validation yet; train it longer")
    encoder, last = recipe["encoder"], lines[-1]
    memory = encoder["init_args"].get("memory")
    gate = memory["gate"] if memory else EVERYTHING
    setting = None
    if memory:
        by_similarity = gate in ("last_kept", "previous")
        setting = memory.get("threshold", 0.9) if by_similarity else memory.get("rate", 0.5)
    path = folder / "evaluations" / split / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    low, high = metrics["wer"]["interval"] if metrics else (None, None)
    return Point(
        run=str(folder),
        encoder=encoder["class_path"],
        gate=gate,
        setting=setting,
        seed=recipe["seed"],
        kept=last["validation"].get("kept", 1.0),
        kept_speech=last["validation"].get("kept_speech"),
        kept_silence=last["validation"].get("kept_silence"),
        validation_wer=min(line["validation"]["wer"] for line in lines),
        wer=metrics["wer"]["rate"] if metrics else None,
        low=low,
        high=high,
        device_hours=last["device_hours"],
        train_flops=last["train_flops"],
        real_time_factor=metrics["real_time_factor"] if metrics else None,
    )


def missing(points: Sequence[Point]) -> list[str]:
    """What a fair reading lacks, in words."""
    lacks = []
    for encoder in dict.fromkeys(point.encoder for point in points):
        gates = {point.gate for point in points if point.encoder == encoder}
        if not gates - {*CONTROLS, EVERYTHING}:
            continue
        for control in (EVERYTHING, *CONTROLS):
            if control not in gates:
                told = "without a memory" if control == EVERYTHING else f"with gate: {control}"
                lacks.append(f"No run of {encoder} {told}: what its gates are worth is not known.")
    return lacks


def add_options(options: argparse.ArgumentParser) -> None:
    """Those of ``asr claims memory``, beside --device and --output."""
    options.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    options.add_argument("--split", default="test", help="whose evaluation is read; test")


def run(known: argparse.Namespace, device: str) -> int:
    """Reads, writes memory.json, .csv and .md, and prints the last.

    Raises:
        ValueError: a folder that is no run, or given twice, which would count as two seeds.
    """
    places = [folder.resolve() for folder in known.runs]
    for folder, place in zip(known.runs, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{folder} is given twice; give each run once")
    points = [read_run(folder, known.split) for folder in known.runs]
    points.sort(key=lambda point: (point.encoder, point.gate, -point.kept))
    rows = [asdict(point) for point in points]
    page = to_page(points, known.split)
    everything = {"machine": facts(device), "points": rows}
    with new_folder(known.output):
        write_probe(known.output, "memory", rows, everything, page)
    print(page, end="")
    print(f"written: {known.output / 'memory.md'} (beside it memory.csv, memory.json)")
    return 0


def to_page(points: Sequence[Point], split: str) -> str:
    """A row per run."""
    head = ["encoder", "gate", "setting", "seed", "stored", "of speech", "of silence"]
    head += ["validation WER", f"{split} WER", "device-hours", "training TFLOP", "real-time factor"]
    table = [head, ["---"] * 2 + ["--:"] * (len(head) - 2)]
    for p in points:
        table.append(
            [
                p.encoder,
                p.gate,
                "" if p.setting is None else f"{p.setting:g}",
                str(p.seed),
                *(_percent(share) for share in (p.kept, p.kept_speech, p.kept_silence)),
                f"{100 * p.validation_wer:.2f} %",
                _interval(p),
                f"{p.device_hours:.4f}",
                f"{p.train_flops / 1e12:.1f}",
                "" if p.real_time_factor is None else f"{p.real_time_factor:.4f}",
            ]
        )
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    return "\n\n".join(["# Stored frames", lines, *missing(points)]) + "\n"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _interval(p: Point) -> str:
    if p.wer is None or p.low is None or p.high is None:
        return "not evaluated"
    return f"{100 * p.wer:.2f} % [{100 * p.low:.2f}, {100 * p.high:.2f}]"
