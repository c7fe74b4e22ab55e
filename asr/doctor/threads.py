"""Whether threads make this machine faster, or wait for each other.

The threads of OpenMP end every operation at a barrier, where they wait by spinning. When another
program holds a core, one thread of the team is not running, and the others spin until it is: an
update of training then takes longer than on one thread, by a factor of up to thirty.
"""

import os
import time
from pathlib import Path

from asr.doctor.finding import Finding

VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
REMEDY = "set OMP_NUM_THREADS=1; more processes use more cores (asr train: --trainer.devices 2)"
SECONDS = 0.6  # of each of the two measurements
SIZE = 384  # rows of a square product: about a millisecond on a core, as operations of training


def threads() -> list[Finding]:
    """Times a product on all threads and on one."""
    import torch

    number = torch.get_num_threads()
    all_threads = seconds_per_product(number)
    before, own, begin = busy_seconds(), time.process_time(), time.perf_counter()
    one = seconds_per_product(1)
    others = busy_seconds() - before - (time.process_time() - own)
    found = judge(number, all_threads, one, others / (time.perf_counter() - begin))
    settings = [f"{name}={os.environ.get(name, '(not set)')}" for name in VARIABLES]
    return [Finding("threads", found.state, "; ".join([found.detail, *settings]), found.remedy)]


def seconds_per_product(threads: int) -> float:
    """Mean over ``SECONDS`` of products, the first ones left out; at least one is timed."""
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
    """What all cores of the machine have worked so far; 0 where the system does not say."""
    if not Path("/proc/stat").is_file():
        return 0.0
    user, nice, system, _, _, *interrupts = Path("/proc/stat").read_text().split()[1:8]
    return sum(map(int, (user, nice, system, *interrupts))) / os.sysconf("SC_CLK_TCK")


def judge(number: int, all_threads: float, one: float, others: float) -> Finding:
    """What two timings say.

    Args:
        number: of threads.
        all_threads: seconds of a product on so many.
        one: seconds of the same product on one.
        others: cores that other programs used meanwhile.
    """
    if number == 1:
        return Finding("threads", "ok", "torch uses 1 thread")
    ratio = all_threads / one
    detail = (
        f"torch uses {number} threads; a product takes {ratio:.2f} times as long as on 1 thread"
    )
    if ratio <= 1:
        return Finding("threads", "ok", detail)
    if others >= 0.5:
        detail += f": other programs use {others:.1f} cores, and the threads wait for each other"
    return Finding("threads", "warning", detail, REMEDY)
