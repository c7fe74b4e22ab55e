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
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from asr.encoders import Frames
from asr.encoders.recurrent import read_padded
from asr.kernels.linear import linear
from asr.probes.instrument import Function, alternate, facts, in_process, used
from asr.probes.layers import ONE_WAY, full, layer
from asr.probes.probe import Measured
from asr.probes.roofline import Step
from asr.statistics.median import median_interval

log = logging.getLogger(__name__)

SQUARE = 2048  # rows and columns of the matrix product that measures the peak
SETS = tuple(4**k * 2**16 for k in range(1, 7))  # bytes that are read: 0.25 MB to 256 MB
READ = 2**26  # least number of bytes in a timing of reading
CALLS = 3  # timed calls in a process, of which the median counts
FLOAT = 4  # bytes of a float32


def weight_bytes(width: int, layers: int) -> int:
    """Bytes of the weights that a step reads: 8 H^2 values for each layer of a stream.

    In a call of all frames (0 layers) they are the 4 H^2 recurrent weights.
    """
    return FLOAT * width**2 * (8 * layers or 4)


def timed_step(
    width: int,
    batch: int,
    seconds: float,
    layers: int = 0,
    reading: Sequence[float] = (),
    multiplying: Sequence[float] = (),
) -> Step:
    """A step with its work: 16 B H^2 FLOPs for four gates, each from the input and the state.

    FLOPs per byte are those of the weights that it reads, and of 8 B H values of states.
    """
    flops = 16 * batch * width**2
    read = weight_bytes(width, layers)
    states = FLOAT * 8 * batch * width * max(1, layers)
    intensity = flops * (layers or 0.5) / (read + states)
    flops *= max(1, layers)
    return Step(width, batch, seconds, flops, intensity, "", layers, read, reading, multiplying)


def bound(step: Step, peak: float) -> str:
    """Returns what takes more than half of the time of a step, or latency if nothing does.

    This can be reading the weights, from memory or from a cache, or arithmetic at the peak.
    """
    reading, arithmetic = median_interval(step.reading).value, step.flops / peak / step.seconds
    if max(reading, arithmetic) <= 0.5:
        return "latency"
    return "memory" if reading > arithmetic else "arithmetic"


def readers(number: int, width: int, device: str) -> tuple[list[Function], int]:
    """Two functions that read ``number`` bytes over and over in a call, and how often they do.

    The first sums them. The second multiplies a matrix of ``width`` columns by a vector.
    """
    passes = math.ceil(READ / number)
    matrix = torch.ones(number // FLOAT // width, width, device=device)
    again, vector = matrix.view(1, -1).expand(passes, -1), torch.ones(width, device=device)

    def multiply() -> Tensor:
        for _ in range(passes):
            product = torch.mv(matrix, vector)
        return product

    return [lambda: again.sum(1), multiply], passes


def stream(width: int, layers: int, batch: int, frames: int, device: str) -> Function:
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


def medians(functions: Sequence[Function], device: str) -> list[float] | None:
    """The median seconds of functions that are called in turn; None if memory is too small."""
    found = alternate(functions, device=device, repeats=CALLS)
    return None if None in found else [one.median for one in found if one is not None]


@torch.inference_mode()
def time_once(
    widths: Sequence[int], batches: Sequence[int], frames: int, layers: int, device: str
) -> dict[str, Any]:
    """Measures the machine and all steps once, in this process.

    A step takes (time of 2 T frames - time of T frames) / T in the kernel that encoders use, and
    the time of T frames / T in a stream of ``layers`` layers.

    Returns:
        ``peak``: FLOPs per second of a large matrix product; ``caches``: bytes per second of
        reading, for each of ``SETS``; ``steps``: for each width, batch and stream, the seconds of
        a step and of reading its weights both ways. None where memory was too small.
    """
    square = torch.randn(SQUARE, SQUARE, device=device)
    product_of = medians([lambda: linear(square, square)], device)
    caches = []
    for number in SETS:
        (read, _), passes = readers(number, 1, device)
        taken = medians([read], device)
        caches.append(taken and passes * number / taken[0])
    steps: list[list[float] | None] = []
    for width, batch, depth in product(widths, batches, (0, layers)):
        torch.manual_seed(0)
        calls, passes = readers(weight_bytes(width, depth), width, device)
        if depth:
            calls.append(stream(width, depth, batch, frames, device))
        else:
            lstm = nn.LSTM(width, width, batch_first=True).to(device).eval()
            inputs = [torch.randn(batch, n * frames, width, device=device) for n in (2, 1)]
            calls += [partial(read_padded, lstm, x, full(x)) for x in inputs]
        if taken := medians(calls, device):
            summing, multiplying, longer, *shorter = taken
            seconds = (longer - sum(shorter)) / frames
            taken = [seconds, summing / passes, multiplying / passes]
        steps.append(taken)
    peak = product_of and 2 * SQUARE**3 / product_of[0]
    return {"peak": peak, "caches": caches, "steps": steps}


def measure(options: argparse.Namespace, device: str) -> Iterator[Measured]:
    """Starts a process for each repeat, and yields the steps of all repeats.

    Raises:
        ValueError: memory is too small, or every step is too short to be timed.
    """
    settings = (options.widths, options.batches, options.frames, options.layers, device)
    found = []
    for repeat in range(options.repeats):
        found.append(in_process(time_once, torch.get_num_threads(), device, *settings))
        log.info("repeat %d of %d", repeat + 1, options.repeats)
    if any(one["peak"] is None for one in found):
        raise ValueError(f"out of memory on {device} while measuring its limits; free some memory")
    peak = max(one["peak"] for one in found)
    machine = {**facts(device), **used(found)}
    rows = []
    shapes = product(options.widths, options.batches, (0, options.layers))
    for shape, repeats in zip(
        shapes, zip(*(one["steps"] for one in found), strict=True), strict=True
    ):
        step, why = combined(*shape, repeats)
        if step is None:
            log.warning("width %d, batch %d, layers %d: %s, left out", *shape, why)
        else:
            rows.append(replace(step, bound=bound(step, peak)))
    if not rows:
        raise ValueError("no step could be timed; give wider --widths, or more --frames")
    caches = []
    for number, rates in zip(
        SETS, zip(*(one["caches"] for one in found), strict=True), strict=True
    ):
        if None not in rates:
            rate, low, high = median_interval(rates)
            caches.append({"bytes": number, "rate": rate, "low": low, "high": high})
    memory = caches[-1]["rate"]
    limits = {"peak": peak, "bandwidth": memory, "ridge": peak / memory}
    yield Measured(rows, machine, {"machine": limits, "caches": caches})


def combined(
    width: int, batch: int, layers: int, repeats: Sequence[Sequence[float] | None]
) -> tuple[Step | None, str]:
    """The step from its repeats; or why there is none.

    A repeat has the seconds of a step, of a sum over its weights and of a product with them.
    """
    known = [taken for taken in repeats if taken is not None]
    if len(known) < len(repeats):
        return None, "out of memory"
    if min(taken[0] for taken in known) <= 0:
        return None, "too short to be timed"
    summing, multiplying = ([taken[i] / taken[0] for taken in known] for i in (1, 2))
    seconds = statistics.median(taken[0] for taken in known)
    return timed_step(width, batch, seconds, layers, summing, multiplying), ""
