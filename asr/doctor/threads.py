"""Checks whether threads make torch faster or wait for each other.

OpenMP threads end every operation at a barrier, where they wait in a loop. If another program
uses a core, one of the threads cannot run, and the others wait for it. A training update then takes
up to thirty times as long as on one thread.
"""

import os
import time
from collections.abc import Iterator

from asr.doctor.finding import Finding

VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
REMEDY = "set OMP_NUM_THREADS=1; asr train then uses each core with a process of one thread"
SECONDS = 0.6  # duration of each of the two measurements
SIZE = 384  # rows of a square product that takes about 1 ms, like the operations of training


def threads() -> Iterator[Finding]:
    """Times a matrix product on all threads and on one."""
    import torch

    number = torch.get_num_threads()
    all_threads = seconds_per_product(number)
    before, own, begin = busy_seconds(), time.process_time(), time.perf_counter()
    one = seconds_per_product(1)
    others = busy_seconds() - before - (time.process_time() - own)
    found = judge(number, all_threads / one, others / (time.perf_counter() - begin))
    settings = [f"{name}={os.environ.get(name, '(not set)')}" for name in VARIABLES]
    yield Finding("threads", found.state, "; ".join([found.detail, *settings]), found.remedy)


def seconds_per_product(threads: int) -> float:
    """Returns the mean time of a product during ``SECONDS``, after three products."""
    import torch

    torch.set_num_threads(threads)
    x = torch.ones(SIZE, SIZE)
    for _ in range(3):
        (x @ x).add_(1)
    done, begin = 0, time.perf_counter()
    while not done or time.perf_counter() - begin < SECONDS:
        (x @ x).add_(1)
        done += 1
    return (time.perf_counter() - begin) / done


def busy_seconds() -> float:
    """Returns the summed seconds for which the machine's cores have worked since it started."""
    import psutil

    times = psutil.cpu_times()
    return sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq"))


def judge(number: int, ratio: float, others: float) -> Finding:
    """Interprets the timings.

    Args:
        number: threads that torch uses.
        ratio: time of a product on these threads, divided by its time on one thread.
        others: number of cores that other programs used at that time.
    """
    if number == 1:
        return Finding("threads", "ok", "torch uses 1 thread")
    detail = (
        f"torch uses {number} threads; a product takes {ratio:.2f} times as long as on 1 thread"
    )
    if ratio <= 1:
        return Finding("threads", "ok", detail)
    if others >= 0.5:
        detail += f": other programs use {others:.1f} cores, and the threads wait for each other"
    return Finding("threads", "warning", detail, REMEDY)
