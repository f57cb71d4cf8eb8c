"""Connections that wait for a worker. Probes and metrics among them are answered by the supervisor meanwhile."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass

from pywatt_host.http.problem import problem_body, problem_headers

_LOOK_AGAIN = 0.05  # seconds until a request line that has arrived in part is looked at again; each time twice as many
_LATEST_LOOK = 1.0  # seconds between two looks, at most
_LONGEST = 4096  # bytes of a request line that may be one of the host's own paths


@dataclass(slots=True)
class _Held:
    listener: int
    sock: socket.socket
    tls: bool
    watched: bool = False
    wait: float = _LOOK_AGAIN
    timer: asyncio.TimerHandle | None = None


class StandIn:
    """Holds connections, oldest first, and looks at their first bytes without taking them (MSG_PEEK).

    `serve` is given each connection whose first request is for one of `host_paths`. `freed` is called when a connection
    was served or has ended, and there is room for another.
    """

    def __init__(
        self,
        host_paths: Callable[[], Collection[str]],
        serve: Callable[[socket.socket], None],
        freed: Callable[[], None],
    ) -> None:
        self._host_paths = host_paths
        self._serve = serve
        self._freed = freed
        self._loop = asyncio.get_running_loop()
        self._held: dict[int, _Held] = {}  # by descriptor

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, listener: int, sock: socket.socket, *, tls: bool = False) -> None:
        """Keep a connection until a worker takes it. With `tls`, nothing in it can be read before that."""
        held = self._held[sock.fileno()] = _Held(listener, sock, tls)
        self._watch(held)

    def release(self, take: Callable[[int, socket.socket], bool]) -> None:
        """Offer all connections, oldest first, until one is not taken."""
        for held in tuple(self._held.values()):
            if not take(held.listener, held.sock):
                break
            self._forget(held)

    def close(self) -> None:
        """Answer what is still held with 503, and close it."""
        body = problem_body(503, "The service is stopping.")
        fields = problem_headers(body, [(b"retry-after", b"1"), (b"connection", b"close")])
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        for held in tuple(self._held.values()):
            self._forget(held)
            with held.sock as sock:
                if held.tls:
                    continue  # an answer would have to be encrypted
                try:
                    sock.recv(1 << 16)  # closing a socket with unread bytes resets it, and the answer might be lost
                except OSError:
                    pass  # nothing has arrived
                try:
                    sock.send(b"HTTP/1.1 503 Service Unavailable\r\n%b\r\n%b" % (head, body))
                    sock.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # the client has gone

    def _look(self, held: _Held) -> None:
        held.timer = None
        try:
            ahead = held.sock.recv(_LONGEST, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            self._watch(held)
            return
        except OSError:
            ahead = b""
        if not ahead:  # the client has gone
            self._forget(held)
            held.sock.close()
            self._freed()
            return
        path = "" if held.tls else request_path(ahead)
        if path is None and len(ahead) < _LONGEST:
            self._unwatch(held)  # it would be readable all the time
            held.timer = self._loop.call_later(held.wait, self._look, held)
            held.wait = min(2 * held.wait, _LATEST_LOOK)
        elif path in self._host_paths():
            self._forget(held)
            self._serve(held.sock)
            self._freed()
        else:
            self._unwatch(held)

    def _watch(self, held: _Held) -> None:
        if not held.watched:
            held.watched = True
            self._loop.add_reader(held.sock.fileno(), self._look, held)

    def _unwatch(self, held: _Held) -> None:
        if held.watched:
            held.watched = False
            self._loop.remove_reader(held.sock.fileno())
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None

    def _forget(self, held: _Held) -> None:
        self._unwatch(held)
        del self._held[held.sock.fileno()]


def request_path(ahead: bytes) -> str | None:
    """The path in the first line of a request, without its query, as it is written; None where the line is not whole
    yet, and "" where it is no request line of HTTP/1."""
    line, whole, _ = ahead.lstrip(b"\r\n").partition(b"\n")
    if not whole:
        return None
    parts = line.split()
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
        return ""
    target = parts[1].partition(b"?")[0]
    if not target.startswith(b"/"):
        _, scheme, rest = target.partition(b"://")
        target = b"/" + rest.partition(b"/")[2] if scheme else b""
    return target.decode("latin-1")
