"""Whether threads make this machine faster, or wait for each other.

The threads of OpenMP end every operation at a barrier, where they wait by spinning. When another
program holds a core, one thread of the team is not running, and the others spin until it is: an
update of training then takes longer than on one thread, by a factor of up to thirty.
"""

import os
import time

from asr.doctor.finding import Finding

VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SECONDS = 0.6  # of each of the two measurements
SIZE = 192  # rows of a square product: short, so that barriers count as they do in training


def threads() -> list[Finding]:
    """Times a product on all threads and on one."""
    import torch

    number = torch.get_num_threads()
    settings = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    all_threads = seconds_per_product(number)
    one = seconds_per_product(1)
    found = judge(number, all_threads, one, load=os.getloadavg()[0])
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


def judge(number: int, all_threads: float, one: float, load: float) -> Finding:
    """What two timings say.

    Args:
        number: of threads.
        all_threads: seconds of a product on so many.
        one: seconds of the same product on one.
        load: processes that wanted a core, mean of the last minute.
    """
    if number == 1:
        return Finding("threads", "ok", "torch uses 1 thread")
    ratio = all_threads / one
    detail = f"torch uses {number} threads; a product takes {ratio:.2f} of its time on one"
    if ratio <= 1:
        return Finding("threads", "ok", detail)
    remedy = "set OMP_NUM_THREADS=1, and use more cores by more processes: --trainer.devices 2"
    if ratio < 2:
        return Finding("threads", "warning", f"{detail}: threads do not help here", remedy)
    detail += (
        f": threads wait for one another, as when another program holds a core (load {load:.1f})"
    )
    return Finding("threads", "warning", detail, remedy)
