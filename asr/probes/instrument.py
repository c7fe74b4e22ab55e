"""Measures seconds and peak memory of a call, and their growth with length."""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
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

from asr.metering.cpu import SHARES
from asr.metering.device_clock import wait_for
from asr.metering.environment import environment, processor
from asr.metering.precision import tf32_inside
from asr.metering.use import Use

Function = Callable[[], object]


@dataclass(frozen=True)
class Measurement:
    """The time and memory of a call.

    Attributes:
        seconds: time of each repeat, in the order of measurement.
        peak_bytes: peak of the memory that the call allocated.
    """

    seconds: tuple[float, ...]
    peak_bytes: int

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)


def alternate(
    functions: Sequence[Function], *, device: str = "cpu", repeats: int = 5
) -> list[Measurement | None]:
    """Measures functions in turn (A B A B ...), so that a slow moment of the machine affects all.

    Compare functions by the ratios of their repeats with equal index, which are close in time.

    Returns:
        For each function a measurement, or None if memory was too small.
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
    """The peak of a second call; None if memory is too small.

    The first call also prepares kernels and fills caches, which later calls do not.
    """
    try:
        function()
        return peak_bytes(function, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was too small; on CPUs, torch raises a plain RuntimeError."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def _seconds(function: Function, device: str) -> float:
    wait_for(device)
    start = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - start


def peak_bytes(function: Function, device: str = "cpu") -> int:
    """The peak of the bytes that a call allocates, including the buffers of kernels.

    On a CPU, it is exact, from the events of the allocator; resident memory would include memory
    that malloc keeps. On a GPU, the caching allocator counts blocks of 512 bytes. Memory that
    libraries take without torch's allocators (MKL, handles of cuDNN) is not included.
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
    """Bytes that the CPU allocator takes (above 0) and frees (below 0), in order.

    ``torch.profiler`` would also record every operator, which is a hundred times more events.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # avoids a warning without a GPU
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
    """A context in which a GPU computes float32 in TF32, as in training (see ``allow_tf32``)."""
    return tf32_inside(True) if torch.device(device).type == "cuda" else nullcontext()


def exponent(times: Sequence[float], costs: Sequence[float]) -> tuple[float, float] | None:
    """The p of cost ~ T^p with its standard error; None for fewer than three different lengths."""
    if len(set(times)) < 3:
        return None
    x, y = np.log(times), np.log(costs)
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    residuals = y - y.mean() - slope * x  # all 0 for equal costs, for which scipy's error is NaN
    return slope, math.sqrt(residuals @ residuals / (len(x) - 2) / (x @ x))


def in_process(
    function: Callable[..., dict[str, Any]], threads: int, device: str, *arguments: Any
) -> dict[str, Any]:
    """Calls a function of a module in a new process that has a number of threads.

    Times differ between processes, because their memory lies elsewhere, and the number of threads
    is set when a process starts.

    Returns:
        the values that the function returns, and what the process used (``Use.facts``).

    Raises:
        ValueError: the process failed; its last line tells why.
    """
    number = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    code = "from asr.probes.instrument import answer; answer()"
    task = json.dumps([function.__module__, function.__name__, device, arguments])
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], input=task, env={**os.environ, **number},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [
            f"a process that measured ended with status {done.returncode}; free some memory"
        ]
        raise ValueError(lines[-1].removeprefix("ValueError: "))
    found: dict[str, Any] = json.loads(done.stdout)
    if found["threads"] != threads:
        raise ValueError(f"--threads {threads}: torch used {found['threads']}")
    return found


def answer() -> None:
    """Does in a new process what ``in_process`` asks for."""
    module, name, device, arguments = json.load(sys.stdin)
    use = Use(device)
    with equal_precision(device):
        found = getattr(import_module(module), name)(*arguments)
    use.end()
    print(json.dumps({**found, **use.facts(), "threads": torch.get_num_threads()}))


def used(processes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What processes used together; one that was disturbed is enough to doubt the times."""
    shares = {key: [value for p in processes if (value := p[key]) is not None] for key in SHARES}
    worst = {key: max(values, default=None) for key, values in shares.items()}
    return {"cpu_seconds": sum(process["cpu_seconds"] for process in processes), **worst}


def facts(device: str) -> dict[str, Any]:
    """Facts about the machine and the versions, on which times depend."""
    is_cpu = torch.device(device).type == "cpu"
    return {
        **environment(),
        "device": device,
        "device_name": processor() if is_cpu else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "precision": "float32" if is_cpu else "tf32",
    }
