"""Measures what timed work uses, and how much other programs disturbed it."""

import threading
import time

import torch

from asr.metering.cpu import SHARES, CpuClock, disturbed_seconds
from asr.metering.device_clock import cores_held
from asr.metering.gpu import GpuMeter

SAMPLE_SECONDS = 0.25


class Use:
    """Measures CPU time, waiting and the state of the GPU, in pieces from ``begin`` to ``end``."""

    def __init__(self, device: str | torch.device) -> None:
        self.held, self.clock = cores_held(device), CpuClock()
        self.gpu = GpuMeter(torch.device(device))
        self._spent = [0.0] * 5  # seconds, in the order of ``_now``
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)
        if self.gpu.sharing_note is None:
            self._watch.start()
        self.begin()

    def begin(self) -> None:
        """Begins a piece of work."""
        self._began = self._now()

    def end(self) -> None:
        """Ends the piece of work, and adds it to the others."""
        for i, (end, begin) in enumerate(zip(self._now(), self._began, strict=True)):
            self._spent[i] += end - begin

    def facts(self) -> dict[str, float | None]:
        """Returns ``cpu_seconds`` and the shares of the time named in ``SHARES``.

        ``core_wait_share`` is that of waiting for cores that other programs used, in the time that
        the work held cores. A share is None if it cannot be measured.
        """
        wall, cpu, waited, shared, throttled = self._spent
        facts: dict[str, float | None] = {"cpu_seconds": cpu, **dict.fromkeys(SHARES)}
        if wall and self.clock.note is None:
            lost = disturbed_seconds(waited, cpu, wall, self.held)
            facts["core_wait_share"] = lost / (self.held * wall)
        if wall and self.gpu.sharing_note is None:
            facts |= {"gpu_shared_share": shared / wall, "gpu_throttled_share": throttled / wall}
        return facts

    def close(self) -> None:
        """Ends the sampling of the GPU."""
        self._stop.set()

    def _now(self) -> tuple[float, ...]:
        self.gpu.sample()
        seconds = self.gpu.shared_seconds, self.gpu.throttled_seconds
        return (time.perf_counter(), *self.clock.read(), *seconds)

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.gpu.sample()
