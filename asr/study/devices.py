"""The devices of this machine as slots, each of which one run holds at a time."""

import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch

from asr.locks import take
from asr.recipe.schema import TrainerOptions

# What a launcher tells the processes that it starts; a run of a study is a process on its own.
LAUNCHERS = ("SLURM_", "TORCHELASTIC_", "PMI_", "PMIX_", "OMPI_")
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Slot:
    """Room for one run.

    Attributes:
        locks: a name for each GPU or core that it takes: no two runs share one.
        devices: what CUDA_VISIBLE_DEVICES is for its runs; empty on a processor.
    """

    locks: tuple[str, ...]
    devices: str


def cores() -> list[int]:
    """Numbers of those that this process may use, where the system says so."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def task() -> tuple[int, int] | None:
    """(number, number on this machine) of this process under srun or torchrun, else None."""
    env = os.environ
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"])
    if int(env.get("WORLD_SIZE", "1")) > 1:
        return int(env["RANK"]), int(env.get("LOCAL_RANK", "0"))
    return None


def visible_gpus(accelerator: str) -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them; none where runs are trained on the processor."""
    number = torch.cuda.device_count() if accelerator != "cpu" else 0
    named = [n for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if n]
    return named[:number] if named else [str(i) for i in range(number)]


def lock_folder() -> Path:
    """Where devices are locked: one place for all studies of a user on a machine.

    Raises:
        ValueError: somebody else made it.
    """
    folder = Path(tempfile.gettempdir()) / f"asr-devices-{os.getuid()}-{platform.node()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise ValueError(f"{folder} belongs to another user; set TMPDIR to a folder of your own")
    return folder


def shared_threads(options: TrainerOptions, workers: int | None) -> int:
    """Threads of each run when the study does not say: the cores, shared evenly by the workers."""
    gpus = visible_gpus(options.accelerator)
    at_once = workers or max(1, len(gpus) // options.devices)
    return max(1, len(cores()) // at_once)


def slots(options: TrainerOptions, threads: int) -> list[Slot]:
    """One for each GPU (or as many as a run takes), or for so many threads of the processor.

    Under srun or torchrun each process has the slot of its own number.

    Raises:
        ValueError: the machine has no room for a run.
    """
    if options.num_nodes > 1:
        raise ValueError(
            f"trainer.num_nodes {options.num_nodes}: a run of a study has one machine; set 1"
        )
    gpus, processor = visible_gpus(options.accelerator), cores()
    if gpus:
        size, number, lacks = options.devices, len(gpus), f"trainer.devices {options.devices}"
    else:
        size, number, lacks = threads, len(processor), f"threads {threads}"
    places = [range(i, i + size) for i in range(0, number - size + 1, size)]
    if not places:
        room = f"{number} {'GPUs' if gpus else 'cores'}"
        raise ValueError(
            f"{lacks}: this machine has {room}, too few for one run; use a larger machine or "
            "another study"
        )
    if (launched := task()) is not None:
        places = [places[launched[1] % len(places)]]  # a task may see its own GPU only
    if gpus:
        return [Slot(_gpus(place), ",".join(gpus[i] for i in place)) for place in places]
    return [Slot(tuple(f"core{processor[i]}" for i in place), "") for place in places]


def _gpus(place: Iterable[int]) -> tuple[str, ...]:
    """By what they are: a number counts those that a process may see, and two may see others."""
    return tuple(f"gpu-{torch.cuda.get_device_properties(i).uuid}" for i in place)


def take_slot(free: Sequence[Slot]) -> tuple[Slot, list[TextIO]] | None:
    """The first slot of which no study on this machine uses a part, with its locks."""
    folder = lock_folder()
    for slot in free:
        held = [one for name in slot.locks if (one := take(folder / name))]
        if len(held) == len(slot.locks):
            return slot, held
        for one in held:
            one.close()
    return None


def environment(slot: Slot, threads: int, outer: Mapping[str, str]) -> dict[str, str]:
    """That of a run: its devices and threads, and nothing of a launcher around the study.

    Settings of MPI (OMPI_MCA_...) stay: without, it may not start on the machine at all.
    """
    kept = {
        name: value
        for name, value in outer.items()
        if "_MCA_" in name or not (name.startswith(LAUNCHERS) or name in (*LAUNCHED, *RENDEZVOUS))
    }
    return {**kept, **dict.fromkeys(THREADS, str(threads)), "CUDA_VISIBLE_DEVICES": slot.devices}
