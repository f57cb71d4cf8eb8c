"""The child process of `dev`: it does what `run` does, and tells its parent when it serves, or why it does not.

The command is `python -m pywatt_host.cli.served SETUP ARGUMENT...`. SETUP is a JSON object: `parent` is the descriptor
of a socket to the parent, `listening` has the descriptors of listening sockets by manifest key, `announces` is whether
to print the ready line. The arguments are those of `run`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from pywatt_host.cli import execute
from pywatt_host.cli.run import parent_of_this
from pywatt_host.cli.standard_streams import open_closed_streams
from pywatt_host.exceptions import HostError
from pywatt_host.manifest.values import Address, FdAddress
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.runtime.host import Host

_TAIL_LINES = 20  # of standard error, which tell the parent why the host could not start
_MAX_DETAIL = 4000  # characters
_CACHING_TEMPLATES = ("flask", "quart", "django")  # frameworks that keep templates in memory by default


class ParentSocket:
    """Sends events to the parent over a socket, one JSON object a line. When the parent ends, this process receives
    SIGTERM."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.announces = bool(setup["announces"])
        self.sockets: Mapping[str, Sequence[Address]] = {
            key: [FdAddress(fd) for fd in listed] for key, listed in setup["listening"].items()
        }
        self._sock = socket.socket(fileno=setup["parent"])
        self._sock.set_inheritable(False)
        self._served = False
        self._failed = False
        threading.Thread(target=self._watch_parent, name="pywatt dev parent", daemon=True).start()

    def _watch_parent(self) -> None:
        try:
            while self._sock.recv(1):
                pass
        except OSError:
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    def ready(self, host: Host) -> None:
        self._served = True
        caches_templates = any(application.framework in _CACHING_TEMPLATES for application in host.applications.all)
        self._send(event="ready", templates=caches_templates)

    def failed(self, error: HostError, stream: LogStream) -> None:
        text = stream.masked(str(error).encode("utf-8", "backslashreplace")).decode()
        self._failed_with(text, error.exit_code)

    def ended(self, code: int, stderr_tail: str) -> None:
        """Tell the parent that `run` has returned. `stderr_tail` has the last lines of standard error."""
        if self._failed:
            return
        if self._served or code == 0:
            self._send(event="stopped")
        else:
            self._failed_with(stderr_tail or f"the process ended with exit code {code}", code)

    def _failed_with(self, detail: str, code: int) -> None:
        self._failed = True
        self._send(event="failed", detail=detail[-_MAX_DETAIL:], code=code)

    def _send(self, **event: Any) -> None:
        try:
            self._sock.sendall(json.dumps(event).encode() + b"\n")
        except OSError:
            pass  # the parent has ended; `_watch_parent` notices that too


class StderrTail:
    """Replaces sys.stderr and keeps its last lines. Log lines do not pass through it: they go to the descriptor."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: deque[str] = deque([""], maxlen=_TAIL_LINES)

    def write(self, text: str) -> int:
        first, *more = text.split("\n")
        self._lines[-1] += first
        self._lines.extend(more)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def text(self) -> str:
        return "\n".join(self._lines).strip()


def main(arguments: Sequence[str]) -> int:
    open_closed_streams()
    setup, *rest = arguments
    parent, stderr = ParentSocket(json.loads(setup)), StderrTail(sys.stderr)
    sys.stderr = stderr
    parent_of_this.set(parent)
    code = execute(["run", *rest])
    parent.ended(code, stderr.text)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
