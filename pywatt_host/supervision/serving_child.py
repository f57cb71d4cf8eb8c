"""The process that serves under `dev`, as its parent sees it: started, heard of, stopped with a deadline."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PROGRAM = "pywatt_host.cli.served"
SHUTDOWN = 2.0  # seconds that running requests get; what is left is cut
_GRACE = 1.5  # seconds beyond it until the process is killed
_LONGEST_NEWS = 64 * 1024  # octets


@dataclass(frozen=True, slots=True)
class Serving:
    """It serves. `templates`: its framework keeps templates in memory."""

    templates: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """It could not start, or has ended by itself: why, and its exit code. `printed`: it has said so itself."""

    detail: str
    code: int
    printed: bool = True


@dataclass(frozen=True, slots=True)
class Stopped:
    """It was asked to stop by somebody else, over its control socket."""


News = Serving | Failed | Stopped


class ServingChild:
    """A running process of PROGRAM. Its session is its own: a Ctrl-C at the terminal reaches the parent alone. When the
    parent goes without a word, it goes too: it sees the end of the socket that both of them hold."""

    def __init__(self, process: Process, reader: StreamReader, writer: StreamWriter) -> None:
        self.pid = process.pid
        self._process = process
        self._reader = reader
        self._writer = writer
        self._last: Failed | None = None

    @classmethod
    async def start(
        cls, arguments: Sequence[str], descriptors: Mapping[str, Sequence[int]], *, announce: bool = True
    ) -> ServingChild:
        """Start PROGRAM with the arguments of `run`. It inherits `descriptors` of listening sockets, by manifest key,
        and standard input, output and error; with `announce`, it prints the ready line."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *_as_we_were_started(),
                "-m",
                PROGRAM,
                json.dumps({"parent": theirs.fileno(), "announces": announce, "listening": descriptors}),
                *arguments,
                pass_fds=(theirs.fileno(), *(fd for each in descriptors.values() for fd in each)),
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=_LONGEST_NEWS)
        return cls(process, reader, writer)

    async def news(self) -> News:
        """What it says next; Failed once it has ended."""
        while True:
            try:
                line = await self._reader.readline()
            except (ConnectionError, ValueError):
                line = b""
            if not line:
                code = await self._process.wait()
                return self._last or Failed(_how_it_ended(code), code, printed=False)
            said = json.loads(line)
            if said["event"] == "ready":
                return Serving(bool(said["templates"]))
            if said["event"] == "stopped":
                return Stopped()
            self._last = Failed(str(said["detail"]), int(said["code"]))

    def kill(self) -> None:
        """With all that it has started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # nobody is left

    async def stop(self) -> bool:
        """Ask it to stop, and kill it when it takes longer than it may; whether it had to be killed."""
        killed = False
        try:
            if self._process.returncode is None:
                self._process.terminate()
            async with asyncio.timeout(SHUTDOWN + _GRACE):
                await self._process.wait()
        except TimeoutError:
            killed = True
        finally:
            self.kill()
        await self._process.wait()
        self._writer.close()
        return killed


def _as_we_were_started() -> list[str]:
    """`python -m pywatt_host` has the working directory on its path, the script `pywatt-host` has not."""
    return [] if sys.path[:1] in ([""], [os.getcwd()]) else ["-P"]


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with exit code {code}"
