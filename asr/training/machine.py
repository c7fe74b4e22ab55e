"""The machine of a run: devices, precision, memory and signals."""

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision as LightningMixedPrecision
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from asr.config.plugins import Spec, build, find
from asr.metering.precision import allow_tf32
from asr.recipe.schema import TrainerOptions
from asr.training.launch import ALONE, Place, Processes
from asr.training.run_folder import AnyRecipe


def is_alone(options: TrainerOptions) -> bool:
    """Returns whether no launcher has started other processes of the run, whatever it has set."""
    return options.num_devices * options.num_nodes == 1


def is_first_process(options: TrainerOptions) -> bool:
    """Returns whether this process keeps the run folder; works before other processes start."""
    return is_alone(options) or getattr(rank_zero_only, "rank", 0) == 0


def kernel_precision(options: TrainerOptions, device: torch.device) -> str:
    """Returns the precision of large matrix products: bf16, tf32 (on a GPU) or float32."""
    if options.precision == "bf16-mixed":
        return "bf16"
    return "tf32" if options.allow_tf32 and device.type == "cuda" else "float32"


class MixedPrecision(LightningMixedPrecision):
    """Casts each weight once per forward pass; Lightning's class does so at every decoder step."""

    def autocast_context_manager(self) -> torch.autocast:
        """Returns ``torch.autocast`` with its default cache of weights."""
        return torch.autocast(self.device, dtype=torch.bfloat16)


def make_trainer(recipe: AnyRecipe, folder: Path, place: Place = ALONE) -> L.Trainer:
    """Makes the Trainer of a run, and sets the same precision for every float32 kernel.

    Args:
        recipe: recipe of the run.
        folder: run folder.
        place: place of this process among those of ``launch.run``.

    Raises:
        ValueError: the devices do not exist.
    """
    options = recipe.trainer
    accelerator = options.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    allow_tf32(options.allow_tf32 and accelerator == "gpu")
    # In bf16 torch chooses cuDNN's attention, which makes a plan for every new batch shape. That
    # takes 0.13 s of an update of an 18-layer Transformer on an H200, more than all other work.
    torch.backends.cuda.enable_cudnn_sdp(False)
    plugins: list[Any] = []
    # One process needs no launcher, and the search for one starts MPI if mpi4py is installed.
    if place.number > 1:
        plugins.append(Processes(place))
    elif is_alone(options):  # otherwise a launcher's task with another rank would write no logs
        setattr(rank_zero_only, "rank", 0)  # noqa: B010  (for mypy)
        plugins.append(LightningEnvironment())
    mixed = options.precision == "bf16-mixed"
    if mixed:
        plugins.append(MixedPrecision("bf16-mixed", "cuda" if accelerator == "gpu" else "cpu"))
    windows = options.accumulate_grad_batches
    callbacks = [build("Callback", spec, "trainer.callbacks") for spec in options.callbacks]
    profiler = None
    if options.profiler is not None:
        where: dict[str, Any] = {"dirpath": folder / "logs", "filename": "profile"}
        profiler = build("Profiler", options.profiler, "trainer.profiler", **where)
    try:
        trainer = L.Trainer(
            accelerator=accelerator,
            devices=max(place.number, options.num_devices),
            num_nodes=options.num_nodes,
            # In a notebook, auto would start processes in Lightning's own way.
            strategy="ddp" if place.number > 1 and options.strategy == "auto" else options.strategy,
            precision=None if mixed else options.precision,
            plugins=plugins,
            logger=[_logger(spec, folder) for spec in options.loggers],
            callbacks=callbacks,
            profiler=profiler,
            max_epochs=-1,
            accumulate_grad_batches=windows,
            val_check_interval=windows * recipe.validation.every_updates,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=windows * options.log_every_n_steps,
            use_distributed_sampler=False,
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_autolog_hparams=False,
            default_root_dir=folder,
        )
    except Exception as error:  # Lightning raises errors of many kinds
        raise ValueError(
            f"trainer: {str(error).rstrip('.!')}; check accelerator ({options.accelerator}) and "
            f"devices ({options.devices}), or use --trainer.accelerator cpu"
        ) from None
    # Lightning's signal handlers would end the run with status 0 without saving, and communicate
    # with other ranks inside a handler. ``Interruption`` replaces them.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def _logger(spec: Spec, folder: Path) -> Any:
    """Builds a logger; TensorBoard writes to ``logs``, other loggers to folders below it."""
    where = "trainer.loggers"
    if issubclass(find("Logger", spec, where)[0], TensorBoardLogger):
        return build("Logger", spec, where, save_dir=folder, name="logs", version="")
    return build("Logger", spec, where, save_dir=folder / "logs")


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keeps Lightning's tips, its lists of devices and a warning out of the log."""
    for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # Lightning sets INFO when it is imported
    with warnings.catch_warnings():
        # Lightning 2.6 with torch 2.14.
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*", FutureWarning)
        yield


class Interruption:
    """Ends a run after the current step at SIGINT or SIGTERM; a second signal ends it at once."""

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


def leave_group() -> None:
    """Ends the threads for communication on CPUs, which would outlive the interpreter."""
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()
