"""Starts the processes of a run on a CPU: by default one per core, each with one thread.

Threads of one process wait for each other by spinning, so that another program on one core slows
all of them down. Processes that wait for each other sleep, and the other program takes its share.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, TypeVar

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
    threads = torch.get_num_threads()
    torch.set_num_threads(_threads())
    log.info("training in %d processes, threads of each: %d", number, torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        others = [_fork(Place(rank, number), Path(folder), work) for rank in range(1, number)]
        try:
            with _group(Place(0, number), Path(folder)):
                result = work(Place(0, number))
                _wait(others)
                return result
        except Exception as error:
            if _is_consequence(error) and (why := _failure(others, number)):
                raise ValueError(why) from error
            raise
        finally:
            for other in others:
                other.kill()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            torch.set_num_threads(threads)


@contextlib.contextmanager
def _group(place: Place, folder: Path) -> Iterator[None]:
    """Joins the process group; the processes find each other through a file in ``folder``."""
    name, before = "GLOO_SOCKET_IFNAME", os.environ.get("GLOO_SOCKET_IFNAME")
    if before is None and Path("/sys/class/net", LOOPBACK).exists():
        os.environ[name] = LOOPBACK  # works without a network, and survives a change of network
    try:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/group", timeout=PATIENCE,
            rank=place.rank, world_size=place.number,
        )  # fmt: skip
    finally:
        if before is None:
            os.environ.pop(name, None)
    yield  # a process that fails stays in the group until its failure is known


@dataclass
class Other:
    """A forked process.

    Attributes:
        place: its rank.
        pid: its process id.
        messages: file descriptor from which the reason of its failure is read.
        status: exit status, negative if a signal killed it; None while it runs.
    """

    place: Place
    pid: int
    messages: int
    status: int | None = None

    def ended(self) -> bool:
        """Returns whether the process has ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def kill(self) -> None:
        """Ends the process."""
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.messages)

    def failure(self) -> str:
        """Returns why the process has ended; empty if it did not fail or only followed others."""
        assert self.status is not None
        if self.status < 0:
            name = signal.Signals(-self.status).name
            return f"it was killed by {name}, perhaps because memory ran out"
        return os.read(self.messages, 65536).decode()


def _fork(place: Place, folder: Path, work: Callable[[Place], object]) -> Other:
    """Starts a process that calls ``work`` and ends."""
    reader, writer = os.pipe()
    parent = os.getpid()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside other threads, of which none is needed by the child.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        os.close(writer)
        return Other(place, pid, reader)
    status = 1
    try:
        os.close(reader)
        _be_silent(parent)
        with _group(place, folder):
            work(place)
        status = 0
    except SystemExit:  # rank 0 was told to end
        status = 0
    except BaseException as error:
        if not _is_consequence(error):
            if not isinstance(error, ValueError | OSError):
                traceback.print_exc()
            os.write(writer, (str(error) or type(error).__name__).encode())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _be_silent(parent: int) -> None:
    """Leaves logs and signals to rank 0, and ends this process when rank 0 has ended."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logging.disable()
    warnings.simplefilter("ignore")

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _is_consequence(error: BaseException) -> bool:
    """Returns whether an error says that another process has left the group."""
    return isinstance(error, RuntimeError) and "gloo" in str(error).lower()


def _wait(others: list[Other], seconds: float = GRACE_SECONDS) -> None:
    """Waits until all processes have ended, but not longer than so many seconds."""
    until = time.monotonic() + seconds
    while not all(other.ended() for other in others) and time.monotonic() < until:
        time.sleep(0.01)


def _failure(others: list[Other], number: int) -> str | None:
    """Returns why another process failed; None if none did."""
    until = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < until:
        for other in others:
            if other.ended() and (why := other.failure()):
                rank = other.place.rank
                return f"process {rank + 1} of {number} ended: {why}"
        time.sleep(0.01)
    return None
