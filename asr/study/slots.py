"""The devices of this machine as slots: a run has one to itself, whoever started it."""

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from asr.recipe import TrainerOptions
from asr.study.claims import Claim, claim

# What a launcher tells the processes that it starts; a run of a study is a process on its own.
LAUNCHERS = ("SLURM_", "TORCHELASTIC_", "PMI_", "PMIX_", "OMPI_")
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Slot:
    """Room for one run.

    Attributes:
        name: of its lock: two on a machine never share a device.
        devices: what CUDA_VISIBLE_DEVICES is for its runs; empty on a processor.
    """

    name: str
    devices: str


def cores() -> int:
    """Of this process: what it may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


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


def shared_threads(options: TrainerOptions, workers: int | None) -> int:
    """Threads of each run when the study does not say: the cores, shared evenly by the workers."""
    gpus = visible_gpus(options.accelerator)
    at_once = workers or max(1, len(gpus) // options.devices)
    return max(1, cores() // at_once)


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
    host, gpus = platform.node(), visible_gpus(options.accelerator)
    if gpus:
        groups = [
            ",".join(gpus[i : i + options.devices])
            for i in range(0, len(gpus) - options.devices + 1, options.devices)
        ]
        found = [Slot(f"{host}-gpu{group}", group) for group in groups]
        lacks = f"trainer.devices {options.devices}: this machine has {len(gpus)} GPUs"
    else:
        found = [Slot(f"{host}-cpu{i}", "") for i in range(cores() // threads)]
        lacks = f"threads {threads}: this machine has {cores()} cores"
    if not found:
        raise ValueError(f"{lacks}, too few for one run; use a larger machine or another study")
    if (launched := task()) is not None:
        mine = found[launched[1] % len(found)]  # a task may see its own GPU only, as number 0
        return [Slot(f"{host}-task{launched[1]}", mine.devices)]
    return found


def take(folder: Path, free: list[Slot]) -> tuple[Slot, Claim] | None:
    """The first slot that nobody uses for this study; None where all are taken."""
    for slot in free:
        if (held := claim(folder / ".slots" / slot.name)) is not None:
            return slot, held
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
