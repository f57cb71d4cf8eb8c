"""The HTTP server: it accepts connections, keeps their time limits, and drains without losing a request."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import socket
import struct
import termios
import time
from asyncio import TaskGroup
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from pywatt_host.http.server.accepting import Acceptor
from pywatt_host.http.server.connection import HttpConnection
from pywatt_host.http.server.exchange import STREAM_ENDED, ServerExchange
from pywatt_host.http.server.place import Place
from pywatt_host.http.server.serving import AppHandler, Bounds, Handler, Serving
from pywatt_host.net.listeners import Listener
from pywatt_host.net.tls_material import ListenerTls
from pywatt_host.observability.logs import CUT
from pywatt_host.types import ASGIApp

logger = logging.getLogger("pywatt.server")

_LINGER = 1.0  # seconds that a connection without a request stays open while draining, for a request on its way
_LINGER_SHARE = 0.1  # of the time for draining, at most
_HANDSHAKE_GRACE = 0.05  # seconds for TCP handshakes that have begun to complete
_POLL_INTERVAL = 0.01  # seconds
_CANCEL_GRACE = 0.2  # seconds that cancelled requests get to clean up
_WEBSOCKET_GRACE = 3.0  # seconds that the handler of a WebSocket gets after its close code, before it is cancelled
_STREAM_GRACE = 1.0  # seconds that a stream which was told to end gets before it is cancelled


class Drain:
    """How long stopping may take, shared by all servers of a host. The deadline is set once, when stopping begins."""

    def __init__(self) -> None:
        self.deadline: float | None = None  # on the clock of time.monotonic
        self.cut = 0  # requests that were not done at the deadline, and other work

    def left(self) -> float:
        """Seconds until the deadline; 0 where there is none yet."""
        return 0.0 if self.deadline is None else max(0.0, self.deadline - time.monotonic())


class HttpServer:
    """Serves `app` on `listeners` while it runs as a service, and drains when it stops.

    An application that is a `Handler`, as the edge of a host is, decides about each request as soon as its head has
    been read.

    All requests are answered that arrive on connections which the kernel had completed before the listener closed; the
    last response of each connection has `Connection: close`. Streams without an end are told to end. Requests that
    still run at the deadline of `drain` are cut, logged and counted in `drain.cut`.

    With a `place` the listeners belong to the supervisor. The server then has stopped once the supervisor has finished
    the passing channel as well, and all connections from there are served.
    """

    def __init__(
        self,
        name: str,
        app: ASGIApp | Handler,
        listeners: Sequence[Listener],
        bounds: Bounds,
        drain: Drain,
        place: Place | None = None,
        failed_handshakes: Counter[str] | None = None,
        tls: ListenerTls | None = None,
    ) -> None:
        """`failed_handshakes` counts TLS handshakes by the reason why they failed. `tls` has terms that the listeners
        may get later."""
        self.name = name
        handler: Any = app if hasattr(app, "accept") else AppHandler(app)
        self._handler: Handler = handler
        self._listeners = list(listeners)
        self._bounds = bounds
        self._drain = drain
        self._place = place
        self._failed_handshakes = failed_handshakes
        self._later_tls = tls
        self._acceptor: Acceptor | None = None  # while it runs

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        serving = Serving(self._handler, self._bounds, asyncio.get_running_loop(), self._failed_handshakes)
        acceptor = Acceptor(serving, self._listeners, lambda: HttpConnection.of(serving), self._place)
        acceptor.start()
        self._acceptor = acceptor
        ticking = tasks.create_task(_tick(serving), name=f"{self.name} clock")
        followed = [tls.follow(partial(_renewed, serving, tls)) for tls in self._tls()]
        try:
            yield
        finally:
            self._acceptor = None
            for unfollow in followed:
                unfollow()
            try:
                await self._close(serving, acceptor)
            finally:
                ticking.cancel()

    def _tls(self) -> set[ListenerTls]:
        """The terms of all connections that may come here."""
        found = {each for each in (self._later_tls, *(each.tls for each in self._listeners)) if each is not None}
        return found if self._place is None else found | set(self._place.tls.values())

    def serve_once(self, connection: socket.socket) -> None:
        """Answer one request of a connection that was accepted elsewhere, and close it. The server owns the connection.
        Where the server does not run, the connection is closed at once."""
        if self._acceptor is None:
            connection.close()
        else:
            self._acceptor.take_last(connection)

    # Stopping -------------------------------------------------------------------------------------------------------

    async def _close(self, serving: Serving, acceptor: Acceptor) -> None:
        serving.draining = True
        ended = _end_streams(serving)
        await self._stop_accepting(acceptor)
        async with self._passed(acceptor) as passed:
            await self._finish(serving, acceptor, ended, passed)

    async def _finish(
        self, serving: Serving, acceptor: Acceptor, ended: set[ServerExchange], passed: asyncio.Task[None] | None
    ) -> None:
        """Serve the connections that there are, and those of `passed`, to their end or to the deadline."""
        closed_at = time.monotonic()
        linger = min(_LINGER, self._bounds.keep_alive, _LINGER_SHARE * self._drain.left())
        while serving.connections or serving.running or not (passed is None or passed.done()):
            if self._drain.left() <= 0:
                await self._cut(serving)
                return
            now = time.monotonic()
            lingered = now - max(closed_at, acceptor.passed_at) >= linger
            for connection in tuple(serving.connections):
                _release(connection, lingered, linger)
            ended |= _end_streams(serving)
            if ended and now - closed_at >= _STREAM_GRACE:
                for stream in ended:
                    if stream.task is not None:
                        stream.task.cancel(STREAM_ENDED)
                ended.clear()
            if now - closed_at >= _WEBSOCKET_GRACE:
                while serving.websocket_tasks:
                    serving.websocket_tasks.pop().cancel(STREAM_ENDED)
            await asyncio.sleep(_POLL_INTERVAL)

    async def _stop_accepting(self, acceptor: Acceptor) -> None:
        place = self._place
        if place is None:
            for listener in self._listeners:
                listener.refuse_new()
        if place is None or (place.accepting and not place.retired):
            await asyncio.sleep(min(_HANDSHAKE_GRACE, self._drain.left()))
            acceptor.stop()
            await acceptor.take_all()
        else:
            acceptor.stop()
            await acceptor.settle()
        for listener in self._listeners:
            listener.close()

    @asynccontextmanager
    async def _passed(self, acceptor: Acceptor) -> AsyncIterator[asyncio.Task[None] | None]:
        """Take the connections that the supervisor still passes. Afterwards it learns that no more are taken."""
        if self._place is None:
            yield None
            return
        passed = asyncio.create_task(acceptor.take_passed(self._place))
        try:
            yield passed
        finally:
            passed.cancel()
            await asyncio.wait([passed])
            self._place.passing.close()

    async def _cut(self, serving: Serving) -> None:
        running = [task for task in serving.running if not task.done()]
        self._drain.cut += len(running)
        for connection in tuple(serving.connections):
            scope = _unanswered(connection)
            if scope is not None:
                logger.error(
                    "cut at the shutdown limit: %s %s",
                    scope.get("method", "WEBSOCKET"),
                    scope["path"],
                    extra={"key": "server.timeouts.shutdown"},
                )
        for task in running:
            task.cancel(CUT)
        if running:
            await asyncio.wait(running, timeout=_CANCEL_GRACE)
        for connection in tuple(serving.connections):
            connection.transport.abort()


async def _tick(serving: Serving) -> None:
    """Keep the clock and the time limits of a server."""
    while True:
        await asyncio.sleep(serving.period)
        serving.tick()


def _end_streams(serving: Serving) -> set[ServerExchange]:
    """Tell streams without an end that they should end. Returns those that were not told before."""
    told: set[ServerExchange] = set()
    for connection in tuple(serving.connections):
        exchange = getattr(connection, "current", None)
        if exchange is not None and exchange.endless and exchange.left and not exchange.ending:
            exchange.tell_end()
            told.add(exchange)
    return told


def _renewed(serving: Serving, tls: ListenerTls) -> None:
    """New terms hold for a listener. A client that they might refuse has one more response on its connection."""
    for connection in serving.connections:
        own = connection.tls if isinstance(connection, HttpConnection) else None
        if own is not None and own.listening is tls and not tls.terms.holds_for(own.terms):
            connection.closing = True


def _release(connection: Any, lingered: bool, linger: float) -> None:
    """Close a connection that has no request left to answer. A TLS handshake, and the client after it, get their
    time."""
    if not isinstance(connection, HttpConnection):
        if connection.handshake_complete and not connection.transport.is_closing():
            connection.shutdown()  # WebSockets: close code 1012, service restart
    elif (
        lingered
        and connection.idle
        and (connection.tls is None or not connection.fresh or connection.tls.quiet_for(linger))
        and not _unread(connection.transport)
    ):
        connection.transport.close()


def _unanswered(connection: Any) -> dict[str, Any] | None:
    """The scope of the request that runs on a connection."""
    if not isinstance(connection, HttpConnection):
        scope: dict[str, Any] | None = getattr(connection, "scope", None)
        return scope
    current = connection.current
    return dict(current.scope) if current is not None and not current.complete else None


def _unread(transport: Any) -> bool:
    """Whether the kernel has bytes that the event loop has not read yet."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    try:
        waiting = fcntl.ioctl(sock.fileno(), termios.FIONREAD, struct.pack("i", 0))
    except OSError:
        return False
    return bool(struct.unpack("i", waiting)[0])
