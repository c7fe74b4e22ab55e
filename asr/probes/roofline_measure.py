"""Measures whether latency, memory bandwidth or arithmetic limits a recurrent step.

The claim "an LSTM does four affine maps a step, so it is bound by memory" assumes that the weights
are read from memory at every step. The probe measures the time of one step over widths and batches,
and fits

    t = t0 + c * work,  work = FLOPs of the step,

where t0 is the latency, the time of a step that does no work. It compares the steps with the ridge
point of the machine, the FLOPs per byte above which arithmetic is the limit (Williams, Waterman and
Patterson 2009).
"""

import argparse
import logging
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import nn

from asr.kernels.linear import linear
from asr.probes.instrument import alternate, facts
from asr.probes.layers import fused
from asr.probes.probe import Measured
from asr.probes.roofline import Step

log = logging.getLogger(__name__)

SQUARE = 2048  # rows and columns of the matrix product that measures the peak
COPIED = 1 << 26  # float32 elements (256 MB) of the copy that measures the bandwidth
FLOAT = 4  # bytes of a float32


@dataclass(frozen=True)
class Machine:
    """The measured limits of a device: FLOPs and bytes per second."""

    peak: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """FLOPs per byte above which arithmetic, not memory, is the limit."""
        return self.peak / self.bandwidth


def recurrent_bytes(width: int, batch: int) -> int:
    """Bytes that a step moves if it reads its 4 H^2 recurrent weights, with 8 B H values of states.

    The input weights are not included, because one product applies them to all frames.
    """
    return FLOAT * (4 * width**2 + 8 * batch * width)


def timed_step(width: int, batch: int, seconds: float) -> Step:
    """A step with its work: 16 B H^2 FLOPs for four gates, each from the input and the state."""
    flops = 16 * batch * width**2
    intensity = flops / 2 / recurrent_bytes(width, batch)
    return Step(width=width, batch=batch, seconds=seconds, flops=flops, intensity=intensity)


@dataclass(frozen=True)
class Fit:
    """t = t0 + c * work, by least squares of relative errors.

    Attributes:
        latency: t0 in seconds, at least 0.
        latency_error: standard error of the latency.
        rate: 1 / c, FLOPs per second beyond the latency.
        error: root mean square of the relative residuals.
    """

    latency: float
    latency_error: float
    rate: float
    error: float

    def share(self, step: Step) -> float:
        """The share of the latency in the fitted time of a step."""
        return self.latency / (self.latency + step.flops / self.rate)


def fit(steps: Sequence[Step]) -> Fit:
    """Fits the times of steps.

    Raises:
        ValueError: fewer than three steps, or all of one size.
    """
    if len({step.flops for step in steps}) < 3:
        raise ValueError(f"{len(steps)} steps: give three or more different widths or batches")
    seconds = np.array([step.seconds for step in steps])
    design = np.array([[1.0, step.flops] for step in steps]) / seconds[:, None]
    scale = design.max(axis=0)  # both columns near 1
    found, *_ = np.linalg.lstsq(design / scale, np.ones(len(steps)), rcond=None)
    if found[0] < 0:  # sets the latency to 0 and fits the work alone
        found = np.array([0.0, 1 / (design[:, 1] / scale[1]).mean()])
    residuals = design / scale @ found - 1
    variance = residuals @ residuals / (len(steps) - 2)
    covariance = variance * np.linalg.inv((design / scale).T @ (design / scale))
    latency, cost = found / scale
    error = float(np.sqrt(covariance[0, 0]) / scale[0])
    return Fit(float(latency), error, float(1 / cost), float(np.sqrt(np.mean(residuals**2))))


def bound(step: Step, fitted: Fit, machine: Machine) -> str:
    """Returns what limits the step: latency, memory or arithmetic.

    The limit is latency if that is more than half of the fitted time. Otherwise it is memory below
    the ridge and arithmetic above it. It is also arithmetic if the step is faster than the measured
    bandwidth allows, since its weights then stay in a cache.
    """
    if fitted.share(step) > 0.5:
        return "latency"
    cached = recurrent_bytes(step.width, step.batch) / machine.bandwidth > step.seconds
    return "memory" if step.intensity < machine.ridge and not cached else "arithmetic"


def machine_limits(device: str, repeats: int) -> Machine:
    """Times a large matrix product and a large copy; the fastest repeats are the limits."""
    a = torch.randn(SQUARE, SQUARE, device=device)
    source = torch.zeros(COPIED, device=device)
    target = torch.empty_like(source)
    work = [lambda: linear(a, a), lambda: target.copy_(source)]
    arithmetic, memory = alternate(work, device=device, repeats=repeats)
    if arithmetic is None or memory is None:
        raise ValueError(f"out of memory on {device} while measuring its limits; free some memory")
    return Machine(
        2 * SQUARE**3 / min(arithmetic.seconds), 2 * FLOAT * COPIED / min(memory.seconds)
    )


@torch.inference_mode()
def time_steps(
    widths: Sequence[int], batches: Sequence[int], *, frames: int, device: str, repeats: int
) -> list[Step]:
    """Times steps of the kernel that encoders use: (time of 2 T frames - time of T frames) / T."""
    steps = []
    for width, batch in product(widths, batches):
        torch.manual_seed(0)
        lstm = nn.LSTM(width, width, batch_first=True).to(device).eval()
        inputs = [torch.randn(batch, n * frames, width, device=device) for n in (1, 2)]

        calls = [partial(fused, lstm, x) for x in inputs]
        short, long = alternate(calls, device=device, repeats=repeats)
        if short is None or long is None:
            log.warning("width %d, batch %d: out of memory, left out", width, batch)
            continue
        pairs = zip(long.seconds, short.seconds, strict=True)
        seconds = statistics.median(b - a for b, a in pairs) / frames
        if seconds <= 0:
            log.warning("width %d, batch %d: too short to be timed, left out", width, batch)
            continue
        steps.append(timed_step(width, batch, seconds))
        log.info("width %d, batch %d: %.2f us a step", width, batch, 1e6 * seconds)
    return steps


def measure(options: argparse.Namespace, device: str) -> Iterator[Measured]:
    """Measures the machine and all steps.

    Raises:
        ValueError: too few sizes for a fit.
    """
    if len({b * h**2 for h, b in product(options.widths, options.batches)}) < 3:
        raise ValueError("--widths and --batches: give three or more different sizes of a step")
    machine = machine_limits(device, options.repeats)
    steps = time_steps(
        options.widths, options.batches, frames=options.frames, device=device,
        repeats=options.repeats,
    )  # fmt: skip
    fitted = fit(steps)
    rows = [
        replace(step, latency_share=fitted.share(step), bound=bound(step, fitted, machine))
        for step in steps
    ]
    limits = {**asdict(machine), "ridge": machine.ridge}
    yield Measured(rows, facts(device), {"machine": limits, "fit": asdict(fitted)})
