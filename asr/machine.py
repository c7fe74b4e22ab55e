"""What a run has of its machine: devices and their precision, memory, signals."""

import ctypes
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.loggers import TensorBoardLogger
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only

from asr.precision import allow_tf32
from asr.recipe import TrainerOptions

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def is_alone(options: TrainerOptions) -> bool:
    """Whether a run has one process, whatever a launcher's variables say of others beside it."""
    return options.devices * options.num_nodes == 1


def is_first_process(options: TrainerOptions) -> bool:
    """Whether this is the process that keeps the run folder; known before the others are there."""
    return is_alone(options) or getattr(rank_zero_only, "rank", 0) == 0


def kernel_precision(options: TrainerOptions, device: torch.device) -> str:
    """What large products are computed in: bf16, tf32 (on a GPU) or float32."""
    if options.precision == "bf16-mixed":
        return "bf16"
    return "tf32" if options.allow_tf32 and device.type == "cuda" else "float32"


def make_fabric(options: TrainerOptions, folder: Path) -> L.Fabric:
    """The devices of a run, every float32 kernel at the same precision.

    Raises:
        ValueError: they are not there.
    """
    accelerator = options.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    allow_tf32(options.allow_tf32 and accelerator == "gpu")
    # cuDNN's attention, torch's choice in bf16, makes a plan for every new shape of a batch: 0.13 s
    # an update of an 18-layer Transformer on an H200, more than all else in it.
    torch.backends.cuda.enable_cudnn_sdp(False)
    # One process needs no launcher; to look for one starts MPI where its Python package is there.
    alone = is_alone(options)
    if alone:  # else one of several tasks that a launcher started would keep no logs
        setattr(rank_zero_only, "rank", 0)  # noqa: B010  (for mypy)
    try:
        return L.Fabric(
            accelerator=accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            precision=options.precision,
            plugins=[LightningEnvironment()] if alone else [],
            loggers=TensorBoardLogger(folder, name="logs", version=""),
        )
    except Exception as error:  # Lightning's, of many kinds
        raise ValueError(
            f"trainer: {str(error).rstrip('.!')}; check accelerator ({options.accelerator}) and "
            f"devices ({options.devices}), or use --trainer.accelerator cpu"
        ) from None


class Interruption:
    """SIGINT and SIGTERM end a run after the step at hand; a second one ends it at once."""

    signal = 0

    def __enter__(self) -> "Interruption":
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: object) -> None:
        self.signal = number
        for other, handler in self.before.items():
            signal.signal(other, handler)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def keep_freed_memory() -> None:
    """Glibc's allocator keeps what a step frees, for the next one to use.

    By default it returns large blocks to the system and takes them back page by page: a quarter of
    the time of a training step on a CPU. Elsewhere than on glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
