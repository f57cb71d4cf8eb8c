"""Secrets that a program prints, such as the command line of a password store."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from pywatt_host.exceptions import SecretError
from pywatt_host.secrets.source import MOST_OCTETS, without_last_newline

_TIMEOUT = 10.0  # seconds
_LAST_WORDS = 1.0  # seconds that a killed program has for its pipe to close
_AT_ONCE = 4


class CommandSource:
    """`${name}` in an argument is the secret's name. No shell; what it writes to standard error is not shown, since it
    may hold the secret."""

    watched = False

    def __init__(self, arguments: Sequence[str], directory: Path, environ: Mapping[str, str]) -> None:
        self.label = f"command {os.path.basename(arguments[0])}"
        self._arguments = tuple(arguments)
        self._directory = directory
        self._environ = {name: value for name, value in environ.items() if not name.startswith("PYWATT_")}
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def get(self, name: str) -> str | None:
        """What it prints, without the last line end; None for an empty output with exit code 0. Raises SecretError for
        any other exit code, since a locked store must not pass for one that has no such secret."""
        arguments = [argument.replace("${name}", name) for argument in self._arguments]
        async with self._gate:
            octets = await self._output(arguments)
        try:
            return without_last_newline(octets.decode()) if octets else None
        except UnicodeDecodeError:
            raise SecretError(f"{self.label}: what it printed for {name} is not UTF-8 text") from None

    def identity(self) -> object:
        return None

    async def _output(self, arguments: Sequence[str]) -> bytes:
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                cwd=self._directory,
                env=self._environ,
                start_new_session=True,
            )
        except OSError as error:
            raise SecretError(f"{self.label} cannot be run: {(error.strerror or str(error)).lower()}") from error
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_TIMEOUT):
                octets = await process.stdout.read(MOST_OCTETS + 1)
                while octets and len(octets) <= MOST_OCTETS:
                    more = await process.stdout.read(MOST_OCTETS + 1 - len(octets))
                    if not more:
                        break
                    octets += more
                if len(octets) > MOST_OCTETS:
                    raise SecretError(f"{self.label} printed more than 1 MiB")
                code = await process.wait()
        except BaseException as error:
            await _killed(process)
            if isinstance(error, TimeoutError):
                raise SecretError(f"{self.label} did not end within {_TIMEOUT:g}s") from None
            raise
        if code != 0:
            raise SecretError(f"{self.label} ended with exit code {code}; run it by hand to see why")
        return octets


async def _killed(process: asyncio.subprocess.Process) -> None:
    """End it and all that it started, though it may have ended itself: a child of its own can hold the pipe."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # nobody is left in the group
        pass
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_LAST_WORDS):
            while await process.stdout.read(65536):  # the pipe is closed only once it is empty
                pass
            await process.wait()
    except TimeoutError:
        pass  # a grandchild with a session of its own holds the pipe
