"""What every supervised process shares, on an event loop, in a thread, or detached.

A supervised process starts in a session of its own (`start_new_session=True`). A Ctrl-C at the terminal does not reach
it, and a signal to its process group also reaches the processes that it has started.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

MAX_LINE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class StopPolicy:
    """How to stop a process: send `signal`, and kill the process if it still runs after `grace` seconds."""

    signal: signal.Signals
    grace: float


def signal_process(pid: int, number: int) -> None:
    """Send a signal to one process. Does nothing if the process has ended."""
    _send(os.kill, pid, number)


def signal_group(pid: int, number: int) -> None:
    """Send a signal to the process `pid` and to the processes that it has started, except those that have left its
    process group. Does nothing if all of them have ended."""
    _send(os.killpg, pid, number)


def _send(kill: Callable[[int, int], None], pid: int, number: int) -> None:
    try:
        kill(pid, number)
    except (ProcessLookupError, PermissionError):  # nothing is left to signal; macOS reports that as a PermissionError
        pass


def describe_exit(code: int) -> str:
    """Describe an exit code as `subprocess` reports it: `exit code 3`, or `killed by SIGKILL` for -9."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


class LineSplitter:
    """Cuts a stream of bytes into lines and passes each line, without its newline, to `on_line`. A line longer than
    `limit` bytes is cut: the rest of it is dropped."""

    def __init__(self, on_line: Callable[[bytes], None], limit: int = MAX_LINE_BYTES) -> None:
        self._on_line = on_line
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._on_line(line[: self._limit])
        self._rest = rest[: self._limit]

    def end(self) -> None:
        """Pass on a last line that has no newline."""
        if self._rest:
            self._on_line(self._rest)
            self._rest = b""
