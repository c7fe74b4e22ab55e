"""Measures seconds and peak memory of a call, and their growth with length."""

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch._C._profiler import RecordScope, _ExperimentalConfig
from torch.autograd import (
    ProfilerActivity,
    ProfilerConfig,
    ProfilerState,
    _disable_profiler,
    _enable_profiler,
    _prepare_profiler,
)

from asr.metering.device_clock import wait_for
from asr.metering.environment import environment, processor
from asr.metering.precision import tf32_inside

Function = Callable[[], object]


@dataclass(frozen=True)
class Measurement:
    """What a call takes.

    Attributes:
        seconds: of each repeat, in the order they were taken.
        peak_bytes: the most memory that the call had allocated at once.
    """

    seconds: tuple[float, ...]
    peak_bytes: int

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)


def alternate(
    functions: Sequence[Function], *, device: str = "cpu", repeats: int = 5
) -> list[Measurement | None]:
    """Measures functions in turn, A B A B ..., so that a slow moment of the machine hits all.

    Repeat i of one and of another are neighbours in time: their ratio is what to look at.

    Returns:
        For each function a measurement, or None where the memory did not suffice.
    """
    peaks = [_warm_peak(function, device) for function in functions]
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, peak, taken in zip(functions, peaks, seconds, strict=True):
            if peak is not None:
                taken.append(_seconds(function, device))
    return [
        None if peak is None else Measurement(tuple(taken), peak)
        for peak, taken in zip(peaks, seconds, strict=True)
    ]


def _warm_peak(function: Function, device: str) -> int | None:
    """The peak of a second call; None where the memory does not suffice.

    The first prepares kernels and fills caches, which is no cost of those that follow.
    """
    try:
        function()
        return peak_bytes(function, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether the memory did not suffice; on CPUs torch raises a plain RuntimeError."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def _seconds(function: Function, device: str) -> float:
    wait_for(device)
    start = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - start


def peak_bytes(function: Function, device: str = "cpu") -> int:
    """The most bytes alive at once of those that a call allocates, buffers of kernels included.

    On a CPU to the byte, from the allocator's own events: resident memory would hold what malloc
    keeps. On a GPU as the caching allocator counts them, in blocks of 512 bytes. What libraries
    take past torch's allocators (MKL, cuDNN's handles) is not seen.
    """
    if torch.device(device).type != "cuda":
        return int(np.cumsum(_allocations(function)).max(initial=0))
    wait_for(device)
    base = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    wait_for(device)
    return torch.cuda.max_memory_allocated(device) - base


def _allocations(function: Function) -> list[int]:
    """Bytes taken (above 0) and given back by the CPU's allocator, in order.

    ``torch.profiler`` would record every operator too, a hundred times the events.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it complains where there is no GPU
    config = ProfilerConfig(
        ProfilerState.KINETO,
        False,  # shapes
        True,  # memory
        False,  # stacks
        False,  # FLOPs
        False,  # modules
        _ExperimentalConfig(),
    )
    activities = {ProfilerActivity.CPU}
    _prepare_profiler(config, activities)
    _enable_profiler(config, activities, {RecordScope.USER_SCOPE})  # type: ignore[call-arg]
    try:
        function()
    finally:
        result: Any = _disable_profiler()
    cpu = torch._C._autograd.DeviceType.CPU
    events = [e for e in result.events() if e.name() == "[memory]" and e.device_type() == cpu]
    return [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())]


def equal_precision(device: str) -> AbstractContextManager[None]:
    """Every float32 kernel of a GPU in TF32 inside, as in training; see ``allow_tf32``."""
    return tf32_inside(True) if torch.device(device).type == "cuda" else nullcontext()


def exponent(times: Sequence[float], costs: Sequence[float]) -> tuple[float, float] | None:
    """The p of cost ~ T^p and its standard error; None for fewer than three different lengths."""
    if len(set(times)) < 3:
        return None
    x, y = np.log(times), np.log(costs)
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    residuals = y - y.mean() - slope * x  # of equal costs 0, where scipy's error is NaN
    return slope, math.sqrt(residuals @ residuals / (len(x) - 2) / (x @ x))


def facts(device: str) -> dict[str, Any]:
    """What a time depends on beside the code."""
    is_cpu = torch.device(device).type == "cpu"
    return {
        **environment(),
        "device": device,
        "device_name": processor() if is_cpu else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "precision": "float32" if is_cpu else "tf32",
    }
