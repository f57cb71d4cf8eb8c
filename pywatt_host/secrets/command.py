"""Secrets that a program prints, such as the command-line client of a password store."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from pywatt_host.exceptions import SecretError
from pywatt_host.secrets.source import MAX_BYTES, without_last_newline

_TIMEOUT = 10.0  # seconds that the program has to print the secret and exit
_PIPE_CLOSE_TIMEOUT = 1.0  # seconds to wait for the output pipe of a killed program to close
_MAX_CONCURRENT_RUNS = 4


class CommandSource:
    """Runs a program for each secret and reads the secret from its standard output.

    `${name}` in an argument is replaced by the secret's name. No shell is involved. The program's standard error is not
    shown, because it may contain the secret.
    """

    watched = False

    def __init__(self, arguments: Sequence[str], directory: Path, environ: Mapping[str, str]) -> None:
        self.label = f"command {os.path.basename(arguments[0])}"
        self._arguments = tuple(arguments)
        self._directory = directory
        self._environ = {name: value for name, value in environ.items() if not name.startswith("PYWATT_")}
        self._gate = asyncio.Semaphore(_MAX_CONCURRENT_RUNS)

    async def get(self, name: str) -> str | None:
        """Return the program's output without the last line end, or None if the output is empty and the exit code 0.

        Raises SecretError for any other exit code, because a locked password store must not look like one that does not
        have the secret.
        """
        arguments = [argument.replace("${name}", name) for argument in self._arguments]
        async with self._gate:
            output = await self._output(arguments)
        try:
            return without_last_newline(output.decode()) if output else None
        except UnicodeDecodeError:
            raise SecretError(f"{self.label}: its output for {name} is not UTF-8 text") from None

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
            raise SecretError(f"{self.label} could not be run: {(error.strerror or str(error)).lower()}") from error
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_TIMEOUT):
                output = await process.stdout.read(MAX_BYTES + 1)
                while output and len(output) <= MAX_BYTES:
                    more = await process.stdout.read(MAX_BYTES + 1 - len(output))
                    if not more:
                        break
                    output += more
                if len(output) > MAX_BYTES:
                    raise SecretError(f"{self.label} printed more than 1 MiB")
                code = await process.wait()
        except BaseException as error:
            await _kill(process)
            if isinstance(error, TimeoutError):
                raise SecretError(f"{self.label} did not exit within {_TIMEOUT:g}s") from None
            raise
        if code != 0:
            raise SecretError(f"{self.label} exited with code {code}; run it by hand to see why")
        return output


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill the process and every process that it started. It may have exited already: a child can hold the pipe."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # the process group is empty
        pass
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_PIPE_CLOSE_TIMEOUT):
            while await process.stdout.read(65536):  # the pipe closes only once it is empty
                pass
            await process.wait()
    except TimeoutError:
        pass  # a grandchild in a session of its own holds the pipe
