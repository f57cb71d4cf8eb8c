"""Accepting connections: how many at once, for how many from one client, and what happens without descriptors.

The event loop's own servers close a connection without a word where the process has no descriptor left. Here accepting
pauses, so that the connection waits in the queue of the kernel, and a line in the log says so.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from pywatt_host.http.server.place import Place
from pywatt_host.http.server.serving import Serving
from pywatt_host.net.descriptors import room_for_connections
from pywatt_host.net.limits import client_key
from pywatt_host.net.listeners import Listener

if TYPE_CHECKING:
    from pywatt_host.http.server.connection import HttpConnection

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
    `limits.connections_per_client`.

    With a `place` it accepts once the place does, takes the connections that the supervisor passes, and gives some of
    its own away. The same limits hold for connections that were passed.
    """

    def __init__(
        self,
        serving: Serving,
        listeners: list[Listener],
        make: Callable[[], HttpConnection],
        place: Place | None = None,
    ) -> None:
        self.passed_at = 0.0  # when the supervisor last passed a connection, on the clock of time.monotonic
        self._serving = serving
        self._listeners = listeners
        self._make = make
        self._place = place
        self._loop = serving.loop
        self._counts: Counter[str] = Counter()  # connections by client
        self._clients: dict[Any, str] = {}  # connection -> client
        self._arriving: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        self._taken = 0  # that have been accepted, and are no connections of the event loop yet
        self._full = False  # waits until a connection ends
        self._watched: list[int] = []  # descriptors
        serving.on_closed.append(self._closed)
        self._limit, self._limit_key = serving.bounds.connections, "server.limits.connections"
        room = room_for_connections()
        if room is not None and (self._limit is None or room < self._limit):
            self._limit, self._limit_key = room, OPEN_FILES

    def start(self) -> None:
        """Begin to accept."""
        if self._place is not None:
            self._place.follow(self._again)
        else:
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
            for sock in accept_all(listener.sock, self._serving.bounds.backlog):
                await self._take(sock, self._client(sock))
        await self.settle()

    async def settle(self) -> None:
        """Wait until what was accepted are connections of the event loop."""
        while self._arriving:
            await asyncio.wait(self._arriving)

    async def take_passed(self, place: Place) -> None:
        """Take what the supervisor still passes until it has finished, whatever the limits are."""
        passing = place.passing
        while not passing.ended:
            try:
                passed = passing.receive()
            except OSError as error:
                self._serving.warn(f"taking connections is paused: {error.strerror}", OPEN_FILES)
                await asyncio.sleep(_PAUSE)
                continue
            for _, sock in passed:
                self.passed_at = time.monotonic()
                await self._take(sock, self._client(sock))
            self._report()
            if not passed and not passing.ended:
                await self._readable(passing.fileno())

    def take_last(self, sock: socket.socket) -> None:
        """Take a connection that somebody else has accepted, for one request: the connection is closed after it."""

        def make() -> HttpConnection:
            connection = self._make()
            connection.closing = True
            return connection

        self._arrive(self._take(sock, self._client(sock), make))

    def _listen(self) -> None:
        """Watch where connections come from now."""
        if self._watched:
            return
        place, found = self._place, dict[int, tuple[Any, ...]]()
        if place is None or (place.accepting and not place.retired):
            found = {listener.sock.fileno(): (self._accept, listener) for listener in self._listeners}
        if place is not None and place.accepting and not place.passing.ended:
            found[place.passing.fileno()] = (self._receive, place)
        for descriptor, callback in found.items():
            self._loop.add_reader(descriptor, *callback)
        self._watched = list(found)

    def _unlisten(self) -> None:
        for descriptor in self._watched:
            self._loop.remove_reader(descriptor)
        self._watched = []

    def _again(self) -> None:
        """Where connections come from has changed."""
        self._unlisten()
        if self._paused is None and not self._serving.draining:
            self._listen()

    def _pause(self) -> None:
        """Leave new connections in the queue of the kernel for a moment."""
        self._unlisten()
        if self._paused is None:
            self._paused = self._loop.call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        self._paused = None
        if not self._serving.draining:
            self._listen()

    @property
    def _count(self) -> int:
        return len(self._clients) + self._taken

    def _has_room(self, taken: int, certain: bool) -> bool:
        """Whether one more connection can be accepted, beside those `taken` in this turn. Pauses where there is none.
        `certain` says that one waits: idle connections make room for it then."""
        if self._limit is None or self._count + taken < self._limit:
            return True
        if certain and self._make_room():
            return True
        if certain:
            self._serving.warn(f"accepting is paused at {self._limit} connections", self._limit_key)
            self._full = True
            self._pause()  # until a connection ends, or one is idle by then
        return False

    def _accept(self, listener: Listener) -> None:
        taken: list[tuple[socket.socket, str]] = []
        for number in range(_BATCH):
            if not self._has_room(len(taken), certain=not number):
                break  # whether one more waits is known for the first only
            try:
                sock, _address = listener.sock.accept()
            except (BlockingIOError, InterruptedError):
                break
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._cannot(error)
                break
            sock.setblocking(False)
            if self._place is None or not self._place.give_away(sock, listener.number, self._count + len(taken) + 1):
                self._admit(sock, taken)
        self._take_soon(taken)

    def _receive(self, place: Place) -> None:
        """Take connections that the supervisor passes."""
        passing, taken = place.passing, list[tuple[socket.socket, str]]()
        if passing.waiting() and self._has_room(0, certain=True):
            free = _BATCH if self._limit is None else self._limit - self._count
            try:
                for _, sock in passing.receive(min(_BATCH, max(1, free))):
                    self._admit(sock, taken)
            except OSError as error:
                self._cannot(error)
            self._take_soon(taken)
        if passing.ended:
            self._again()

    def _admit(self, sock: socket.socket, taken: list[tuple[socket.socket, str]]) -> None:
        client = self._client(sock)
        if self._over(client):
            self._serving.warn(f"a connection of {client} is closed", "server.limits.connections_per_client")
            sock.close()
            return
        self._counts[client] += 1
        taken.append((sock, client))
        self._report(len(taken))  # at once: other workers compare themselves with this number at the same moment

    def _cannot(self, error: OSError) -> None:
        if error.errno in _NO_DESCRIPTOR:
            self._serving.warn(f"accepting is paused: {error.strerror}", OPEN_FILES)
            self._make_room()
        else:
            logger.warning("accepting has failed: %s", error)
        self._pause()

    def _take_soon(self, taken: list[tuple[socket.socket, str]]) -> None:
        if taken:
            self._taken += len(taken)
            self._arrive(self._take_each(taken))

    def _arrive(self, taking: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(taking)
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _take_each(self, taken: list[tuple[socket.socket, str]]) -> None:
        for sock, client in taken:
            self._counts[client] -= 1
            await self._take(sock, client)
            self._taken -= 1
        self._report()  # some may have gone

    def _report(self, more: int = 0) -> None:
        """Tell the other workers how many connections there are; `more` are not counted yet."""
        if self._place is not None:
            self._place.connections.set(self._count + more)

    async def _readable(self, descriptor: int) -> None:
        ready = self._loop.create_future()

        def is_ready() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_reader(descriptor, is_ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(descriptor)

    async def _take(self, sock: socket.socket, client: str, make: Callable[[], HttpConnection] | None = None) -> None:
        self._counts[client] += 1
        try:
            made = await self._loop.connect_accepted_socket(make or self._make, sock)
            connection = made[1]
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
        self._report()
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


def accept_all(sock: socket.socket, at_most: int) -> list[socket.socket]:
    """Accept all connections in the queue of a listener, about `at_most`."""
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
