"""The redirect to HTTPS: to the same host and path, and never to another host."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

from pywatt_host.http.redirect import RedirectApp
from pywatt_host.http.server.connection import HttpConnection
from pywatt_host.http.server.serving import AppHandler, Bounds, Serving
from tests.http.server.answers import Answer, read_answers
from tests.http.server.fuzz import Wire


def asked(request: bytes, port: int = 8443, allowed: str = "") -> Answer:
    """The answer to the bytes of a request."""
    loop = asyncio.new_event_loop()

    async def main() -> bytes:
        app = RedirectApp(lambda: port, (lambda host: host == allowed) if allowed else (lambda host: True))
        serving = Serving(AppHandler(app), Bounds(), loop)
        wire = Wire(loop)
        connection = wire.protocol = HttpConnection.of(serving)
        connection.connection_made(wire)
        connection.data_received(request)
        for _ in range(5):
            await asyncio.sleep(0)
        return bytes(wire.written)

    with closing(loop):
        (answer,) = read_answers(loop.run_until_complete(main()))
    return answer


def get(target: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", *headers, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    ("target", "host", "port", "location"),
    [
        ("/a?b=c", "example.com", 443, "https://example.com/a?b=c"),
        ("/a?b=c", "example.com:8080", 8443, "https://example.com:8443/a?b=c"),
        ("/", "[::1]:80", 8443, "https://[::1]:8443/"),
        ("/a%20b/%2e%2e?x=%0d%0a", "example.com", 443, "https://example.com/a%20b/%2e%2e?x=%0d%0a"),
        ("//evil.example/x", "example.com", 443, "https://example.com//evil.example/x"),
        ("/\\evil.example", "example.com", 443, "https://example.com/%5Cevil.example"),
        ("/@evil.example", "example.com", 443, "https://example.com/@evil.example"),
        ("http://example.com/a?b", "example.com", 443, "https://example.com/a?b"),
        # RFC 9112 section 3.2.2: the host of an absolute target counts, and Host does not.
        ("http://other.example/a", "example.com", 443, "https://other.example/a"),
    ],
)
def test_the_location_is_the_same_host_and_path(target: str, host: str, port: int, location: str) -> None:
    answer = asked(get(target, f"Host: {host}"), port)
    assert (answer.status, answer.values("location"), answer.body) == (308, [location], b"")


@pytest.mark.parametrize(
    "request_",
    [
        get("/"),
        get("/", "Host: a", "Host: b"),
        get("/", "Host: user@example.com"),
        get("/", "Host: a/b"),
        get("*", "Host: a").replace(b"GET", b"OPTIONS"),
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
def test_a_request_without_one_valid_host_or_without_a_path_is_400(request_: bytes) -> None:
    answer = asked(request_)
    assert (answer.status, answer.values("location")) == (400, [])


def test_a_host_that_is_not_allowed_is_421() -> None:
    assert asked(get("/", "Host: example.com"), allowed="example.com").status == 308
    for request in (get("/", "Host: evil.example"), get("http://evil.example/", "Host: example.com")):
        answer = asked(request, allowed="example.com")
        assert (answer.status, answer.values("location")) == (421, [])
