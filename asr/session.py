"""A session of a run: one start of its processes, from claiming the folder to leaving it.

What the training of speech models and of language models have in common.
"""

import contextlib
import json
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import lightning as L
import torch
from torch import Tensor

from asr.environment import environment
from asr.files import write
from asr.machine import (
    Interruption,
    is_first_process,
    keep_freed_memory,
    kernel_precision,
    make_fabric,
)
from asr.meter import Ledger
from asr.run_folder import AnyRecipe, claimed

log = logging.getLogger(__name__)


class Session(NamedTuple):
    """What a run works with until its processes end."""

    fabric: L.Fabric
    ledger: Ledger
    interruption: Interruption


@contextlib.contextmanager
def opened(recipe: AnyRecipe, folder: Path) -> Iterator[Session]:
    """Claims the run folder, starts the devices and the account of what they cost.

    Raises:
        ValueError: the folder holds another run or is in use, or a device is not there.
        OSError: it cannot be written.
    """
    keep_freed_memory()
    # The other processes work in the folder of the first.
    with claimed(recipe, folder) if is_first_process(recipe.trainer) else contextlib.nullcontext():
        fabric = make_fabric(recipe.trainer, folder)
        fabric.launch()
        ledger = Ledger(
            folder,
            fabric.device,
            fabric.world_size,
            kernel_precision(recipe.trainer, fabric.device),
            writes=fabric.is_global_zero,
        )
        with contextlib.closing(ledger), Interruption() as interruption:
            yield Session(fabric, ledger, interruption)


def begin(folder: Path, fabric: L.Fabric, ledger: Ledger, updates: int) -> None:
    """Opens the ledger at this update and writes what the run, in this session, is made with."""
    if not fabric.is_global_zero:
        return
    ledger.open(updates)
    facts = {
        **environment(),
        "working_directory": str(Path.cwd()),  # from which the recipe's paths count
        "device_name": ledger.device_name,
        "threads": torch.get_num_threads(),
        "kernel_precision": ledger.precision,
    }
    write(folder / "environment.json", json.dumps(facts, indent=1))


def first(fabric: L.Fabric, value: Any) -> Any:
    """The first process' value: clocks and signals differ, all must do the same."""
    return value if fabric.world_size == 1 else fabric.broadcast(value)


def summed(fabric: L.Fabric, value: float) -> float:
    """One number summed over all ranks."""
    if fabric.world_size == 1:
        return value
    number = torch.tensor(value, dtype=torch.float64, device=fabric.device)
    total = fabric.all_reduce(number, reduce_op="sum")
    assert isinstance(total, Tensor)
    return float(total)


def rehearse(optimizer: torch.optim.Optimizer) -> None:
    """After a backward pass: room for all that the optimiser keeps; changes no weight."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.zero_()  # 0 times infinity would be a weight that is no number
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    optimizer.state.clear()


def save(
    folder: Path,
    fabric: L.Fabric,
    ledger: Ledger,
    state: Callable[[], dict[str, Any]],
    save_model: Callable[[str, dict[str, Any]], None],
) -> None:
    """The state to resume from, whole or not at all, and the latest model; call it on every rank.

    Args:
        folder: of the run.
        fabric: its processes.
        ledger: its account, which is part of the state.
        state: plain values and tensors, asked on the first rank alone.
        save_model: takes the name of a folder and a line of the ledger; called there too.
    """
    with ledger.during("checkpoint"):
        fabric.barrier()
        line = ledger.line("checkpoint", lambda value: summed(fabric, value))
        if fabric.is_global_zero:
            whole = {**state(), "ledger": line}
            write(folder / "last.ckpt", lambda file: torch.save(whole, file))
            save_model("last", line)
        fabric.barrier()


def leave(told: signal.Signals, updates: int) -> NoReturn:
    """Ends the process as the signal wants; all is saved.

    Raises:
        SystemExit: 128 plus the signal.
    """
    log.info("%s: saved at update %d; the same command goes on from there", told.name, updates)
    raise SystemExit(128 + told)
