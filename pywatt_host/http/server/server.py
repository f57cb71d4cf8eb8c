"""The HTTP server: uvicorn's protocols with our own accepting and draining."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import socket
import struct
import termios
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from importlib import import_module
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from pywatt_host.http.server.connection import ServerConditions, connection_class
from pywatt_host.net.listeners import Listener
from pywatt_host.observability.logs import CUT
from pywatt_host.types import ASGIApp

logger = logging.getLogger("pywatt.server")

_LINGER = 1.0  # seconds that a connection without a request stays open while draining, for a request on its way
_LINGER_SHARE = 0.1  # of the time for draining, at most
_HANDSHAKE_GRACE = 0.05  # seconds for TCP handshakes that have begun to complete
_POLL_INTERVAL = 0.01  # seconds
_CANCEL_GRACE = 0.2  # seconds that cancelled requests get to clean up


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of a server, in bytes and seconds. `one_write` sends head and body of a response together."""

    header_bytes: int
    header_seconds: float
    keep_alive: float
    backlog: int
    one_write: bool = True


class Drain:
    """How long stopping may take, shared by all servers of a host. The deadline is set once, when stopping begins."""

    def __init__(self) -> None:
        self.deadline: float | None = None  # on the clock of time.monotonic
        self.cut = 0  # requests that were not done at the deadline, and other work

    def left(self) -> float:
        """Seconds until the deadline; 0 where there is none yet."""
        return 0.0 if self.deadline is None else max(0.0, self.deadline - time.monotonic())


def _websocket_protocol(**arguments: Any) -> Any:
    """uvicorn's WebSocket protocol, which is loaded with the first handshake."""
    return import_module("uvicorn.protocols.websockets.websockets_sansio_impl").WebSocketsSansIOProtocol(**arguments)


def _http_protocol() -> type[Any]:
    try:
        return import_module("uvicorn.protocols.http.httptools_impl").HttpToolsProtocol  # type: ignore[no-any-return]
    except ImportError:
        return import_module("uvicorn.protocols.http.h11_impl").H11Protocol  # type: ignore[no-any-return]


class HttpServer:
    """Serves `app` on `listeners` while it runs as a service, and drains when it stops.

    All requests are answered that arrive on connections which the kernel had completed before the listener closed; the
    last response of each connection has `Connection: close`. Requests that still run at the deadline of `drain` are
    cut, logged and counted in `drain.cut`.
    """

    def __init__(self, name: str, app: ASGIApp, listeners: Sequence[Listener], bounds: Bounds, drain: Drain) -> None:
        self.name = name
        self._listeners = list(listeners)
        self._bounds = bounds
        self._drain = drain
        self._conditions = ServerConditions(bounds.header_bytes, bounds.header_seconds, bounds.keep_alive)
        self._state = ServerState()
        self._config = Config(
            app,
            http=connection_class(_http_protocol(), self._conditions, lean=bounds.one_write),
            ws=_websocket_protocol,  # type: ignore[arg-type]  # called with the same arguments as the class
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=bounds.keep_alive,  # type: ignore[arg-type]  # handed to loop.call_later as it is
            h11_max_incomplete_event_size=bounds.header_bytes,
        )
        self._servers: list[asyncio.AbstractServer] = []

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        self._config.load()
        self._stamp()
        loop = asyncio.get_running_loop()
        self._conditions.now = loop.time()
        for listener in self._listeners:
            # The event loop closes the socket that it is given. Ours stays open for the last connections.
            own = listener.sock.dup()
            own.setblocking(False)
            server = await loop.create_server(self._protocol, sock=own, backlog=self._bounds.backlog)
            self._servers.append(server)
        ticking = tasks.create_task(self._tick(), name=f"{self.name} clock")
        try:
            yield
        finally:
            try:
                await self._close()
            finally:
                ticking.cancel()

    def _protocol(self) -> asyncio.Protocol:
        return self._config.http_protocol_class(  # type: ignore[call-arg]
            config=self._config, server_state=self._state, app_state={}
        )

    def _stamp(self) -> None:
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]

    async def _tick(self) -> None:
        """Once a second, update the Date header and end connections that have waited for too long."""
        loop = asyncio.get_running_loop()
        period = min(1.0, self._bounds.header_seconds / 4, self._bounds.keep_alive / 4)
        while True:
            await asyncio.sleep(period)
            self._stamp()
            self._conditions.now = loop.time()
            for connection in tuple(self._state.connections):
                expire = getattr(connection, "expire", None)
                if expire is not None:
                    expire()

    # Stopping -------------------------------------------------------------------------------------------------------

    async def _close(self) -> None:
        self._conditions.draining = True
        await self._stop_accepting()
        closed_at = time.monotonic()
        linger = min(_LINGER, self._bounds.keep_alive, _LINGER_SHARE * self._drain.left())
        for connection in tuple(self._state.connections):
            if self._is_http(connection) and not self._quiet(connection):
                self._let_last(connection)
        while self._state.connections or self._state.tasks:
            if self._drain.left() <= 0:
                await self._cut()
                return
            lingered = time.monotonic() - closed_at >= linger
            for connection in tuple(self._state.connections):
                self._release(connection, lingered)
            await asyncio.sleep(_POLL_INTERVAL)

    async def _stop_accepting(self) -> None:
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            listener.refuse_new()
        await asyncio.sleep(min(_HANDSHAKE_GRACE, self._drain.left()))
        for server in self._servers:
            server.close()
        for listener in self._listeners:
            for sock in _accept_all(listener.sock, self._bounds.backlog):
                await loop.connect_accepted_socket(self._protocol, sock)
            listener.close()

    @staticmethod
    def _is_http(connection: Any) -> bool:
        return hasattr(connection, "cycle")

    @staticmethod
    def _quiet(connection: Any) -> bool:
        if hasattr(connection, "idle"):
            return bool(connection.idle())
        return connection.cycle is None or connection.cycle.response_complete

    @staticmethod
    def _let_last(connection: Any) -> None:
        if connection.cycle is None or connection.cycle.response_complete:
            return  # a request head is arriving; its request will be the last
        if hasattr(connection, "close_after_last"):
            connection.close_after_last()
        else:
            connection.shutdown()

    def _release(self, connection: Any, lingered: bool) -> None:
        """Close a connection that has no request left to answer."""
        if not self._is_http(connection):
            if connection.handshake_complete and not connection.transport.is_closing():
                connection.shutdown()  # WebSockets: close code 1012, service restart
        elif lingered and self._quiet(connection) and not _unread(connection.transport):
            connection.transport.close()

    async def _cut(self) -> None:
        running = [task for task in self._state.tasks if not task.done()]
        self._drain.cut += len(running)
        for connection in tuple(self._state.connections):
            cycle = getattr(connection, "cycle", None)
            scope = getattr(cycle, "scope", None) or getattr(connection, "scope", None)
            if scope is not None and not (cycle is not None and cycle.response_complete):
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
        for connection in tuple(self._state.connections):
            connection.transport.abort()


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
