import contextlib
import sys
from types import SimpleNamespace

import pynvml
import pytest
import torch

from asr.metering import gpu
from asr.metering.gpu import GpuMeter
from asr.metering.use import Use


@pytest.fixture
def driver(monkeypatch):
    """A driver whose answers the test sets, with the bits of the real one, and its clock."""
    found = SimpleNamespace(others=0, reasons=0, joules=100.0, now=0.0)
    names = {name: getattr(pynvml, name) for name in gpu.THROTTLED}
    fake = SimpleNamespace(
        **names,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 1000 * found.joules,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [object()] * (1 + found.others),
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: found.reasons,
    )
    found.nvml = fake
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    properties = SimpleNamespace(uuid="abc")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(gpu.time, "monotonic", lambda: found.now)
    return found


def test_time_counts_while_another_process_has_the_gpu_or_the_driver_slows_it_down(driver):
    meter = GpuMeter(torch.device("cuda", 0))
    for others, reasons in (
        (0, 0),
        (2, pynvml.nvmlClocksEventReasonSwPowerCap),
        (0, pynvml.nvmlClocksEventReasonSwThermalSlowdown | pynvml.nvmlClocksEventReasonGpuIdle),
        (1, 0),
    ):
        driver.others, driver.reasons = others, reasons
        driver.now += 2.0
        meter.sample()
    driver.joules += 7
    assert (meter.shared_seconds, meter.throttled_seconds, meter.joules()) == (4.0, 2.0, 7.0)
    assert meter.note is meter.sharing_note is None


def test_a_driver_that_does_not_answer_is_named(driver):
    def refuse(handle):
        raise RuntimeError("Not Supported")

    driver.nvml.nvmlDeviceGetComputeRunningProcesses = refuse
    meter = GpuMeter(torch.device("cuda", 0))
    meter.sample()
    assert "Not Supported" in meter.sharing_note
    assert meter.joules() == 0


def test_a_cpu_is_no_gpu():
    meter = GpuMeter(torch.device("cpu"))
    meter.sample()
    assert meter.joules() is None
    assert "no GPU" in meter.sharing_note


def test_the_state_of_the_gpu_counts_in_timed_pieces_only(driver, monkeypatch):
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: driver.now)
    thermal = pynvml.nvmlClocksEventReasonSwThermalSlowdown
    with contextlib.closing(Use("cuda:0")) as use:
        # Seconds, whether the piece is timed, other processes, reasons of a low clock.
        for seconds, timed, others, reasons in (
            (3, False, 1, thermal),
            (4, True, 0, 0),
            (9, False, 1, 0),
            (4, True, 1, 0),
            (2, True, 0, thermal),
        ):
            if timed:
                use.begin()
            driver.others, driver.reasons = others, reasons
            driver.now += seconds
            if timed:
                use.end()
    facts = use.facts()
    assert facts["gpu_shared_share"] == pytest.approx(0.4)
    assert facts["gpu_throttled_share"] == pytest.approx(0.2)
