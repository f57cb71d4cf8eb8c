"""The spans of requests and WebSockets (OpenTelemetry semantic conventions for HTTP, stable since 1.23)."""

from __future__ import annotations

from collections.abc import Iterable
from time import time

from pywatt_host.http.exchange import Exchange
from pywatt_host.observability.context import TraceContext
from pywatt_host.observability.spans import Tracer

_new, _Trace = tuple.__new__, TraceContext  # as TraceContext(...), which takes three times as long


class RequestSpans:
    """Makes the server span of each request that the edge sees. Probes and scrapes have none."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._ids, self._everything = tracer.ids, tracer.everything
        self._decides = not tracer.parent_based
        self._follows_app = tracer.app_spans.present

    def begin(self, exchange: Exchange) -> None:
        """Give a request its place in a trace: below its caller's span, else in a trace that begins here."""
        ids = self._ids.pop() if self._ids else self._tracer.new_ids()
        if exchange.trace is None:
            exchange.trace = (
                _new(_Trace, (ids[:32], "", 3, "")) if self._everything else self._tracer.new_trace(ids[:32])
            )
        elif self._decides:
            exchange.trace = self._tracer.decided(exchange.trace)
        exchange.span_id = ids[32:]
        if self._follows_app:
            exchange.entered = self.enter

    def enter(self, exchange: Exchange) -> None:
        """The application is about to be called, in the current context."""
        trace = exchange.trace
        assert trace is not None
        self._tracer.app_spans.enter(TraceContext(trace.trace_id, exchange.span_id, trace.flags, trace.state))

    def record(self, exchanges: Iterable[Exchange]) -> None:
        """Count requests that have finished, and record those of sampled traces."""
        add, now = self._tracer.buffer.add, time()
        for exchange in exchanges:
            trace, span_id, seconds, plan = exchange.trace, exchange.span_id, exchange.seconds, exchange.plan
            method, status = exchange.method, exchange.status
            if trace is None or not trace[2] & 1 or not span_id:  # a request that cannot be read has no span
                if method != "WEBSOCKET":
                    plan.cells.observe(method, status, seconds)
                continue
            if method != "WEBSOCKET":
                plan.cells.observe_traced(method, status, (trace[0], span_id, seconds, now))
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
                    span_id,
                    exchange.begun,
                    seconds,
                    (method, plan.route, status),
                    exchange.path,
                    scope.get("query_string", b""),
                    (exchange.client, host, agent, scope.get("scheme", "http"), scope.get("http_version", "1.1")),
                    exchange.error_type,
                )
            )
