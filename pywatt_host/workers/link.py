"""The link between the supervisor and a zygote: messages and descriptors over a Unix socket.

A message is a header (length and number of descriptors), then the content. The descriptors travel with the header
(SCM_RIGHTS, unix(7)). What the supervisor sends is pickled. What the zygote sends is JSON: the zygote runs code of the
application, and what that code can send must not be able to run anything in the supervisor.
"""

from __future__ import annotations

import array
import json
import os
import pickle
import select
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.values.names import Script
from pywatt_host.net.tls_material import TlsMaterial

MAX_DESCRIPTORS = 250  # of one message; the kernel passes 253 at most (SCM_MAX_FD)
_HEADER = struct.Struct(">IB")
_SEND_TIMEOUT = 10.0  # seconds for the other side to take a message
_MAX_LENGTH = 64 * 1024**2  # bytes of a message
_READ_BYTES = 64 * 1024


# From the supervisor ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """The first message: what to import. `secret_values` are those that `app.env` refers to. `script` is the Python
    file with the decorated function, where the manifest comes from one. `manifest` is the one for workers."""

    manifest: Manifest
    environ: dict[str, str]
    secret_values: dict[str, str] = field(repr=False)
    script: Script | None


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What one worker is told. `place` counts from 0; the name in logs counts from 1. `slot` is where it counts in the
    shared memory. `listeners` has the index of each listening socket among its descriptors. `addresses` are those of
    the host. The three from `orchestrator_api` on are what the application sees as `app_state.init`. `tls` has the TLS
    section of each listener with TLS, by number, and `materials` the certificates of these sections. The span of the
    worker's start hangs below `traceparent`, where there is one."""

    place: int
    slot: int
    generation: int
    addresses: tuple[str, ...]
    listeners: tuple[int, ...]
    auth_token: str | None = field(repr=False)
    orchestrator_api: str | None
    init_env: dict[str, str] = field(repr=False)
    init_listen: str | None
    tls: dict[int, str] = field(default_factory=dict)
    materials: dict[str, TlsMaterial] = field(default_factory=dict, repr=False)
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker. Its descriptors: the connection to the supervisor, the passing channel, the shared memory, then
    the listening sockets. `fork`: as a fork of the zygote; otherwise the zygote itself becomes the worker."""

    key: int
    setup: WorkerSetup
    fork: bool


# From the zygote ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CodeLoaded:
    """The code is imported. `threads`: how many threads run besides the main one, which forbids to fork."""

    threads: int


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The code cannot be imported. `trace` is the user's traceback; both have been logged."""

    exit_code: int
    message: str
    trace: str


@dataclass(frozen=True, slots=True)
class Forked:
    """A worker runs as this process."""

    key: int
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """The process of a worker has ended, with this exit code (negative for a signal)."""

    key: int
    code: int


FromZygote = CodeLoaded | LoadFailed | Forked | WorkerEnded
_FROM_ZYGOTE = {kind.__name__: kind for kind in (CodeLoaded, LoadFailed, Forked, WorkerEnded)}


def send(sock: socket.socket, message: Any, descriptors: Sequence[int] = ()) -> None:
    """Send a message to a zygote, waiting until it takes it. Raises OSError."""
    _send(sock, pickle.dumps(message), descriptors)


def tell(sock: socket.socket, message: FromZygote) -> None:
    """Send a message to the supervisor, waiting until it takes it. Raises OSError."""
    _send(sock, json.dumps([type(message).__name__, asdict(message)]).encode(), ())


def _told(data: bytes) -> FromZygote:
    """The message of a zygote. Raises ValueError, TypeError and KeyError where it is none."""
    name, members = json.loads(data)
    return _FROM_ZYGOTE[name](**members)


def _send(sock: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    header = _HEADER.pack(len(data), len(descriptors))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    _until_ready(sock, lambda: sock.sendmsg([header], rights))
    view = memoryview(data)
    while view:
        view = view[_until_ready(sock, lambda view=view: sock.send(view)) :]


def _until_ready(sock: socket.socket, write: Any) -> int:
    while True:
        try:
            written: int = write()
            return written
        except BlockingIOError:
            if not select.select((), (sock,), (), _SEND_TIMEOUT)[1]:
                raise TimeoutError("the other side does not read") from None


class Receiver:
    """Puts the pieces that arrive together again. Descriptors are not inherited by other programs.

    `of_zygote`: the messages are those of a zygote; one that cannot be read ends the link.
    """

    def __init__(self, sock: socket.socket, *, of_zygote: bool = False) -> None:
        self._of_zygote = of_zygote
        self.ended = False
        self._sock = sock
        self._data = bytearray()
        self._descriptors: list[int] = []

    def receive(self) -> Iterator[tuple[Any, list[int]]]:
        """Read what is there, and give the messages that are complete, with their descriptors. A blocking socket is
        waited for. `ended` is set where the other side has ended."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, _READ_BYTES, MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        self._descriptors += descriptors
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        if not data:
            self._end()
            return
        self._data += data
        while len(self._data) >= _HEADER.size:
            length, count = _HEADER.unpack_from(self._data)
            if length > _MAX_LENGTH:
                self._end()
                return
            if len(self._data) < _HEADER.size + length:
                return
            content = bytes(self._data[_HEADER.size : _HEADER.size + length])
            del self._data[: _HEADER.size + length]
            given, self._descriptors = self._descriptors[:count], self._descriptors[count:]
            try:
                message = _told(content) if self._of_zygote else pickle.loads(content)
            except (ValueError, TypeError, KeyError):
                close_all(given)
                self._end()
                return
            yield message, given

    def _end(self) -> None:
        """Nothing more is received."""
        self.ended = True
        close_all(self._descriptors)  # of a message that does not come whole any more
        self._descriptors = []


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors; one that is closed already is left alone."""
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)
