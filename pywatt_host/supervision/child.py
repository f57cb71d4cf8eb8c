"""One process: started in a session of its own, with pipes for the protocol, its standard error read line by line."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Callable

from pywatt_host.channels.wire import PipeEnd, Wire
from pywatt_host.supervision.launch import Launch

LONGEST_LINE = 64 * 1024  # octets of a log line; the rest of a longer one is dropped
_LAST_LINES = 0.5  # seconds for what a process that has ended has still in its pipe


class Child:
    """A running process. Its session is its own: a Ctrl-C at the terminal reaches `up` alone, and a signal reaches
    whatever the process started as well."""

    def __init__(self, process: Process, errors: _ErrorLines) -> None:
        self.pid = process.pid
        self._process = process
        self._errors = errors

    async def wait(self) -> int:
        """Its exit code, negative for a signal; every line that it wrote has been passed on then."""
        code = await self._process.wait()
        self.signal(signal.SIGKILL)  # what it left behind in its group
        await asyncio.wait((self._errors.ended,), timeout=_LAST_LINES)
        self._errors.close()
        return code

    def signal(self, number: int) -> None:
        """To the process and its descendants, as far as they stayed in its group."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # nobody is left


async def start(launch: Launch, wire: Wire, line: Callable[[bytes], None]) -> Child:
    """Start a process; `wire` reads its standard output and writes its standard input, `line` gets each line of its
    standard error. Raises OSError."""
    loop = asyncio.get_running_loop()
    open_fds: set[int] = set()
    try:
        (child_in, ours_in), (ours_out, child_out), (ours_err, child_err) = os.pipe(), os.pipe(), os.pipe()
        open_fds |= {child_in, ours_in, ours_out, child_out, ours_err, child_err}
        process = await asyncio.create_subprocess_exec(
            *launch.argv(),
            stdin=child_in,
            stdout=child_out,
            stderr=child_err,
            cwd=launch.directory,
            env=dict(launch.environ),
            start_new_session=True,
        )
        for fd in (child_in, child_out, child_err):
            os.close(fd)
            open_fds.discard(fd)
        errors = _ErrorLines(line)
        open_fds -= {ours_in, ours_out, ours_err}  # the transports close them from now on
        writer, _ = await loop.connect_write_pipe(lambda: PipeEnd(wire), os.fdopen(ours_in, "wb", buffering=0))
        wire.write_to(writer)
        await loop.connect_read_pipe(lambda: errors, os.fdopen(ours_err, "rb", buffering=0))
        await loop.connect_read_pipe(lambda: wire, os.fdopen(ours_out, "rb", buffering=0))
    finally:
        for fd in open_fds:
            os.close(fd)
    return Child(process, errors)


class _ErrorLines(asyncio.Protocol):
    """Standard error, line by line, each of them bounded."""

    def __init__(self, line: Callable[[bytes], None]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line = line
        self._rest = b""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *whole, rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._line(line[:LONGEST_LINE])
        self._rest = rest[: LONGEST_LINE + 1]

    def connection_lost(self, error: Exception | None) -> None:
        if self._rest:
            self._line(self._rest[:LONGEST_LINE])
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
