"""A client for control sockets: of the verbs of the command line, and of `up` for its modules."""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any

PATIENCE = 5.0  # seconds for a host to answer on its control socket
LONGEST_RELOAD = 3600.0  # seconds for the verdict of a reload; a host that ends in between closes the connection


class RefusedError(Exception):
    """The host answered with a problem document (RFC 9457)."""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


def ask(
    path: Path, method: str, target: str, document: dict[str, Any] | None = None, timeout: float = PATIENCE
) -> dict[str, Any]:
    """The answer of the host at `path`. `timeout` is in seconds. Raises OSError if no host answers, and RefusedError if
    the answer is a problem document."""
    connection = UnixConnection(path, timeout)
    try:
        body = json.dumps(document).encode() if document is not None else None
        connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert isinstance(answer, dict)
        if response.status >= 400:
            raise RefusedError(str(answer.get("detail") or answer.get("title") or response.status))
        return answer
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{path} is not a control socket of PyWatt Host") from error
    finally:
        connection.close()
