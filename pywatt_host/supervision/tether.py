"""Become another program that the kernel kills when its parent ends (Linux, prctl(2), PR_SET_PDEATHSIG).

This runs as a program of its own, `python -I -S tether.py PARENT COMMAND...`, because a process with threads must not
run Python code between fork and exec. The signal is SIGKILL, since a program could ignore any other and outlive its
parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
NOT_FOUND = 127  # the exit code if the program does not exist, as in a shell


def become(parent: int, command: list[str]) -> None:
    """Execute `command` in place of this program. Does not return."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the call: no signal will come
        raise SystemExit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        raise SystemExit(NOT_FOUND) from None


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
