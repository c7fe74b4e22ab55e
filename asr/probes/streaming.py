"""What a causal encoder costs as a stream: milliseconds per frame and bytes of state, by position.

Each encoder reads one endless utterance, chunk by chunk, as a recogniser of live speech would, and
is watched where it has read so many frames. A state that grows with the past makes later frames
dearer; a recurrent one, or one of bounded size, does not. Encoders take turns at each position, so
that a slow moment of the machine hits all of them.
"""

import argparse
import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from asr.config import strict_yaml
from asr.encoders import ENCODERS, Encoder, state_bytes
from asr.files import new_folder
from asr.probes.measure import equal_precision
from asr.probes.output import threads, write_probe
from asr.probes.scaling import NUM_MELS, count, encoder_files, facts
from asr.probes.table import prefixed

log = logging.getLogger(__name__)

POSITIONS = (400, 1600, 10_000)  # feature frames: 4, 16 and 100 s
HOP_SECONDS = 0.01


@dataclass(frozen=True)
class Point:
    """One encoder at one position of its stream.

    Attributes:
        encoder: name of the recipe.
        position: feature frames read before, to the chunk.
        chunk: feature frames that it takes at once, so that it answers as late.
        batch: streams read side by side.
        milliseconds: median over chunks of the time per feature frame, of all streams together.
        slowest: the slowest of these chunks.
        state_bytes: what it remembers of one stream.
        parameters: of the encoder.
    """

    encoder: str
    position: int
    chunk: int
    batch: int
    milliseconds: float
    slowest: float
    state_bytes: int
    parameters: int

    @property
    def real_time_factor(self) -> float:
        """Seconds of encoding per second of one stream's audio."""
        return self.milliseconds / 1000 / HOP_SECONDS


class Stream:
    """An encoder, and what it remembers of the stream so far."""

    def __init__(self, name: str, encoder: Encoder, batch: int, device: str) -> None:
        self.name, self.encoder, self.batch, self.device = name, encoder, batch, device
        self.state = encoder.initial_state(batch)
        self.position = 0
        self.generator = torch.Generator().manual_seed(0)

    def read(self, frames: int) -> float:
        """Reads so many feature frames at once; the seconds that takes."""
        shape = (self.batch, frames, NUM_MELS)
        x = torch.randn(shape, generator=self.generator).to(self.device)  # (B, T, F)
        _wait(self.device)
        began = time.perf_counter()
        _, self.state = self.encoder.step(x, self.state)
        _wait(self.device)
        self.position += frames
        return time.perf_counter() - began

    def skip_to(self, position: int) -> None:
        """Reads on in large pieces until ``position``, or the end of the chunk that holds it."""
        chunk = self.encoder.chunk
        while self.position + chunk <= position:
            self.read(min(64, (position - self.position) // chunk) * chunk)

    def watch(self, position: int, chunks: int) -> Point:
        """Reads so many chunks one by one from here, ``position``, on."""
        chunk = self.encoder.chunk
        seconds = [self.read(chunk) / chunk for _ in range(chunks)]
        return Point(
            self.name,
            position,
            chunk,
            self.batch,
            1000 * statistics.median(seconds),
            1000 * max(seconds),
            state_bytes(self.state) // self.batch,
            sum(p.numel() for p in self.encoder.parameters()),
        )


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def measure_streams(
    recipes: dict[str, strict_yaml.Component],
    positions: Sequence[int],
    *,
    batch: int,
    chunks: int,
    device: str,
) -> list[Point]:
    """A point per causal encoder and position; the others are named in the log."""
    streams = []
    for name, component in recipes.items():
        torch.manual_seed(0)
        encoder: Encoder = component(NUM_MELS).to(device).eval()
        if encoder.causal:
            streams.append(Stream(name, encoder, batch, device))
        else:
            log.info("%s sees the future: it cannot stream", name)
    points = []
    for position in sorted(positions):
        for stream in streams:
            stream.skip_to(position)
        for stream in streams:
            points.append(stream.watch(position, chunks))
            log.info("%s at %d: %.3f ms a frame", stream.name, position, points[-1].milliseconds)
    return sorted(points, key=lambda point: list(recipes).index(point.encoder))


def add_options(options: argparse.ArgumentParser) -> None:
    """Those of ``asr claims streaming``, beside --device and --output."""
    options.add_argument(
        "--encoders", nargs="+", metavar="NAME", help="recipes, or YAML files; all small ones"
    )
    options.add_argument(
        "--positions", nargs="+", type=count, default=list(POSITIONS), metavar="T",
        help="feature frames read before; 400 1600 10000",
    )  # fmt: skip
    options.add_argument("--batch", type=count, default=1, metavar="B", help="streams at once; 1")
    options.add_argument("--chunks", type=count, default=50, metavar="N", help="timed at each; 50")


def run(known: argparse.Namespace, device: str) -> int:
    """Measures, writes streaming.json, .csv and .md and prints the last.

    Raises:
        ValueError: a recipe that is wrong, or none that streams.
    """
    files = encoder_files(known.encoders)
    recipes = {
        name: strict_yaml.read_component(ENCODERS, strict_yaml.load_file(path), str(path), 1)
        for name, path in files.items()
    }
    with new_folder(known.output), equal_precision(device):
        points = measure_streams(
            recipes, known.positions, batch=known.batch, chunks=known.chunks, device=device
        )
        if not points:
            raise ValueError(f"--encoders {', '.join(files)}: none of them is causal; give one")
        page = save(points, facts(device), known.output)
    print(page, end="")
    print(f"written: {known.output / 'streaming.md'} (beside it streaming.csv, streaming.json)")
    return 0


def save(points: Sequence[Point], machine: dict[str, Any], output: Path) -> str:
    """Writes the three files; the Markdown page."""
    rows = [asdict(point) for point in points]
    page = to_page(points, machine)
    everything = {"machine": machine, "points": rows}
    write_probe(output, "streaming", rows, everything, page)
    return page


def to_page(points: Sequence[Point], machine: dict[str, Any]) -> str:
    """A row per encoder, two columns per position."""
    positions = sorted({point.position for point in points})
    head = ["encoder", "M parameters", "chunk, ms", "real-time factor at the end"]
    head += [f"ms per frame at {position:,}" for position in positions]
    head += [f"state at {position:,}" for position in positions]
    table = [head, ["---", *["--:"] * (len(head) - 1)]]
    for name in dict.fromkeys(point.encoder for point in points):
        own = {point.position: point for point in points if point.encoder == name}
        last = own[max(own)]
        cells = [name, f"{last.parameters / 1e6:.2f}", f"{1000 * HOP_SECONDS * last.chunk:.0f}"]
        cells.append(f"{last.real_time_factor:.4f}")
        cells += [f"{own[p].milliseconds:.4f}" if p in own else "" for p in positions]
        cells += [prefixed(own[p].state_bytes, "B") if p in own else "" for p in positions]
        table.append(cells)
    return (
        "\n\n".join(
            [
                "# Streaming",
                f"{machine['device_name']}, {threads(machine)}, {machine['precision']}; "
                f"torch {machine['torch']}; commit {machine['git_commit']}. {points[0].batch} "
                "streams, read chunk by chunk; time per feature frame of 10 ms, median over "
                "chunks; state of one stream.",
                "\n".join(f"| {' | '.join(cells)} |" for cells in table),
            ]
        )
        + "\n"
    )
