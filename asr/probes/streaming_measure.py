"""Measures time per frame and state of causal encoders, by position in a stream.

Each encoder reads one endless utterance chunk by chunk, as in the recognition of live speech, and
is timed at some positions. If the state grows with the past, later frames take more time; with a
recurrent or bounded state they do not. At each position the encoders take turns, several times. All
chunks are timed from the same state, and a slow moment of the machine affects all encoders.
"""

import argparse
import copy
import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence

import torch

from asr.config import strict_yaml
from asr.encoders import Encoder, state_bytes
from asr.metering.device_clock import wait_for
from asr.probes.instrument import facts
from asr.probes.layers import NUM_MELS, recipes
from asr.probes.probe import Measured
from asr.probes.streaming import StreamPoint

log = logging.getLogger(__name__)


class Stream:
    """An encoder with its state in a stream that it reads in chunks of some feature frames."""

    def __init__(self, name: str, encoder: Encoder, batch: int, chunk: int, device: str) -> None:
        self.name, self.encoder, self.batch, self.device = name, encoder, batch, device
        self.chunk = chunk
        self.seconds: list[list[float]] = []  # per feature frame, by repeat and chunk
        self.state = encoder.initial_state(batch)
        self.position = 0
        self.generator = torch.Generator().manual_seed(0)

    def read(self, frames: int) -> float:
        """Reads ``frames`` feature frames at once; returns the time in seconds."""
        shape = (self.batch, frames, NUM_MELS)
        x = torch.randn(shape, generator=self.generator).to(self.device)  # (B, T, F)
        wait_for(self.device)
        began = time.perf_counter()
        _, self.state = self.encoder.step(x, self.state)
        wait_for(self.device)
        self.position += frames
        return time.perf_counter() - began

    def skip_to(self, position: int) -> None:
        """Reads large pieces up to ``position``, rounded up to the end of a chunk."""
        while self.position + self.chunk <= position:
            self.read(min(64, (position - self.position) // self.chunk) * self.chunk)

    def time(self, chunks: int) -> None:
        """Times ``chunks`` chunks, one by one; the position and the state stay as they were."""
        position, state, taken = self.position, self.state, []
        for _ in range(chunks):  # each one at this position
            self.state = copy.deepcopy(state)
            taken.append(self.read(self.chunk) / self.chunk)
            self.position, self.state = position, state
        self.seconds.append(taken)

    def point(self, position: int) -> StreamPoint:
        """The repeats since the last point, and the state at the current position."""
        repeats = [1000 * statistics.median(seconds) for seconds in self.seconds]
        slowest = 1000 * max(max(seconds) for seconds in self.seconds)
        self.seconds = []
        return StreamPoint(
            self.name,
            position,
            self.chunk,
            self.batch,
            statistics.median(repeats),
            slowest,
            state_bytes(self.state) // self.batch,
            sum(p.numel() for p in self.encoder.parameters()),
            repeats,
        )


@torch.inference_mode()
def measure_streams(
    components: Mapping[str, strict_yaml.Component],
    positions: Sequence[int],
    *,
    batch: int,
    chunks: int,
    repeats: int,
    device: str,
    chunk: Sequence[int] = (),
) -> list[StreamPoint]:
    """A point per causal encoder, chunk and position; the other encoders are named in the log.

    An encoder reads those of the chunks ``chunk`` that are multiples of its own; without them, its
    own.

    Raises:
        ValueError: none of the chunks suits a causal encoder.
    """
    streams = []
    for name, component in components.items():
        torch.manual_seed(0)
        encoder: Encoder = component(NUM_MELS).to(device).eval()
        sizes = [size for size in chunk or (encoder.chunk,) if size % encoder.chunk == 0]
        if not encoder.causal:
            log.info("%s sees the future: it cannot stream", name)
        elif not sizes:
            raise ValueError(
                f"--chunk {' '.join(map(str, chunk))}: {name} reads chunks of {encoder.chunk} "
                "feature frames; give a multiple, or --encoders without it"
            )
        streams += [Stream(name, encoder, batch, n, device) for n in sizes if encoder.causal]
    points = []
    for position in sorted(positions):
        for stream in streams:
            stream.skip_to(position)
        for stream, _ in [(s, r) for r in range(repeats) for s in streams]:
            stream.time(chunks)
        for stream in streams:
            points.append(stream.point(position))
            log.info("%s at %d: %.3f ms a frame", stream.name, position, points[-1].milliseconds)
    return sorted(points, key=lambda point: list(components).index(point.encoder))


def measure(options: argparse.Namespace, device: str) -> Iterator[Measured]:
    """Measures all encoders together.

    Raises:
        ValueError: a recipe is wrong, no encoder is causal, or no chunk suits one.
    """
    components = recipes(options.encoders)
    points = measure_streams(
        components, options.positions, batch=options.batch, chunks=options.chunks,
        repeats=options.repeats, device=device, chunk=options.chunk,
    )  # fmt: skip
    if not points:
        raise ValueError(f"--encoders {', '.join(components)}: none of them is causal; give one")
    yield Measured(points, facts(device))
