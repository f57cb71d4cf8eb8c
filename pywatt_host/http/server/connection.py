"""An HTTP/1.1 connection (RFC 9112), on httptools and the Protocol of the event loop.

What is decided here, for every application: the framing of requests, one valid Host, which fields are headers at all,
how long each side may take, and in which order responses leave. A request is read once; what the edge needs of its head
is noted while it is parsed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections import deque
from importlib import import_module
from typing import TYPE_CHECKING, Any

import httptools

from pywatt_host.http.exchange import Refusal
from pywatt_host.http.request_head import is_request_id
from pywatt_host.http.server import head
from pywatt_host.http.server.exchange import MAX_DISCARDED, ServerExchange
from pywatt_host.http.server.head import CHUNKED, RefusedError
from pywatt_host.http.server.response import CONTINUE
from pywatt_host.http.server.serving import Progress, RequestLine, Serving, serving_of
from pywatt_host.observability.context import parse_traceparent

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

logger = logging.getLogger("pywatt.server")

_SLICE = 64 * 1024  # bytes that are parsed at once
_LONGEST_FIELDS = 2048  # bytes of the fields that are remembered for a connection
_LONGEST_LINE = 256  # bytes of a request line that is remembered
_REMEMBERED_LINES = 4096
_UNLIKE = 8  # requests with other fields each, after which a connection remembers none
_FORGOTTEN = 1.0  # seconds after which an idle connection forgets its fields
_PIPELINED = 256  # requests that wait on one connection
_CHUNK_OVERHEAD = 16  # bytes of framing that each chunk may have, beside those of limits.header
_LINGER = 2.0  # seconds in which a client may read the last response, while what it sends is dropped
_USER = re.compile(rb"\A([^/?#]*//)[^/?#]*@").sub  # a user and a password in an absolute target
_NOTHING: dict[int, bytes] = {}
_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")}


class HttpConnection(asyncio.Protocol):
    """One connection. Its constructor is the one that uvicorn's option `--http` calls, so that this class can be used
    under plain uvicorn as well."""

    __slots__ = (
        "_body_progress", "_discarded", "_dropped", "_fields", "_framing", "_half_closed", "_handler",
        "_header_bytes", "_headers", "_host", "_hosts", "_ids", "_lines", "_linger_left", "_moved", "_names",
        "_noted", "_offered", "_replaying", "_running", "_sent", "_sent_of", "_targets", "_unlike", "_unsent",
        "_valid_hosts", "_writable", "_write_progress", "broken", "chunked", "closing", "current", "ended", "final",
        "fresh", "head_bytes", "headers", "in_head", "lingering", "loop", "parser", "peer", "queue", "reading",
        "reading_paused", "scope", "segment", "serving", "since", "transport", "upgraded", "url", "write_paused",
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
        self.transport: Any = None  # asyncio.Transport; that of uvloop is none
        self.parser: Any = None
        self.peer = ""
        self.since = serving.now  # when the head that is awaited, or the idle time, began

        # The connection
        self.fresh = True  # no request has arrived yet
        self.closing = False  # no request is taken after those that have begun to arrive
        self.final = False  # the request that is arriving is the last
        self.ended = False  # the last request has arrived, or the client has ended its side: nothing more is read
        self.broken = False  # the client sends what is not read, and may not have read the response yet
        self.lingering = False
        self.upgraded = False  # a WebSocket has taken over
        self._half_closed = False

        # The requests
        self.current: ServerExchange | None = None  # whose response is sent next
        self.reading: ServerExchange | None = None  # whose body is arriving
        self.queue: deque[ServerExchange] | None = None  # those after `current`
        self.reading_paused = False
        self.chunked = False  # a body in chunks is arriving
        self._framing = 0  # bytes of its framing, without what its chunks may have
        self._offered: ServerExchange | None = None  # whose head offers to upgrade the connection
        self._replaying = False

        # The head that is arriving
        self.in_head = False
        self.head_bytes = 0
        self.segment: bytes | None = None  # that begins with the head
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self._header_bytes = serving.bounds.header_bytes
        self._host: bytes | None = None
        self._hosts = 0  # how many there are
        self._dropped = 0  # bytes of fields that are not headers
        self._noted: dict[int, bytes] | None = None  # kind of field -> value
        self._fields: bytes | None = None  # of the last request without a body, as they were sent
        self._headers: tuple[tuple[bytes, bytes], ...] = ()  # the same, as they were read
        self._unlike = 0  # requests one after the other whose fields were not those of the one before
        self._lines = serving.request_lines
        self._names, self._targets, self._valid_hosts = serving.field_names, serving.targets, serving.hosts
        self._ids = serving.ids
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
        self.scope: dict[str, Any] = {  # of a request, without what its head says
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
        self.parser = _parser(self)
        self.serving.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.serving.connections.discard(self)
        self.serving.closed(self)
        self.parser = None
        self.ended = True
        queue, self.queue = self.queue, None
        for exchange in (self.current, self.reading, *(queue or ())):
            if exchange is not None:
                exchange.disconnected()
        self.resume_writing()

    def eof_received(self) -> bool:
        self.ended = True
        if self.current is None or self.reading is not None or self.lingering:
            return False
        # The client may have ended its side only, and still read the response.
        self._half_closed = True
        for exchange in (self.current, *(self.queue or ())):
            exchange.half_closed()
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
        if len(data) > _SLICE:
            for start in range(0, len(data), _SLICE):
                self.data_received(data[start : start + _SLICE])
            return
        fields = self._fields
        if fields is not None and self.current is None and not self.in_head and data.endswith(fields):
            line = self._lines.get(data[: -len(fields)])
            if line is not None:
                self._repeat(*line)
                return
        reading = self.reading
        if self.in_head:
            self.head_bytes += len(data)
        elif reading is None:
            self.segment = data
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            head_end: int = upgrade.args[0]
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, RefusedError):
                self._refuse(cause.status, cause.reason)
            elif isinstance(cause, Exception) and not isinstance(cause, httptools.HttpParserError):
                raise cause from None
            else:
                self._refuse(400, f"not HTTP: {error}")
            return
        else:
            head_end = -1
        if head_end >= 0:
            self._upgraded(data[head_end:])
        elif self.in_head:
            if self.segment is not None:  # it has begun to arrive
                self.head_bytes = len(self.segment)
                self.segment = None
                if self.current is None:
                    self.since = self.serving.now
            if self.head_bytes > self.serving.bounds.header_bytes:
                self._refuse(431, "server.limits.header")
        elif self.chunked:
            # Chunks with little framing leave nothing for those in later segments, nor does the segment with the head.
            same = reading is not None and reading is self.reading
            self._framing = max(0, self._framing + len(data)) if same else 0
            if self._framing > self.serving.bounds.header_bytes:
                self._refuse(431, "server.limits.header")

    # The parser's calls ---------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.ended:
            raise RefusedError(400, "a request after the last one")
        self.in_head = True
        self.head_bytes = 0
        self.url = b""
        self.headers = []
        self._host = None
        self._hosts = self._dropped = 0
        self._noted = None

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        lowered, kind = self._names[name]
        value = value.rstrip()  # RFC 9110 section 5.5; the parser leaves spaces at its end
        if kind:
            if kind == head.HOST:
                self._host = value
                self._hosts += 1
            elif kind == head.DROPPED:
                self._dropped += len(name) + len(value) + 4
                return
            else:
                self._note(kind, value)
        self.headers.append((lowered, value))

    def _note(self, kind: int, value: bytes) -> None:
        """Note a field that matters to the connection or to the edge. Lists that come in several fields are joined."""
        noted = self._noted
        if noted is None:
            noted = self._noted = {}
        if kind == head.REQUEST_ID:
            noted[kind] = value if kind not in noted and is_request_id(value) else b""
        elif kind in noted:
            noted[kind] += b"," + value
        else:
            noted[kind] = value

    def on_headers_complete(self) -> None:
        if self._replaying:
            return
        self.in_head = False
        parser, headers, noted = self.parser, self.headers, self._noted
        segment, self.segment = self.segment, None
        name = parser.get_method()
        if segment is None or len(segment) > self._header_bytes:
            self._check_length(len(name) + len(self.url) + 14)  # with ` HTTP/1.1`, spaces and line ends
        method = _METHODS.get(name) or name.decode("ascii")
        version, keep_alive = "1.1", parser.should_keep_alive()
        if (not keep_alive or (noted is not None and head.CONNECTION in noted)) and (
            segment is None or not segment.startswith(b" HTTP/1.1\r\n", len(name) + 1 + len(self.url))
        ):
            version = parser.get_http_version()
            if version not in ("1.1", "1.0"):
                raise RefusedError(505, f"HTTP/{version}")
        path, raw_path, query, plain, authority = self._targets[self.url]
        if self._hosts != 1 or self._host not in self._valid_hosts:
            self._check_host(version)
        request_id = self._ids.pop() if self._ids else self.serving.more_ids()
        headers.append((b"x-request-id", request_id))
        scope = self.scope.copy()
        scope["method"] = method
        scope["path"] = path
        scope["raw_path"] = raw_path
        scope["query_string"] = query
        scope["headers"] = headers
        exchange = ServerExchange(self, scope, method, path, request_id)
        if plain:
            exchange.plain = True
        if not keep_alive:
            exchange.keep_alive = False
        if noted is not None or authority is not None or version == "1.0" or method == "HEAD" or method == "CONNECT":
            scope["http_version"] = version
            self._complete_head(exchange, noted or {}, authority)
            if self._offered is not None:
                return  # the parser stops here; `_upgraded` goes on
        if self.current is not None or exchange.length or not keep_alive:
            self._arrived(exchange)
        else:
            if noted is None and segment is not None and self._unlike < _UNLIKE:
                self._remember(segment, name, (method, path, raw_path, query, plain))
            self._begin(exchange)

    def _remember(self, segment: bytes, name: bytes, line: RequestLine) -> None:
        """Remember the request line and the fields of a request without a body that arrived by itself.

        Most clients send the same fields with every request of a connection. Where the same bytes arrive again, after a
        request line that has been read before, they mean the same, and need not be parsed again.
        """
        start = len(name) + 1 + len(self.url)
        end = start + len(b" HTTP/1.1")
        fields = segment[end:]
        if (
            len(fields) <= _LONGEST_FIELDS
            and end <= _LONGEST_LINE
            and fields.find(b"\r\n\r\n") == len(fields) - 4
            and segment.startswith(b" HTTP/1.1\r\n", start)
            and segment.startswith(name + b" " + self.url)
        ):
            self._unlike = 0 if fields == self._fields else self._unlike + 1
            self._fields, self._headers = fields, tuple(self.headers[:-1])
            if len(self._lines) >= _REMEMBERED_LINES:
                self._lines.clear()
            self._lines[segment[:end]] = line

    def _repeat(self, method: str, path: str, raw_path: bytes, query: bytes, plain: bool) -> None:
        """Take a request with a line that is known, and the fields of the request before."""
        self._unlike = 0
        request_id = self._ids.pop() if self._ids else self.serving.more_ids()
        scope = self.scope.copy()
        scope["method"] = method
        scope["path"] = path
        scope["raw_path"] = raw_path
        scope["query_string"] = query
        scope["headers"] = [*self._headers, (b"x-request-id", request_id)]
        exchange = ServerExchange(self, scope, method, path, request_id)
        exchange.plain = plain
        if method == "HEAD":
            exchange.bodiless = True
        self._begin(exchange)

    def _complete_head(self, exchange: ServerExchange, noted: dict[int, bytes], authority: bytes | None) -> None:
        """Take what only some requests have in their heads. Raises RefusedError for what must not be there."""
        method, scope = exchange.method, exchange.scope
        if method == "CONNECT":
            raise RefusedError(501, "the method CONNECT")
        exchange.bodiless = method == "HEAD"
        exchange.http10 = scope["http_version"] == "1.0"
        exchange.forwarded = head.FORWARDING in noted
        if authority is not None:
            scope["headers"] = [(name, authority if name == b"host" else value) for name, value in scope["headers"]]
        sent_id = noted.get(head.REQUEST_ID)
        if sent_id is not None:
            # The client's own where it is a valid one; else the application sees ours only.
            headers = [header for header in scope["headers"] if header[0] != b"x-request-id"]
            exchange.request_id = sent_id or exchange.request_id
            scope["headers"] = [*headers, (b"x-request-id", exchange.request_id)]
        if head.TRACEPARENT in noted:
            exchange.trace = parse_traceparent(noted[head.TRACEPARENT])
        if head.CODING in noted:
            head.check_coding(noted[head.CODING], scope["http_version"])
            exchange.length = CHUNKED
        elif head.LENGTH in noted:
            exchange.length = int(noted[head.LENGTH])
        if exchange.length:
            exchange.body_complete = False
            expects = noted.get(head.EXPECT, b"").strip().lower()
            exchange.continues = expects == b"100-continue" and not exchange.http10
        if head.UPGRADE in noted and self.parser.should_upgrade():
            self._offered = exchange

    def _check_length(self, length: int) -> None:
        """Refuse fields over the limit, where they came in pieces, or other bytes came together with them. `length` is
        that of the bytes beside the fields."""
        length += self._dropped + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if length > self._header_bytes:
            raise RefusedError(431, "server.limits.header")

    def _check_host(self, version: str) -> None:
        if self._hosts > 1:
            raise RefusedError(400, "more than one Host")
        if self._host is None:
            if version == "1.1":
                raise RefusedError(400, "no Host")
        elif not self.serving.hosts.valid(self._host):
            raise RefusedError(400, "a Host that is not valid")

    def on_body(self, data: bytes) -> None:
        exchange = self.reading
        if exchange is None:
            return
        self._moved += len(data)
        if self.chunked:
            self._framing -= len(data)
        if exchange.complete or exchange.taken:
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED and exchange.complete and not self.lingering:
                self.close()
            return
        exchange.feed(data)
        if exchange.full and not self.reading_paused:
            self.reading_paused = True
            self.transport.pause_reading()

    def on_chunk_header(self) -> None:
        self._framing -= _CHUNK_OVERHEAD

    def on_message_complete(self) -> None:
        if self._offered is not None:
            return
        if self.chunked and (self.headers or self._dropped):
            self._check_length(2)  # of the trailers
        if self.final:
            self.ended = True
        exchange, self.reading = self.reading, None
        if exchange is not None:
            self.chunked = False
            exchange.body_ended()
            if exchange.complete and exchange is self.current:
                self._next()

    # Requests -------------------------------------------------------------------------------------------------------

    def _arrived(self, exchange: ServerExchange) -> None:
        """Take a request whose head has arrived: it waits for those before it, and its body for the application."""
        if exchange.length:
            self.reading = exchange
            self.chunked = exchange.length == CHUNKED
            self._framing = 0
            self.headers = []  # of trailers, which are dropped (RFC 9110 section 6.5.1)
            self._dropped = 0
            self._body_progress = None
        if not exchange.keep_alive:
            self.final = self.closing = True
        if self.current is None:
            self._begin(exchange)
            return
        if self.queue is None:
            self.queue = deque()
        self.queue.append(exchange)
        if len(self.queue) >= _PIPELINED:
            exchange.keep_alive = False
            self.final = self.closing = True
        if not self.reading_paused:
            self.reading_paused = True
            self.transport.pause_reading()

    def _begin(self, exchange: ServerExchange) -> None:
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
            self._begin(self.queue.popleft())
            if self.reading_paused and not self.queue:
                self._resume_reading()
            return
        self.since = self.serving.now
        if self.reading_paused:
            self._resume_reading()
        if self.ended or (self.closing and not self.in_head):
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
        unread = self.broken or self.reading is not None
        self.reading = None
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
        return (self.closing or self.serving.draining) and not self.queue and not self.in_head

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

    def _upgraded(self, rest: bytes) -> None:
        """Go on after a head that offers to upgrade the connection: a WebSocket handshake is taken where it is valid,
        and everything else is a plain request with its body (RFC 9110 section 7.8)."""
        exchange, self._offered = self._offered, None
        assert exchange is not None
        if self._is_handshake(exchange) and self.current is None:
            serving = self.serving
            if serving.websocket_allowed():
                self._become_websocket(exchange, rest)
                return
            key = "server.limits.websocket.connections"
            serving.warn("503 for a WebSocket", key)
            exchange.pending = Refusal(503, key, headers=((b"retry-after", b"1"),))
        self.parser = _parser(self)
        if exchange.length:
            # The old parser takes what follows for the upgraded protocol. The new one is told how long the body is.
            self._replaying = True
            coding = b"content-length: %d" % exchange.length
            if exchange.length == CHUNKED:
                coding = b"transfer-encoding: chunked"
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % coding)
            self._replaying = self.in_head = False
        self._arrived(exchange)
        if self.final and not exchange.length:
            self.ended = True
        if rest:
            self.data_received(rest)

    def _is_handshake(self, exchange: ServerExchange) -> bool:
        """Whether a request is a valid WebSocket handshake (RFC 6455 section 4.2.1)."""
        if exchange.method != "GET" or exchange.http10 or exchange.length:
            return False
        if b"websocket" not in head.tokens((self._noted or _NOTHING).get(head.UPGRADE, b"")):
            return False
        fields = [(name, value) for name, value in self.headers if name.startswith(b"sec-websocket-")]
        keys = [value for name, value in fields if name == b"sec-websocket-key"]
        versions = [value.strip() for name, value in fields if name == b"sec-websocket-version"]
        return versions == [b"13"] and len(keys) == 1 and head.is_websocket_key(keys[0])

    def _become_websocket(self, exchange: ServerExchange, rest: bytes) -> None:
        """Hand the transport to a WebSocket connection."""
        module = import_module("pywatt_host.http.server.websocket")
        self.serving.connections.discard(self)
        self.ended = self.upgraded = True
        websocket = module.WebSocketConnection(self.serving, exchange.scope, self)
        self.transport.set_protocol(websocket)
        websocket.connection_made(self.transport)
        websocket.begin(rest)

    def _refuse(self, status: int, reason: str) -> None:
        """Answer what cannot be read, and end the connection. Responses to earlier requests leave first."""
        if self.ended:
            return
        self.ended = self.broken = True
        self.in_head = False
        detail = "The request could not be read as HTTP." if status == 400 else ""
        refusal = Refusal(status, reason, detail, ((b"connection", b"close"),))
        if status in (408, 431):
            peer = self.peer or "unix"
            logger.info("%d for %s: over %s", status, peer, reason, extra={"key": reason, "peer": peer})
        exchange, self.reading = self.reading, None
        if exchange is None:
            exchange = self._unread()
            exchange.pending = refusal
            if self.current is None:
                self._begin(exchange)
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

    def _unread(self) -> ServerExchange:
        """An exchange for a request whose head cannot be read."""
        method, path = "-", "-"
        if self.url:
            method = self.parser.get_method().decode("ascii")
            path = _USER(rb"\1", self.url.partition(b"?")[0][:2048]).decode("latin-1")
        exchange = ServerExchange(self, {}, method, path, self.serving.more_ids())
        exchange.keep_alive = False
        return exchange

    # Time limits ----------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no request runs or has begun to arrive."""
        return self.current is None and not self.in_head and not self.lingering and not self.upgraded

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
        if self.reading is not None:
            if bounds.body_seconds is not None:
                self._expire_body(elapsed, bounds.body_seconds)
        elif self.current is not None or self.ended:
            return
        elif self.in_head or self.fresh:
            if now - self.since >= bounds.header_seconds:
                if self.in_head:
                    self._refuse(408, "server.timeouts.header")
                else:
                    self.transport.close()
        elif now - self.since >= bounds.keep_alive:
            self.transport.close()
        elif now - self.since >= _FORGOTTEN:
            self._fields = None

    def _expire_body(self, elapsed: float, seconds: float) -> None:
        moved, self._moved = self._moved, 0
        assert self.reading is not None
        if self.reading_paused or self.reading.continues or self.reading is not self.current:
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


def _parser(connection: HttpConnection) -> Any:
    parser = httptools.HttpRequestParser(connection)
    # What follows a request with `Connection: close` is dropped here. Without this, it would be a fault.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


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
