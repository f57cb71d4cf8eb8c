"""What the machine lets this process use: processor cores and memory, within the limits of its control groups."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeAlias

# Returns the text of a file of the system; None where there is no such file or it cannot be read.
Reader: TypeAlias = Callable[[str], str | None]

_GROUPS = "/sys/fs/cgroup"


def read_file(path: str) -> str | None:
    """The text of a file of the system; None where it does not exist or cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None


def affinity() -> int:
    """How many cores the scheduler may run this process on (taskset, cpusets)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def usable_cores(cores: Callable[[], int] = affinity, read: Reader = read_file) -> int:
    """How many cores this process may use: those of its affinity, but not more than the processor quota of its control
    groups, rounded up. At least 1."""
    quotas = [*_quotas_v2(read), *_quotas_v1(read)]
    return max(1, min([cores(), *(math.ceil(quota) for quota in quotas)]))


def usable_memory(read: Reader = read_file) -> int | None:
    """How many bytes of memory this process may use: those of the machine, but not more than its control groups allow.
    None where the system does not say."""
    limits = [limit for limit in (_machine_memory(read), *_memory_limits(read)) if limit is not None]
    return min(limits) if limits else None


def _quotas_v2(read: Reader) -> Iterator[float]:
    """`cpu.max` is `QUOTA PERIOD`, both in microseconds; QUOTA is `max` where there is no limit."""
    for folder in _folders_v2(read):
        quota, _, period = (read(f"{folder}/cpu.max") or "").strip().partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _quotas_v1(read: Reader) -> Iterator[float]:
    """The quota is -1 where there is no limit."""
    for folder in _folders_v1(read, "cpu"):
        quota = (read(f"{folder}/cpu.cfs_quota_us") or "").strip()
        period = (read(f"{folder}/cpu.cfs_period_us") or "").strip()
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _memory_limits(read: Reader) -> Iterator[int]:
    files = [f"{folder}/memory.max" for folder in _folders_v2(read)]
    files += [f"{folder}/memory.limit_in_bytes" for folder in _folders_v1(read, "memory")]
    for file in files:
        limit = (read(file) or "").strip()
        if limit.isdigit():
            yield int(limit)  # without a limit, version 1 has a number that is larger than any memory


def _machine_memory(read: Reader) -> int | None:
    for line in (read("/proc/meminfo") or "").splitlines():
        name, _, amount = line.partition(":")
        size = amount.split()
        if name == "MemTotal" and len(size) == 2 and size[0].isdigit():
            return int(size[0]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if read is read_file else None
    except (ValueError, OSError):
        return None


def _folders_v2(read: Reader) -> Iterator[str]:
    for line in (read("/proc/self/cgroup") or "").splitlines():
        if line.startswith("0::"):
            yield from _with_parents(_GROUPS, line[3:])


def _folders_v1(read: Reader, controller: str) -> Iterator[str]:
    """The folders of a control group that has this controller. A container sees its own group as the root of the mount,
    whatever its path is."""
    for line in (read("/proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            yield from _with_parents(f"{_GROUPS}/{controllers}", path)
            if controllers != controller:
                yield from _with_parents(f"{_GROUPS}/{controller}", path)


def _with_parents(mount: str, path: str) -> Iterator[str]:
    """The folder of a group and those above it: the limits of all of them apply."""
    group = PurePosixPath("/" + path.strip("/"))
    for each in (group, *group.parents):
        yield mount + str(each).rstrip("/")
