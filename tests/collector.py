"""A collector of traces: takes OTLP over HTTP and reads it with the official definitions."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pywatt_host.observability.otlp import SpanEncoder, resource_spans
from pywatt_host.observability.spans import Tracer
from tests.hosting import PATIENCE

KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}


# What the names of spans of starts and reloads begin with.
_STARTS = ("start", "load ", "lifespan ", "hook ", "reload", "read the manifest", "fetch secrets", "import the code")


class Collected(NamedTuple):
    """A span that has arrived. Ids are hexadecimal; `parent` is empty at the beginning of a trace."""

    service: str
    trace: str
    id: str
    parent: str
    name: str
    kind: str
    attributes: Mapping[str, Any]
    failed: bool
    state: str
    start: int  # nanoseconds since the epoch
    end: int
    resource: Mapping[str, Any]
    links: tuple[str, ...]  # ids of spans


class Collector:
    """What has arrived so far. `status` is what it answers."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: list[Mapping[str, str]] = []
        self.port = 0
        self._spans: list[Collected] = []
        self._news = threading.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def spans(self) -> list[Collected]:
        """All that have arrived but those of starts and reloads."""
        return [span for span in self.everything() if not span.name.startswith(_STARTS)]

    def everything(self) -> list[Collected]:
        with self._news:
            return list(self._spans)

    def wait(self, *names: str, seconds: float = PATIENCE) -> list[Collected]:
        """The first spans of these names, in this order. Fails where one does not arrive."""
        deadline = time.monotonic() + seconds
        with self._news:
            while True:
                found = [next((span for span in self._spans if span.name == name), None) for name in names]
                if all(span is not None for span in found):
                    return [span for span in found if span is not None]
                left = deadline - time.monotonic()
                assert left > 0, f"not all of {names} have arrived: {[span.name for span in self._spans]}"
                self._news.wait(left)

    def named(self, name: str) -> list[Collected]:
        """All spans of a name that have arrived."""
        return [span for span in self.everything() if span.name == name]

    def take(self, headers: Mapping[str, str], body: bytes) -> None:
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        request = ExportTraceServiceRequest.FromString(body)
        with self._news:
            self.headers.append(headers)
            self._spans += _read(request)
            self._news.notify_all()


def _read(request: Any) -> Iterator[Collected]:
    for resource in request.resource_spans:
        of_resource = _attributes(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Collected(
                    of_resource.get("service.name", ""),
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.name,
                    KINDS[span.kind],
                    _attributes(span.attributes),
                    span.status.code == 2,
                    span.trace_state,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    of_resource,
                    tuple(link.span_id.hex() for link in span.links),
                )


def recorded(tracer: Tracer) -> list[Collected]:
    """The spans in a tracer's buffer, encoded and read with the official definitions; the buffer is empty
    afterwards."""
    encoded = resource_spans({}, "0", SpanEncoder().encode(tracer.buffer.take()))
    return list(_read(ExportTraceServiceRequest.FromString(encoded)))


def _attributes(pairs: Any) -> dict[str, Any]:
    found = {}
    for each in pairs:
        value = getattr(each.value, each.value.WhichOneof("value"))
        found[each.key] = [item.string_value for item in value.values] if hasattr(value, "values") else value
    return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port of this machine."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if collector.status == 200:
                assert self.path == "/v1/traces"
                collector.take({name.lower(): value for name, value in self.headers.items()}, body)
            self.send_response(collector.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
