"""WebSocket connections: uvicorn's protocol on the library `websockets`, with limits of our own.

This module is loaded with the first handshake. The handshake has been read by `HttpConnection`, which hands over the
scope; what the protocol sees of the request are the fields of the handshake alone.
"""

from __future__ import annotations

import logging
import os
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from pywatt_host.http.server.serving import Progress, Serving
from pywatt_host.types import Headers, Scope

logger = logging.getLogger("pywatt.server")

_PING_INTERVAL = 20.0  # seconds of silence after which a ping is sent
_PING_TIMEOUT = 20.0  # seconds for its answer
_MAX_EARLY = 64 * 1024  # bytes that a client may send before it is accepted
_APPLICATION_FAILED = 1011  # RFC 6455 section 7.4.1
_HANDSHAKE = frozenset((b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"))


class WebSocketConnection(WebSocketsSansIOProtocol):
    """One WebSocket, from its handshake on."""

    def __init__(self, serving: Serving, scope: Scope, connection: object) -> None:
        """`connection` is the HTTP connection that it was, and as which it is counted until it ends."""
        self.serving = serving
        bounds = serving.bounds
        config: Any = SimpleNamespace(
            loaded=True,
            loaded_app=serving.handler.websocket_app,
            root_path="",
            asgi_version="3.0",
            ws_per_message_deflate=bounds.websocket_compression,
            ws_max_size=bounds.websocket_message,
            ws_ping_interval=None,  # pings are sent on the clock of the server
            ws_ping_timeout=None,
        )
        state: Any = SimpleNamespace(connections=serving.connections, tasks=serving.running, default_headers=[])
        super().__init__(config, state, {}, serving.loop)
        self.http_scope = scope
        self.write_progress: Progress | None = None
        self.unsent = 0
        self.silent = 0.0  # seconds since the last byte of the client
        self.pinged = False
        self.begun = False  # the handshake has been taken
        self.early = b""  # what has arrived before it was accepted
        self._counted_as = connection

    def begin(self, rest: bytes) -> None:
        """Take the handshake, and what has arrived after it."""
        fields = [(name, value) for name, value in self.http_scope["headers"] if name in _HANDSHAKE]
        lines = [b"GET / HTTP/1.1", b"host: localhost", b"connection: upgrade", b"upgrade: websocket"]
        lines += [b"%b: %b" % field for field in fields]
        self.data_received(b"\r\n".join([*lines, b"", b""]))
        self.begun = True
        if rest and not self.transport.is_closing():
            self.data_received(rest)

    def handle_connect(self, event: Any) -> None:
        """Accept the handshake for the protocol, and start the application with the scope that was read before."""
        self.request = event
        self.response = self.conn.accept(event)
        self.handshake_initiated = True
        scope = self.http_scope
        headers: Headers = scope["headers"]
        offered = [value.decode("latin-1") for name, value in headers if name == b"sec-websocket-protocol"]
        self.scope: Any = {
            **scope,
            "type": "websocket",
            "scheme": "wss" if scope["scheme"] == "https" else "ws",
            "subprotocols": [token.strip() for value in offered for token in value.split(",") if token.strip()],
            "extensions": {**scope.get("extensions", {}), "websocket.http.response": {}},
        }
        del self.scope["method"]
        self.queue.put_nowait({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi())
        for tasks in (self.tasks, self.serving.websocket_tasks):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def connection_made(self, transport: Any) -> None:
        self.serving.websockets.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.serving.websockets.discard(self)
        self.serving.closed(self._counted_as)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.silent = 0.0
        self.pinged = False
        if not self.begun or self.handshake_complete:
            super().data_received(data)
            return
        self.early += data  # a client should not send anything yet
        if len(self.early) > _MAX_EARLY:
            self.transport.abort()

    def shutdown(self) -> None:
        """End the WebSocket with close code 1012, because the host stops."""
        if self.handshake_complete and self.conn.state is not State.OPEN:
            self.transport.close()  # the closing handshake has begun: another close frame would be an error
        else:
            super().shutdown()

    async def run_asgi(self) -> None:
        """Call the application. Where it raises, an accepted WebSocket is closed with 1011."""
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except GeneratorExit:
            raise
        except BaseException:  # named boundary: the user's application; the edge has logged the error
            self._failed()
        else:
            if not self.handshake_complete and not self.initial_response:
                self.send_500_response()
        if self.close_timer is None:
            self.transport.close()

    def send_500_response(self) -> None:
        """Answer a handshake in place of the application, unless it is answered."""
        if not self.initial_response and not self.handshake_complete:
            self._reject(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal Server Error")

    def _reject(self, status: HTTPStatus, text: str) -> None:
        response = self.conn.reject(status, text)
        for name, value in self.serving.handler.added:
            response.headers[name.decode()] = value.decode()
        self.conn.send_response(response)
        self.transport.write(b"".join(self.conn.data_to_send()))

    def _failed(self) -> None:
        if not self.handshake_complete:
            self.send_500_response()
        elif not self.close_sent and not self.transport.is_closing():
            self.conn.send_close(_APPLICATION_FAILED)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True

    async def send(self, message: Any) -> None:
        """The ASGI `send`. Raises ResponseError for a header that must not be sent."""
        if message["type"] in ("websocket.accept", "websocket.http.response.start"):
            for header in message.get("headers", ()):
                self.serving.header_lines[tuple(header)]  # checks it
        if message["type"] == "websocket.accept":
            headers = [header for header in message.get("headers", ()) if bytes(header[0]).lower() != b"date"]
            message = {**message, "headers": [*headers, (b"date", self.serving.status_lines.date)]}
        if message["type"] == "websocket.close" and not self.handshake_complete and self.initial_response is None:
            self._refuse()
        else:
            await super().send(message)
        if self.early and self.handshake_complete and not self.transport.is_closing():
            early, self.early = self.early, b""
            super().data_received(early)

    def _refuse(self) -> None:
        """Refuse the handshake with 403, because the application has closed the WebSocket before it accepted it."""
        if self.disconnected:
            raise ClientDisconnected
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        self.close_sent = self.handshake_complete = True
        self._reject(HTTPStatus.FORBIDDEN, "")
        self.transport.close()

    # Time limits ----------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """WebSockets are never closed to make room for others."""
        return False

    def expire(self, elapsed: float) -> None:
        """End a WebSocket whose client neither reads nor answers. Called on each tick."""
        seconds = self.serving.bounds.write_seconds
        if seconds is not None:
            unsent = self.transport.get_write_buffer_size()
            if not unsent or not self.unsent or self.write_progress is None:
                self.write_progress = Progress(seconds)
            elif self.write_progress.stalled(elapsed, self.unsent - unsent):
                key, peer = "server.timeouts.write", self.client[0] if self.client else "unix"
                logger.info("cut %s: over %s", peer, key, extra={"key": key, "peer": peer})
                self.transport.abort()
                return
            self.unsent = unsent
        if not self.handshake_complete or self.close_sent or self.read_paused:
            return
        self.silent += elapsed
        if not self.pinged and self.silent >= _PING_INTERVAL:
            self.pinged = True
            self.conn.send_ping(os.urandom(4))
            self.transport.write(b"".join(self.conn.data_to_send()))
        elif self.pinged and self.silent >= _PING_INTERVAL + _PING_TIMEOUT:
            self.conn.fail(1011, "keepalive ping timeout")
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            self.transport.close()
