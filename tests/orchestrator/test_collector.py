"""The collector of `up`: who may send what, and which traces are kept."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import pytest

from pywatt_host.observability.context import TraceContext
from pywatt_host.observability.otlp import SpanEncoder, resource_spans
from pywatt_host.observability.protobuf import ProtobufError
from pywatt_host.observability.spans import SpanBuffer, SpanKind, Tracer
from pywatt_host.orchestrator import collector as module
from pywatt_host.orchestrator.collector import CollectorApp
from pywatt_host.orchestrator.kept_traces import KeptTraces
from tests.hosting import Call, run

TOKEN = "t" * 40
GOOD = {"x-pywatt-token": TOKEN, "content-type": "application/x-protobuf"}


def export(trace: str, *names: str, service: str = "users", parent: str = "") -> bytes:
    """An encoded export with spans of one trace, each below the one before."""
    buffer = SpanBuffer()
    tracer = Tracer(buffer)
    place = TraceContext(trace, parent, 1)
    spans = []
    for name in names:
        span: Any = tracer.span(name, SpanKind.SERVER, parent=place)
        spans.append(span)
        place = span.place
    for span in reversed(spans):
        if span._name.startswith("bad"):
            span.fail("Boom")
        span.end()
    return resource_spans({"service.name": service}, "1", SpanEncoder().encode(buffer.take()))


def trace_id(number: int) -> str:
    return f"{number:032x}"


async def answered(
    app: CollectorApp, body: bytes = b"", method: str = "POST", path: str = "/v1/traces", **more: str
) -> int:
    headers = {**GOOD, **{name.replace("_", "-"): value for name, value in more.items()}}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    return (await Call(app, scope, [body]).answer()).status


def test_only_spans_of_a_holder_of_the_token_are_taken() -> None:
    async def main() -> None:
        taken: list[bytes] = []

        async def take(body: bytes) -> None:
            taken.append(body)

        app = CollectorApp(TOKEN, take)
        assert await answered(app, b"x", x_pywatt_token="wrong") == 401
        assert await answered(app, b"x", x_pywatt_token="") == 401
        assert await answered(app, b"x", path="/v1/metrics") == 404
        assert await answered(app, method="GET") == 405
        assert await answered(app, b"{}", content_type="application/json") == 415
        assert await answered(app, b"x", content_encoding="zstd") == 415
        assert taken == []
        assert await answered(app, b"a") == 200
        assert await answered(app, b"b", content_type="Application/X-Protobuf; x=y") == 200
        assert await answered(app, gzip.compress(b"c"), content_encoding="gzip") == 200
        assert taken == [b"a", b"b", b"c"]

    run(main)


def test_what_is_too_long_or_no_export_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async def refuse(body: bytes) -> None:
            raise ProtobufError("no")

        monkeypatch.setattr(module, "_MOST_BYTES", 1000)
        app = CollectorApp(TOKEN, refuse)
        assert await answered(app, bytes(1001)) == 413
        assert await answered(app, gzip.compress(bytes(10**6)), content_encoding="gzip") == 413
        assert await answered(app, b"not gzip", content_encoding="gzip") == 400
        assert await answered(app, gzip.compress(b"x" * 100)[:-10], content_encoding="gzip") == 400
        assert await answered(app, b"x") == 400

    run(main)


def test_a_compressed_body_is_never_unpacked_beyond_the_limit() -> None:
    bomb = zlib.compress(bytes(200 * 1024**2), wbits=16 + zlib.MAX_WBITS)
    assert module._decompressed(bomb) is None


def test_traces_are_listed_by_their_root_the_newest_first() -> None:
    kept = KeptTraces()
    assert kept.add(export(trace_id(1), "GET /a", "SELECT")) == 2
    kept.add(export(trace_id(2), "bad GET /b"))
    kept.add(export(trace_id(1), "GET /c", service="billing", parent="1" * 16))
    found = kept.listed()()
    second, first = found["traces"]
    assert (second["trace_id"], second["name"], second["errors"]) == (trace_id(2), "bad GET /b", 1)
    assert (first["name"], first["service"], first["services"], first["spans"], first["errors"]) == (
        "GET /a", "users", ["billing", "users"], 3, 0,
    )  # fmt: skip
    assert 0 <= first["duration"] < 60
    assert [each["trace_id"] for each in kept.listed(1)()["traces"]] == [trace_id(2)]
    spans = kept.spans_of(trace_id(1))
    assert spans is not None
    names = {span["span_id"]: span["name"] for span in spans()["spans"]}
    assert [(span["name"], names.get(span["parent_id"])) for span in spans()["spans"]] == [
        ("GET /a", None), ("SELECT", "GET /a"), ("GET /c", None),
    ]  # fmt: skip
    assert kept.spans_of("0" * 32) is None


def test_a_trace_whose_root_is_elsewhere_is_named_by_its_first_span() -> None:
    kept = KeptTraces()
    kept.add(export(trace_id(1), "consume", "SELECT", parent="7" * 16))
    assert kept.listed()()["traces"][0]["name"] == "consume"


def test_the_oldest_traces_go_first_by_number_and_by_size() -> None:
    kept = KeptTraces(spans=10)
    for number in range(1, 8):
        kept.add(export(trace_id(number), "a", "b"))
    assert [int(each["trace_id"], 16) for each in kept.listed()()["traces"]] == [7, 6, 5, 4, 3]
    assert kept.dropped == 4
    kept = KeptTraces(most_bytes=20_000)
    for number in range(1, 30):
        kept.add(export(trace_id(number), "x" * 2000))
    assert 5 < len(kept.listed()()["traces"]) < 10
    assert kept._bytes <= 20_000


def test_one_trace_keeps_a_bounded_number_of_spans() -> None:
    kept = KeptTraces()
    piece = export(trace_id(1), *map(str, range(500)))
    for _ in range(5):
        kept.add(piece)
    assert (kept.listed()()["traces"][0]["spans"], kept.dropped) == (2000, 500)


def test_an_export_that_is_cut_keeps_nothing() -> None:
    kept = KeptTraces()
    with pytest.raises(ProtobufError):
        kept.add(export(trace_id(1), "a", "b")[:-3])
    assert kept.listed()() == {"traces": [], "dropped": 0}


def test_resources_count_and_are_kept_once() -> None:
    kept = KeptTraces(most_bytes=10**6)
    for number in range(100):
        kept.add(export(trace_id(number), "GET /a", service="x" * 4000 + str(number % 3)))
    assert len(kept._resources) <= 3
    for number in range(100, 500):
        kept.add(export(trace_id(number), "GET /a", service="x" * 4000 + str(number)))
    assert kept._bytes <= 10**6
    assert kept._bytes >= sum(map(len, kept._resources))
    assert kept.dropped > 0
