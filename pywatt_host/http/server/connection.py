"""An HTTP/1.1 connection (RFC 9112), as a Protocol of the event loop.

It decides in which order responses leave, how long each side may take, and how the connection ends. `reader` makes
requests of its bytes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pywatt_host.http.exchange import Refusal
from pywatt_host.http.server.exchange import MAX_DISCARDED, ServerExchange
from pywatt_host.http.server.head import RefusedError
from pywatt_host.http.server.reader import RequestReader
from pywatt_host.http.server.response import CONTINUE
from pywatt_host.http.server.serving import Progress, Serving, serving_of

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

    from pywatt_host.http.server.tls import TlsTransport

logger = logging.getLogger("pywatt.server")

_FORGOTTEN = 1.0  # seconds after which an idle connection forgets its fields
_PIPELINED = 256  # requests that wait on one connection
_LINGER = 2.0  # seconds in which a client may read the last response, while what it sends is dropped


class HttpConnection(asyncio.Protocol):
    """One connection. Its constructor is the one that uvicorn's option `--http` calls, so that this class can be used
    under plain uvicorn as well."""

    __slots__ = (
        "_body_progress", "_discarded", "_half_closed", "_handler", "_linger_left", "_moved", "_running", "_sent",
        "_sent_of", "_unsent", "_writable", "_write_progress", "broken", "closing", "current", "ended", "fresh",
        "lingering", "loop", "peer", "queue", "reader", "reading_paused", "serving", "since", "template", "tls",
        "transport", "upgraded", "write_paused",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._open(serving_of(config, server_state, _loop or asyncio.get_event_loop()))

    @classmethod
    def of(cls, serving: Serving) -> HttpConnection:
        """A connection of our own server."""
        connection = cls.__new__(cls)
        connection._open(serving)
        return connection

    def _open(self, serving: Serving) -> None:
        self.serving = serving
        self.loop = serving.loop
        self.transport: Any = None  # asyncio.Transport, or what is like one
        self.tls: TlsTransport | None = None  # the transport, if it is TLS
        self.peer = ""
        self.since = serving.now  # when the head that is awaited, or the idle time, began

        # The connection
        self.fresh = True  # no request has arrived yet
        self.closing = False  # no request is taken after those that have begun to arrive
        self.ended = False  # the last request has arrived, or the client has ended its side: nothing more is read
        self.broken = False  # the client sends what is not read, and may not have read the response yet
        self.lingering = False
        self.upgraded = False  # a WebSocket has taken over
        self._half_closed = False

        # The requests
        self.current: ServerExchange | None = None  # whose response is sent next
        self.queue: deque[ServerExchange] | None = None  # those after `current`
        self.reading_paused = False
        self._handler, self._running = serving.handler, serving.running

        # What waits, and for how long
        self.write_paused = False
        self._writable: asyncio.Future[None] | None = None
        self._body_progress: Progress | None = None
        self._write_progress: Progress | None = None
        self._moved = 0  # bytes of bodies that arrived since the last tick
        self._unsent = 0  # bytes that waited in the transport at the last tick
        self._sent = 0  # bytes of the response of `_sent_of` at the last tick
        self._sent_of: ServerExchange | None = None
        self._linger_left = 0.0  # seconds
        self._discarded = 0  # bytes of a body that nobody reads

    # The event loop's calls -----------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        client = _peer_address(transport)
        if client is not None:
            self.peer = client[0]
        self.template: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": _local_address(transport),
            "client": client,
            "scheme": "https" if transport.get_extra_info("sslcontext") else "http",
            "method": "",
            "root_path": "",
            "path": "",
            "raw_path": b"",
            "query_string": b"",
            "headers": [],
            "state": {},
        }
        self.reader = RequestReader(self, self.template)
        self.serving.connections.add(self)

    def secured(self, extension: dict[str, Any]) -> None:
        """The TLS handshake is complete. `extension` is what the scope of each request says about it."""
        self.template["extensions"] = {"tls": extension}

    def connection_lost(self, exc: Exception | None) -> None:
        self.serving.connections.discard(self)
        self.serving.closed(self)
        self.ended = True
        queue, self.queue = self.queue, None
        for exchange in (self.current, self.reader.exchange, *(queue or ())):
            if exchange is not None:
                exchange.disconnected()
        self.reader.release()
        self.resume_writing()

    def eof_received(self) -> bool:
        self.ended = True
        if self.current is None or self.reader.exchange is not None or self.lingering:
            return False
        if not self.transport.can_write_eof():  # TLS of another server's: it ends both directions together
            return False
        # The client may have ended its side only, and still read the response.
        self._half_closed = True
        exchange = self.current
        for exchange in (self.current, *(self.queue or ())):
            exchange.half_closed()
        exchange.keep_alive = False  # the last one
        return True

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    async def drained(self) -> None:
        """Wait until the client has taken enough of the response."""
        while self.write_paused:
            if self._writable is None:
                self._writable = self.loop.create_future()
            await asyncio.shield(self._writable)

    def data_received(self, data: bytes) -> None:
        if self.ended:
            self._discard(data)
            return
        try:
            self.reader.feed(data)
        except RefusedError as error:
            self._refuse(error.status, error.reason)

    def body_arrived(self, exchange: ServerExchange, length: int) -> None:
        """So many bytes of a body have arrived."""
        self._moved += length
        if exchange.complete or exchange.taken:
            self._discarded += length
            if self._discarded > MAX_DISCARDED and exchange.complete and not self.lingering:
                self.close()
        elif exchange.full and not self.reading_paused:
            self.reading_paused = True
            self.transport.pause_reading()

    def body_ended(self, exchange: ServerExchange) -> None:
        """The whole body has arrived."""
        if exchange.complete and exchange is self.current:
            self._next()

    # Requests -------------------------------------------------------------------------------------------------------

    def arrived(self, exchange: ServerExchange) -> None:
        """Take a request whose head has arrived: it waits for those before it."""
        self._body_progress = None
        if not exchange.keep_alive:
            self.closing = True
        if self.current is None:
            self.begin(exchange)
            return
        if self.queue is None:
            self.queue = deque()
        self.queue.append(exchange)
        if len(self.queue) >= _PIPELINED:
            exchange.keep_alive = False
            self.reader.final = self.closing = True
        if not self.reading_paused:
            self.reading_paused = True
            self.transport.pause_reading()

    def begin(self, exchange: ServerExchange) -> None:
        """Let the handler decide about a request, and call the application."""
        self.current = exchange
        self.fresh = False
        if exchange.pending is not None:
            self._handler.unread(exchange)
            exchange.refuse_now(exchange.pending)
            return
        app = self._handler.accept(exchange)
        if app is None:
            self._handler.left(exchange)
            return
        exchange.task = task = self.loop.create_task(exchange.run(app))
        self._running.add(task)

    def response_completed(self, exchange: ServerExchange) -> None:
        """The response of the current exchange has been handed to the transport."""
        if not exchange.keep_alive:
            self.close()
        elif exchange.body_complete:
            if self.queue or self.ended or self.closing or self.reading_paused:
                self._next()
            else:
                self.current = None
                self.since = self.serving.now
        elif self.reading_paused:
            self._resume_reading()  # what is left of the body is dropped

    def _next(self) -> None:
        """Go on with the next request."""
        self.current = None
        self._discarded = 0
        if self.queue:
            self.begin(self.queue.popleft())
            if self.reading_paused and not self.queue:
                self._resume_reading()
            return
        self.since = self.serving.now
        if self.reading_paused:
            self._resume_reading()
        if self.ended or (self.closing and not self.reader.in_head):
            self.close()

    def cut(self, exchange: ServerExchange) -> None:
        """End the connection, since a response cannot be completed."""
        if self.current is exchange:
            self.current = None
        self.ended = True
        if not self.transport.is_closing():
            if exchange.http10:
                self.transport.abort()  # a plain end would be that of the body
            else:
                self.transport.close()

    def close(self) -> None:
        """End the connection once the last response has left."""
        self.current = None
        self.ended = self.closing = True
        unread = self.broken or self.reader.exchange is not None
        self.reader.exchange = None
        transport = self.transport
        if transport.is_closing():
            return
        if self._half_closed or not unread or not transport.can_write_eof():
            transport.close()
            return
        # Closing a socket with unread bytes resets it, and the client might lose the response (RFC 9112 section 9.6).
        self.lingering = True
        self._linger_left = _LINGER
        self._discarded = 0
        transport.write_eof()
        if self.reading_paused:
            self._resume_reading()

    def is_last(self, exchange: ServerExchange) -> bool:
        """Whether the response to `exchange`, which is about to leave, is the last one of the connection."""
        if exchange.continues:
            return True  # the client may send the body, or go on without it: its next bytes cannot be told apart
        return (self.closing or self.serving.draining) and not self.queue and not self.reader.in_head

    def body_taken(self) -> None:
        """The application has taken what was read of its body."""
        if self.reading_paused and not self.queue:
            self._resume_reading()

    def _resume_reading(self) -> None:
        self.reading_paused = False
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def send_continue(self) -> None:
        """Ask the client for the body of its request (RFC 9110 section 15.2.1)."""
        if not self.transport.is_closing():
            self.transport.write(CONTINUE)

    # Requests that are not taken as they are ------------------------------------------------------------------------

    def _discard(self, data: bytes) -> None:
        """Drop what arrives after the last request."""
        self.broken = True
        if self.lingering:
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED:
                self.transport.abort()

    def become_websocket(self, exchange: ServerExchange, rest: bytes) -> bool:
        """Hand the transport to a WebSocket connection. Returns False for a handshake among other requests, and where
        there are too many WebSockets; the exchange has its answer then."""
        if self.current is not None:
            return False
        serving = self.serving
        if not serving.websocket_allowed():
            key = "server.limits.websocket.connections"
            serving.warn("503 for a WebSocket", key)
            exchange.pending = Refusal(503, key, headers=((b"retry-after", b"1"),))
            return False
        module = import_module("pywatt_host.http.server.websocket")
        serving.connections.discard(self)
        self.ended = self.upgraded = True
        websocket = module.WebSocketConnection(serving, exchange.scope, self)
        self.transport.set_protocol(websocket)
        websocket.connection_made(self.transport)
        websocket.begin(rest)
        self.reader.release()
        return True

    def _refuse(self, status: int, reason: str) -> None:
        """Answer what cannot be read, and end the connection. Responses to earlier requests leave first."""
        if self.ended:
            return
        self.ended = self.broken = True
        self.reader.in_head = False
        detail = "The request could not be read as HTTP." if status == 400 else ""
        refusal = Refusal(status, reason, detail, ((b"connection", b"close"),))
        if status in (408, 431):
            peer = self.peer or "unix"
            logger.info("%d for %s: over %s", status, peer, reason, extra={"key": reason, "peer": peer})
        exchange = self.reader.exchange
        self.reader.exchange = None
        if exchange is None:
            exchange = self.reader.unread()
            exchange.pending = refusal
            if self.current is None:
                self.begin(exchange)
            else:
                if self.queue is None:
                    self.queue = deque()
                self.queue.append(exchange)
            return
        exchange.keep_alive = False
        if exchange is not self.current:
            exchange.pending = refusal
        elif exchange.complete:
            self.close()
        else:
            exchange.break_off(refusal)

    # Time limits ----------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no request runs or has begun to arrive."""
        return self.current is None and not self.reader.in_head and not self.lingering and not self.upgraded

    def expire(self, elapsed: float) -> None:
        """End the connection where it has waited for too long. Called `elapsed` seconds after the last time."""
        bounds, now = self.serving.bounds, self.serving.now
        if self.lingering:
            self._linger_left -= elapsed
            if self._linger_left <= 0:
                self.transport.abort()
            return
        if bounds.write_seconds is not None:
            unsent = self.transport.get_write_buffer_size()
            if unsent or self._unsent:
                self._expire_write(elapsed, unsent, bounds.write_seconds)
        arriving = self.reader.exchange
        if arriving is not None:
            if bounds.body_seconds is not None:
                self._expire_body(arriving, elapsed, bounds.body_seconds)
        elif self.current is not None or self.ended:
            return
        elif self.reader.in_head or self.fresh:
            if now - self.since >= bounds.header_seconds:
                if self.reader.in_head:
                    self._refuse(408, "server.timeouts.header")
                else:
                    self.transport.close()
        elif now - self.since >= bounds.keep_alive:
            self.transport.close()
        elif now - self.since >= _FORGOTTEN:
            self.reader.forget()

    def _expire_body(self, exchange: ServerExchange, elapsed: float, seconds: float) -> None:
        moved, self._moved = self._moved, 0
        if self.reading_paused or exchange.continues or exchange is not self.current:
            self._body_progress = None
            return
        if self._body_progress is None:
            self._body_progress = Progress(seconds)
        if self._body_progress.stalled(elapsed, moved):
            self._refuse(408, "server.timeouts.body")

    def _expire_write(self, elapsed: float, unsent: int, seconds: float) -> None:
        current = self.current
        sent = current.body_bytes if current is not None else 0
        if not unsent or current is not self._sent_of or self._write_progress is None:
            self._write_progress = Progress(seconds)
        elif self._write_progress.stalled(elapsed, max(0, self._unsent + sent - self._sent - unsent)):
            key, peer = "server.timeouts.write", self.peer or "unix"
            logger.info("cut %s: over %s", peer, key, extra={"key": key, "peer": peer})
            if current is not None:
                current.reason = key
            self.transport.abort()
        self._unsent, self._sent, self._sent_of = unsent, sent, current if unsent else None

    # Stopping -------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """End the connection after the requests that have arrived. Called by uvicorn's server."""
        self.closing = True
        if self.idle:
            self.transport.close()


def _local_address(transport: Any) -> tuple[str, int | None] | None:
    """The address that a connection was accepted on; the path, and None, for Unix sockets."""
    name = transport.get_extra_info("sockname")
    if isinstance(name, tuple):
        return str(name[0]), int(name[1])
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    return os.fsdecode(name or b""), None


def _peer_address(transport: Any) -> tuple[str, int] | None:
    """The address of a TCP client; None for Unix sockets."""
    name = transport.get_extra_info("peername")
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
