"""The ledger of a run: seconds by phase, CPU time, FLOPs, joules and memory.

Cost counts from the start of the process and leaves nothing out. Utilisation is over the seconds of
training steps only.
"""

import contextlib
import json
import math
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr.files import write
from asr.metering.cpu import CpuClock, cpu_pressure, disturbed_seconds
from asr.metering.environment import processor
from asr.metering.gpu import GpuMeter
from asr.metering.ledger_format import FORMAT, read_heartbeat, read_ledger, upgrade, upgraded

PHASES = ("startup", "compilation", "step", "data_wait", "validation", "checkpoint")
BUSY = ("step", "data_wait")
WASTED = "wasted"  # work that was lost in a crash
CPU = ("cpu_seconds", "core_wait_seconds")
TIMES = ("wall_seconds", *CPU)  # metered in each phase
METERS = ("energy_joules", "cpu_pressure_seconds", "gpu_shared_seconds", "gpu_throttled_seconds")
HEARTBEAT_SECONDS = 0.25
COUNTERS = ("audio_seconds", "padded_seconds", "train_flops", "padded_train_flops")

# Peak FLOP/s of dense matrix products from NVIDIA's data sheets, by the name that the driver gives:
# in bfloat16, in float32 rounded to TF32, and in float32.
HOPPER = {"bf16": 989e12, "tf32": 494e12, "float32": 67e12}
AMPERE = {"bf16": 312e12, "tf32": 156e12, "float32": 19.5e12}
PEAK_FLOPS = {
    "NVIDIA H200": HOPPER,
    "NVIDIA H100 80GB HBM3": HOPPER,
    "NVIDIA A100-SXM4-40GB": AMPERE,
    "NVIDIA A100-SXM4-80GB": AMPERE,
}


def process_start() -> float:
    """The Unix time at which this process began, so that imports count as cost.

    It is read from /proc, because psutil counts from a boot time that is rounded to a second. A run
    of a study begins when it is forked from the process that has imported everything.
    """
    with contextlib.suppress(OSError, ValueError):
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - time.process_time()


class Ledger:
    """The cost of a run, over all sessions (processes) that worked on it.

    Every second of every session is in exactly one place: a phase, or ``wasted_seconds`` when the
    work of a killed session has to be done again. CPU time and waiting for cores are counted in the
    same way. A heartbeat file holds the time up to the last moment of a session, so that a kill
    loses less than a second of the account.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        num_processes: int = 1,
        precision: str = "float32",
        total: Callable[[Sequence[float]], Sequence[float]] = lambda values: values,
        writes: bool = True,
        began: float | None = None,
    ):
        """Begins a session, which counts from the start of this process or from ``began``.

        ``total`` sums numbers over the processes of a run, one of which ``writes`` the files.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.device, self.num_processes = folder, device, num_processes
        self.precision, self.total, self.writes = precision, total, writes
        self.num_threads = torch.get_num_threads()
        # On a CPU the device is a core.
        self.num_devices = num_processes * (self.num_threads if device.type == "cpu" else 1)
        self.clock, self.gpu, self._pressure = CpuClock(), GpuMeter(device), cpu_pressure()
        self.began = process_start() if began is None else began
        # Seconds since the start of the process, by a monotonic clock that no one can set.
        self._zero = time.monotonic() - (time.time() - self.began)
        self.device_name = device_name(device)
        self.peak_flops = PEAK_FLOPS.get(self.device_name, {}).get(precision)  # per second
        self.peak_memory = 0
        self.counters = dict.fromkeys(COUNTERS, 0.0)
        if writes:
            upgrade(folder)
        before = read_heartbeat(folder)
        self.session: int = before.get("session", 0) + 1
        # Amounts of earlier sessions; NaN if a session could not measure them.
        unknown = math.nan if before else 0.0
        amounts = (*TIMES, "device_seconds", *METERS)
        self.earlier = {name: _total(before.get(name, unknown)) for name in amounts}
        if self.clock.note is not None:
            self.earlier["core_wait_seconds"] = math.nan
        # What this process does not add to the totals: earlier sessions and other processes.
        self._others = dict(self.earlier)
        # The times of this process by phase; the process that writes adds earlier sessions.
        self.spent = {
            name: dict.fromkeys(PHASES, 0.0) | {WASTED: self.earlier[name] if writes else 0.0}
            for name in TIMES
        }
        self._phase, self._since = "startup", (0.0, 0.0, 0.0)
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    # --- time ---

    def _now(self) -> float:
        """Seconds that this process has held its devices."""
        return time.monotonic() - self._zero

    @property
    def wall_seconds(self) -> float:
        """Seconds held by all sessions until now."""
        return self.earlier["wall_seconds"] + self._now()

    @property
    def device_seconds(self) -> float:
        """Devices times seconds held."""
        return self.earlier["device_seconds"] + self.num_devices * self._now()

    @property
    def device_hours(self) -> float:
        """Devices times hours held: core-hours on a CPU."""
        return self.device_seconds / 3600

    @property
    def cpu_seconds(self) -> float:
        """CPU time of this process; on the process that writes also of all earlier sessions."""
        self.enter(self._phase)
        return sum(self.spent["cpu_seconds"].values())

    @property
    def busy_seconds(self) -> float:
        """Wall time of training steps and of waiting for data until now."""
        since = self._now() - self._since[0] if self._phase in BUSY else 0.0
        return since + sum(self.spent["wall_seconds"][phase] for phase in BUSY)

    def enter(self, phase: str) -> str:
        """Begins ``phase``; returns the phase that ended."""
        assert phase in PHASES
        now = (self._now(), *self.clock.read())
        for account, value, before in zip(self.spent.values(), now, self._since, strict=True):
            account[self._phase] += value - before
        ended, self._phase, self._since = self._phase, phase, now
        return ended

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Counts the time inside the block as ``phase``, then returns to the previous phase."""
        before = self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    # --- sessions ---

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the ledger at a checkpoint; the time after the checkpoint counts as wasted."""
        if "format" not in state:  # an earlier version wrote it, as it wrote the first line
            first = next(iter(read_ledger(self.folder)), {})
            state = upgraded(state, {**first, "format": 1})
        state = state | {
            "wall_seconds": state["seconds"] | {WASTED: state["wasted_seconds"]},
            "device_seconds": state["device_hours"] * 3600,
        }
        # A checkpoint may be younger than the last heartbeat, and a branch has no heartbeat.
        for name in self.earlier:
            amount = float(np.maximum(self.earlier[name], _total(state.get(name))))
            self.earlier[name] = self._others[name] = amount
        self.peak_memory = state["peak_memory_bytes"]
        if self.writes:  # the counters and the CPU time are summed over the processes
            self.counters = {name: state[name] for name in COUNTERS}
            for name, own in self.spent.items():
                saved = state.get(name) or dict.fromkeys(own, math.nan)
                own[WASTED] = self.earlier[name] - _total(saved)
                # A checkpoint may be older than a phase.
                self.spent[name] = {key: value + saved.get(key, 0.0) for key, value in own.items()}

    def open(self, from_update: int) -> None:
        """Writes the line that begins a session's work."""
        self._append(
            {
                "event": "start",
                "format": FORMAT,
                "session": self.session,
                "unix_time": self.began,
                **self._device(),
                "from_update": from_update,
                "wasted_seconds": self.spent["wall_seconds"][WASTED],
            }
        )

    def close(self) -> None:
        """Ends the heartbeat at this second."""
        self._stop.set()
        self._heart.join()
        if self.writes:
            self._write_heartbeat()

    # --- work ---

    def count(self, **amounts: float) -> None:
        """Adds to the counters of this process: audio_seconds, train_flops, ..."""
        for name, amount in amounts.items():
            self.counters[name] += amount

    def line(self, event: str, **facts: Any) -> dict[str, Any]:
        """A line of the ledger with cumulative values; call it on every process."""
        self.enter(self._phase)
        self.peak_memory = max(self.peak_memory, peak_memory(self.device))
        now = self._amounts()
        walls, *cpu_times = self.spent.values()
        own = [self.counters, *cpu_times, {name: now[name] for name in METERS}]
        sums = iter(self.total([value for part in own for value in part.values()]))
        counters, cpu, waited, meters = ({key: next(sums) for key in part} for part in own)
        totals = {name: self.earlier[name] + meters[name] for name in METERS}
        totals |= {"cpu_seconds": sum(cpu.values()), "core_wait_seconds": sum(waited.values())}
        self._others = {n: totals[n] - self.num_processes * now[n] for n in totals}
        busy = walls["step"] * self.num_devices
        used = counters["train_flops"] / busy if busy else 0.0
        return {
            "event": event,
            "format": FORMAT,
            **facts,
            "wall_seconds": self.wall_seconds,
            "device_hours": self.device_hours,
            "seconds": {phase: walls[phase] for phase in PHASES},
            "wasted_seconds": walls[WASTED],
            "cpu_seconds": None if math.isnan(totals["cpu_seconds"]) else cpu,
            "cpu_note": self._note("cpu_seconds"),
            "core_wait_seconds": None if math.isnan(totals["core_wait_seconds"]) else waited,
            "core_wait_note": self.clock.note or self._note("core_wait_seconds"),
            "core_wait_share": _known(self._core_wait_share(cpu, waited)),
            **counters,
            "model_flops_utilisation": used / self.peak_flops if self.peak_flops else None,
            "peak_memory_bytes": self.peak_memory,
            **{name: _known(totals[name]) for name in METERS},
            "energy_note": self.gpu.note,
            "gpu_note": self.gpu.sharing_note or self._note("gpu_shared_seconds"),
        }

    def _amounts(self) -> dict[str, float]:
        """What this process has used in this session; NaN if it cannot be measured."""
        joules, pressure, known = self.gpu.joules(), cpu_pressure(), self.gpu.sharing_note is None
        return {
            **dict(zip(CPU, self._since[1:], strict=True)),
            "energy_joules": math.nan if joules is None else joules,
            # Of the machine: the processes on it share it.
            "cpu_pressure_seconds": (pressure - self._pressure) / self.num_processes,
            "gpu_shared_seconds": self.gpu.shared_seconds if known else math.nan,
            "gpu_throttled_seconds": self.gpu.throttled_seconds if known else math.nan,
        }

    def _note(self, name: str) -> str | None:
        unknown = math.isnan(self.earlier[name])
        return "an earlier session did not measure it" if unknown else None

    def _core_wait_share(self, cpu: dict[str, float], waited: dict[str, float]) -> float:
        """Waiting for cores that other programs used, over the core-seconds held.

        On a GPU a process holds one core.
        """
        on_cpu = self.device.type == "cpu"
        held = self.num_devices if on_cpu else self.num_processes
        core_seconds = self.device_seconds if on_cpu else held * self.wall_seconds
        walls = self.spent["wall_seconds"].items()
        lost = [disturbed_seconds(waited[p], cpu[p], wall, held) for p, wall in walls]
        return sum(lost) / core_seconds if core_seconds else 0.0

    def write(self, line: dict[str, Any], **summary: Any) -> None:
        """Appends a line; ``ledger.json`` holds the last one and the summary."""
        self._append(line)
        last = {**line, **self._device(), "sessions": self.session, **summary}
        write(self.folder / "ledger.json", json.dumps(last, indent=1))

    def _device(self) -> dict[str, Any]:
        return {
            "device_name": self.device_name,
            "device_kind": self.device.type,
            "num_devices": self.num_devices,
            "num_processes": self.num_processes,
            "num_threads": self.num_threads,
        }

    def _append(self, line: dict[str, Any]) -> None:
        with (self.folder / "ledger.jsonl").open("ab+") as file:
            # A killed session may have left half a line: it ends here, so that only it is lost.
            if file.tell():
                file.seek(-1, os.SEEK_END)
                file.write(b"" if file.read() == b"\n" else b"\n")
            file.write(json.dumps(line).encode() + b"\n")

    # --- heartbeat ---

    def _write_heartbeat(self) -> None:
        now = self._amounts() | dict(zip(CPU, self.clock.read(), strict=True))
        # Since the last line the other processes have used as much as this one.
        used = {n: self._others[n] + self.num_processes * value for n, value in now.items()}
        beat = {
            "format": FORMAT,
            "session": self.session,
            "wall_seconds": self.wall_seconds,
            "device_seconds": self.device_seconds,
            **{name: _known(value) for name, value in used.items()},
        }
        write(self.folder / "heartbeat.json", json.dumps(beat))

    def _beat(self) -> None:
        while not self._stop.is_set():
            self.gpu.sample()
            self.clock.read()  # so that the time of threads that end soon counts
            if self.writes:
                with contextlib.suppress(OSError):  # a full disk: the loop meets and reports it
                    self._write_heartbeat()
            self._stop.wait(HEARTBEAT_SECONDS)


def _total(value: dict[str, float] | float | None) -> float:
    """Returns an amount, or the sum of one by phase; NaN if it is unknown."""
    if isinstance(value, dict):
        return sum(value.values())
    return math.nan if value is None else value


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def device_name(device: torch.device) -> str:
    """The name of the accelerator or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor()


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on a GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
