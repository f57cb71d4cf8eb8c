"""A child process that the event loop runs."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from typing import Any

from pywatt_host.supervision.process import LineSplitter, StopPolicy, signal_group

_LAST_LINES_TIMEOUT = 0.5  # seconds to read what is left in the pipe after the process has ended


class Child:
    """A running child process with a session of its own."""

    def __init__(self, process: Process, errors: _ErrorLines | None) -> None:
        self.pid = process.pid
        self._process = process
        self._errors = errors

    @classmethod
    async def start(
        cls, command: Sequence[str], *, on_error_line: Callable[[bytes], None] | None = None, **options: Any
    ) -> Child:
        """Start `command`. `on_error_line` receives each line of its standard error, up to 64 KiB of it; without it the
        child inherits standard error. `options` are those of `asyncio.create_subprocess_exec`. Raises OSError."""
        if on_error_line is None:
            return cls(await asyncio.create_subprocess_exec(*command, start_new_session=True, **options), None)
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb", buffering=0) as stderr:
            errors = await _ErrorLines.read(os.fdopen(reading, "rb", buffering=0), on_error_line)
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, start_new_session=True, stderr=stderr, **options
                )
            except BaseException:
                errors.close()
                raise
        return cls(process, errors)

    async def wait(self) -> int:
        """Wait until the process has ended, and kill what it left in its group. Returns the exit code, negative for a
        signal. By then every line of standard error has been passed on."""
        code = await self._process.wait()
        self.kill()
        if self._errors is not None:
            await asyncio.wait((self._errors.ended,), timeout=_LAST_LINES_TIMEOUT)
            self._errors.close()
        return code

    def signal(self, number: int) -> None:
        """Send a signal to the process and its group."""
        signal_group(self.pid, number)

    def kill(self) -> None:
        """Kill the process and its group at once."""
        self.signal(signal.SIGKILL)

    async def stop(self, policy: StopPolicy) -> bool:
        """Stop the process and kill its group after that. Only the process itself receives the signal of `policy`.
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


class _ErrorLines(asyncio.Protocol):
    """Reads a pipe line by line."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines = LineSplitter(on_line)
        self._transport: asyncio.BaseTransport | None = None

    @classmethod
    async def read(cls, pipe: Any, on_line: Callable[[bytes], None]) -> _ErrorLines:
        _, protocol = await asyncio.get_running_loop().connect_read_pipe(lambda: cls(on_line), pipe)
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._lines.feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._lines.end()
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
