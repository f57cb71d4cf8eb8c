"""Accepting connections: how many at once, for how many from one client, and what happens without descriptors.

The event loop's own servers close a connection without a word where the process has no descriptor left. Here accepting
pauses, so that the connection waits in the queue of the kernel, and a line in the log says so.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

from pywatt_host.http.server.serving import Serving
from pywatt_host.net.descriptors import room_for_connections
from pywatt_host.net.limits import client_key
from pywatt_host.net.listeners import Listener

logger = logging.getLogger("pywatt.server")

OPEN_FILES = "the limit on open files (LimitNOFILE, ulimit -n)"
_BATCH = 64  # connections that are accepted before other work gets its turn
_ROOM = 8  # connections that are closed at once to make room for others
_FRESH = 1.0  # seconds in which a new connection without a request does not count as idle
_PAUSE = 0.2  # seconds without accepting, where nothing can be accepted
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_UNCOUNTED = ""  # the client of connections over Unix sockets


class Acceptor:
    """Accepts the connections of one server. Those of trusted proxies do not count for
    `limits.connections_per_client`."""

    def __init__(
        self,
        serving: Serving,
        listeners: list[Listener],
        make: Callable[[], asyncio.Protocol],
    ) -> None:
        self._serving = serving
        self._listeners = listeners
        self._make = make
        self._loop = serving.loop
        self._counts: Counter[str] = Counter()  # connections by client
        self._clients: dict[Any, str] = {}  # connection -> client
        self._arriving: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        self._taken = 0  # that have been accepted, and are no connections of the event loop yet
        self._full = False  # waits until a connection ends
        self._listening = False
        serving.on_closed.append(self._closed)
        self._limit, self._limit_key = serving.bounds.connections, "server.limits.connections"
        room = room_for_connections()
        if room is not None and (self._limit is None or room < self._limit):
            self._limit, self._limit_key = room, OPEN_FILES

    def start(self) -> None:
        """Begin to accept."""
        for listener in self._listeners:
            listener.sock.listen(self._serving.bounds.backlog)
            listener.sock.setblocking(False)
        self._listen()

    def stop(self) -> None:
        """Accept no more by itself."""
        self._unlisten()
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None

    async def take_all(self) -> None:
        """Accept all connections that the kernel has completed, whatever the limits are."""
        for listener in self._listeners:
            for sock in _accept_all(listener.sock, self._serving.bounds.backlog):
                await self._take(sock, self._client(sock))
        while self._arriving:
            await asyncio.wait(self._arriving)

    def _listen(self) -> None:
        if not self._listening:
            self._listening = True
            for listener in self._listeners:
                self._loop.add_reader(listener.sock.fileno(), self._accept, listener.sock)

    def _unlisten(self) -> None:
        if self._listening:
            self._listening = False
            for listener in self._listeners:
                self._loop.remove_reader(listener.sock.fileno())

    def _pause(self) -> None:
        """Leave new connections in the queue of the kernel for a moment."""
        self._unlisten()
        if self._paused is None:
            self._paused = self._loop.call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        self._paused = None
        if not self._serving.draining:
            self._listen()

    def _accept(self, listener: socket.socket) -> None:
        taken: list[tuple[socket.socket, str]] = []
        limit = self._limit
        for number in range(_BATCH):
            full = limit is not None and len(self._clients) + self._taken + len(taken) >= limit
            if full and number:
                break  # whether one more waits is not known yet
            if full and not self._make_room():
                self._serving.warn(f"accepting is paused at {limit} connections", self._limit_key)
                self._full = True
                self._pause()  # until a connection ends, or one is idle by then
                break
            try:
                sock, _address = listener.accept()
            except (BlockingIOError, InterruptedError):
                break
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._cannot(error)
                break
            sock.setblocking(False)
            client = self._client(sock)
            if self._over(client):
                self._serving.warn(f"a connection of {client} is closed", "server.limits.connections_per_client")
                sock.close()
                continue
            self._counts[client] += 1
            taken.append((sock, client))
        if taken:
            self._taken += len(taken)
            task = self._loop.create_task(self._take_each(taken))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    def _cannot(self, error: OSError) -> None:
        if error.errno in _NO_DESCRIPTOR:
            self._serving.warn(f"accepting is paused: {error.strerror}", OPEN_FILES)
            self._make_room()
        else:
            logger.warning("accepting has failed: %s", error)
        self._pause()

    async def _take_each(self, taken: list[tuple[socket.socket, str]]) -> None:
        for sock, client in taken:
            self._counts[client] -= 1
            await self._take(sock, client)
            self._taken -= 1

    async def _take(self, sock: socket.socket, client: str) -> None:
        self._counts[client] += 1
        try:
            made = await self._loop.connect_accepted_socket(self._make, sock)
            connection: Any = made[1]
        except OSError:  # the client has gone
            sock.close()
            self._forget(client)
            return
        if connection.transport.is_closing():
            self._forget(client)
        else:
            self._clients[connection] = client

    def _client(self, sock: socket.socket) -> str:
        """The client that a connection is counted for: its address, and the network of 64 bits of an IPv6 address."""
        if sock.family == socket.AF_UNIX or self._serving.bounds.connections_per_client is None:
            return _UNCOUNTED
        try:
            host = sock.getpeername()[0]
        except OSError:
            return _UNCOUNTED
        if self._serving.handler.trusts(host):
            return _UNCOUNTED
        return client_key(host)

    def _over(self, client: str) -> bool:
        limit = self._serving.bounds.connections_per_client
        return limit is not None and client != _UNCOUNTED and self._counts[client] >= limit

    def _closed(self, connection: Any) -> None:
        client = self._clients.pop(connection, None)
        if client is None:
            return
        self._forget(client)
        if self._full and not self._serving.draining:
            self._full = False
            self._listen()

    def _forget(self, client: str) -> None:
        self._counts[client] -= 1
        if self._counts[client] <= 0:
            del self._counts[client]

    def _make_room(self) -> bool:
        """Close connections that are idle for longest, of the client that has most connections. Returns whether there
        were some."""
        now = self._serving.now
        holders: dict[str, list[Any]] = {}
        sizes: Counter[str] = Counter()
        for connection in self._clients:
            holder = client_key(connection.peer)
            sizes[holder] += 1
            if connection.transport.get_write_buffer_size():
                continue  # it may have answered, but the client has not read the answer
            if connection.idle and (not connection.fresh or now - connection.since >= _FRESH):
                holders.setdefault(holder, []).append(connection)
        if not holders:
            return False
        biggest = max(holders, key=lambda holder: sizes[holder])
        oldest = sorted(holders[biggest], key=lambda connection: connection.since)
        for connection in oldest[:_ROOM]:
            connection.transport.abort()
            self._closed(connection)
        return True


def _accept_all(sock: socket.socket, at_most: int) -> list[socket.socket]:
    """Accept all connections in the queue of a listener."""
    accepted: list[socket.socket] = []
    while len(accepted) <= at_most:
        try:
            connection, _ = sock.accept()
        except (BlockingIOError, InterruptedError):
            break
        except ConnectionAbortedError:
            continue
        except OSError:
            break
        connection.setblocking(False)
        accepted.append(connection)
    return accepted
