"""Measures time per frame and state of causal encoders, by position in a stream.

Each encoder reads one endless utterance chunk by chunk, as in the recognition of live speech, and
is timed at some positions. If the state grows with the past, later frames take more time; with a
recurrent or bounded state they do not. The encoders take turns at each position, so that a slow
moment of the machine affects all of them.
"""

import argparse
import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence

import torch

from asr.config import strict_yaml
from asr.encoders import Encoder, state_bytes
from asr.metering.device_clock import wait_for
from asr.probes.instrument import facts
from asr.probes.probe import Measured
from asr.probes.scaling import encoder_files
from asr.probes.scaling_measure import NUM_MELS, components
from asr.probes.streaming import StreamPoint

log = logging.getLogger(__name__)


class Stream:
    """An encoder with its state in a stream."""

    def __init__(self, name: str, encoder: Encoder, batch: int, device: str) -> None:
        self.name, self.encoder, self.batch, self.device = name, encoder, batch, device
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
        chunk = self.encoder.chunk
        while self.position + chunk <= position:
            self.read(min(64, (position - self.position) // chunk) * chunk)

    def watch(self, position: int, chunks: int) -> StreamPoint:
        """Times ``chunks`` chunks, one by one, from the current ``position``."""
        chunk = self.encoder.chunk
        seconds = [self.read(chunk) / chunk for _ in range(chunks)]
        return StreamPoint(
            self.name,
            position,
            chunk,
            self.batch,
            1000 * statistics.median(seconds),
            1000 * max(seconds),
            state_bytes(self.state) // self.batch,
            sum(p.numel() for p in self.encoder.parameters()),
        )


@torch.inference_mode()
def measure_streams(
    recipes: Mapping[str, strict_yaml.Component],
    positions: Sequence[int],
    *,
    batch: int,
    chunks: int,
    device: str,
) -> list[StreamPoint]:
    """A point per causal encoder and position; the other encoders are named in the log."""
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


def measure(options: argparse.Namespace, device: str) -> Iterator[Measured]:
    """Measures all encoders together.

    Raises:
        ValueError: a recipe is wrong, or no encoder is causal.
    """
    files = encoder_files(options.encoders)
    points = measure_streams(
        components(files), options.positions, batch=options.batch, chunks=options.chunks,
        device=device,
    )  # fmt: skip
    if not points:
        raise ValueError(f"--encoders {', '.join(files)}: none of them is causal; give one")
    yield Measured(points, facts(device))
