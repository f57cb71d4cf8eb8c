"""One private server: started, found again, asked, stopped."""

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

_STARTING = 60.0  # seconds
_STOPPING = 10.0  # seconds, then it is killed
_LOOK = 0.03  # seconds
_LAST_LINES = 8
_ATTEMPTS, _AGAIN = 8, 0.5  # seconds between them
_DETACHED = '"$@" >&2 </dev/null & echo $!'  # the shell ends at once
LONGEST_SOCKET = 100  # octets of a socket's path; the system's bound is 104 or 108


class Kind(Protocol):
    """What differs between servers. Everything blocks, and raises StoreError."""

    name: str
    folder: Path  # of its data, its log and what is known of it
    stop_signal: signal.Signals

    def prepare(self) -> None:
        """Before each start: data that is not there yet, settings, a port."""

    def command(self) -> Sequence[str]: ...

    def account(self) -> dict[str, object]:
        """As whom it runs: keywords of subprocess."""

    def ready(self) -> bool:
        """Whether it answers, to us."""

    def url(self, name: str) -> str:
        """For a name, which is made where it is not there."""


def failure(kind: str, message: str) -> StoreError:
    return StoreError(f"{kind}+dev", "arguments", message)


def arguments_of(pid: int) -> str:
    """The arguments of a process; of one that is gone, or whose end nobody has taken note of, nothing that is ours."""
    command = ["ps", "-ww", "-o", "args=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


class PrivateServer:
    """The process of a kind; its number is kept in `server.json`, so that whoever comes later finds it."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._record = kind.folder / "server.json"
        self._log = kind.folder / "server.log"

    def running(self) -> int | None:
        """The number of its process; None where there is none. A number that another program has now is none."""
        try:
            pid = int(json.loads(self._record.read_text(encoding="utf-8"))["pid"])
            os.kill(pid, 0)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return pid if str(self.kind.folder) in arguments_of(pid) else None

    def start(self) -> bool:
        """False where it ran already. Raises StoreError."""
        if self.running() is not None:
            self._until_ready()
            return False
        self.kind.prepare()
        for attempt in range(_ATTEMPTS):
            if attempt:  # parts of one that was killed may still be on their way out
                time.sleep(_AGAIN)
            self._launch()
            if self._until_ready():
                return True
        raise failure(self.kind.name, f"the private server ended at once: {self._said()}")

    def _launch(self) -> None:
        with self._log.open("ab") as log:
            # No child of ours: others may go on using it, and Ctrl-C is for us alone.
            done = subprocess.run(
                ["sh", "-c", _DETACHED, "sh", *self.kind.command()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=log, cwd="/", start_new_session=True, check=True,
                **self.kind.account(),  # type: ignore[call-overload]
            )  # fmt: skip
        self._record.write_text(json.dumps({"pid": int(done.stdout)}), encoding="utf-8")

    def _until_ready(self) -> bool:
        """False where it has ended."""
        deadline = time.monotonic() + _STARTING
        while not self.kind.ready():
            if self.running() is None:
                self._record.unlink(missing_ok=True)
                return False
            if time.monotonic() > deadline:
                raise failure(self.kind.name, f"the private server does not answer: {self._said()}")
            time.sleep(_LOOK)
        return True

    def _said(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        except OSError:
            lines = []
        return f"{' | '.join(line.strip() for line in lines) or 'it said nothing'} (log: {self._log})"

    def stop(self) -> None:
        """Wait until it is gone; killed after a while."""
        pid = self.running()
        if pid is not None:
            for number, patience in ((self.kind.stop_signal, _STOPPING), (signal.SIGKILL, _STOPPING)):
                os.kill(pid, number)
                if self._gone(pid, patience):
                    break
        self._record.unlink(missing_ok=True)

    def _gone(self, pid: int, patience: float) -> bool:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if self.running() is None:
                return True
            time.sleep(_LOOK)
        return False


def free_port(last: Path) -> int:
    """A free port of the loopback address; the one that was written last, where it still is."""
    try:
        wanted = int(last.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        wanted = 0
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not count
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no port is free")


def write_private(path: Path, text: str) -> None:
    """For us alone."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
