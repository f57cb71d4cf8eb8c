"""A child process that the event loop runs."""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from pywatt_host.supervision.process import LineSplitter, StopPolicy, signal_group

_LAST_LINES_TIMEOUT = 0.5  # seconds to read what is left in the pipe after the process has ended
_READ_BYTES = 64 * 1024


class Child:
    """A running child process with a session of its own."""

    def __init__(self, process: Process) -> None:
        self.pid: int = process.pid
        self._process = process
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, command: Sequence[str], **options: Any) -> Child:
        """Start `command`. `options` are those of `asyncio.create_subprocess_exec`. Raises OSError."""
        return cls(await asyncio.create_subprocess_exec(*command, start_new_session=True, **options))

    def read_lines(self, pipe: BinaryIO, on_line: Callable[[bytes], None]) -> None:
        """Pass each line that the child writes to a pipe, up to 64 KiB of it, to `on_line` until the child ends."""
        self._reading = asyncio.get_running_loop().create_task(_read_lines(pipe, on_line))

    async def wait(self) -> int:
        """Wait until the process has ended, and kill what it left in its group. Returns the exit code, negative for a
        signal. By then every line has been passed on."""
        code = await self._process.wait()
        self.kill()
        if self._reading is not None:
            await asyncio.wait((self._reading,), timeout=_LAST_LINES_TIMEOUT)
            self._reading.cancel()
        return code

    def signal(self, number: int) -> None:
        """Send a signal to the process and its group."""
        signal_group(self.pid, number)

    def kill(self) -> None:
        """Kill the process and its group at once."""
        self.signal(signal.SIGKILL)

    async def stop(self, policy: StopPolicy) -> bool:
        """Stop the process, and kill its group after that. Only the process itself receives the signal of `policy`.
        Returns whether the process had to be killed."""
        try:
            if self._process.returncode is None:
                self._process.send_signal(policy.signal)
            async with asyncio.timeout(policy.grace):
                await self._process.wait()
            return False
        except TimeoutError:
            return True
        finally:
            self.kill()
            await self._process.wait()


async def _read_lines(pipe: BinaryIO, on_line: Callable[[bytes], None]) -> None:
    stream, lines = asyncio.StreamReader(), LineSplitter(on_line)
    protocol = asyncio.StreamReaderProtocol(stream)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
    try:
        while data := await stream.read(_READ_BYTES):
            lines.feed(data)
    finally:
        lines.end()
        transport.close()
