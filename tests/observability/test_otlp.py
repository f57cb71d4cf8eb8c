"""What is exported, read with the official definitions of OTLP."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

from pywatt_host.observability.context import TraceContext
from pywatt_host.observability.otlp import SpanEncoder, resource_spans
from pywatt_host.observability.spans import Record, SpanBuffer, SpanKind, Tracer, Value

TRACE, PARENT, OWN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
ROOT = TraceContext(TRACE, "", 3)


def decoded(*records: Record, encoder: SpanEncoder | None = None) -> list[Any]:
    encoded = (encoder or SpanEncoder()).encode(records)
    request = ExportTraceServiceRequest.FromString(resource_spans({"service.name": "users"}, "1.2", encoded))
    (resource,) = request.resource_spans
    (scope,) = resource.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("pywatt-host", "1.2")
    return list(scope.spans)


def attributes(span: Any) -> dict[str, Any]:
    found = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    assert len(found) == len(span.attributes)
    return found


def request(
    method: str = "GET",
    route: str = "/users/{id}",
    status: int = 200,
    *,
    path: str = "/users/7",
    query: bytes = b"",
    host: bytes = b"users.example:8443",
    agent: bytes = b"curl/8",
    scheme: str = "https",
    error: str = "",
    trace: TraceContext = ROOT,
    begun: float | None = None,
) -> Record:
    who = ("203.0.113.9", host, agent, scheme, "1.1")
    begun = time.perf_counter() if begun is None else begun
    return ("request", trace, OWN, begun, 0.25, (method, route, status), path, query, who, error)


def test_the_span_of_a_request_has_the_attributes_of_the_conventions() -> None:
    (span,) = decoded(request())
    assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()) == (TRACE, OWN, "")
    assert span.name == "GET /users/{id}"
    assert span.kind == trace_pb2.Span.SPAN_KIND_SERVER
    assert attributes(span) == {
        "http.request.method": "GET",
        "http.route": "/users/{id}",
        "http.response.status_code": 200,
        "url.scheme": "https",
        "url.path": "/users/7",
        "network.protocol.version": "1.1",
        "client.address": "203.0.113.9",
        "server.address": "users.example",
        "server.port": 8443,
        "user_agent.original": "curl/8",
    }
    assert span.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert span.end_time_unix_nano - span.start_time_unix_nano == 250_000_000
    assert abs(span.start_time_unix_nano / 1e9 - time.time()) < 60
    assert span.flags == 0x103  # sampled and random; no parent in another process


def test_the_span_of_a_caller_is_the_parent_in_another_process() -> None:
    (span,) = decoded(request(trace=TraceContext(TRACE, PARENT, 1, "a=1")))
    assert span.parent_span_id.hex() == PARENT
    assert span.trace_state == "a=1"
    assert span.flags == 0x301


@pytest.mark.parametrize(
    ("record", "name", "expected", "code"),
    [
        (request(status=404), "GET /users/{id}", {"http.response.status_code": 404}, 0),
        (request(status=503), "GET /users/{id}", {"error.type": "503"}, 2),
        (request(status=500, error="KeyError"), "GET /users/{id}", {"error.type": "KeyError"}, 2),
        (request(route="unmatched", status=404), "GET", {"http.route": None}, 0),
        (request("BREW"), "HTTP /users/{id}", {"http.request.method": "_OTHER"}, 0),
        (request("BREW"), "HTTP /users/{id}", {"http.request.method_original": "BREW"}, 0),
        (
            request("WEBSOCKET", "/ws", 101, scheme="wss"),
            "GET /ws",
            {"network.protocol.name": "websocket", "http.request.method": "GET", "url.scheme": "wss"},
            0,
        ),
        (request(query=b"key=s3cret&x"), "GET /users/{id}", {"url.query": "key=REDACTED&REDACTED"}, 0),
        (request(query=b"a-bare-token"), "GET /users/{id}", {"url.query": "REDACTED"}, 0),
        (request(host=b"[::1]:80"), "GET /users/{id}", {"server.address": "::1", "server.port": 80}, 0),
        (request(host=b"users.example"), "GET /users/{id}", {"server.port": 443}, 0),
        (request(host=b"", agent=b""), "GET /users/{id}", {"server.address": None, "user_agent.original": None}, 0),
    ],
)  # fmt: skip
def test_requests_of_all_kinds(record: Record, name: str, expected: dict[str, Any], code: int) -> None:
    (span,) = decoded(record)
    found = attributes(span)
    assert span.name == name
    assert {key: found.get(key) for key in expected} == expected
    assert span.status.code == code


def test_any_other_span() -> None:
    tracer = Tracer(SpanBuffer())
    values: dict[str, Value] = {
        "text": "a",
        "whole": 3,
        "negative": -5,
        "real": 1.5,
        "yes": True,
        "no": False,
        "list": ["a", "b"],
    }
    with (
        tracer.span("outer"),
        tracer.span("SELECT users", SpanKind.CLIENT, values, links=[TraceContext(TRACE, PARENT, 1)]) as span,
    ):
        span.set("more", "b")
        span.fail("Timeout", "no answer within 5 s")
    inner, outer = decoded(*tracer.buffer.take())
    assert inner.parent_span_id == outer.span_id
    assert inner.trace_id == outer.trace_id
    assert attributes(inner) == {**values, "more": "b", "error.type": "Timeout"}
    assert (inner.status.code, inner.status.message) == (2, "no answer within 5 s")
    assert inner.kind == trace_pb2.Span.SPAN_KIND_CLIENT
    assert inner.flags == 0x103
    (link,) = inner.links
    assert (link.trace_id.hex(), link.span_id.hex(), link.flags) == (TRACE, PARENT, 1)
    assert (
        outer.start_time_unix_nano <= inner.start_time_unix_nano <= inner.end_time_unix_nano <= outer.end_time_unix_nano
    )


def test_what_is_remembered_is_not_mixed_up() -> None:
    encoder = SpanEncoder()
    records = [
        request(status=status, path=f"/users/{number}", error=error)
        for number in range(20)
        for status, error in ((200, ""), (500, "KeyError"), (500, ""))
    ]
    spans = decoded(*records, *records, encoder=encoder)
    assert [attributes(span)["url.path"] for span in spans] == [record[6] for record in records] * 2
    assert [attributes(span).get("error.type") for span in spans] == [None, "KeyError", "500"] * 40


def test_secrets_are_masked_and_long_texts_are_cut() -> None:
    secret = "hunter2-hunter2"
    encoder = SpanEncoder(lambda text: text.replace(secret, "***"), longest=20)
    tracer = Tracer(SpanBuffer())
    with tracer.span(f"name {secret}", attributes={"a": f"x{secret}", "b": "y" * 100}) as span:
        span.fail("Error", f"told {secret}")
    spans = decoded(request(path=f"/{secret}"), *tracer.buffer.take(), encoder=encoder)
    assert attributes(spans[0])["url.path"] == "/***"
    assert attributes(spans[1]) == {"a": "x***", "b": "y" * 20, "error.type": "Error"}
    assert secret not in str(spans)


def test_exports_can_be_joined() -> None:
    one, two = (
        resource_spans({"service.name": name, "process.pid": 7}, "1", SpanEncoder().encode([request()]))
        for name in ("a", "b")
    )
    found = ExportTraceServiceRequest.FromString(one + two)
    assert [each.resource.attributes[0].value.string_value for each in found.resource_spans] == ["a", "b"]
    assert found.resource_spans[0].resource.attributes[1].value.int_value == 7


texts = st.text(max_size=300)


@given(
    st.dictionaries(texts, texts | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.lists(texts), max_size=5),
    texts,
)
def test_whatever_a_span_holds_can_be_read(values: dict[str, Any], name: str) -> None:
    tracer = Tracer(SpanBuffer())
    with tracer.span(name, attributes=values):
        pass
    (span,) = decoded(*tracer.buffer.take())
    assert span.name == name
    assert attributes(span) == values


@given(st.binary(max_size=400), st.binary(max_size=300), st.binary(max_size=300), texts)
def test_whatever_a_client_sends_can_be_read(query: bytes, host: bytes, agent: bytes, path: str) -> None:
    (span,) = decoded(request(query=query, host=host, agent=agent, path=path))
    assert attributes(span)["url.path"] == path


def test_a_response_that_could_not_be_completed_is_an_error() -> None:
    for record in (request(status=200, error="KeyError"), request("WEBSOCKET", "/ws", 101, error="KeyError")):
        (span,) = decoded(record)
        assert (span.status.code, attributes(span)["error.type"]) == (2, "KeyError")


def test_long_and_odd_texts_of_clients_are_not_kept() -> None:
    encoder = SpanEncoder()
    for number in range(50):
        encoder.encode(
            [request(f"ODD{number}", agent=b"%d" % number + bytes(5000), path="/" + "x" * 5000 + str(number))]
        )
    assert not encoder._clients
    assert not encoder._outcomes
    assert not encoder._paths
