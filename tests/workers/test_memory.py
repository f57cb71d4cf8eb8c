"""How much memory a process has for itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pywatt_host.workers.memory import own_memory

MIB = 1024**2


def test_private_pages_count_and_shared_ones_do_not(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    rollup = b"Rss: 90 kB\nPss_Dirty: 8 kB\nShared_Clean: 40 kB\nPrivate_Clean: 3 kB\nPrivate_Dirty: 5 kB\n"
    (tmp_path / "7" / "smaps_rollup").write_bytes(rollup)
    assert own_memory(7, tmp_path) == 8 * 1024


def test_without_that_all_resident_memory_counts(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "statm").write_bytes(b"90 25 8 1 0 30 0\n")
    assert own_memory(7, tmp_path) == 25 * os.sysconf("SC_PAGE_SIZE")


def test_of_a_process_that_has_ended_nothing_is_known(tmp_path: Path) -> None:
    assert own_memory(7, tmp_path) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_process_that_allocates_has_more_memory() -> None:
    before = own_memory(os.getpid())
    block = b"x" * (64 * MIB)
    after = own_memory(os.getpid())
    assert before is not None
    assert after is not None
    assert 48 * MIB < after - before < 80 * MIB
    assert len(block) == 64 * MIB
