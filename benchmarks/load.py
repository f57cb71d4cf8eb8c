"""The load: keep-alive connections with one request in flight on each, over plain non-blocking sockets.

It has to be much cheaper per request than any server here, so it parses nothing that it has seen before: the first
answer teaches the length and the body that every later one must have, and only an answer of another length is read
the long way. A refused, cut or wrong answer ends the run; nothing is retried or left out of the count.
"""

from __future__ import annotations

import gc
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Protocol

from benchmarks.certificate import any_certificate
from benchmarks.tokens import authorization

ANSWER_TIMEOUT = 10.0  # seconds without any answer on any connection
LONGEST_ANSWER = 65536  # octets
_OK = b"HTTP/1.1 200"


class LoadError(Exception):
    """The server answered wrongly, not at all, or closed a connection on which an answer was due."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one slot of load came to. `cpu` is the load generator's own, in seconds."""

    requests: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class Load(Protocol):
    """A source of load aimed at one path of one server."""

    def run(self, seconds: float) -> Sample: ...


class SocketLoad:
    """The load over `sockets`, all open to the server on `port`; made by `connect`, may run several times.

    Each connection has a token of its own, for the servers that want one, and takes turns between two requests: no
    server gets by with having read the last one.
    """

    def __init__(self, port: int, path: str, sockets: list[socket.socket]) -> None:
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\nAuthorization: "
        self._sockets = {sock.fileno(): sock for sock in sockets}
        other = head.replace(path, f"{path}?page=2", 1)
        self._requests: dict[int, Callable[[], bytes]] = {}
        for number, sock in enumerate(sockets):
            token = authorization(number)
            turns = [f"{start}{token}\r\n\r\n".encode() for start in (head, other)]
            self._requests[sock.fileno()] = cycle(turns).__next__
        self._partial: dict[int, bytes] = {}
        self._length, self._body = self._learn(sockets[0])

    def run(self, seconds: float) -> Sample:
        """Keep every connection busy for `seconds`, then wait for the answers still due, which count as well."""
        # The collector would stop the load now and then, and there are no cycles to collect here.
        gc.collect()
        gc.disable()
        try:
            return self._run(seconds)
        finally:
            gc.enable()

    def _run(self, seconds: float) -> Sample:
        clock, requests, partial = time.perf_counter, self._requests, self._partial
        length, body = self._length, self._body
        with selectors.DefaultSelector() as selector:
            for sock in self._sockets.values():
                receive = _receiving(sock) if isinstance(sock, ssl.SSLSocket) else sock.recv
                selector.register(sock, selectors.EVENT_READ, (receive, sock.send, requests[sock.fileno()]))
            select = selector.select
            cpu, start = time.process_time(), clock()
            deadline = start + seconds
            answers, due = 0, len(self._sockets)
            for number, sock in self._sockets.items():
                sock.send(requests[number]())
            while due:
                ready = select(ANSWER_TIMEOUT)
                if not ready:
                    raise LoadError(f"no answer within {ANSWER_TIMEOUT:g} s")
                more = clock() < deadline
                for key, _ in ready:
                    receive, send, request = key.data
                    answer = receive(LONGEST_ANSWER)
                    if answer is None:
                        continue
                    # An answer of the known length is taken whole; any other may be a part of one.
                    if len(answer) != length or key.fd in partial:
                        answer = self._join(key.fd, answer)
                        if not answer:
                            continue
                    if not (answer.startswith(_OK) and answer.endswith(body)):
                        raise LoadError(f"wrong answer: {answer[:200]!r}")
                    answers += 1
                    if more:
                        send(request())
                    else:
                        due -= 1
            return Sample(answers, clock() - start, time.process_time() - cpu)

    def _join(self, fd: int, octets: bytes) -> bytes:
        """The whole answer once its last octet is there, nothing before."""
        if not octets:
            raise LoadError("the server closed the connection")
        octets = self._partial.pop(fd, b"") + octets
        if len(octets) == self._length or _is_whole(octets):
            return octets
        self._partial[fd] = octets
        return b""

    def _learn(self, sock: socket.socket) -> tuple[int, bytes]:
        sock.settimeout(ANSWER_TIMEOUT)
        sock.sendall(self._requests[sock.fileno()]())
        octets = b""
        while not _is_whole(octets):
            more = sock.recv(LONGEST_ANSWER)
            if not more:
                raise LoadError(f"the server closed the connection after {octets[:200]!r}")
            octets += more
        sock.setblocking(False)
        head, _, body = octets.partition(b"\r\n\r\n")
        if not head.startswith(_OK) or not body:
            raise LoadError(f"wrong answer: {octets[:200]!r}")
        return len(octets), body


def _is_whole(octets: bytes) -> bool:
    """Whether `octets` reach as far as Content-Length says (RFC 9112, section 6); no other framing is accepted."""
    head, blank, body = octets.partition(b"\r\n\r\n")
    if not blank:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
    raise LoadError(f"an answer without Content-Length: {octets[:200]!r}")


def _receiving(sock: ssl.SSLSocket) -> Callable[[int], bytes | None]:
    """`recv` of a TLS socket; None where a record held no data, as one with a session ticket does."""

    def receive(most: int) -> bytes | None:
        try:
            return sock.recv(most)
        except ssl.SSLWantReadError:
            return None

    return receive


@contextmanager
def connect(port: int, path: str, connections: int, tls: bool = False) -> Iterator[SocketLoad]:
    """Open the connections to a server on loopback, all before the first request, and close them at the end."""
    sockets: list[socket.socket] = []
    context = any_certificate() if tls else None
    try:
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT)
            sockets.append(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                sock = sockets[-1] = context.wrap_socket(sock)
            sock.setblocking(False)
        yield SocketLoad(port, path, sockets)
    except OSError as exc:
        raise LoadError(f"connection to port {port} failed: {exc}") from exc
    finally:
        for sock in sockets:
            sock.close()
