"""The ledger of a run: device-seconds by phase, FLOPs, joules and memory.

Cost counts from the start of the process and leaves nothing out. Utilisation is over the seconds of
training steps only.
"""

import contextlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from asr.files import read_json_lines, write
from asr.metering.environment import processor

PHASES = ("startup", "compilation", "step", "data_wait", "validation", "checkpoint")
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


class EnergyMeter:
    """Measures joules with the GPU's energy counter (Volta and later); ``note``: why it cannot."""

    def __init__(self, device: torch.device):
        self.note: str | None = None
        self._handle: Any = None
        if device.type != "cuda":
            self.note = f"no energy counter for a {device.type} device"
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            uuid = torch.cuda.get_device_properties(device).uuid
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            self._read = pynvml.nvmlDeviceGetTotalEnergyConsumption
            self._first = self._read(self._handle)
        except ImportError:
            self.note = "nvidia-ml-py is not installed (pip install nvidia-ml-py)"
        except Exception as error:  # the driver's many errors share no narrower public base
            self.note, self._handle = f"no energy counter: {error}", None

    def joules(self) -> float | None:
        """The joules used since construction; None if there is no counter."""
        if self._handle is None:
            return None
        return (self._read(self._handle) - self._first) / 1000  # the counter is in mJ


class Ledger:
    """The cost of a run, over all sessions (processes) that worked on it.

    Every second of every session is in exactly one place: a phase, or ``wasted_seconds`` when the
    work of a killed session has to be done again. A heartbeat file holds the time up to the last
    moment of a session, so that a kill loses less than a second of the account.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        num_devices: int = 1,
        precision: str = "float32",
        total: Callable[[float], float] = lambda value: value,
        writes: bool = True,
        began: float | None = None,
    ):
        """Begins a session, which counts from the start of this process or from ``began``.

        ``total`` sums a number over the processes of a run, one of which ``writes`` the files.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.device, self.num_devices = folder, device, num_devices
        self.precision, self.total, self.writes = precision, total, writes
        self.energy = EnergyMeter(device)
        self.began = process_start() if began is None else began
        # Seconds since the start of the process, by a monotonic clock that no one can set.
        self._zero = time.monotonic() - (time.time() - self.began)
        self.device_name = device_name(device)
        self.peak_flops = PEAK_FLOPS.get(self.device_name, {}).get(precision)  # per second
        self.peak_memory = 0
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.counters = dict.fromkeys(COUNTERS, 0.0)
        path = folder / "heartbeat.json"
        before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.session: int = before.get("session", 0) + 1
        self.earlier_wall: float = before.get("wall_seconds", 0.0)
        self.earlier_device: float = before.get("device_seconds", 0.0)
        self.earlier_joules: float | None = before.get("energy_joules", 0.0)
        self.wasted = self.earlier_wall
        self._phase, self._since = "startup", 0.0
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        if writes:
            self._heart.start()

    # --- time ---

    def _now(self) -> float:
        """Seconds that this process has held its devices."""
        return time.monotonic() - self._zero

    @property
    def wall_seconds(self) -> float:
        """Seconds held by all sessions until now."""
        return self.earlier_wall + self._now()

    @property
    def device_seconds(self) -> float:
        """Devices times seconds held."""
        return self.earlier_device + self.num_devices * self._now()

    @property
    def device_hours(self) -> float:
        """Devices times hours held."""
        return self.device_seconds / 3600

    def enter(self, phase: str) -> str:
        """Begins ``phase``; returns the phase that ended."""
        assert phase in PHASES
        now = self._now()
        self.seconds[self._phase] += now - self._since
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
        # A checkpoint may be younger than the last heartbeat of the session that wrote it.
        self.earlier_wall = max(self.earlier_wall, state["wall_seconds"])
        self.earlier_device = max(self.earlier_device, state["device_hours"] * 3600)
        # A checkpoint may be older than a phase.
        for name in PHASES:
            self.seconds[name] = state["seconds"].get(name, 0.0) + (
                self.seconds[name] if name == "startup" else 0.0
            )
        self.peak_memory = state["peak_memory_bytes"]
        self.wasted = state["wasted_seconds"] + self.earlier_wall - state["wall_seconds"]
        if self.writes:  # the counters are summed over the processes
            self.counters = {name: state[name] for name in COUNTERS}

    def open(self, from_update: int) -> None:
        """Writes the line that begins a session's work."""
        self._append(
            {
                "event": "start",
                "session": self.session,
                "unix_time": self.began,
                **self._device(),
                "from_update": from_update,
                "wasted_seconds": self.wasted,
            }
        )

    def close(self) -> None:
        """Ends the heartbeat at this second."""
        self._stop.set()
        if self.writes:
            self._heart.join()
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
        totals = {name: self.total(self.counters[name]) for name in COUNTERS}
        busy = self.seconds["step"] * self.num_devices
        used = totals["train_flops"] / busy if busy else 0.0
        return {
            "event": event,
            **facts,
            "wall_seconds": self.wall_seconds,
            "device_hours": self.device_hours,
            "seconds": dict(self.seconds),
            "wasted_seconds": self.wasted,
            **totals,
            "model_flops_utilisation": used / self.peak_flops if self.peak_flops else None,
            "peak_memory_bytes": self.peak_memory,
            "energy_joules": self._joules(self.total),
            "energy_note": self.energy.note,
        }

    def _joules(self, total: Callable[[float], float]) -> float | None:
        """Joules of all sessions and devices; None if one of them could not measure them."""
        now = self.energy.joules()
        unmetered = total(float(now is None or self.earlier_joules is None))
        joules = total(now or 0.0)
        return None if unmetered else (self.earlier_joules or 0.0) + joules

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
        beat = {
            "session": self.session,
            "wall_seconds": self.wall_seconds,
            "device_seconds": self.device_seconds,
            "energy_joules": self._joules(lambda joules: joules * self.num_devices),
        }
        write(self.folder / "heartbeat.json", json.dumps(beat))

    def _beat(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):  # a full disk: the loop meets it too and reports it
                self._write_heartbeat()
            self._stop.wait(HEARTBEAT_SECONDS)


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``ledger.jsonl``, without the incomplete line of a killed session."""
    return read_json_lines(path)[0]


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
