"""One private server: started detached, found again by other processes, and stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pywatt_host.exceptions import StoreError
from pywatt_host.net.private_folders import unsafe
from pywatt_host.supervision.process import StopPolicy, signal_process

_START_TIMEOUT = 60.0  # seconds until the server has to answer
_POLL_INTERVAL = 0.03  # seconds
_MAX_ATTEMPTS = 8
_RETRY_DELAY = 0.5  # seconds between attempts
_LOG_LINES = 8  # of the server's log in the text of an error
_START_DETACHED = '"$@" >&2 </dev/null & echo $!'  # the shell prints the process id and ends at once
MAX_SOCKET_PATH = 100  # bytes; systems allow 104 or 108


class ServerKind(Protocol):
    """What differs between servers. Every method blocks, and may raise StoreError and OSError."""

    name: str
    folder: Path  # of its data, its log and the record of its process
    stop_policy: StopPolicy

    def make_folder(self) -> None:
        """Create `folder` if it does not exist. Raises PermissionError if other users may change what is in it. Called
        before anything in it is read."""

    def prepare(self) -> None:
        """Create missing data, settings and a port. Called before each start."""

    def command(self) -> Sequence[str]: ...

    def user_options(self) -> dict[str, object]:
        """The keyword arguments of `subprocess` that choose the user as which the server runs."""

    def is_ready(self) -> bool:
        """Whether the server answers, with our credentials."""

    def url(self, name: str) -> str:
        """The URL of the database `name`, which is created if it does not exist."""


def server_error(kind: str, message: str) -> StoreError:
    """An error about the private server of a kind."""
    return StoreError(f"{kind}+dev", "arguments", message)


def command_line(pid: int) -> str:
    """The command and arguments of a process. For a process that has ended, an empty text or the name of a zombie
    process, which has no path of ours in it."""
    command = ["ps", "-ww", "-o", "args=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


class PrivateServer:
    """The process of a server. Its process id is kept in `server.json`, so that other processes find it."""

    def __init__(self, kind: ServerKind) -> None:
        self.kind = kind
        self._record = kind.folder / "server.json"
        self._log = kind.folder / "server.log"

    def running(self) -> int | None:
        """The process id of the server, or None if it does not run. A process id that another program has taken over
        does not count, nor a record that another user may have written."""
        try:
            if unsafe(self.kind.folder):
                return None
            pid = int(json.loads(self._record.read_text(encoding="utf-8"))["pid"])
            os.kill(pid, 0)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return pid if str(self.kind.folder) in command_line(pid) else None

    def start(self) -> bool:
        """Start the server and wait until it answers. Returns False if it ran already. Raises StoreError and
        OSError."""
        self.kind.make_folder()
        if self.running() is not None:
            self._wait_until_ready()
            return False
        self.kind.prepare()
        for attempt in range(_MAX_ATTEMPTS):
            if attempt:  # processes of a server that was killed may not have ended yet
                time.sleep(_RETRY_DELAY)
            self._launch()
            if self._wait_until_ready():
                return True
        raise server_error(self.kind.name, f"the private server ended as soon as it was started: {self._last_log()}")

    def _launch(self) -> None:
        with self._log.open("ab") as log:
            # Not as our child: other processes may still use it when we end. In a session of its own: Ctrl-C is not
            # for it.
            done = subprocess.run(
                ["sh", "-c", _START_DETACHED, "sh", *self.kind.command()], stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=log, cwd="/", start_new_session=True, check=True,
                **self.kind.user_options(),  # type: ignore[call-overload]
            )  # fmt: skip
        self._record.write_text(json.dumps({"pid": int(done.stdout)}), encoding="utf-8")

    def _wait_until_ready(self) -> bool:
        """Returns False if the server has ended."""
        deadline = time.monotonic() + _START_TIMEOUT
        while not self.kind.is_ready():
            if self.running() is None:
                self._record.unlink(missing_ok=True)
                return False
            if time.monotonic() > deadline:
                message = f"the private server did not answer within {_START_TIMEOUT:g} s: {self._last_log()}"
                raise server_error(self.kind.name, message)
            time.sleep(_POLL_INTERVAL)
        return True

    def _last_log(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        except OSError:
            lines = []
        return f"{' | '.join(line.strip() for line in lines) or 'it logged nothing'} (log: {self._log})"

    def stop(self) -> None:
        """Stop the server as its kind says, and wait until it has ended."""
        pid = self.running()
        if pid is not None:
            for number in (self.kind.stop_policy.signal, signal.SIGKILL):
                signal_process(pid, number)
                if self._ends_within(self.kind.stop_policy.grace):
                    break
        self._record.unlink(missing_ok=True)

    def _ends_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.running() is None:
                return True
            time.sleep(_POLL_INTERVAL)
        return False


def free_port(last: Path) -> int:
    """A free port of the loopback address: the port that the file `last` holds, if it is still free. Raises OSError if
    no port is free."""
    try:
        wanted = int(last.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        wanted = 0
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore connections that have ended
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no port is free")


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
