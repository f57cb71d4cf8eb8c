"""The spans of requests and WebSockets (OpenTelemetry semantic conventions for HTTP, stable since 1.23)."""

from __future__ import annotations

from collections.abc import Iterable

from pywatt_host.http.exchange import Exchange
from pywatt_host.observability.context import TraceContext
from pywatt_host.observability.spans import Tracer

_new, _Trace = tuple.__new__, TraceContext  # as TraceContext(...), which takes three times as long


class RequestSpans:
    """Makes the server span of each request that the edge sees. Probes and scrapes have none."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._ids, self._everything = tracer.ids, tracer.everything
        self._follows_app = tracer.app_spans.present

    def begin(self, exchange: Exchange) -> None:
        """Give a request its place in a trace: below its caller's span, else in a trace that begins here."""
        ids = self._ids.pop() if self._ids else self._tracer.new_ids()
        if exchange.trace is None:
            exchange.trace = (
                _new(_Trace, (ids[:32], "", 3, "")) if self._everything else self._tracer.new_trace(ids[:32])
            )
        exchange.span_id = ids[32:]
        if self._follows_app:
            exchange.entered = self.enter

    def enter(self, exchange: Exchange) -> None:
        """The application is about to be called, in the current context."""
        trace = exchange.trace
        assert trace is not None
        self._tracer.app_spans.enter(TraceContext(trace.trace_id, exchange.span_id, trace.flags, trace.state))

    def record(self, exchanges: Iterable[Exchange]) -> None:
        """Record requests that have finished."""
        add = self._tracer.buffer.add
        for exchange in exchanges:
            trace = exchange.trace
            if trace is None or not trace.flags & 1 or not exchange.span_id:
                continue  # not sampled, or it could not be read as a request
            scope = exchange.scope
            host = agent = b""
            for name, value in scope["headers"]:
                if name == b"host":
                    host = value
                    if agent:
                        break
                elif name == b"user-agent":
                    agent = value
                    if host:
                        break
            add(
                (
                    "request",
                    trace,
                    exchange.span_id,
                    exchange.begun,
                    exchange.seconds,
                    (exchange.method, exchange.plan.route, exchange.status),
                    exchange.path,
                    scope["query_string"],
                    (exchange.client, host, agent, scope["scheme"], scope["http_version"]),
                    exchange.error_type,
                )
            )
