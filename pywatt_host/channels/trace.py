"""Writes each message of the protocol to a file, as a line of JSON with every secret masked (`--trace-protocol`)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pywatt_host.exceptions import ProtocolError
from pywatt_host.observability.escaping import json_line
from pywatt_host.observability.logs import Clock
from pywatt_host.protocol.jsontext import loads

_MASK = "***"
_FRAME_HEADER = 5  # bytes


class TraceFile:
    """Appends to a file that only its owner can read. `mask` removes secrets from a text.

    Tokens, the values of secrets, of `init.env` and of HTTP headers that authenticate are always shown as `***`. Lists
    of byte numbers (bodies and payloads) are shown by their length. A full disk ends the trace and nothing else.
    """

    def __init__(self, path: Path, mask: Callable[[str], str]) -> None:
        """Raises OSError."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.fchmod(self._fd, 0o600)
        self._mask = mask
        self._clock = Clock()
        self.lost = False

    def __call__(self, channel: str, peer: str, direction: str, unit: bytes) -> None:
        if self.lost:
            return
        if channel != "stdio" and direction == "out":
            unit = unit[_FRAME_HEADER:]
        try:
            document = _shown(loads(unit), self._mask)
        except ProtocolError as error:
            document = {"bytes": len(unit), "fault": str(error)}
        line = {
            "time": self._clock(time.time()),
            "channel": channel,
            "peer": peer,
            "direction": direction,
            "message": document,
        }
        try:
            os.write(self._fd, json_line(line))
        except OSError:
            self.lost = True

    def close(self) -> None:
        """Close the file; later messages are not written."""
        self.lost = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_ALWAYS_MASKED = frozenset({"auth_token", "authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"})


def _shown(value: Any, mask: Callable[[str], str], member: str = "", op: str = "") -> Any:
    if isinstance(value, dict):
        op = value["op"] if isinstance(value.get("op"), str) else op
        return {mask(name): _member(name, item, mask, op) for name, item in value.items()}
    if isinstance(value, list):
        if member in ("body", "data") and all(isinstance(item, int) for item in value):
            return f"<{len(value)} bytes>"
        return [_shown(item, mask, member, op) for item in value]
    return mask(value) if isinstance(value, str) else value


def _member(name: str, item: Any, mask: Callable[[str], str], op: str) -> Any:
    if item is None:
        return None
    if name.lower() in _ALWAYS_MASKED or (name == "value" and op == "secret"):
        return _MASK
    if name == "env" and isinstance(item, dict):
        return dict.fromkeys(item, _MASK)
    return _shown(item, mask, name, op)
