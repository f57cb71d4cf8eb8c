"""Reading OTLP: what our encoder writes, what the official definitions write, and what is no export at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pywatt_host.observability.context import TraceContext
from pywatt_host.observability.otlp import SpanEncoder, resource_spans
from pywatt_host.observability.otlp_reader import kept_spans, read_span
from pywatt_host.observability.protobuf import ProtobufError, fields
from pywatt_host.observability.spans import SpanBuffer, SpanKind, Tracer, Value

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_span_of_ours_is_read_as_it_was_recorded() -> None:
    buffer = SpanBuffer()
    tracer = Tracer(buffer)
    attributes: dict[str, Value] = {"text": "a", "flag": True, "number": -5, "ratio": 0.5, "list": ["x", "y"]}
    link = TraceContext("1" * 32, "2" * 16, 1)
    parent = TraceContext(TRACE, PARENT, 1)
    with tracer.span("SELECT users", SpanKind.CLIENT, attributes, parent=parent, links=[link]) as span:
        span.fail("Timeout", "it took too long")
    encoded = resource_spans({"service.name": "users"}, "1", SpanEncoder().encode(buffer.take()))
    (kept,) = kept_spans(encoded)
    assert kept.trace_id == TRACE
    found = read_span(kept)
    assert (found["service"], found["name"], found["kind"], found["parent_id"]) == (
        "users", "SELECT users", "client", PARENT,
    )  # fmt: skip
    assert found["attributes"] == {**attributes, "error.type": "Timeout"}
    assert (found["status"], found["error"]) == ("error", "it took too long")
    assert found["links"] == [{"trace_id": "1" * 32, "span_id": "2" * 16}]
    assert 0 <= found["end"] - found["start"] < 10
    assert found["resource"] == {"service.name": "users"}


def test_a_span_of_the_official_definitions_is_read_too() -> None:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    span = scope.spans.add()
    span.span_id, span.trace_id = b"\x01" * 8, b"\x02" * 16
    span.name, span.kind, span.status.code = "work", 5, 1
    event = span.events.add()
    event.time_unix_nano, event.name = 2_000_000_000, "exception"
    pair = event.attributes.add()
    pair.key, pair.value.string_value = "type", "E"
    pair = span.attributes.add()
    pair.key = "nested"
    inner = pair.value.kvlist_value.values.add()
    inner.key, inner.value.bytes_value = "b", b"\xff"
    (kept,) = kept_spans(request.SerializeToString())
    found = read_span(kept)
    assert (found["name"], found["kind"], found["status"], found["service"]) == ("work", "consumer", "ok", "")
    assert found["events"] == [{"time": 2.0, "name": "exception", "attributes": {"type": "E"}}]
    assert found["attributes"] == {"nested": {"b": "ff"}}


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # no length
        b"\x0a\x05abc",  # shorter than it says
        b"\x08",  # a number that ends
        b"\x08" + b"\xff" * 10 + b"\x01",  # a number that is too long
        b"\x0b",  # a group
        b"\x02\x00",  # the number 0
        b"\x0d\x00\x00",  # a fixed number that ends
        b"\x08\x01",  # resource_spans as a number
        b"\x0a\x04\x12\x02\x12\x00",  # a span without a trace
    ],
)
def test_what_is_no_export_is_refused(data: bytes) -> None:
    with pytest.raises(ProtobufError):
        list(kept_spans(data))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        for kept in kept_spans(data):
            read_span(kept)
        list(fields(data))
    except ProtobufError:
        pass


@given(st.recursive(st.binary(max_size=4), lambda inner: inner.map(lambda data: b"\x2a" + bytes([len(data)]) + data)))
def test_attributes_nest_as_deep_as_they_like(value: bytes) -> None:
    for _ in range(30):
        value = b"\x0a" + _length(value) + value
        value = b"\x2a" + _length(value) + value
    pair = b"\x0a\x01k\x12" + _length(value) + value
    span = b"\x0a\x10" + bytes(16) + b"\x4a" + _length(pair) + pair
    scope = b"\x12" + _length(span) + span
    resource = b"\x12" + _length(scope) + scope
    for kept in kept_spans(b"\x0a" + _length(resource) + resource):
        try:
            read_span(kept)
        except ProtobufError:
            pass


def _length(data: bytes) -> bytes:
    low, high = len(data) & 0x7F, len(data) >> 7
    return bytes([low | 0x80, high]) if high else bytes([low])
