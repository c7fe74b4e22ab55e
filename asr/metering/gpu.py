"""Reads what NVIDIA's driver knows of a GPU: energy, other processes, and throttling."""

import threading
import time
from typing import Any

import torch

# The slow-downs that a machine imposes. The power cap is left out: a heavy load reaches it by
# itself, in each repetition alike.
THROTTLED = (
    "nvmlClocksEventReasonHwSlowdown",
    "nvmlClocksEventReasonSwThermalSlowdown",
    "nvmlClocksEventReasonHwThermalSlowdown",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown",
)


class GpuMeter:
    """Measures a GPU with NVML, from construction on.

    Attributes:
        note: why there is no energy counter (Volta and later have one); None if there is one.
        sharing_note: why other processes and throttling are unknown; None if they are known.
        shared_seconds: time in which other processes used the GPU.
        throttled_seconds: time in which the driver reported a slow-down.
    """

    def __init__(self, device: torch.device) -> None:
        self.note: str | None = None
        self.sharing_note: str | None = None
        self.shared_seconds = self.throttled_seconds = 0.0
        self._handle: Any = None
        self._sampled, self._lock = time.monotonic(), threading.Lock()
        if device.type != "cuda":
            self.note = f"no energy counter for a {device.type} device"
            self.sharing_note = "the device is no GPU"
            return
        try:
            import pynvml

            self._nvml = pynvml
            pynvml.nvmlInit()
            uuid = torch.cuda.get_device_properties(device).uuid
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            self._first = pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except ImportError:
            self.note = "nvidia-ml-py is not installed (pip install nvidia-ml-py)"
        except Exception as error:  # the driver's many errors share no narrower public base
            self.note = f"no energy counter: {error}"
        if self._handle is None:
            self.sharing_note = self.note

    def joules(self) -> float | None:
        """Returns the joules used since construction; None if there is no counter."""
        if self.note is not None:
            return None
        used = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._first
        return used / 1000  # the counter is in mJ

    def sample(self) -> None:
        """Asks for processes and throttling; they count for the time since the last sample."""
        with self._lock:
            if self.sharing_note is not None:
                return
            now = time.monotonic()
            elapsed, self._sampled = now - self._sampled, now
            try:
                running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
                reasons = self._nvml.nvmlDeviceGetCurrentClocksEventReasons(self._handle)
            except Exception as error:
                self.sharing_note = f"the driver does not tell: {error}"
                return
            # In a container the driver may know this process by another number: it counts as one.
            self.shared_seconds += elapsed * (len(running) > 1)
            throttled = any(reasons & getattr(self._nvml, name) for name in THROTTLED)
            self.throttled_seconds += elapsed * throttled
