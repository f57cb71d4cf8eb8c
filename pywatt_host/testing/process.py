"""A real process under test: its output is kept, and it ends with everything that it has started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from pywatt_host.supervision.process import LineSplitter, signal_group

PATIENCE = 40.0  # seconds that a wait may take until the test fails
LAST_LINES_TIMEOUT = 2.0  # seconds to read the log of a process that has ended; a child of it may still hold the pipe
_MAX_LINE_BYTES = 16 * 1024**2
_READ_BYTES = 64 * 1024
# Prefixes of the environment variables that change how a host runs.
_HOST_VARIABLES = ("PYWATT_", "LISTEN_", "WATCHDOG_", "NOTIFY_SOCKET", "FORWARDED_ALLOW_IPS", "PYTHONWARNINGS")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """This process's environment without the variables that change how a host runs, plus `more`. A host that inherits
    it keeps its control socket in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_HOST_VARIABLES)}
    return {**kept, "XDG_RUNTIME_DIR": str(folder), **more}


class Child(Protocol):
    """What a watched process is asked for: a subprocess.Popen has all of it."""

    pid: int
    returncode: int | Any
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    stderr: IO[bytes] | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...


class Process:
    """A process in a session of its own. A thread reads its standard error line by line."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        pass_fds: Sequence[int] = (),
        *,
        pipes: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        """Start `command` in `folder`. With `pipes`, standard input and output are pipes; without, standard input is
        empty and standard output is kept in a file. `patience` is the longest wait in seconds. Raises OSError if the
        command cannot be run."""
        self.patience = patience
        self.lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by `end`
        try:
            self.child = self._started(command, folder, environ, pass_fds, None if pipes else self._out)
        except BaseException:
            self._out.close()
            raise
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _started(
        self,
        command: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        pass_fds: Sequence[int],
        out: IO[bytes] | None,
    ) -> Child:
        """Standard error is a pipe; without `out`, standard input and standard output are pipes too."""
        return subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE if out is None else subprocess.DEVNULL,
            stdout=subprocess.PIPE if out is None else out,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=dict(environ),
            pass_fds=pass_fds,
            start_new_session=True,  # so that its children end with it
        )

    def _read(self) -> None:
        assert self.child.stderr is not None
        lines = LineSplitter(self._add_line, _MAX_LINE_BYTES)
        while data := os.read(self.child.stderr.fileno(), _READ_BYTES):
            lines.feed(data)
        lines.end()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _add_line(self, line: bytes) -> None:
        with self._changed:
            self.lines.append(line.decode("utf-8", "replace"))
            self._changed.notify_all()

    def wait_for(self, wanted: Callable[[str], bool] | str) -> str:
        """Wait for the first line of standard error, from the start of the process on, that contains the text `wanted`
        or for which the function `wanted` is true. Raises AssertionError if there is none within `patience` seconds or
        before the process closes standard error."""
        match = wanted if callable(wanted) else lambda line: wanted in line

        def found() -> str | None:
            return next((line for line in self.lines if match(line)), None)

        with self._changed:
            self._changed.wait_for(lambda: self._ended or found() is not None, self.patience)
        line = found()
        if line is None:
            raise AssertionError("no line of standard error matched; the lines are:\n" + "\n".join(self.lines))
        return line

    @property
    def logs(self) -> list[dict[str, Any]]:
        """The lines of standard error that are JSON objects."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the process, but not to what it has started."""
        self.child.send_signal(number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended, for `timeout` seconds or else `patience`. Returns its exit code, negative
        for a signal. Raises subprocess.TimeoutExpired."""
        code = self.child.wait(self.patience if timeout is None else timeout)
        self._reader.join(LAST_LINES_TIMEOUT)
        return code

    def stop(self) -> int:
        """Send SIGTERM and wait for the end. Returns the exit code."""
        self.signal()
        return self.wait()

    @property
    def stdout(self) -> bytes:
        """What the process has written to standard output so far, unless it has `pipes`."""
        self._out.seek(0)
        return self._out.read()

    def end(self) -> None:
        """Kill the process and everything that it has started, and close its files."""
        signal_group(self.child.pid, signal.SIGKILL)
        self.child.wait(self.patience)
        self._reader.join(self.patience)
        if self.child.stderr is not None:
            self.child.stderr.close()
        self._out.close()
