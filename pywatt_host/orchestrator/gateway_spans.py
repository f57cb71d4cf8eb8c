"""The spans of the gateway: one of each request, and below it one of each request to a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pywatt_host.observability.context import TraceContext, read_trace
from pywatt_host.observability.metrics import KNOWN_METHODS
from pywatt_host.observability.spans import AnySpan, AnyTracer, SpanKind, Value
from pywatt_host.orchestrator.replica import Replica
from pywatt_host.orchestrator.upstream import Address
from pywatt_host.types import Headers, Message, Scope, Send

_TRACE_FIELDS = (b"traceparent", b"tracestate")


class GatewaySpans:
    """Makes them with a tracer. Where tracing is off, requests go through as they are."""

    def __init__(self, tracer: AnyTracer) -> None:
        self._tracer = tracer

    @contextmanager
    def of_client(self, scope: Scope, send: Send, route: str) -> Iterator[Send]:
        """The server span of a request, below the span of its client. `route` is the template of the module, below the
        prefix; empty where no module serves the path. Gives the `send` that tells the span how the request ends."""
        if not self._tracer.enabled:
            yield send
            return
        method, _ = _method(scope)
        attributes: dict[str, Value] = {**_request(scope), "url.scheme": scope["scheme"]}
        if client := scope.get("client"):
            attributes["client.address"] = client[0]
        if route:
            attributes["http.route"] = route
        name = f"{method} {route}" if route else method
        parent = _caller(scope)
        with self._tracer.span(name, SpanKind.SERVER, attributes, parent=parent, root=parent is None) as span:
            yield _told(span, send, SpanKind.SERVER)

    @contextmanager
    def to_module(self, scope: Scope, target: bytes, replica: Replica, send: Send) -> Iterator[tuple[AnySpan, Send]]:
        """The span of the request to a replica. `target` is what it is asked for."""
        if not self._tracer.enabled:
            yield self._tracer.span(""), send
            return
        method, _ = _method(scope)
        path = target.partition(b"?")[0].decode("latin-1")
        attributes: dict[str, Value] = {**_request(scope), "url.path": path, "pywatt.module": replica.module}
        if replica.announce is not None:
            attributes |= _server(replica.announce.listen)
        with self._tracer.span(method, SpanKind.CLIENT, attributes) as span:
            yield span, _told(span, send, SpanKind.CLIENT)


def with_trace(headers: Headers, span: AnySpan) -> Headers:
    """The headers with the span as the parent of what the module does. Without any trace they are as they were."""
    place = span.place
    if place is None:
        return headers
    kept = [(name, value) for name, value in headers if name.lower() not in _TRACE_FIELDS]
    kept.append((b"traceparent", place.traceparent().encode()))
    return [*kept, (b"tracestate", place.state.encode("latin-1"))] if place.state else kept


def _method(scope: Scope) -> tuple[str, bool]:
    method = scope.get("method", "GET")  # that of a WebSocket handshake
    return (method, True) if method in KNOWN_METHODS else ("HTTP", False)


def _request(scope: Scope) -> dict[str, Value]:
    method, known = _method(scope)
    found: dict[str, Value] = {"http.request.method": method if known else "_OTHER", "url.path": scope["path"]}
    if not known:
        found["http.request.method_original"] = scope["method"]
    if scope["type"] == "websocket":
        found["network.protocol.name"] = "websocket"
    return found


def _server(listen: str) -> dict[str, Value]:
    """Where the replica listens: host and port, or the path of a Unix socket."""
    address = Address.parse(listen)
    if address is None:
        return {}
    if address.path is not None:
        return {"server.address": address.path}
    return {"server.address": address.host, "server.port": address.port}


def _caller(scope: Scope) -> TraceContext | None:
    """The trace of the client. As at the edge of a host, several `traceparent` fields are no trace, and several
    `tracestate` fields are one (W3C Trace Context)."""
    headers: Headers = scope["headers"]
    parents, states = ([value for name, value in headers if name == field] for field in _TRACE_FIELDS)
    return read_trace(b",".join(parents), b",".join(states)) if parents else None


def _told(span: AnySpan, send: Send, kind: SpanKind) -> Send:
    """A `send` that tells the span the status. For a client, 4xx is an error too (semantic conventions for HTTP)."""
    if not span.recorded:
        return send
    lowest = 500 if kind is SpanKind.SERVER else 400

    async def told(message: Message) -> None:
        status = _status(message)
        if status:
            span.set("http.response.status_code", status)
            if status >= lowest:
                span.fail(str(status))
        await send(message)

    return told


def _status(message: Message) -> int:
    match message["type"]:
        case "http.response.start" | "websocket.http.response.start":
            return int(message["status"])
        case "websocket.accept":
            return 101
    return 0
