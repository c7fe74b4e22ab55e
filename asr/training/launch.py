"""Starts the processes of a run on a CPU: by default one per core, each with one thread.

Threads of one process wait for each other by spinning, so that another program on one core slows
all of them down. Processes that wait for each other sleep, and the other program takes its share.
"""

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from lightning.fabric.plugins.environments import LightningEnvironment

from asr.data.utterances import read_corpus
from asr.metering import control_groups
from asr.recipe.schema import Recipe
from asr.training.run_folder import AnyRecipe

log = logging.getLogger(__name__)

Result = TypeVar("Result")

LOOPBACK = "lo"  # Linux's name of the network interface of a machine with itself
GRACE_SECONDS = 10.0  # for processes to end by themselves after the run
POLL_SECONDS = 0.2
PATIENCE = timedelta(days=7)  # a process that dies is noticed at once, however long others work


class Place(NamedTuple):
    """The number of this process among those that this module started: its rank."""

    rank: int = 0
    number: int = 1


ALONE = Place()


class Processes(LightningEnvironment):
    """Tells Lightning that the processes run already."""

    creates_processes_externally = True

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def local_rank(self) -> int:
        """Returns the rank of this process."""
        return self.place.rank

    def node_rank(self) -> int:
        """Returns 0, because there is one machine."""
        return 0


def launched() -> bool:
    """Returns whether srun or torchrun started this process as one of several."""
    names = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
    return any(int(os.environ.get(name, "1")) > 1 for name in names)


def number_of_processes(recipe: AnyRecipe) -> int:
    """Returns the number of processes that ``run`` has to start; 1 on a GPU.

    By default there is a process for each core; with OMP_NUM_THREADS, for so many cores. More
    processes than a batch has utterances would be idle, so there are at most as many.

    Raises:
        ValueError: the corpus is missing or damaged.
    """
    options = recipe.trainer
    if options.accelerator == "gpu" or options.num_nodes > 1 or launched():
        return 1
    if options.accelerator == "auto" and torch.cuda.is_available():
        return 1
    if options.devices != "auto":
        return options.devices
    number = max(1, control_groups.usable_cores() // _threads())
    if not isinstance(recipe, Recipe):
        return 1 if recipe.counts else number
    splits = read_corpus(recipe.data.corpus)["splits"]
    known = [splits[split] for split in recipe.data.train if split in splits]
    seconds = 3600 * sum(split["hours"] for split in known)
    mean = seconds / max(1, sum(split["utterances"] for split in known))
    rows = max(1, int(recipe.data.max_batch_seconds / mean)) if mean else number
    if rows < number:
        log.info(
            "%d of %d cores are used: an utterance lasts %.1f s on average, so data."
            "max_batch_seconds %g holds %d; raise it to use more",
            rows, number, mean, recipe.data.max_batch_seconds, rows,
        )  # fmt: skip
    return min(rows, number)


def _threads() -> int:
    """Returns the number of threads of each of several processes."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(given)) if given.isdigit() else 1


def run(number: int, work: Callable[[Place], Result]) -> Result:
    """Calls ``work`` in ``number`` processes; returns the result of this one, which has rank 0.

    The other processes are forked from this one, so that everything is imported once. Only rank 0
    speaks to the user and is told to end by signals. No process outlives it.

    Raises:
        ValueError: another process failed; the message says why.
    """
    if number == 1:
        return work(ALONE)
    context = multiprocessing.get_context("fork")
    failures, sender = context.Pipe(duplex=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(_threads())
    with tempfile.TemporaryDirectory() as folder:
        group = f"file://{folder}/group"
        others = [
            context.Process(
                target=_follow, args=(Place(rank, number), group, os.getpid(), sender, work)
            )
            for rank in range(1, number)
        ]
        with warnings.catch_warnings():
            # Python 3.12 warns of forks beside other threads, none of which the child needs.
            warnings.simplefilter("ignore", DeprecationWarning)
            for other in others:
                other.start()
        try:
            _join(Place(0, number), group)
            result = work(Place(0, number))
            for other in others:
                other.join(GRACE_SECONDS)
            return result
        except Exception as error:
            if _is_consequence(error) and (why := _failure(failures, others)):
                raise ValueError(why) from error
            raise
        finally:
            for other in others:
                other.kill()
                other.join()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            torch.set_num_threads(threads)


def _follow(
    place: Place, group: str, parent: int, failures: Any, work: Callable[[Place], object]
) -> None:
    """Works in a process other than that of rank 0; sends the reason of a failure."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logging.disable()
    warnings.simplefilter("ignore")
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        _join(place, group)
        work(place)
    except Exception as error:
        if not _is_consequence(error):
            if not isinstance(error, ValueError | OSError):
                traceback.print_exc()
            failures.send((place.rank, str(error) or type(error).__name__))
        raise SystemExit(1) from None


def _end_with(parent: int) -> None:
    """Ends this process when its parent has ended."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _join(place: Place, group: str) -> None:
    """Joins the process group; a process that fails stays in it until its failure is known."""
    name, given = "GLOO_SOCKET_IFNAME", os.environ.get("GLOO_SOCKET_IFNAME")
    if given is None and Path("/sys/class/net", LOOPBACK).exists():
        os.environ[name] = LOOPBACK  # works without a network, and survives a change of network
    try:
        torch.distributed.init_process_group(
            "gloo", group, timeout=PATIENCE, rank=place.rank, world_size=place.number
        )
    finally:
        if given is None:
            os.environ.pop(name, None)


def _is_consequence(error: BaseException) -> bool:
    """Returns whether an error says that another process has left the group."""
    return isinstance(error, RuntimeError) and "gloo" in str(error).lower()


def _failure(failures: Any, others: Sequence[BaseProcess]) -> str | None:
    """Returns why another process failed; None if none did."""
    until = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < until:
        if failures.poll(0.01):
            rank, why = failures.recv()
            return f"process {rank + 1} of {len(others) + 1} ended: {why}"
        for rank, other in enumerate(others, 1):
            if (status := other.exitcode) is not None and status < 0:
                why = f"killed by {signal.Signals(-status).name}, perhaps for lack of memory"
                return f"process {rank + 1} of {len(others) + 1} ended: {why}"
    return None
