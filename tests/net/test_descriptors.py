"""The limit on file descriptors: raised as far as needed, and as far as the system allows."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from pywatt_host.net.descriptors import LEAST, descriptors_needed, raise_descriptor_limit
from tests.processes import PATIENCE

INFINITE = resource.RLIM_INFINITY


class System:
    """A system that takes soft limits up to `most`, whatever its hard limit is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int) -> None:
        self.limit = (soft, hard)
        self._most = most
        monkeypatch.setattr(resource, "getrlimit", lambda kind: self.limit)
        monkeypatch.setattr(resource, "setrlimit", self._set)

    def _set(self, kind: int, limit: tuple[int, int]) -> None:
        assert kind == resource.RLIMIT_NOFILE
        if limit[0] > self._most:
            raise ValueError("current limit exceeds maximum limit")
        self.limit = limit


@pytest.mark.parametrize(
    ("soft", "hard", "most", "expected"),
    [
        (1024, 524288, 524288, LEAST),
        (1024, 4096, 4096, 4096),
        (1024, INFINITE, 1 << 30, LEAST),
        (256, INFINITE, 10240, 10240),
        (256, 1 << 40, 10240, 10240),
        (12288, INFINITE, 10240, 12288),
        (1024, 2048, 0, 1024),
        (LEAST + 1, 524288, 524288, LEAST + 1),
        (INFINITE, INFINITE, 1 << 30, LEAST),
    ],
    ids=["usual", "low", "infinite", "macOS", "macOS, bounded", "above macOS", "refused", "enough", "none"],
)
def test_the_soft_limit_is_raised_and_never_lowered(
    soft: int, hard: int, most: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System(monkeypatch, soft, hard, most)
    assert raise_descriptor_limit() == expected
    assert system.limit == (soft if soft in (INFINITE, expected) else expected, hard)


def test_a_process_can_open_more_than_before() -> None:
    """The real limit, in a process of its own."""
    code = """
import os, resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
from pywatt_host.net.descriptors import raise_descriptor_limit
limit = raise_descriptor_limit(300)
assert limit == 300, limit
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, hard)
opened = [os.dup(0) for _ in range(200)]
print(len(opened))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("200\n", "")


@pytest.mark.parametrize(
    ("connections", "concurrency", "expected"),
    [
        (10_000, 1000, LEAST),
        (1, 1, LEAST),
        (100_000, 1000, 131072),
        (60_000, 1129, 65536 * 2),
        (60_000, 1128, 65536),
        (None, 1000, 524288),
        (1_000_000, 1_000_000, 1 << 20),
    ],
)
def test_what_a_host_needs_follows_from_its_limits(connections: int | None, concurrency: int, expected: int) -> None:
    assert descriptors_needed(connections, concurrency) == expected
