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
START = timedelta(minutes=5)  # for processes to start; a new interpreter imports torch
PATIENCE = timedelta(days=7)  # a process that dies is noticed at once, however long others work


class NotStartedError(ValueError):
    """A process of a run has not started in time."""


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


def processes_and_threads(recipe: AnyRecipe) -> tuple[int, int]:
    """Returns the number of processes that ``run`` has to start, and the threads of each.

    On a GPU there is one process. On a CPU there is by default a process for each core, or with
    OMP_NUM_THREADS for so many cores. More processes than a batch has utterances would be idle, so
    there are at most as many.

    Raises:
        ValueError: the corpus is missing or damaged.
    """
    options, threads = recipe.trainer, _whole_number("OMP_NUM_THREADS")
    on_gpu = options.accelerator == "gpu"
    on_gpu |= options.accelerator == "auto" and torch.cuda.is_available()
    # Whether torchrun or srun started this process as one of several.
    launched = any(_whole_number(name) > 1 for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))
    if on_gpu or options.devices == 1 or options.num_nodes > 1 or launched:
        return 1, torch.get_num_threads()
    if options.devices != "auto":
        return options.devices, threads
    number = max(1, control_groups.usable_cores() // threads)
    if not isinstance(recipe, Recipe):
        return 1 if recipe.counts else number, threads
    splits = read_corpus(recipe.data.corpus)["splits"]
    known = [splits[split] for split in recipe.data.train if split in splits]
    seconds = 3600 * sum(split["hours"] for split in known)
    mean = seconds / max(1, sum(split["utterances"] for split in known))
    rows = max(1, int(recipe.data.max_batch_seconds / mean)) if mean else number
    if rows < number:
        log.info(
            "%d of %d cores are used: an utterance lasts %.1f s on average, so data."
            "max_batch_seconds %g holds %d; raise it to use more",
            rows * threads, number * threads, mean, recipe.data.max_batch_seconds, rows,
        )  # fmt: skip
    return min(rows, number), threads


def _whole_number(name: str) -> int:
    """Returns the whole number in an environment variable; 1 if it holds none."""
    given = os.environ.get(name, "")
    return max(1, int(given)) if given.isdecimal() else 1


def run(number: int, threads: int, work: Callable[[Place], Result]) -> Result:
    """Calls ``work`` in ``number`` processes; returns the result of this one, which has rank 0.

    The other processes are forked from this one, so that everything is imported once. With several
    threads each they are new interpreters: OpenMP's threads do not survive a fork, and a forked
    process would wait for them without end. ``work`` is pickled then. Only rank 0 speaks to the
    user and is told to end by signals. No process outlives it.

    Raises:
        ValueError: another process failed; the message says why.
    """
    before = torch.get_num_threads()
    if threads != before:
        torch.set_num_threads(threads)
    try:
        return work(ALONE) if number == 1 else _run_several(number, threads, work)
    finally:
        if threads != before:
            torch.set_num_threads(before)


def _run_several(number: int, threads: int, work: Callable[[Place], Result]) -> Result:
    context: Any = multiprocessing.get_context("fork" if threads == 1 else "spawn")
    failures, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        group = f"file://{folder}/group"
        others = [
            context.Process(
                target=_follow,
                args=(Place(rank, number), threads, group, os.getpid(), sender, work),
            )
            for rank in range(1, number)
        ]
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of forks beside other threads, none of which the child needs.
                warnings.simplefilter("ignore", DeprecationWarning)
                for other in others:
                    other.start()
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
                if other.pid is not None:
                    other.kill()
                    other.join()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def _follow(
    place: Place,
    threads: int,
    group: str,
    parent: int,
    failures: Any,
    work: Callable[[Place], object],
) -> None:
    """Works in a process other than that of rank 0; sends the reason of a failure."""
    # torch renews its pool of threads at the first use after a fork, and two threads that use it
    # at the same time would abort the process.
    torch.set_num_threads(threads)
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
            "gloo", group, timeout=START, rank=place.rank, world_size=place.number
        )
        # torch.distributed.set_timeout is newer than torch 2.11.
        world = torch.distributed.distributed_c10d._get_default_group()
        world._get_backend(torch.device("cpu"))._set_default_timeout(PATIENCE)
    except RuntimeError as error:
        why = f"not all {place.number} processes started within {START.seconds} s ({error})"
        raise NotStartedError(f"{why}; use --trainer.devices 1") from None
    finally:
        if given is None:
            os.environ.pop(name, None)


def _is_consequence(error: BaseException) -> bool:
    """Returns whether an error says that another process has left or not joined the group."""
    left = isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    return left or isinstance(error, NotStartedError)


def _failure(failures: Any, others: Sequence[BaseProcess]) -> str | None:
    """Returns why another process failed; None if none did."""
    until = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < until:
        if failures.poll(0.01):
            rank, why = failures.recv()
            return f"process {rank + 1} of {len(others) + 1} ended: {why}"
        for rank, other in enumerate(others, 1):
            if (status := other.exitcode) is not None and status < 0:
                why = f"killed by {signal.Signals(-status).name}"
                if -status == signal.SIGKILL:
                    why += ", perhaps for lack of memory (smaller batches need less)"
                why += "; the same command continues from the last checkpoint"
                return f"process {rank + 1} of {len(others) + 1} ended: {why}"
    for rank, other in enumerate(others, 1):
        if status := other.exitcode:
            return f"process {rank + 1} of {len(others) + 1} ended with status {status}"
    return None
