"""How much memory a process has for itself."""

from __future__ import annotations

import os
from pathlib import Path

_PRIVATE = (b"Private_Clean:", b"Private_Dirty:")


def own_memory(pid: int, proc: Path = Path("/proc")) -> int | None:
    """The bytes of memory that a process does not share with others.

    A forked worker shares most pages with the process that it was forked from; they do not count. Where the kernel does
    not tell what is shared, this is all resident memory. None where neither is known: the process has ended, or the
    system has no /proc. Takes about a millisecond for each 100 MiB.
    """
    try:
        private = _private((proc / str(pid) / "smaps_rollup").read_bytes())
    except OSError:  # an older kernel, or another user's process
        private = None
    if private:
        return private
    try:
        resident = (proc / str(pid) / "statm").read_bytes().split()[1]
    except (OSError, IndexError):
        return None
    return int(resident) * os.sysconf("SC_PAGE_SIZE") or None


def _private(rollup: bytes) -> int | None:
    """The private memory in the text of smaps_rollup; None where it does not tell."""
    found = [int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith(_PRIVATE)]
    return sum(found) if found else None
