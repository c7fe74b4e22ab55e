"""Processor, GPUs and memory, as far as this process may use them."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from asr.doctor.finding import Finding
from asr.metering import environment

LITTLE = 2 * 2**30  # bytes of memory
CGROUPS = Path("/sys/fs/cgroup")
METER = "pip install nvidia-ml-py; GPUs have the counter from Volta on"
DRIVER = Path("/proc/driver/nvidia/version")


def processor() -> list[Finding]:
    """Its name, and the cores by affinity and by quota."""
    number, quota = environment.cores(), cpu_quota()
    detail = f"{environment.processor()}, {number} cores"
    if quota is None or quota >= number:
        return [Finding("processor", "ok", detail)]
    detail += f", of which a quota of the container gives {quota:g}"
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) <= math.ceil(quota):
        return [Finding("processor", "ok", detail)]
    remedy = f"set OMP_NUM_THREADS={math.ceil(quota)}; else threads wait for each other"
    return [Finding("processor", "warning", detail, remedy)]


def cpu_quota() -> float | None:
    """Cores that the control groups of this process allow; None without a limit."""
    quotas = []
    for text in _limits("cpu.max"):  # "max 100000" or microseconds of each period
        quota, period = text.split()
        if quota != "max":
            quotas.append(int(quota) / int(period))
    for text in _limits("cpu/cpu.cfs_quota_us"):
        if int(text) > 0:
            quotas += [int(text) / int(period) for period in _limits("cpu/cpu.cfs_period_us")]
    return min(quotas, default=None)


def memory_limit() -> int | None:
    """Bytes that the control groups of this process allow; None without a limit."""
    texts = [*_limits("memory.max"), *_limits("memory/memory.limit_in_bytes")]
    # Version 1 writes a number near 2**63 where there is none.
    return min((int(text) for text in texts if text != "max" and int(text) < 2**60), default=None)


def _limits(name: str) -> Iterator[str]:
    """What a file says in this process' group and in those around it.

    Of version 1 of control groups only the root is read, which in a container is its own group.
    """
    group = Path("/")
    memberships = Path("/proc/self/cgroup")
    if memberships.is_file():
        for line in memberships.read_text().splitlines():
            if line.startswith("0::"):
                group = Path(line.removeprefix("0::"))
    for folder in (group, *group.parents):
        file = CGROUPS / folder.relative_to("/") / name
        if file.is_file():
            yield file.read_text().strip()


def memory() -> list[Finding]:
    """Total and available, and the limit of a container."""
    facts = {}
    if Path("/proc/meminfo").is_file():
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            facts[name] = int(value.split()[0]) * 1024
    if "MemAvailable" not in facts:
        return [Finding("memory", "ok", "this system does not say how much is available")]
    total, available, limit = facts["MemTotal"], facts["MemAvailable"], memory_limit()
    detail = f"{_gib(available)} of {_gib(total)} available"
    if limit is not None and limit < total:
        detail += f"; the container is limited to {_gib(limit)}"
        available = min(available, limit)
    if available < LITTLE:
        remedy = "end other programs, or train with a smaller data.max_batch_seconds"
        return [Finding("memory", "warning", detail, remedy)]
    return [Finding("memory", "ok", detail)]


def gpus() -> list[Finding]:
    """Each GPU multiplies two matrices; whether its energy is metered."""
    import torch

    if not torch.cuda.is_available():
        if not DRIVER.exists():
            return [
                Finding("GPU", "ok", "none; training runs on the processor"),
                Finding("energy", "ok", "not metered: only NVIDIA GPUs have a counter"),
            ]
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        detail = f"an NVIDIA driver is there, but torch {torch.__version__} ({built}) finds no GPU"
        remedy = "check nvidia-smi, CUDA_VISIBLE_DEVICES, and that the driver is new enough"
        return [Finding("GPU", "warning", detail, remedy)]
    return [f for number in range(torch.cuda.device_count()) for f in _gpu(number)]


def _gpu(number: int) -> list[Finding]:
    import torch

    from asr.metering.meter import EnergyMeter

    name, device = f"GPU {number}", torch.device("cuda", number)
    facts = torch.cuda.get_device_properties(device)
    detail = f"{facts.name}, {_gib(facts.total_memory)}, capability {facts.major}.{facts.minor}"
    try:
        ones = torch.ones(64, 64, device=device)
        correct = float((ones @ ones).sum()) == 64**3
    except RuntimeError as error:
        remedy = "install a torch built for this GPU, and a driver that is new enough for it"
        reason = str(error).strip().splitlines()[0]
        return [Finding(name, "broken", f"{detail}: it cannot compute ({reason})", remedy)]
    if not correct:
        return [Finding(name, "broken", f"{detail}: it computes wrong values", "use another GPU")]
    note = EnergyMeter(device).note
    energy = (
        Finding(f"energy of {name}", "ok", "metered by the driver's counter")
        if note is None
        else Finding(f"energy of {name}", "warning", f"not metered: {note}", METER)
    )
    return [Finding(name, "ok", detail), energy]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
