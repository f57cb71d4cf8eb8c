"""The spans of requests: their names, their parents, and the ids in logs and in what the application sends on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from pywatt_host.observability.context import active_trace, outgoing_trace
from pywatt_host.types import Receive, Scope, Send
from tests.collector import Collector, collecting
from tests.hosting import Recorder, hello, hosted, run, websocket

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
LISTED: dict[str, Any] = {"endpoints": [{"path": "/users/{id}", "methods": ["GET", "PUT"]}, {"path": "/boom"}]}


@pytest.fixture(scope="module")
def shared() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def collector(shared: Collector) -> Collector:
    shared._spans.clear()
    return shared


def traced(collector: Collector, **more: Any) -> dict[str, Any]:
    return {"tracing": collector.url, **more}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Logs, and answers what it would send on."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        return
    assert scope["type"] == "http"
    if scope["path"] == "/boom":
        raise LookupError("lost")
    logging.getLogger("app").warning("at work")
    trace = outgoing_trace()
    body = " ".join(trace).encode() if trace is not None else b""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def test_a_request_is_a_span_with_the_template_of_its_endpoint(collector: Collector) -> None:
    async def main() -> None:
        async with hosted(traced(collector, **LISTED), hello) as host:
            await host.get("/users/7", headers={"host": "users.example", "user-agent": "curl/8"}, query_string=b"a=1")
            await host.request("DELETE", "/users/7")
            await host.get("/nowhere")
            await host.get("/a//b")

    run(main)
    get, delete, *other = collector.spans()
    assert (get.name, get.kind, get.parent, get.failed) == ("GET /users/{id}", "server", "", False)
    assert get.attributes == {
        "http.request.method": "GET",
        "http.route": "/users/{id}",
        "http.response.status_code": 200,
        "url.path": "/users/7",
        "url.query": "a=REDACTED",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "client.address": "203.0.113.9",
        "server.address": "users.example",
        "server.port": 80,
        "user_agent.original": "curl/8",
    }
    assert (delete.name, delete.attributes["http.response.status_code"]) == ("DELETE /users/{id}", 405)
    assert [(span.name, span.attributes["http.response.status_code"]) for span in other] == [("GET", 404), ("GET", 400)]


def test_the_span_of_the_caller_is_the_parent_and_the_state_is_passed_on(collector: Collector) -> None:
    async def main() -> None:
        async with hosted(traced(collector), app) as host:
            answer = await host.get("/", headers=SAMPLED)
            traceparent, tracestate = answer.body.decode().split()
            _, trace_id, span_id, flags = traceparent.split("-")
            assert (trace_id, flags, tracestate) == (TRACE, "01", "vendor=1")
            (line,) = host.access()
            own = host.logs("app")[-1]
            assert line["trace_id"] == own["trace_id"] == TRACE
            assert line["span_id"] == own["span_id"] == span_id

    run(main)
    (span,) = collector.spans()
    assert (span.trace, span.parent, span.state) == (TRACE, PARENT, "vendor=1")


@pytest.mark.parametrize("flags", ["00", "02"])
def test_a_caller_that_does_not_sample_is_followed(collector: Collector, flags: str) -> None:
    async def main() -> None:
        async with hosted(traced(collector), app) as host:
            answer = await host.get("/", headers={"traceparent": f"00-{TRACE}-{PARENT}-{flags}"})
            assert answer.body.decode().split()[0].endswith(f"-{flags}")
            assert host.access()[0]["trace_id"] == TRACE

    run(main)
    assert not collector.spans()


def test_a_traceparent_that_is_not_valid_begins_a_trace(collector: Collector) -> None:
    async def main() -> None:
        async with hosted(traced(collector), app) as host:
            await host.get("/", headers={"traceparent": "00-forged", "tracestate": "vendor=1"})
            await host.get("/", headers=[("traceparent", SAMPLED["traceparent"])] * 2)

    run(main)
    spans = collector.spans()
    assert [span.parent for span in spans] == ["", ""]
    assert len({span.trace for span in spans} | {TRACE}) == 3
    assert not any(span.state for span in spans)


def test_what_an_application_raises_makes_the_span_an_error(collector: Collector) -> None:
    async def main() -> None:
        async with hosted(traced(collector), app) as host:
            assert (await host.get("/boom")).status == 500
            errors = [record for record in host.logs("pywatt.app") if record["level"] == "error"]
            assert errors[0]["trace_id"] == host.access()[0]["trace_id"]

    run(main)
    (span,) = collector.spans()
    assert span.failed
    assert span.attributes["error.type"] == "LookupError"


def test_a_websocket_is_one_span(collector: Collector) -> None:
    async def main() -> None:
        manifest = traced(collector, endpoints=[{"path": "/ws", "methods": ["WEBSOCKET"]}])
        async with hosted(manifest, app) as host:
            await websocket(host.app, "/ws", headers=list(SAMPLED.items()))

    run(main)
    (span,) = collector.spans()
    assert (span.name, span.trace, span.parent) == ("GET /ws", TRACE, PARENT)
    assert span.attributes["http.response.status_code"] == 101
    assert span.attributes["url.scheme"] == "ws"


def test_probes_and_scrapes_have_no_spans(collector: Collector) -> None:
    async def main() -> None:
        async with hosted(traced(collector, metrics=True), Recorder()) as host:
            for path in ("/health", "/livez", "/readyz", "/metrics"):
                await host.get(path)

    run(main)
    assert not collector.spans()


def test_without_metrics_and_access_log_requests_are_spans_all_the_same(collector: Collector) -> None:
    async def main() -> None:
        async with hosted(traced(collector, logging={"access": False}), hello) as host:
            await host.get("/")

    run(main)
    assert len(collector.spans()) == 1


def test_buckets_have_the_trace_of_a_request_that_is_in_them(collector: Collector) -> None:
    async def main() -> None:
        async with hosted(traced(collector, metrics=True), app) as host:
            await host.get("/", headers=SAMPLED)
            await host.get("/", headers={"traceparent": f"00-{TRACE[::-1]}-{PARENT}-00"})
            text = (await host.get("/metrics", headers={"accept": "application/openmetrics-text"})).body.decode()
            plain = (await host.get("/metrics")).body.decode()
            assert TRACE not in plain
            families = list(openmetrics(text))  # type: ignore[no-untyped-call]
            found = [sample.exemplar for family in families for sample in family.samples if sample.exemplar]
            (exemplar,) = found
            assert exemplar.labels == {"trace_id": TRACE, "span_id": host.access()[0]["span_id"]}

    run(main)


def test_without_tracing_there_are_no_spans_and_the_trace_passes_through() -> None:
    async def main() -> None:
        async with hosted({}, app) as host:
            answer = await host.get("/", headers=SAMPLED)
            traceparent, tracestate = answer.body.decode().split()
            assert traceparent.startswith(f"00-{TRACE}-")
            assert tracestate == "vendor=1"
            (line,) = host.access()
            assert line["trace_id"] == TRACE
            assert "span_id" not in line
            assert (await host.get("/")).body == b""
            assert active_trace() is None

    run(main)


def test_a_scope_without_optional_keys_is_a_span_and_a_line_of_the_log_all_the_same(collector: Collector) -> None:
    async def main() -> None:
        async with hosted(traced(collector), hello) as host:
            call = host.start("GET", "/a")
            for key in ("scheme", "http_version", "query_string"):
                call.scope.pop(key)
            await call.answer()
            await host.get("/b")
            assert [line["path"] for line in host.access()] == ["/a", "/b"]

    run(main)
    assert [span.attributes["url.path"] for span in collector.spans()] == ["/a", "/b"]
