"""Limits that the control groups of a container put on cores and memory."""

import re
from collections.abc import Iterator
from pathlib import Path

from asr.metering.environment import cores

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Returns the number of cores that this process may keep busy: its own, within the quota."""
    quota = cpu_quota()
    return cores() if quota is None else max(1, min(cores(), int(quota)))


def cpu_quota() -> float | None:
    """Returns the number of cores that the control groups allow; None without a limit."""
    quotas = []
    for text in _limits("cpu.max"):  # "max 100000", or two numbers of microseconds
        quota, period = text.split()
        if quota != "max":
            quotas.append(int(quota) / int(period))
    for text in _limits("cpu/cpu.cfs_quota_us"):
        if int(text) > 0:
            quotas += [int(text) / int(period) for period in _limits("cpu/cpu.cfs_period_us")]
    return min(quotas, default=None)


def memory_limit() -> int | None:
    """Returns the number of bytes that the control groups allow; None without a limit."""
    texts = [*_limits("memory.max"), *_limits("memory/memory.limit_in_bytes")]
    # Version 1 writes a number near 2**63 if there is no limit.
    return min((int(text) for text in texts if text != "max" and int(text) < 2**60), default=None)


def _limits(name: str) -> Iterator[str]:
    """Yields the content of a file in the control group of this process and in its parents.

    For version 1 of control groups, it reads only the root, which is a container's own group.
    """
    memberships = Path("/proc/self/cgroup")
    text = memberships.read_text() if memberships.is_file() else ""
    found = re.search("^0::(/.*)$", text, re.MULTILINE)
    group = Path(found[1] if found else "/")
    for folder in (group, *group.parents):
        file = CGROUPS / folder.relative_to("/") / name
        if file.is_file():
            yield file.read_text().strip()
