"""Spans that the application makes with OpenTelemetry hang below those of the host, and the other way round."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import context as otel_context
from opentelemetry import propagate
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pywatt_host.observability.context import TraceContext
from pywatt_host.observability.spans import SpanBuffer, SpanKind, Tracer

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class App:
    """An application with the SDK of OpenTelemetry."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("app")

    def ended(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def tracer() -> Iterator[Tracer]:
    made = Tracer(SpanBuffer())
    made.follow_app()
    assert made.app_spans.present
    token = otel_context.attach(otel_context.Context())
    yield made
    otel_context.detach(token)


def test_a_span_of_the_application_hangs_below_the_hosts(tracer: Tracer) -> None:
    app = App()
    span = tracer.span("handler", SpanKind.CONSUMER, parent=TraceContext(TRACE, PARENT, 1, "a=1"))
    span.begin()
    with app.tracer.start_as_current_span("work"):
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
    span.end()
    (work,) = app.ended()
    (record,) = tracer.buffer.take()
    assert work.parent is not None
    assert f"{work.parent.span_id:016x}" == record[2]
    assert f"{work.context.trace_id:032x}" == TRACE
    assert carrier["tracestate"] == "a=1"


def test_a_trace_that_is_not_sampled_is_not_sampled_in_the_application(tracer: Tracer) -> None:
    app = App()
    tracer.app_spans.enter(TraceContext(TRACE, PARENT, 0))
    with app.tracer.start_as_current_span("work"), tracer.span("query") as query:
        assert not query.recorded
    assert not app.ended()
    assert not tracer.buffer.take()


def test_a_span_of_the_host_hangs_below_the_applications(tracer: Tracer) -> None:
    app = App()
    tracer.app_spans.enter(TraceContext(TRACE, PARENT, 1))
    with (
        app.tracer.start_as_current_span("work") as work,
        tracer.span("query", SpanKind.CLIENT),
        tracer.span("wait"),
    ):
        pass
    wait, query = tracer.buffer.take()
    assert query[1].trace_id == TRACE
    assert query[1].parent_id == f"{work.get_span_context().span_id:016x}"
    assert wait[1].parent_id == query[2]


def test_nothing_of_opentelemetry_is_imported_by_itself() -> None:
    code = (
        "import sys; from pywatt_host.observability.spans import *; tracer = Tracer(SpanBuffer()); tracer.follow_app();"
        "assert not tracer.app_spans.present; assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
