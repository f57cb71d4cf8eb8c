"""Spans as OTLP in protobuf (opentelemetry-proto 1.x, `opentelemetry/proto/collector/trace/v1/trace_service.proto`).

The messages are written by hand: from its beginning to the encoded bytes, the span of a request costs about two
microseconds. What is the same in many spans is encoded once and kept. The bytes of several exports can be joined, since
all fields of ExportTraceServiceRequest are repeated ones (protobuf encoding guide, "Repeated elements").
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from time import perf_counter, time
from typing import Any

from pywatt_host.observability.context import TraceContext
from pywatt_host.observability.metrics import KNOWN_METHODS, UNMATCHED
from pywatt_host.observability.spans import Attributes, Record, SpanKind, Value

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
_REMEMBERED = 4096  # encoded attributes and beginnings of spans
_LONGEST_REMEMBERED = 256  # characters of a text that is remembered
_LONGEST_TEXT = 4096  # characters of an attribute, by default

_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200  # flags of a span: what is known of its parent
_START, _END = 0x39, 0x41  # tags of Span.start_time_unix_nano and Span.end_time_unix_nano
_ERROR = b"\x18\x02"  # Status.code = STATUS_CODE_ERROR
_times = struct.Struct("<BQBQ").pack
_flags = struct.Struct("<2sI").pack  # Span.flags
_double = struct.Struct("<d").pack
_fixed32 = struct.Struct("<I").pack

_HOST = re.compile(rb"(\[[^\]]*\]|[^:]*)(?::([0-9]{1,5}))?").fullmatch


def varint(number: int) -> bytes:
    """A number as a varint; negative ones take ten bytes, as int64 has them."""
    if 0 <= number < 0x80:
        return _SMALL[number]
    number &= 0xFFFFFFFFFFFFFFFF
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


_SMALL = [bytes((number,)) for number in range(0x80)]


_MOST_KNOWN = 1024
_SPANS = [b"\x12" + varint(number) for number in range(_MOST_KNOWN)]  # ScopeSpans.spans of each length


def field(tag: bytes, content: bytes) -> bytes:
    """A field with a length: bytes, a string or a message. `tag` is its number and wire type, encoded."""
    return tag + varint(len(content)) + content


def attribute(name: str, value: Value, longest: int = _LONGEST_TEXT) -> bytes:
    """A KeyValue. Texts are cut after `longest` characters."""
    return field(b"\x0a", name.encode()) + field(b"\x12", _any(value, longest))


def _any(value: Value, longest: int) -> bytes:
    if isinstance(value, str):
        return field(b"\x0a", value[:longest].encode("utf-8", "replace"))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + varint(value)
    if isinstance(value, float):
        return b"\x21" + _double(value)
    return field(b"\x2a", b"".join(field(b"\x0a", _any(each, longest)) for each in value))


def resource_spans(resource: Attributes, scope_version: str, spans: bytes) -> bytes:
    """One ResourceSpans of an ExportTraceServiceRequest, with encoded spans."""
    attributes = b"".join(field(b"\x0a", attribute(name, value)) for name, value in resource.items())
    scope = field(b"\x0a", b"pywatt-host") + field(b"\x12", scope_version.encode())
    schema = field(b"\x1a", SCHEMA_URL.encode())
    scope_spans = field(b"\x0a", scope) + spans + schema
    return field(b"\x0a", field(b"\x0a", attributes) + field(b"\x12", scope_spans) + schema)


class SpanEncoder:
    """Encodes the spans of a buffer. `mask` replaces secrets in texts; `longest` is the limit of a text, in
    characters."""

    def __init__(self, mask: Callable[[str], str] = str, longest: int = _LONGEST_TEXT) -> None:
        self._mask = mask
        self._longest = longest
        self._outcomes: dict[tuple[str, str, int], bytes] = {}
        self._clients: dict[tuple[str, bytes, bytes, str, str], bytes] = {}
        self._texts: dict[tuple[str, str | bytes], bytes] = {}
        self._paths: dict[str, bytes] = {}
        self._queries: dict[bytes, bytes] = {}

    def forget(self) -> None:
        """Encode everything anew from now on: other secrets are to be masked."""
        for table in (self._outcomes, self._clients, self._texts, self._paths, self._queries):
            table.clear()

    def encode(self, records: Iterable[Record]) -> bytes:
        """Records as fields `spans` of a ScopeSpans."""
        offset = time() - perf_counter()  # from the clock of spans to that of the epoch
        spans: list[bytes] = []
        request, span = self._request, self._span
        for record in records:
            body = request(record, offset) if record[0] == "request" else span(record, offset)
            length = len(body)
            spans.append(_SPANS[length] if length < _MOST_KNOWN else b"\x12" + varint(length))
            spans.append(body)
        return b"".join(spans)

    def _request(self, record: Record, offset: float) -> bytes:
        _, trace, span_id, begun, seconds, what, path, query, who, error = record
        outcome = self._outcomes.get(what) if not error else None
        if outcome is None:
            keep = not error and what[0] in KNOWN_METHODS
            outcome = self._kept(self._outcomes, what, _outcome(what, error), keep)
        client = self._clients.get(who)
        if client is None:
            keep = len(who[1]) + len(who[2]) <= _LONGEST_REMEMBERED
            client = self._kept(self._clients, who, self._client(*who), keep)
        trace_id, parent_id, flags, state = trace
        begun += offset
        start = int(begun * 1e9)
        pieces = [
            bytes.fromhex(
                f"0a10{trace_id}1208{span_id}2208{parent_id}" if parent_id else f"0a10{trace_id}1208{span_id}"
            ),
            outcome,
            _times(_START, start, _END, start + int(seconds * 1e9)),
            self._paths.get(path) or self._path(path),
            client,
            _REMOTE[flags & 3] if parent_id else _ROOT[flags & 3],
        ]
        if state:
            pieces.append(field(b"\x1a", state.encode()))
        if query:
            pieces.append(self._query(query))
        return b"".join(pieces)

    def _kept(self, table: dict[Any, bytes], known: Any, encoded: bytes, keep: bool) -> bytes:
        if keep:
            if len(table) >= _REMEMBERED:
                table.clear()
            table[known] = encoded
        return encoded

    def _path(self, path: str) -> bytes:
        return self._kept(self._paths, path, self._text("url.path", path), len(path) <= _LONGEST_REMEMBERED)

    def _client(self, client: str, host: bytes, agent: bytes, scheme: str, version: str) -> bytes:
        """The attributes that the requests of one client have in common."""
        found = field(b"\x4a", attribute("url.scheme", scheme))
        found += field(b"\x4a", attribute("network.protocol.version", version))
        if client:
            found += self._text("client.address", client)
        if host:
            match = _HOST(host)
            name = (match[1] if match is not None else host).decode("latin-1").strip("[]")
            port = int(match[2]) if match is not None and match[2] else 443 if scheme in ("https", "wss") else 80
            found += self._text("server.address", name) + field(b"\x4a", attribute("server.port", port))
        if agent:
            found += self._text("user_agent.original", agent)
        return found

    def _text(self, name: str, value: str | bytes) -> bytes:
        """An attribute of a span, from a table where it is known."""
        known = (name, value)
        found = self._texts.get(known)
        if found is None:
            text = value.decode("latin-1") if isinstance(value, bytes) else value
            found = field(b"\x4a", attribute(name, self._mask(text[: 2 * self._longest]), self._longest))
            if len(value) <= _LONGEST_REMEMBERED:
                if len(self._texts) >= _REMEMBERED:
                    self._texts.clear()
                self._texts[known] = found
        return found

    def _query(self, query: bytes) -> bytes:
        """The names in a query. Values are left out, since clients put credentials there."""
        found = self._queries.get(query)
        if found is None:
            parts = [part.decode("latin-1").partition("=") for part in query.split(b"&")[:50] if part]
            # A part without a name may be a credential as a whole.
            text = "&".join(f"{name}=REDACTED" if equals else "REDACTED" for name, equals, _ in parts)
            found = field(b"\x4a", attribute("url.query", self._mask(text[: 2 * self._longest]), self._longest))
            if len(query) <= _LONGEST_REMEMBERED:
                if len(self._queries) >= _REMEMBERED:
                    self._queries.clear()
                self._queries[query] = found
        return found

    def _span(self, record: Record, offset: float) -> bytes:
        _, parent, span_id, kind, name, begun, ended, attributes, error, links = record
        pieces = [
            _ids(parent, span_id),
            field(b"\x2a", self._mask(name)[: self._longest].encode("utf-8", "replace")),
            b"\x30",
            varint(kind),
            _times(_START, int((begun + offset) * 1e9), _END, int((ended + offset) * 1e9)),
            _remote(parent) if kind in (SpanKind.SERVER, SpanKind.CONSUMER) else _local(parent),
        ]
        for key, value in attributes.items():
            if value.__class__ is str:
                pieces.append(self._text(key, value))
            else:
                pieces.append(field(b"\x4a", attribute(key, value, self._longest)))
        pieces += [field(b"\x6a", _link(link)) for link in links]
        if error:
            text = self._mask(error)[: self._longest].encode("utf-8", "replace")
            pieces.append(field(b"\x7a", field(b"\x12", text) + _ERROR))
        return b"".join(pieces)


_ROOT = [_flags(b"\x85\x01", flags | _HAS_IS_REMOTE) for flags in range(4)]
_REMOTE = [_flags(b"\x85\x01", flags | _HAS_IS_REMOTE | _IS_REMOTE) for flags in range(4)]


def _ids(parent: TraceContext, span_id: str) -> bytes:
    found = b"\x0a\x10" + bytes.fromhex(parent.trace_id) + b"\x12\x08" + bytes.fromhex(span_id)
    if parent.state:
        found += field(b"\x1a", parent.state.encode())
    if parent.parent_id:
        found += b"\x22\x08" + bytes.fromhex(parent.parent_id)
    return found


def _remote(parent: TraceContext) -> bytes:
    """The flags of a span whose parent, if it has one, is in another process."""
    return _flags(b"\x85\x01", parent.flags | (_HAS_IS_REMOTE | _IS_REMOTE if parent.parent_id else _HAS_IS_REMOTE))


def _local(parent: TraceContext) -> bytes:
    return _flags(b"\x85\x01", parent.flags | _HAS_IS_REMOTE)


def _link(link: TraceContext) -> bytes:
    found = b"\x0a\x10" + bytes.fromhex(link.trace_id) + b"\x12\x08" + bytes.fromhex(link.parent_id)
    return found + (field(b"\x1a", link.state.encode()) if link.state else b"") + b"\x35" + _fixed32(link.flags)


def _outcome(what: tuple[str, str, int], error: str) -> bytes:
    """Name, kind, status, and the attributes of a request that many have in common."""
    method, route, status = what
    websocket = method == "WEBSOCKET"
    sent = "GET" if websocket else method
    shown = sent if sent in KNOWN_METHODS else "HTTP"
    attributes: dict[str, Value] = {"http.request.method": sent if sent in KNOWN_METHODS else "_OTHER"}
    if sent not in KNOWN_METHODS:
        attributes["http.request.method_original"] = sent
    if route != UNMATCHED:
        attributes["http.route"] = route
    if websocket:
        attributes["network.protocol.name"] = "websocket"
    if status:
        attributes["http.response.status_code"] = status
    failed = status >= 500 or bool(error)
    if failed:
        attributes["error.type"] = error or str(status)
    name = f"{shown} {route}" if route != UNMATCHED else shown
    found = field(b"\x2a", name.encode("utf-8", "replace")) + b"\x30" + varint(SpanKind.SERVER)
    found += b"".join(field(b"\x4a", attribute(name, value)) for name, value in attributes.items())
    return found + (field(b"\x7a", _ERROR) if failed else b"")
