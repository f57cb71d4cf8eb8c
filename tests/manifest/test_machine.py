"""What the machine lets a process use: files of control groups of both versions, as a fake system has them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pywatt_host.manifest.machine import Reader, affinity, usable_cores, usable_memory

GROUPS = "/sys/fs/cgroup"
MEMORY = {"/proc/meminfo": "MemTotal:        8000 kB\nMemFree:          100 kB\n"}


def reader(files: Mapping[str, str]) -> Reader:
    return files.get


def cores(files: Mapping[str, str], affinity: int = 8) -> int:
    return usable_cores(lambda: affinity, reader(files))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("150000 100000", 2),
        ("200000 100000", 2),
        ("1000 100000", 1),
        ("1600000 100000", 8),
        ("5000 0", 8),
        ("nonsense", 8),
        ("", 8),
    ],
)
def test_a_quota_of_version_2_is_rounded_up_and_never_more_than_the_affinity(quota: str, expected: int) -> None:
    assert cores({"/proc/self/cgroup": "0::/\n", f"{GROUPS}/cpu.max": f"{quota}\n"}) == expected


def test_the_quota_of_a_group_above_counts() -> None:
    files = {
        "/proc/self/cgroup": "0::/system.slice/users.service\n",
        f"{GROUPS}/system.slice/users.service/cpu.max": "max 100000\n",
        f"{GROUPS}/system.slice/cpu.max": "300000 100000\n",
    }
    assert cores(files) == 3


@pytest.mark.parametrize("folder", ["cpu,cpuacct/docker/1", "cpu,cpuacct", "cpu"])
def test_a_quota_of_version_1_counts_where_the_host_or_the_container_mounts_it(folder: str) -> None:
    files = {
        "/proc/self/cgroup": "5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n",
        f"{GROUPS}/{folder}/cpu.cfs_quota_us": "250000\n",
        f"{GROUPS}/{folder}/cpu.cfs_period_us": "100000\n",
    }
    assert cores(files) == 3
    files[f"{GROUPS}/{folder}/cpu.cfs_quota_us"] = "-1\n"
    assert cores(files) == 8


def test_a_machine_without_control_groups_has_the_cores_of_the_affinity() -> None:
    assert cores({}, affinity=3) == 3
    assert cores({}, affinity=0) == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8_192_000),
        ({"/proc/self/cgroup": "0::/a\n", f"{GROUPS}/a/memory.max": "max\n"}, 8_192_000),
        ({"/proc/self/cgroup": "0::/a\n", f"{GROUPS}/a/memory.max": "1048576\n"}, 1048576),
        ({"/proc/self/cgroup": "0::/a/b\n", f"{GROUPS}/a/memory.max": "2048\n"}, 2048),
        ({"/proc/self/cgroup": "9:memory:/x\n", f"{GROUPS}/memory/memory.limit_in_bytes": "4096\n"}, 4096),
        (
            {"/proc/self/cgroup": "9:memory:/x\n", f"{GROUPS}/memory/memory.limit_in_bytes": "9223372036854771712\n"},
            8_192_000,
        ),
    ],
)
def test_memory_is_that_of_the_machine_or_less_where_a_group_limits_it(files: dict[str, str], expected: int) -> None:
    assert usable_memory(reader({**MEMORY, **files})) == expected


def test_memory_that_the_system_does_not_tell_is_unknown() -> None:
    assert usable_memory(reader({})) is None


def test_this_machine_has_cores_and_memory() -> None:
    assert 1 <= usable_cores() <= affinity()
    memory = usable_memory()
    assert memory is not None
    assert memory > 16 * 1024**2
