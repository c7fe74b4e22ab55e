"""Checks the processor, memory, folders and GPUs that this process may use."""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from asr.doctor.finding import Finding
from asr.metering import environment
from asr.metering.control_groups import cpu_quota, memory_limit

LITTLE_MEMORY = 2 * 2**30  # bytes
LITTLE_DISK = 5e9  # bytes; a prepared corpus of 100 hours and its runs take more
DRIVER = Path("/proc/driver/nvidia/version")


def processor() -> Iterator[Finding]:
    """Reports the name and number of cores, and the CPU quota of the container."""
    cores, quota = environment.cores(), cpu_quota()
    detail = f"{environment.processor()}, {cores} cores"
    if quota is None or quota >= cores:
        yield Finding("processor", "ok", detail)
        return
    detail += f", of which a quota of the container gives {quota:g}"
    threads, most = os.environ.get("OMP_NUM_THREADS", ""), math.ceil(quota)
    if threads.isdigit() and int(threads) <= most:
        yield Finding("processor", "ok", detail)
    else:
        remedy = f"set OMP_NUM_THREADS={most}; otherwise threads wait for each other"
        yield Finding("processor", "warning", detail, remedy)


def memory() -> Iterator[Finding]:
    """Reports total and available memory, and the limit of the container."""
    import psutil

    found, limit = psutil.virtual_memory(), memory_limit()
    available = found.available
    detail = f"{_gib(available)} of {_gib(found.total)} available"
    if limit is not None and limit < found.total:
        detail += f"; the container is limited to {_gib(limit)}"
        available = min(available, limit)
    if available < LITTLE_MEMORY:
        remedy = "end other programs, or train with a smaller data.max_batch_seconds"
        yield Finding("memory", "warning", detail, remedy)
    else:
        yield Finding("memory", "ok", detail)


def working_folder() -> Iterator[Finding]:
    """Checks the folder that runs and corpora are written to by default."""
    yield folder("working folder", Path.cwd, "go to a folder that you may write to")


def temporary_folder() -> Iterator[Finding]:
    """Checks the folder of temporary files, which TMPDIR chooses."""
    remedy = "set TMPDIR to a folder that you may write to"
    found = folder("temporary folder", lambda: Path(tempfile.gettempdir()), remedy)
    wanted = os.environ.get("TMPDIR")
    if found.state != "broken" and wanted and Path(wanted) != Path(tempfile.gettempdir()):
        detail = f"TMPDIR={wanted} is not usable; {found.detail}"
        found = Finding(found.check, "warning", detail, remedy)
    yield found


def folder(check: str, locate: Callable[[], Path], remedy: str) -> Finding:
    """Checks a folder by writing a file, because root may write against the permission bits.

    Args:
        check: name of the finding.
        locate: returns the folder, or raises OSError if there is none.
        remedy: what to do if the folder cannot be written.
    """
    path = None
    try:
        path = locate()
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"asr" * 1000)
            file.flush()
        free = shutil.disk_usage(path).free
    except OSError as error:
        where = f"{path} cannot be written: " if path else ""
        return Finding(check, "broken", f"{where}{error.strerror}", remedy)
    detail = f"{path} can be written and has {free / 1e9:.1f} GB free"
    if free < LITTLE_DISK:
        return Finding(check, "warning", detail, f"make room there, or {remedy}")
    return Finding(check, "ok", detail)


def gpus() -> Iterator[Finding]:
    """Checks for each GPU that it multiplies matrices correctly and that its energy is metered."""
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            yield from _gpu(number)
    elif DRIVER.exists():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        detail = f"an NVIDIA driver is there, but torch {torch.__version__} ({built}) finds no GPU"
        remedy = "check nvidia-smi, CUDA_VISIBLE_DEVICES, and that the driver is new enough"
        yield Finding("GPU", "warning", detail, remedy)
    else:
        yield Finding("GPU", "ok", "none; training runs on the processor")
        yield Finding("energy", "ok", "not metered: only NVIDIA GPUs have a counter")


def _gpu(number: int) -> Iterator[Finding]:
    import torch

    from asr.metering.gpu import GpuMeter

    name, device = f"GPU {number}", torch.device("cuda", number)
    facts = torch.cuda.get_device_properties(device)
    detail = f"{facts.name}, {_gib(facts.total_memory)}, capability {facts.major}.{facts.minor}"
    try:
        ones = torch.ones(64, 64, device=device)
        correct = float((ones @ ones).sum()) == 64**3
    except RuntimeError as error:
        remedy = "install a torch built for this GPU, and a driver that is new enough for it"
        reason = str(error).strip().splitlines()[0]
        yield Finding(name, "broken", f"{detail}: it cannot compute ({reason})", remedy)
        return
    if not correct:
        yield Finding(name, "broken", f"{detail}: it computes wrong values", "use another GPU")
        return
    yield Finding(name, "ok", detail)
    if (note := GpuMeter(device).note) is None:
        yield Finding(f"energy of {name}", "ok", "metered by the driver's counter")
    else:
        remedy = "pip install nvidia-ml-py; GPUs have the counter from Volta on"
        yield Finding(f"energy of {name}", "warning", f"not metered: {note}", remedy)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
