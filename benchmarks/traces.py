"""What tracing costs: the processor time of one span, and the throughput of a host that traces."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time
from typing import Any

from benchmarks.server import started
from benchmarks.stacks import APPS, HostRun, Stack, Workload
from benchmarks.throughput import Comparison, Settings, compare
from pywatt_host.http.exchange import Plan
from pywatt_host.http.spans import RequestSpans
from pywatt_host.observability.context import TraceContext
from pywatt_host.observability.metrics import NoCells
from pywatt_host.observability.otlp import SpanEncoder
from pywatt_host.observability.spans import NoTracer, SpanBuffer, SpanKind, Tracer

OFF = "host, tracing off"
_BATCH = 512  # spans, as the exporter takes them
_TURN = 4  # requests that finish in one turn of the event loop
_PATHS = 100  # different ones
_SINK = Stack("collector", (f"{APPS}.otlp_sink", "{port}"), ())


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of processor time, the median over the rounds."""

    name: str
    microseconds: float


class _Exchange:
    """What a finished request has for its span."""

    def __init__(self, path: str) -> None:
        self.trace: TraceContext | None = None
        self.span_id = ""
        self.begun = perf_counter()
        self.seconds = 0.001
        self.method, self.status, self.path, self.client, self.error_type = "GET", 200, path, "127.0.0.1", ""
        self.plan = Plan("/users/{id}", NoCells())
        headers = [(b"host", b"127.0.0.1:8080"), (b"user-agent", b"wrk"), (b"accept", b"*/*")]
        self.scope = {"headers": headers, "scheme": "http", "query_string": b"", "http_version": "1.1"}
        self.entered: Any = None


def costs(rounds: int) -> list[Cost]:
    """What the span of a request costs, from the request's beginning to the encoded bytes, and what it costs where
    tracing is off."""
    exchanges: list[Any] = [_Exchange(f"/users/{number % _PATHS}") for number in range(_BATCH)]
    buffer = SpanBuffer(10 * _BATCH, 10 * _BATCH)
    tracer, off, encoder = Tracer(buffer), NoTracer(), SpanEncoder()
    spans = RequestSpans(tracer)

    def of_request() -> None:
        for exchange in exchanges:
            exchange.trace = None
            spans.begin(exchange)
        for start in range(0, _BATCH, _TURN):
            spans.record(exchanges[start : start + _TURN])
        encoder.encode(buffer.take())

    def of_call(tracer: Tracer | NoTracer) -> None:
        for _ in range(_BATCH):
            with tracer.span("SELECT users", SpanKind.CLIENT) as span:
                if span.recorded:
                    span.set("db.system.name", "sqlite")
        encoder.encode(buffer.take())

    nothing: RequestSpans | None = None

    def of_request_off() -> None:
        for exchange in exchanges:
            if nothing is not None:
                nothing.begin(exchange)
        for _ in range(0, _BATCH, _TURN):
            if nothing is not None:
                nothing.record(exchanges)

    def empty() -> None:
        for _exchange in exchanges:
            pass
        for _ in range(0, _BATCH, _TURN):
            pass

    rows: list[tuple[str, Callable[[], None]]] = [
        ("a request: recorded and encoded", of_request),
        ("a request: tracing off", of_request_off),
        ("a query or a call: recorded and encoded", lambda: of_call(tracer)),
        ("a query or a call: tracing off", lambda: of_call(off)),
    ]
    times: dict[str, list[float]] = {name: [] for name, _ in rows}
    gc.collect()
    gc.disable()  # what it costs is not that of a span
    try:
        for _ in range(10 * rounds):
            for name, run in rows:
                times[name].append(_seconds(run) - _seconds(empty))
    finally:
        gc.enable()
    return [Cost(name, median(found) / _BATCH * 1e6) for name, found in times.items()]


def _seconds(run: Callable[[], None]) -> float:
    began = thread_time()
    run()
    return thread_time() - began


def throughput(settings: Settings, folder: Path, say: Callable[[str], None], *, full: bool) -> Comparison:
    """A host without tracing and hosts that trace, all serving the same application in the same rounds; with
    everything else on, or with nothing."""
    with ExitStack() as stack:
        sink = stack.enter_context(started(_SINK, folder, settings.cores.load))
        sink.wait_ready()
        endpoint = f"http://127.0.0.1:{sink.port}"

        def host(name: str, tracing: str) -> Stack:
            run = HostRun(f"{APPS}.raw:app", full=full, tracing=tracing)
            return Stack(name, ("pywatt_host", "run", "{manifest}"), ("pywatt_host.__main__",), logs=full, host=run)

        rows = (
            host(OFF, "false"),
            host("host, all traces", f'"{endpoint}"'),
            host("host, one trace in ten", f'{{endpoint: "{endpoint}", sample: 0.1}}'),
        )
        title = f"traces, raw ASGI, {'everything' if full else 'nothing'} else on"
        return compare(Workload(title, "/", rows, (OFF,)), settings, folder, say)


def table(found: list[Cost]) -> str:
    lines = ["## a span", "", *(f"{cost.name.ljust(42)}{cost.microseconds:8.3f} us" for cost in found)]
    return "\n".join([*lines, ""])


def data(found: list[Cost]) -> dict[str, Any]:
    return {"title": "a span", "rows": [asdict(cost) for cost in found]}
