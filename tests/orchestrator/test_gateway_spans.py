"""The spans of the gateway: whose trace a request belongs to, and what they say of the module."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pywatt_host.observability.spans import SpanBuffer, Tracer
from pywatt_host.orchestrator.gateway_spans import GatewaySpans
from pywatt_host.protocol.messages import Announce
from tests.orchestrator.conversing import Around, Peer

FIRST, SECOND = (f"00-{digit * 32}-{'c' * 16}-01".encode() for digit in "ab")


def scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": "/x", "scheme": "http", "headers": list(headers)}


async def send(message: Any) -> None:
    return


@pytest.mark.parametrize(
    ("headers", "trace", "state"),
    [
        ([(b"traceparent", FIRST), (b"tracestate", b"v=1"), (b"tracestate", b"w=2")], "a" * 32, "v=1,w=2"),
        ([(b"traceparent", FIRST), (b"traceparent", SECOND)], None, ""),
        ([(b"traceparent", FIRST), (b"traceparent", FIRST)], None, ""),
        ([(b"traceparent", b"nonsense"), (b"traceparent", FIRST)], None, ""),
        ([(b"tracestate", b"v=1")], None, ""),
    ],
)
def test_a_request_with_several_traceparents_begins_a_trace_of_its_own(
    headers: list[tuple[bytes, bytes]], trace: str | None, state: str
) -> None:
    """As at the edge of a host (`RequestHead`)."""
    tracer = Tracer(SpanBuffer())
    with GatewaySpans(tracer).of_client(scope(*headers), send, ""), tracer.span("below") as span:
        place = span.place
        assert place is not None
        assert place.state == state
        assert (place.trace_id == trace) is (trace is not None)
        assert place.trace_id != "b" * 32


@pytest.mark.parametrize(
    ("listen", "server"),
    [
        ("127.0.0.1:8123", {"server.address": "127.0.0.1", "server.port": 8123}),
        ("https://[::1]:8443", {"server.address": "::1", "server.port": 8443}),
        ("/run/users.sock", {"server.address": "/run/users.sock"}),
        ("nowhere", {}),
    ],
)
def test_the_span_of_a_request_to_a_module_names_host_and_port(listen: str, server: dict[str, Any]) -> None:
    async def attributes() -> Any:
        replica = Peer("users", Around()).up().replica
        replica.announced(Announce(listen))
        with GatewaySpans(Tracer(SpanBuffer())).to_module(scope(), b"/x?q", replica, send) as (each, _):
            span: Any = each
            return span._attributes

    found = asyncio.run(attributes())
    assert {name: value for name, value in found.items() if name.startswith("server.")} == server
