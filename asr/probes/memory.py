"""Draws the page of the probe ``memory``: word error rate against the share of stored frames.

It reads runs of encoders with and without a ``memory``. A similarity gate is useful if it loses
less than its controls, which store the same number of frames at regular intervals or at random. The
page says if a control is missing.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asr.config.strict_yaml import load_file
from asr.document.blocks import Block, Picture, Text
from asr.files import read_json
from asr.formatting import digits, percent, percent_interval, prefixed
from asr.metering.ledger_format import read_ledger
from asr.probes.probe import Measured, Option, Part, Probe, grouped, run_names, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONTROLS = ("uniform", "random")
EVERYTHING = "none"  # the gate of an encoder that stores every frame


@dataclass(frozen=True)
class StoredRun:
    """The share of frames that one run stored, its errors and its cost."""

    run: str  # run folder
    encoder: str  # class of the encoder
    gate: str  # name of the gate; "none": every frame is stored
    setting: float | None  # threshold or rate of the gate
    seed: int
    kept: float  # share of the frames stored in the last validation
    kept_speech: float | None  # the same share of frames of speech
    kept_silence: float | None  # the same share of frames of silence
    validation_wer: float  # lowest validation WER
    wer: float | None  # WER on the evaluated split; None: not evaluated
    low: float | None  # lower end of the 95 % interval over speakers
    high: float | None
    device_hours: float  # cost of training
    train_flops: float  # FLOPs of training; gated encoders count as if every frame were stored
    real_time_factor: float | None  # real-time factor of the evaluation


def read_stored_run(folder: Path, split: str) -> StoredRun:
    """Reads what one run stored from its folder.

    Raises:
        ValueError: the folder is not a run folder, or has no validation yet.
    """
    if not (folder / "ledger.jsonl").is_file():
        raise ValueError(f"{folder} is not a run folder (no ledger.jsonl); check the path")
    recipe = load_file(folder / "recipe.yaml")
    lines = [line for line in read_ledger(folder) if line.get("validation")]
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
    metrics = read_json(path) if path.exists() else None
    low, high = metrics["wer"]["interval"] if metrics else (None, None)
    return StoredRun(
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


def measure(options: argparse.Namespace, device: str) -> Iterator[Measured]:
    """Reads the runs.

    Raises:
        ValueError: a folder is not a run folder, or is given twice (it would count as two seeds).
    """
    from asr.probes.instrument import facts

    paths = [Path(folder).resolve() for folder in options.runs]
    for folder, path in zip(options.runs, paths, strict=True):
        if paths.count(path) > 1:
            raise ValueError(f"{folder} is given twice; give each run once")
    points = [read_stored_run(Path(folder), options.split) for folder in options.runs]
    points.sort(key=lambda point: (point.encoder, point.gate, -point.kept))
    yield Measured(points, facts(device))


def missing(points: Sequence[StoredRun]) -> list[str]:
    """Sentences that name the controls that were not run, without which gates prove nothing."""
    lacks = []
    for (encoder,), own in grouped(points, "encoder"):
        gates = {point.gate for point in own}
        if not gates - {*CONTROLS, EVERYTHING}:
            continue
        for control in (EVERYTHING, *CONTROLS):
            if control not in gates:
                what = "without a memory" if control == EVERYTHING else f"with gate: {control}"
                lacks.append(
                    f"No run of {encoder} {what}, so the benefit of its gates is not known."
                )
    return lacks


def format_gate(gate: str, setting: float | None) -> str:
    """Formats a gate as ``everything stored`` or ``last_kept 0.9``."""
    return "everything stored" if gate == EVERYTHING or setting is None else f"{gate} {setting:g}"


def draw(measured: Measured) -> list[Block]:
    """A figure, a table with a line per run, and the missing controls."""
    columns = {
        "run folder": run_names(measured.rows)[1],
        "encoder": lambda p: p.encoder,
        "gate and setting": lambda p: format_gate(p.gate, p.setting),
        "seed": lambda p: str(p.seed),
        "stored": lambda p: percent(p.kept),
        "of speech": lambda p: percent(p.kept_speech),
        "of silence": lambda p: percent(p.kept_silence),
        "validation WER": lambda p: percent(p.validation_wer),
        "WER [95 % interval]": lambda p: percent_interval(
            p.wer, None if p.low is None else (p.low, p.high)
        ),
        "core-hours or GPU-hours": lambda p: digits(p.device_hours),
        "training compute": lambda p: prefixed(p.train_flops, "FLOP"),
        "real-time factor": lambda p: digits(p.real_time_factor),
    }
    words = (
        "WER against the share of frames stored. Each mark is a run; whiskers show its interval "
        "over speakers."
    )
    notes = [Text(lacks, "list")] if (lacks := missing(measured.rows)) else []
    picture = Picture("stored", lambda: draw_figure(measured.rows), words)
    return [picture, table(measured.rows, columns), *notes]


def draw_figure(points: Sequence[StoredRun]) -> "Figure | None":
    """WER against the share of frames that is stored, by gate; whiskers over speakers."""
    from asr.document.figures import Series, new_figure, style, whiskers

    known = [point for point in points if point.wer is not None]
    if not known:
        return None
    figure, (axes,) = new_figure(3.8)
    for index, ((encoder, gate), own) in enumerate(grouped(known, "encoder", "gate")):
        label = f"{encoder}, {'everything stored' if gate == EVERYTHING else gate}"
        ends = [[100 * getattr(p, key) for p in own] for key in ("kept", "wer", "low", "high")]
        line = Series(label, *ends)
        look = style(index) | {"linestyle": "none"}
        axes.errorbar(line.x, line.y, whiskers(line), markersize=7, capsize=3, label=label, **look)
    axes.set_xlim(0, 105)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="frames stored, %", ylabel="WER, %")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=10)
    return figure


PROBE = Probe(
    name="memory",
    title="Stored frames",
    meaning="word error rate of trained models against the share of frames that they store",
    example="asr claims memory runs/gated runs/uniform runs/random runs/all --output claims",
    module="asr.probes.memory",
    row=StoredRun,
    options=(Option("split", "test", "split whose evaluation is read"),),
    parts=(Part("C7", "By gate and share stored", draw),),
    takes_runs=True,
)
