"""The devices of this machine as slots, each of which one run holds at a time."""

import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch

from asr.locks import take
from asr.recipe.schema import TrainerOptions

# Environment variables that a launcher sets; the runs of a study must not inherit them.
LAUNCHERS = ("SLURM_", "TORCHELASTIC_", "PMI_", "PMIX_", "OMPI_")
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Slot:
    """Room for one run.

    Attributes:
        locks: names of the GPUs or cores of the slot; each is locked, so no two runs share one.
        devices: value of CUDA_VISIBLE_DEVICES for the runs in the slot; empty on a CPU.
    """

    locks: tuple[str, ...]
    devices: str


def cores() -> list[int]:
    """The numbers of the CPU cores that this process may use; all cores except on Linux."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def task() -> tuple[int, int] | None:
    """The global and the local rank of this process under srun or torchrun, otherwise None."""
    env = os.environ
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"])
    if int(env.get("WORLD_SIZE", "1")) > 1:
        return int(env["RANK"]), int(env.get("LOCAL_RANK", "0"))
    return None


def visible_gpus(accelerator: str) -> list[str]:
    """The GPUs, as CUDA_VISIBLE_DEVICES names them; empty if runs are trained on the CPU."""
    number = torch.cuda.device_count() if accelerator != "cpu" else 0
    named = [n for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if n]
    return named[:number] if named else [str(i) for i in range(number)]


def lock_folder() -> Path:
    """The folder of the device locks, which all studies of a user on a machine share.

    Raises:
        ValueError: the folder belongs to another user.
    """
    folder = Path(tempfile.gettempdir()) / f"asr-devices-{os.getuid()}-{platform.node()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise ValueError(f"{folder} belongs to another user; set TMPDIR to a folder of your own")
    return folder


def shared_threads(options: TrainerOptions, workers: int | None) -> int:
    """Default number of CPU cores of each run: an equal share per worker."""
    gpus = visible_gpus(options.accelerator)
    at_once = workers or max(1, len(gpus) // options.num_devices)
    return max(1, len(cores()) // at_once)


def processes(wanted: int | str, cores: int) -> int:
    """Number of processes of a run on a CPU: ``trainer.devices``, or one for each of its cores."""
    return cores if wanted == "auto" else min(int(wanted), cores)


def slots(options: TrainerOptions, threads: int) -> list[Slot]:
    """The slots of this machine: one per ``devices`` GPUs, or per ``threads`` CPU cores.

    Under srun or torchrun, each process has one slot, chosen by its local rank.

    Raises:
        ValueError: the machine has no room for a run.
    """
    if options.num_nodes > 1:
        raise ValueError(
            f"trainer.num_nodes {options.num_nodes}: a run of a study uses one machine; set 1"
        )
    gpus = visible_gpus(options.accelerator)
    size = options.num_devices if gpus else threads
    # A GPU is named by its UUID, because the same number can mean two GPUs in two processes.
    names = [f"gpu-{torch.cuda.get_device_properties(i).uuid}" for i in range(len(gpus))]
    names = names or [f"core{number}" for number in cores()]
    firsts = range(0, len(names) - size + 1, size)
    found = [Slot(tuple(names[i : i + size]), ",".join(gpus[i : i + size])) for i in firsts]
    if not found:
        lacks = f"trainer.devices {size}" if gpus else f"threads {size}"
        room = f"{len(names)} {'GPUs' if gpus else 'cores'}"
        raise ValueError(
            f"{lacks}: this machine has {room}, too few for one run; use a larger machine or "
            "another study"
        )
    launched = task()  # it may see its own GPU only
    return found if launched is None else [found[launched[1] % len(found)]]


def take_slot(free: Sequence[Slot]) -> tuple[Slot, list[TextIO]] | None:
    """The first slot that no study on this machine uses, with its locks; None if all are taken."""
    folder = lock_folder()
    for slot in free:
        held = [one for name in slot.locks if (one := take(folder / name))]
        if len(held) == len(slot.locks):
            return slot, held
        for one in held:
            one.close()
    return None


def environment(slot: Slot, threads: int, outer: Mapping[str, str]) -> dict[str, str]:
    """The environment of a run: sets devices and threads and removes the launcher's variables.

    Settings of MPI (OMPI_MCA_...) stay, because MPI may not start on the machine without them.
    """
    kept = {
        name: value
        for name, value in outer.items()
        if "_MCA_" in name or not (name.startswith(LAUNCHERS) or name in (*LAUNCHED, *RENDEZVOUS))
    }
    return {**kept, **dict.fromkeys(THREADS, str(threads)), "CUDA_VISIBLE_DEVICES": slot.devices}
