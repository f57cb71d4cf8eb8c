"""Reads the requests of one connection with httptools (RFC 9112).

What is decided here, for every application: the framing of requests, one valid Host, which fields are headers at all,
and which offers to upgrade the connection are taken. A request is read once; what the connection and the edge need of
its head is noted meanwhile.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

import httptools

from pywatt_host.http.request_head import is_request_id
from pywatt_host.http.server import head
from pywatt_host.http.server.exchange import Connection, ServerExchange
from pywatt_host.http.server.head import CHUNKED, RefusedError
from pywatt_host.http.server.serving import RequestLine
from pywatt_host.observability.context import read_trace

_SLICE = 64 * 1024  # bytes that are parsed at once
_LONGEST_FIELDS = 2048  # bytes of the fields that are remembered for a connection
_LONGEST_LINE = 256  # bytes of a request line that is remembered
_REMEMBERED_LINES = 4096
_UNLIKE = 8  # requests with other fields each, after which a connection remembers none
_CHUNK_OVERHEAD = 16  # bytes of framing that each chunk may have, beside those of limits.header
_USER = re.compile(rb"\A([^/?#]*//)[^/?#]*@").sub  # a user and a password in an absolute target
_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")}


class Reading(Connection, Protocol):
    """What a reader needs of its connection."""

    current: ServerExchange | None
    ended: bool
    since: float

    def begin(self, exchange: ServerExchange) -> None:
        """Take a request without a body, while no other request runs."""

    def arrived(self, exchange: ServerExchange) -> None:
        """Take a request whose head has arrived. Its body goes to the exchange."""

    def body_arrived(self, exchange: ServerExchange, length: int) -> None:
        """So many bytes of a body have arrived."""

    def body_ended(self, exchange: ServerExchange) -> None:
        """The whole body has arrived."""

    def become_websocket(self, exchange: ServerExchange, rest: bytes) -> bool:
        """Take a WebSocket handshake, and what has arrived after it. Returns False where it is not taken."""


class RequestReader:
    """Takes bytes in pieces of any length, and gives its connection the requests in them.

    `template` is the scope of a request without what its head says.
    """

    __slots__ = (
        "_dropped", "_fields", "_framing", "_header_bytes", "_headers", "_host", "_hosts", "_ids", "_lines", "_names",
        "_noted", "_offered", "_parser", "_replaying", "_segment", "_targets", "_template", "_unlike", "_valid_hosts",
        "chunked", "connection", "exchange", "final", "head_bytes", "headers", "in_head", "url",
    )  # fmt: skip

    def __init__(self, connection: Reading, template: dict[str, Any]) -> None:
        serving = connection.serving
        self.connection = connection
        self._template = template
        self._parser: Any = None
        self._new_parser()

        # The head that is arriving
        self.in_head = False
        self.head_bytes = 0
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self._segment: bytes | None = None  # that begins with the head
        self._header_bytes = serving.bounds.header_bytes
        self._host: bytes | None = None
        self._hosts = 0  # how many there are
        self._dropped = 0  # bytes of fields that are not headers
        self._noted: dict[int, bytes] | None = None  # kind of field -> value
        self._names, self._targets, self._valid_hosts = serving.field_names, serving.targets, serving.hosts
        self._ids = serving.ids

        # The body that is arriving
        self.exchange: ServerExchange | None = None  # to which it belongs
        self.final = False  # the request that is arriving is the last
        self.chunked = False
        self._framing = 0  # bytes of its framing, without what its chunks may have
        self._offered: ServerExchange | None = None  # whose head offers to upgrade the connection
        self._replaying = False

        # What is remembered of requests
        self._fields: bytes | None = None  # of the last request without a body, as they were sent
        self._headers: tuple[tuple[bytes, bytes], ...] = ()  # the same, as they were read
        self._unlike = 0  # requests one after the other whose fields were not those of the one before
        self._lines = serving.request_lines

    def _new_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        # What follows a request with `Connection: close` is dropped. Without this, it would be a fault.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed(self, data: bytes) -> None:
        """Read the next bytes. Raises RefusedError for what cannot be read; nothing is read after that."""
        if len(data) > _SLICE:
            for start in range(0, len(data), _SLICE):
                if not self.connection.ended:
                    self.feed(data[start : start + _SLICE])
            return
        fields = self._fields
        if fields is not None and self.connection.current is None and not self.in_head and data.endswith(fields):
            line = self._lines.get(data[: -len(fields)])
            if line is not None:
                self._repeat(*line)
                return
        exchange = self.exchange
        if self.in_head:
            self.head_bytes += len(data)
        elif exchange is None:
            self._segment = data
        rest: bytes | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, Exception) and not isinstance(cause, httptools.HttpParserError):
                raise cause from None
            raise RefusedError(400, f"not HTTP: {error}") from None
        if rest is not None:
            self._upgraded(rest)
        elif self.in_head:
            if self._segment is not None:  # it has begun to arrive
                self.head_bytes = len(self._segment)
                self._segment = None
                if self.connection.current is None:
                    self.connection.since = self.connection.serving.now
            if self.head_bytes > self._header_bytes:
                raise RefusedError(431, "server.limits.header")
        elif self.chunked:
            # Chunks with little framing leave nothing for those in later segments, nor does the segment with the head.
            same = exchange is not None and exchange is self.exchange
            self._framing = max(0, self._framing + len(data)) if same else 0
            if self._framing > self._header_bytes:
                raise RefusedError(431, "server.limits.header")

    def forget(self) -> None:
        """Forget the fields of the last request, since no other has come for a while."""
        self._fields = None

    def release(self) -> None:
        """The connection has ended. Without this, only the garbage collector could free the three."""
        self._parser = None
        del self.connection

    def unread(self) -> ServerExchange:
        """An exchange for a request whose head cannot be read."""
        method, path = "-", "-"
        if self.url:
            method = self._parser.get_method().decode("ascii")
            path = _USER(rb"\1", self.url.partition(b"?")[0][:2048]).decode("latin-1")
        exchange = ServerExchange(self.connection, {}, method, path, self.connection.serving.more_ids())
        exchange.keep_alive = False
        return exchange

    # The parser's calls ---------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.connection.ended:
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
        parser, headers, noted = self._parser, self.headers, self._noted
        segment, self._segment = self._segment, None
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
        request_id = self._ids.pop() if self._ids else self.connection.serving.more_ids()
        headers.append((b"x-request-id", request_id))
        scope = self._template.copy()
        scope["method"] = method
        scope["path"] = path
        scope["raw_path"] = raw_path
        scope["query_string"] = query
        scope["headers"] = headers
        exchange = ServerExchange(self.connection, scope, method, path, request_id)
        if plain:
            exchange.plain = True
        if not keep_alive:
            exchange.keep_alive = False
        if noted is not None or authority is not None or version == "1.0" or method == "HEAD" or method == "CONNECT":
            scope["http_version"] = version
            self._complete_head(exchange, noted or {}, authority)
            if self._offered is not None:
                return  # the parser stops here; `_upgraded` goes on
        if self.connection.current is not None or exchange.length or not keep_alive:
            self._arrived(exchange)
        else:
            if noted is None and authority is None and segment is not None and self._unlike < _UNLIKE:
                self._remember(segment, name, (method, path, raw_path, query, plain))
            self.connection.begin(exchange)

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
        request_id = self._ids.pop() if self._ids else self.connection.serving.more_ids()
        scope = self._template.copy()
        scope["method"] = method
        scope["path"] = path
        scope["raw_path"] = raw_path
        scope["query_string"] = query
        scope["headers"] = [*self._headers, (b"x-request-id", request_id)]
        exchange = ServerExchange(self.connection, scope, method, path, request_id)
        exchange.plain = plain
        if method == "HEAD":
            exchange.bodiless = True
        self.connection.begin(exchange)

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
            exchange.trace = read_trace(noted[head.TRACEPARENT], noted.get(head.TRACESTATE, b""))
        if head.CODING in noted:
            head.check_coding(noted[head.CODING], scope["http_version"])
            exchange.length = CHUNKED
        elif head.LENGTH in noted:
            exchange.length = int(noted[head.LENGTH])
        if exchange.length:
            exchange.body_complete = False
            expects = noted.get(head.EXPECT, b"").strip().lower()
            exchange.continues = expects == b"100-continue" and not exchange.http10
        if head.RANGE in noted and (method == "HEAD" or not head.is_byte_range(noted[head.RANGE])):
            # It is to be ignored (RFC 9110 section 14.2), and frameworks answer it with 206 or 400.
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"range"]
        if head.UPGRADE in noted and self._parser.should_upgrade():
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
        elif not self.connection.serving.hosts.valid(self._host):
            raise RefusedError(400, "a Host that is not valid")

    def on_body(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is not None:
            length = len(data)
            if self.chunked:
                self._framing -= length
            exchange.feed(data)
            self.connection.body_arrived(exchange, length)

    def on_chunk_header(self) -> None:
        self._framing -= _CHUNK_OVERHEAD

    def on_message_complete(self) -> None:
        if self._offered is not None:
            return
        if self.chunked and (self.headers or self._dropped):
            self._check_length(2)  # of the trailers
        if self.final:
            self.connection.ended = True
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self.chunked = False
            exchange.body_ended()
            self.connection.body_ended(exchange)

    def _arrived(self, exchange: ServerExchange) -> None:
        """The head of a request has arrived."""
        if exchange.length:
            self.exchange = exchange
            self.chunked = exchange.length == CHUNKED
            self._framing = 0
            self.headers = []  # of trailers, which are dropped (RFC 9110 section 6.5.1)
            self._dropped = 0
        if not exchange.keep_alive:
            self.final = True
        self.connection.arrived(exchange)

    # Offers to upgrade ----------------------------------------------------------------------------------------------

    def _upgraded(self, rest: bytes) -> None:
        """Go on after a head that offers to upgrade the connection: a WebSocket handshake is taken where it is valid,
        and everything else is a plain request with its body (RFC 9110 section 7.8)."""
        exchange, self._offered = self._offered, None
        assert exchange is not None
        if self._is_handshake(exchange) and self.connection.become_websocket(exchange, rest):
            return
        self._new_parser()
        if exchange.length:
            # The old parser takes what follows for the upgraded protocol. The new one is told how long the body is.
            self._replaying = True
            coding = b"content-length: %d" % exchange.length
            if exchange.length == CHUNKED:
                coding = b"transfer-encoding: chunked"
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % coding)
            self._replaying = self.in_head = False
        self._arrived(exchange)
        if self.final and not exchange.length:
            self.connection.ended = True
        if rest and not self.connection.ended:
            self.feed(rest)

    def _is_handshake(self, exchange: ServerExchange) -> bool:
        """Whether a request is a valid WebSocket handshake (RFC 6455 section 4.2.1)."""
        if exchange.method != "GET" or exchange.http10 or exchange.length:
            return False
        if b"websocket" not in head.tokens((self._noted or {}).get(head.UPGRADE, b"")):
            return False
        fields = [(name, value) for name, value in self.headers if name.startswith(b"sec-websocket-")]
        keys = [value for name, value in fields if name == b"sec-websocket-key"]
        versions = [value.strip() for name, value in fields if name == b"sec-websocket-version"]
        return versions == [b"13"] and len(keys) == 1 and head.is_websocket_key(keys[0])
