"""A real process that is watched, and ended with all that it has started."""

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

PATIENCE = 40.0  # seconds until something that never happens fails its test
LAST_WORDS = 2.0  # seconds in which the log of what has ended is read; a child of it may hold the pipe for longer
_OURS = ("PYWATT_", "LISTEN_", "WATCHDOG_", "NOTIFY_SOCKET", "FORWARDED_ALLOW_IPS", "PYTHONWARNINGS")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """This process's environment, without what would change how a host runs, and `more`. Control sockets are in
    `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
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
    """Its standard error line by line, its standard output as a whole, or both ends as pipes."""

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
        """Raises OSError for a command that cannot be run."""
        self.patience = patience
        self.lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
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
        with open(self.child.stderr.fileno(), "rb", closefd=False) as stream:
            for line in stream:
                with self._news:
                    self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, wanted: Callable[[str], bool] | str) -> str:
        """The first line of standard error that is wanted (or holds the text), from the start of the process on."""
        match = wanted if callable(wanted) else lambda line: wanted in line

        def found() -> str | None:
            return next((line for line in self.lines if match(line)), None)

        with self._news:
            self._news.wait_for(lambda: self._ended or found() is not None, self.patience)
        line = found()
        if line is None:
            raise AssertionError("it never said so, but:\n" + "\n".join(self.lines))
        return line

    @property
    def logs(self) -> list[dict[str, Any]]:
        """The lines of standard error that are JSON objects."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.child.send_signal(number)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired where it does not end in time."""
        code = self.child.wait(self.patience if timeout is None else timeout)
        self._reader.join(LAST_WORDS)
        return code

    def stop(self) -> int:
        self.signal()
        return self.wait()

    @property
    def stdout(self) -> bytes:
        self._out.seek(0)
        return self._out.read()

    def end(self) -> None:
        """Gone with all its children, whatever they do."""
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # nobody is left; macOS says the second of those
            pass
        self.child.wait(self.patience)
        self._reader.join(self.patience)
        if self.child.stderr is not None:
            self.child.stderr.close()
        self._out.close()
