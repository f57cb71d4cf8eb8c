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
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

from pywatt_host.http.server.open_connections import OpenConnections
from pywatt_host.http.server.place import Place
from pywatt_host.http.server.serving import Serving
from pywatt_host.http.server.tls import TlsTransport
from pywatt_host.net.descriptors import room_for_connections
from pywatt_host.net.listeners import Listener
from pywatt_host.net.tls_material import ListenerTls

if TYPE_CHECKING:
    from pywatt_host.http.server.connection import HttpConnection

logger = logging.getLogger("pywatt.server")

OPEN_FILES = "the limit on open files (LimitNOFILE, ulimit -n)"
_BATCH = 64  # connections that are accepted before other work gets its turn
_PAUSE = 0.2  # seconds without accepting, where nothing can be accepted
_Accepted: TypeAlias = tuple[socket.socket, str, ListenerTls | None]  # the connection, its client, and its terms
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


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
        self._connections = OpenConnections(serving)
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
                await self._take(sock, self._connections.client_of(sock), listener.tls)
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
            for number, sock in passed:
                self.passed_at = time.monotonic()
                await self._take(sock, self._connections.client_of(sock), place.tls.get(number))
            self._report()
            if not passed and not passing.ended:
                await self._readable(passing.fileno())

    def take_last(self, sock: socket.socket) -> None:
        """Take a connection that somebody else has accepted, for one request: the connection is closed after it."""

        def make() -> HttpConnection:
            connection = self._make()
            connection.closing = True
            return connection

        self._arrive(self._take(sock, self._connections.client_of(sock), None, make))

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
        return len(self._connections) + self._taken

    def _has_room(self, taken: int, certain: bool) -> bool:
        """Whether one more connection can be accepted, beside those `taken` in this turn. Pauses where there is none.
        `certain` says that one waits: idle connections make room for it then."""
        if self._limit is None or self._count + taken < self._limit:
            return True
        if certain and self._connections.make_room():
            return True
        if certain:
            self._serving.warn(f"accepting is paused at {self._limit} connections", self._limit_key)
            self._full = True
            self._pause()  # until a connection ends, or one is idle by then
        return False

    def _accept(self, listener: Listener) -> None:
        taken: list[_Accepted] = []
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
                self._admit(sock, listener.tls, taken)
        self._take_soon(taken)

    def _receive(self, place: Place) -> None:
        """Take connections that the supervisor passes."""
        passing, taken = place.passing, list[_Accepted]()
        if passing.waiting() and self._has_room(0, certain=True):
            free = _BATCH if self._limit is None else self._limit - self._count
            try:
                for number, sock in passing.receive(min(_BATCH, max(1, free))):
                    self._admit(sock, place.tls.get(number), taken)
            except OSError as error:
                self._cannot(error)
            self._take_soon(taken)
        if passing.ended:
            self._again()

    def _admit(self, sock: socket.socket, tls: ListenerTls | None, taken: list[_Accepted]) -> None:
        client = self._connections.client_of(sock)
        if self._connections.over(client):
            self._serving.warn(f"a connection of {client} is closed", "server.limits.connections_per_client")
            sock.close()
            return
        self._connections.expect(client)
        taken.append((sock, client, tls))
        self._report(len(taken))  # at once: other workers compare themselves with this number at the same moment

    def _cannot(self, error: OSError) -> None:
        if error.errno in _NO_DESCRIPTOR:
            self._serving.warn(f"accepting is paused: {error.strerror}", OPEN_FILES)
            self._connections.make_room()
        else:
            logger.warning("accepting has failed: %s", error)
        self._pause()

    def _take_soon(self, taken: list[_Accepted]) -> None:
        if taken:
            self._taken += len(taken)
            self._arrive(self._take_each(taken))

    def _arrive(self, taking: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(taking)
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _take_each(self, taken: list[_Accepted]) -> None:
        for sock, client, tls in taken:
            self._connections.forget(client)
            await self._take(sock, client, tls)
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

    async def _take(
        self,
        sock: socket.socket,
        client: str,
        tls: ListenerTls | None,
        make: Callable[[], HttpConnection] | None = None,
    ) -> None:
        self._connections.expect(client)
        connection = (make or self._make)()
        protocol: asyncio.Protocol = connection if tls is None else TlsTransport(connection, tls)
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, sock)
        except OSError:  # the client has gone
            sock.close()
            self._connections.forget(client)
            return
        if connection.transport.is_closing():
            self._connections.forget(client)
        else:
            self._connections.add(connection, client)

    def _closed(self, connection: Any) -> None:
        if not self._connections.remove(connection):
            return
        self._report()
        if self._full and not self._serving.draining:
            self._full = False
            self._listen()


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
