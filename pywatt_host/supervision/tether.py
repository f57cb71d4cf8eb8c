"""Become another program, which the kernel ends together with its parent (Linux, prctl(2), PR_SET_PDEATHSIG).

A program of its own, run as `python -I -S tether.py PARENT COMMAND...`: between fork and exec of a process with threads
nothing may be done, so it is done after an exec. The signal is SIGKILL: one that can be ignored would leave orphans.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
NOT_FOUND = 127  # exit code where there is no such program, as shells have it


def become(parent: int, command: list[str]) -> None:
    """Does not return."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has gone already, and its signal with it
        raise SystemExit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        raise SystemExit(NOT_FOUND) from None


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
