"""Word error rate against look-ahead: what a model that streams loses by not hearing what follows.

Reads trained and evaluated runs. The look-ahead of an encoder frame are the features that the
encoder sees after those that the frame stands for: none in a strictly causal encoder, the rest of
the chunk in one that attends within chunks (half of it in the mean), the rest of the utterance in
one that cannot stream.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from asr.config.strict_yaml import load_file, read_component
from asr.encoders import ENCODERS, Encoder
from asr.files import new_folder
from asr.probes.output import write_probe
from asr.probes.scaling import facts
from asr.probes.streaming import HOP_SECONDS


@dataclass(frozen=True)
class Point:
    """A trained model and how far ahead its encoder looks.

    Attributes:
        run: its folder.
        encoder, decoder: their classes.
        seed: of the run.
        most: seconds of look-ahead of the first frame of a chunk; None: the whole utterance.
        mean: seconds of look-ahead, over the frames of a chunk.
        wer, low, high: on the split that was evaluated.
        device_hours: of training.
    """

    run: str
    encoder: str
    decoder: str
    seed: int
    most: float | None
    mean: float | None
    wer: float
    low: float
    high: float
    device_hours: float


def look_ahead(encoder: Encoder) -> tuple[float, float] | None:
    """The most and the mean look-ahead of an encoder's frames, in seconds; None: it sees all.

    Frame j of a chunk of C feature frames, at a stride of s, sees the C - (j + 1) s that follow.
    """
    if not encoder.causal:
        return None
    most = (encoder.chunk - encoder.stride) * HOP_SECONDS
    return most, most / 2


def read_run(folder: Path, split: str) -> Point:
    """What the files of a run folder say.

    Raises:
        ValueError: no run folder, or one that was not evaluated on this split.
    """
    if not (folder / "ledger.json").is_file():
        raise ValueError(f"{folder} is no run folder with a ledger.json; train it to its end")
    path = folder / "evaluations" / split / "metrics.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no {split} WER; run: asr evaluate {folder} --split {split}")
    recipe = load_file(folder / "recipe.yaml")
    ledger, metrics = (
        json.loads(file.read_text(encoding="utf-8")) for file in (folder / "ledger.json", path)
    )
    build = read_component(ENCODERS, recipe["encoder"], "encoder", 1)
    seen = look_ahead(build(recipe["features"]["num_mels"]))
    return Point(
        run=str(folder),
        encoder=recipe["encoder"]["class_path"],
        decoder=recipe["decoder"]["class_path"],
        seed=recipe["seed"],
        most=None if seen is None else seen[0],
        mean=None if seen is None else seen[1],
        wer=metrics["wer"]["rate"],
        low=metrics["wer"]["interval"][0],
        high=metrics["wer"]["interval"][1],
        device_hours=ledger["device_hours"],
    )


def add_options(options: argparse.ArgumentParser) -> None:
    """Those of ``asr claims lookahead``, beside --device and --output."""
    options.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    options.add_argument("--split", default="test", help="whose evaluation is read; test")
    options.epilog = "example: asr claims lookahead runs/causal runs/chunked runs/full"


def run(known: argparse.Namespace, device: str) -> int:
    """Reads, writes lookahead.json, .csv and .md, and prints the last.

    Raises:
        ValueError: a folder that is no run, or that was not evaluated.
    """
    points = [read_run(folder, known.split) for folder in known.runs]
    points.sort(key=lambda p: (p.encoder, p.decoder, p.most is None, p.most or 0.0, p.seed))
    rows = [asdict(point) for point in points]
    page = to_page(points, known.split)
    everything = {"machine": facts(device), "points": rows}
    with new_folder(known.output):
        write_probe(known.output, "lookahead", rows, everything, page)
    print(page, end="")
    print(f"written: {known.output / 'lookahead.md'} (beside it lookahead.csv, lookahead.json)")
    return 0


def seconds(most: float | None) -> str:
    """A look-ahead as tables show it."""
    return "the utterance" if most is None else f"{most:.2f} s"


def to_page(points: Sequence[Point], split: str) -> str:
    """A row per run."""
    head = [
        "encoder",
        "decoder",
        "look-ahead, most",
        "mean",
        "seed",
        f"{split} WER",
        "device-hours",
    ]
    table = [head, ["---"] * 2 + ["--:"] * (len(head) - 2)]
    for p in points:
        table.append(
            [
                p.encoder,
                p.decoder,
                seconds(p.most),
                "" if p.mean is None else seconds(p.mean),
                str(p.seed),
                f"{100 * p.wer:.2f} % [{100 * p.low:.2f} to {100 * p.high:.2f}]",
                f"{p.device_hours:.4f}",
            ]
        )
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    about = "Intervals: 95 %, over speakers. Runs of other budgets are not comparable."
    return "\n\n".join(["# Word error rate against look-ahead", lines, about]) + "\n"
