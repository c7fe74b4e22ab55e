"""Draws the page of the probe ``lookahead``: word error rate against look-ahead.

It reads trained and evaluated runs. The look-ahead of an encoder frame is the audio after the frame
that the encoder sees: nothing in a strictly causal encoder, the rest of the chunk (half a chunk on
average) in a chunked encoder, and the rest of the utterance in an encoder that cannot stream.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asr.config.strict_yaml import load_file, read_component
from asr.document.blocks import Block, Text
from asr.files import read_json
from asr.formatting import digits, percent, percent_interval
from asr.metering.ledger_format import read_totals
from asr.probes.probe import Measured, Option, Part, Probe, grouped, run_names, table
from asr.probes.streaming import HOP_SECONDS

if TYPE_CHECKING:
    from asr.encoders import Encoder


@dataclass(frozen=True)
class LookAhead:
    """A trained model and how far ahead its encoder looks."""

    run: str  # run folder
    encoder: str  # class of the encoder
    decoder: str  # class of the decoder
    seed: int
    most: float | None  # seconds after the first frame of a chunk; None: the whole utterance
    mean: float | None  # mean over the frames of a chunk, in seconds
    wer: float  # WER on the evaluated split
    low: float  # lower end of the 95 % interval over speakers
    high: float
    device_hours: float  # cost of training


def look_ahead(encoder: "Encoder") -> tuple[float, float] | None:
    """The most and the mean look-ahead of an encoder's frames, in seconds; None: it sees all.

    Frame j of a chunk of C feature frames, at a stride of s, sees the C - (j + 1) s that follow.
    """
    if not encoder.causal:
        return None
    most = (encoder.chunk - encoder.stride) * HOP_SECONDS
    return most, most / 2


def read_look_ahead(folder: Path, split: str) -> LookAhead:
    """Reads the look-ahead and the WER of a run folder.

    Raises:
        ValueError: the folder is not a run folder, or was not evaluated on this split.
    """
    from asr.encoders import ENCODERS

    if not (folder / "ledger.json").is_file():
        raise ValueError(f"{folder} is not a run folder with a ledger.json; finish its training")
    path = folder / "evaluations" / split / "metrics.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no {split} WER; run: asr evaluate {folder} --split {split}")
    recipe = load_file(folder / "recipe.yaml")
    ledger, metrics = read_totals(folder), read_json(path)
    build = read_component(ENCODERS, recipe["encoder"], "encoder", 1)
    most, mean = look_ahead(build(recipe["features"]["num_mels"])) or (None, None)
    low, high = metrics["wer"]["interval"]
    return LookAhead(
        run=str(folder),
        encoder=recipe["encoder"]["class_path"],
        decoder=recipe["decoder"]["class_path"],
        seed=recipe["seed"],
        most=most,
        mean=mean,
        wer=metrics["wer"]["rate"],
        low=low,
        high=high,
        device_hours=ledger["device_hours"],
    )


def measure(options: argparse.Namespace, device: str) -> Iterator[Measured]:
    """Reads the runs.

    Raises:
        ValueError: a folder is not a run folder, or was not evaluated.
    """
    from asr.probes.instrument import facts

    points = [read_look_ahead(Path(folder), options.split) for folder in options.runs]
    points.sort(key=lambda p: (p.encoder, p.decoder, p.most is None, p.most or 0.0, p.seed))
    yield Measured(points, facts(device))


def format_seconds(ahead: float | None) -> str:
    """A look-ahead in words."""
    return "the utterance" if ahead is None else f"{ahead:.2f} s"


def draw(measured: Measured) -> list[Block]:
    """A table with the mean WER per look-ahead, and a table with a line per run."""
    together = [own for _, own in grouped(measured.rows, "encoder", "decoder", "most")]
    name = run_names(measured.rows)[1]
    shared = {
        "trained model: encoder": lambda own: own[0].encoder,
        "decoder": lambda own: own[0].decoder,
        "look-ahead, at most": lambda own: format_seconds(own[0].most),
        "runs": lambda own: str(len(own)),
        "WER": lambda own: _span([point.wer for point in own]),
    }
    single = {
        "run folder": name,
        "seed": lambda p: str(p.seed),
        "look-ahead, at most": lambda p: format_seconds(p.most),
        "in the mean": lambda p: format_seconds(p.mean),
        "WER [95 % interval]": lambda p: percent_interval(p.wer, (p.low, p.high)),
        "core-hours or GPU-hours": lambda p: digits(p.device_hours),
    }
    note = "Intervals are over speakers. Runs with different budgets are not comparable."
    return [table(together, shared), table(measured.rows, single), Text([note])]


def _span(wers: list[float]) -> str:
    """The mean of the WERs, with the lowest and the highest."""
    mean = percent(sum(wers) / len(wers))
    return mean if len(wers) == 1 else f"{mean}, {percent(min(wers))} to {percent(max(wers))}"


PROBE = Probe(
    name="lookahead",
    title="Word error rate against look-ahead",
    meaning="word error rate of trained models against the look-ahead of their encoders",
    example="asr claims lookahead runs/causal runs/chunked runs/full --output claims",
    module="asr.probes.lookahead",
    row=LookAhead,
    options=(Option("split", "test", "split whose evaluation is read"),),
    parts=(Part("C2", "By look-ahead", draw, "Errors against look-ahead: not measured."),),
    takes_runs=True,
)
