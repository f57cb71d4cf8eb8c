"""Hosts, added headers and compression on a real listener, byte for byte."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

import pytest

from pywatt_host.http.allowed_hosts import AllowedHosts, AllowedOrigins, HostCheck
from pywatt_host.http.compression import Compression
from pywatt_host.http.forwarding import Forwarding
from pywatt_host.http.routes import Mount
from pywatt_host.runtime.event_loop import loop_factory
from pywatt_host.types import Receive, Scope, Send
from tests.http.server.answers import Answer, Client, read_answers
from tests.http.server.application import answer
from tests.http.server.connections.case import request
from tests.http.server.connections.upgrades import handshake
from tests.http.server.serving import BOUNDS, Served

ADDED = [(b"x-frame-options", b"DENY"), (b"x-content-type-options", b"nosniff"), (b"server", b"ours")]
HOSTS = AllowedHosts(["a", "*.example.com", "[::1]"])
TEXT = b"all work and no play makes jack a dull boy. " * 100
REASON = "server.allowed_hosts"


async def own(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the headers that the query names."""
    fields = [tuple(field.split(b"=")) for field in scope["query_string"].split(b"&") if field]
    await answer(send, b"own", headers=fields)


async def text(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"text/plain")]
    if scope["path"] == "/text/stream":
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": TEXT, "more_body": True})
        await send({"type": "http.response.body", "body": TEXT})
    else:
        await answer(send, TEXT, headers=headers)


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    compression = Compression(1024, ["text/*"], 6)
    more = [Mount("/own", own, False, {}), Mount("/text", compression.app(text), False, {})]
    with Served(
        "direct", loop_factory(), BOUNDS,
        hosts=HostCheck(HOSTS, ["/probe"]), origins=AllowedOrigins(HOSTS), added=ADDED,
        forwarding=Forwarding(["127.0.0.1"]), more_mounts=more,
    ) as served:  # fmt: skip
        yield served
    compression.close()
    assert not served.errors


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    shared.lines.clear()
    shared.app.seen.clear()
    yield shared
    assert not shared.errors


def asked(served: Served, data: bytes, *, head: bool = False) -> Answer:
    with Client(served.address) as client:
        client.send(data)
        client.sock.shutdown(1)
        received, _, body = client.rest().partition(b"\r\n\r\n")
        # The protocol of WebSockets writes names in capitals.
        received = re.sub(rb"(?m)^[A-Za-z-]+:", lambda name: name[0].lower(), received)
        (found,) = read_answers(received + b"\r\n\r\n" + body, [head])
    assert found.whole
    return found


def to(host: str, path: str = "/early", target: str = "", version: str = "1.1") -> bytes:
    return f"GET {target}{path} HTTP/{version}\r\nHost: {host}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (to("a"), 200),
        (to("A:8080"), 200),
        (to("b.a.example.com.:1"), 200),
        (to("[0:0::1]:80"), 200),
        (to("evil.example"), 421),
        (to("example.com"), 421),
        (to("127.0.0.1"), 421),
        (to("a%2eexample.com"), 421),
        (to("evil.example", target="http://a"), 200),
        (to("a", target="http://evil.example"), 421),
        (b"GET /early HTTP/1.0\r\n\r\n", 421),
        (to("a", version="1.0"), 200),
        (to("evil.example", "/nowhere"), 421),
        (to("evil.example", "//x"), 421),
        (b"OPTIONS * HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET /early HTTP/1.1\r\nHost: a\r\nX-Forwarded-Host: b.example.com\r\n\r\n", 200),
        (b"GET /early HTTP/1.1\r\nHost: a\r\nX-Forwarded-Host: evil.example\r\n\r\n", 421),
        (b"GET /early HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: a\r\n\r\n", 421),
    ],
)
def test_a_request_for_another_host_is_421(served: Served, data: bytes, status: int) -> None:
    found = asked(served, data)
    assert found.status == status
    if status == 421:
        assert found.values("content-type") == ["application/problem+json"]
        assert served.app.seen == []
        assert served.lines.texts[0].endswith(f" 421 ({REASON})")


def test_a_connection_goes_on_after_421_and_remembers_no_verdict_for_another_host(served: Served) -> None:
    with Client(served.address) as client:
        for host, status in [("a", 200), ("evil.example", 421), ("evil.example", 421), ("a", 200), ("a", 200)]:
            assert client.exchange(to(host)).status == status, host


def test_the_body_of_a_refused_request_is_not_read_as_a_request(served: Served) -> None:
    with Client(served.address) as client:
        smuggled = to("a", "/echo/smuggled")
        client.send(b"POST /echo HTTP/1.1\r\nHost: evil\r\nContent-Length: %d\r\n\r\n%b" % (len(smuggled), smuggled))
        client.send(to("a", "/echo/next"))
        client.sock.shutdown(1)
        assert [found.status for found in read_answers(client.rest())] == [421, 200]
    assert [seen.path for seen in served.app.seen] == ["/echo/next"]


def test_websockets_of_other_hosts_and_origins_are_refused_before_they_are_accepted(served: Served) -> None:
    for data, status in [
        (handshake("/ws/echo").replace(b"Host: a\r\n", b"Host: evil.example\r\n"), 421),
        (handshake("/ws/echo", "Origin: https://evil.example"), 403),
        (handshake("/ws/echo", "Origin: null"), 403),
    ]:
        found = asked(served, data)
        assert found.status == status
        assert found.values("x-frame-options") == ["DENY"]
    assert served.app.seen == []
    for origin in ((), ("Origin: https://b.example.com:8080",)):
        with Client(served.address) as client:
            client.send(handshake("/ws/echo", *origin))
            head = client.until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert b"x-frame-options" not in head.lower()


# Added headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (to("a"), 200),
        (to("a", "/status/204"), 204),
        (to("a", "/status/304"), 304),
        (to("a", "/status/302"), 302),
        (to("a", "/fault/raises"), 500),
        (to("a", "/stream"), 200),
        (to("a", version="1.0"), 200),
        (to("evil.example"), 421),
        (b"GET /early HTTP/1.1\r\n\r\n", 400),
        (b"\x00\r\n\r\n", 400),
        (b"GET /early HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000 + b"\r\n\r\n", 431),
        (request("CONNECT", "/"), 501),
        (request("GET", "/early", "Connection: close", version="2.0"), 505),
        (request("POST", "/small", "Content-Length: 2000", body=b"x" * 2000), 413),
        (handshake("/ws/refuses"), 403),
        (handshake("/ws/refuses-with-status"), 418),
        (handshake("/ws/raises-first"), 500),
        (handshake("/ws/returns-first"), 500),
    ],
)
def test_every_response_has_the_added_headers_once(served: Served, data: bytes, status: int) -> None:
    found = asked(served, data)
    assert found.status == status
    for name, value in ADDED:
        assert found.values(name.decode()) == [value.decode()], name
    assert len(found.values("date")) == 1


def test_headers_of_the_application_take_their_place(served: Served) -> None:
    found = asked(served, to("a", "/own?X-Frame-Options=SAMEORIGIN&server=mine&server=too&x-other=1"))
    assert found.values("x-frame-options") == ["SAMEORIGIN"]
    assert found.values("server") == ["mine", "too"]
    assert found.values("x-content-type-options") == ["nosniff"]
    assert found.values("x-other") == ["1"]
    assert len(found.values("date")) == 1
    found = asked(served, to("a", "/own?date=then&server=mine"))
    assert (found.values("date"), found.values("server")) == (["then"], ["mine"])
    assert found.values("x-frame-options") == ["DENY"]
    assert asked(served, to("a", "/own")).values("server") == ["ours"]


# Compression ----------------------------------------------------------------------------------------------------------

_ACCEPT = "Accept-Encoding: gzip"


@pytest.mark.parametrize("path", ["/text/whole", "/text/stream"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_compressed_responses_are_framed_as_the_version_allows(served: Served, path: str, version: str) -> None:
    found = asked(served, request("GET", path, _ACCEPT, version=version))
    framing = "length" if path == "/text/whole" else "chunked" if version == "1.1" else "end"
    assert (found.status, found.framing) == (200, framing)
    assert zlib.decompress(found.body, 31) == TEXT * (1 if path == "/text/whole" else 2)
    assert found.values("vary") == ["Accept-Encoding"]
    assert found.values("x-frame-options") == ["DENY"]


def test_head_and_clients_that_accept_no_gzip_get_no_coded_body(served: Served) -> None:
    found = asked(served, request("HEAD", "/text/whole", _ACCEPT), head=True)
    assert (found.values("content-encoding"), found.values("content-length")) == (["gzip"], [])
    found = asked(served, request("GET", "/text/whole", "Accept-Encoding: gzip;q=0"))
    assert (found.body, found.values("content-encoding")) == (TEXT, [])
