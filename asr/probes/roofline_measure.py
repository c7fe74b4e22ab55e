"""Measures whether latency, reading the weights or arithmetic limits a recurrent step.

The claim "an LSTM does four affine maps a step, so it is bound by memory" is about reading the
weights, from memory or from a cache. The probe measures the time of one step over widths and
batches, and in turn the time to read as many bytes over and over. The step is one of a long call,
in which a single product applies the input weights to all frames, or one of a live stream, in which
the layers read one frame after another, and each frame needs all weights of all layers.
"""

import argparse
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import nn

from asr.encoders import Frames
from asr.encoders.recurrent import read_padded
from asr.kernels.linear import linear
from asr.probes.instrument import alternate, facts
from asr.probes.layers import ONE_WAY, full, layer
from asr.probes.probe import Measured
from asr.probes.roofline import Step
from asr.statistics.median import median_interval

log = logging.getLogger(__name__)

SQUARE = 2048  # rows and columns of the matrix product that measures the peak
SETS = tuple(4**k * 2**16 for k in range(1, 7))  # bytes that are read: 0.25 MB to 256 MB
READ = 2**26  # least number of bytes in a timing of reading
FLOAT = 4  # bytes of a float32


def weight_bytes(width: int, layers: int) -> int:
    """Bytes of the weights that a step reads: 8 H^2 values for each layer of a stream.

    In a call of all frames (0 layers) they are the 4 H^2 recurrent weights.
    """
    return FLOAT * width**2 * (8 * layers or 4)


def timed_step(
    width: int, batch: int, seconds: float, layers: int = 0, reading: Sequence[float] = ()
) -> Step:
    """A step with its work: 16 B H^2 FLOPs for four gates, each from the input and the state.

    FLOPs per byte are those of the weights that it reads, and of 8 B H values of states.
    """
    flops = 16 * batch * width**2
    read = weight_bytes(width, layers)
    states = FLOAT * 8 * batch * width * max(1, layers)
    intensity = flops * (layers or 0.5) / (read + states)
    flops *= max(1, layers)
    return Step(width, batch, seconds, flops, intensity, "", layers, read, reading)


def bound(step: Step, peak: float) -> str:
    """Returns what takes more than half of the time of a step, or latency if nothing does.

    This can be reading the weights, from memory or from a cache, or arithmetic at the peak.
    """
    reading, arithmetic = median_interval(step.reading).value, step.flops / peak / step.seconds
    if max(reading, arithmetic) <= 0.5:
        return "latency"
    return "memory" if reading > arithmetic else "arithmetic"


def reader(number: int, device: str) -> tuple[Callable[[], object], int]:
    """A function that reads ``number`` bytes over and over in one call, and how often it does.

    A sum reads faster than a copy or a product with a vector.
    """
    passes = math.ceil(READ / number)
    values = torch.ones(number // FLOAT, device=device).expand(passes, -1)
    return lambda: values.sum(1), passes


@torch.inference_mode()
def bandwidths(device: str, repeats: int) -> list[dict[str, float]]:
    """Bytes per second of reading, by the number of bytes read over and over."""
    found = []
    for number in SETS:
        read, passes = reader(number, device)
        [taken] = alternate([read], device=device, repeats=repeats)
        if taken is None:
            log.warning("%d bytes: out of memory, left out", number)
            continue
        rates = median_interval([passes * number / seconds for seconds in taken.seconds])
        found.append({"bytes": number, **dict(zip(("rate", "low", "high"), rates, strict=True))})
    return found


def peak_rate(device: str, repeats: int) -> float:
    """FLOPs per second of the fastest of several large matrix products.

    Raises:
        ValueError: memory is too small.
    """
    a = torch.randn(SQUARE, SQUARE, device=device)
    [taken] = alternate([lambda: linear(a, a)], device=device, repeats=repeats)
    if taken is None:
        raise ValueError(f"out of memory on {device} while measuring its limits; free some memory")
    return 2 * SQUARE**3 / min(taken.seconds)


def stream(width: int, layers: int, batch: int, frames: int, device: str) -> Callable[[], object]:
    """A function in which the layers of an LSTM encoder read ``frames`` frames, one by one."""
    blocks = [layer("LSTM", width, **ONE_WAY).to(device).eval() for _ in range(layers)]
    x = torch.randn(batch, 1, width, device=device)
    frame = Frames(x, full(x))

    def read() -> None:
        states = [block.initial_state(batch) for block in blocks]
        for _ in range(frames):
            y = frame
            for i, block in enumerate(blocks):
                y, states[i] = block.step(y, states[i])

    return read


@torch.inference_mode()
def time_steps(
    widths: Sequence[int],
    batches: Sequence[int],
    *,
    frames: int,
    layers: int,
    device: str,
    repeats: int,
) -> list[Step]:
    """Times steps of the kernel that encoders use: (time of 2 T frames - time of T frames) / T.

    At each width, a step of a stream of ``layers`` layers is its time over T frames, divided by T.
    """
    steps = []
    for width, batch, depth in product(widths, batches, (0, layers)):
        torch.manual_seed(0)
        read, passes = reader(weight_bytes(width, depth), device)
        calls: list[Callable[[], object]] = [read]
        if depth:
            calls.append(stream(width, depth, batch, frames, device))
        else:
            lstm = nn.LSTM(width, width, batch_first=True).to(device).eval()
            inputs = [torch.randn(batch, n * frames, width, device=device) for n in (2, 1)]
            calls += [partial(read_padded, lstm, x, full(x)) for x in inputs]
        found = alternate(calls, device=device, repeats=repeats)
        where = f"width {width}, batch {batch}, {f'stream of {depth} layers' if depth else 'call'}"
        if None in found:
            log.warning("%s: out of memory, left out", where)
            continue
        reading, longer, *shorter = [np.array(one.seconds) for one in found if one is not None]
        seconds = (longer - sum(shorter)) / frames
        if seconds.min() <= 0:
            log.warning("%s: too short to be timed, left out", where)
            continue
        step = float(np.median(seconds))
        shares = [float(share) for share in reading / passes / seconds]
        steps.append(timed_step(width, batch, step, depth, shares))
        log.info("%s: %.2f us a step", where, 1e6 * step)
    return steps


def measure(options: argparse.Namespace, device: str) -> Iterator[Measured]:
    """Measures the machine and all steps.

    Raises:
        ValueError: memory is too small, or every step is too short to be timed.
    """
    caches = bandwidths(device, options.repeats)
    peak, memory = peak_rate(device, options.repeats), caches[-1]["rate"]
    steps = time_steps(
        options.widths, options.batches, frames=options.frames, layers=options.layers,
        device=device, repeats=options.repeats,
    )  # fmt: skip
    if not steps:
        raise ValueError("no step could be timed; give wider --widths, or more --frames")
    limits = {"peak": peak, "bandwidth": memory, "ridge": peak / memory}
    rows = [replace(step, bound=bound(step, peak)) for step in steps]
    yield Measured(rows, facts(device), {"machine": limits, "caches": caches})
