"""Modules that answer the gateway with bytes that no server should send: each becomes a 502 or ends the connection, and
is logged; nothing of one answer gets into another."""

from __future__ import annotations

import asyncio
import logging
import re
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from pywatt_host.http.server.server import Drain, HttpServer
from pywatt_host.http.server.serving import Bounds
from pywatt_host.orchestrator.gateway_log import GatewayHandler
from tests.hosting import PATIENCE, run
from tests.http.server.answers import Answer, read_answers
from tests.http.server.connections.case import chunked, get, post, request
from tests.http.server.connections.upgrades import handshake
from tests.http.server.serving import gateway_to, listener

OK = b"HTTP/1.1 200 OK\r\n"


@dataclass(slots=True)
class Upstream:
    """A module that answers each request with given bytes, whatever it was asked."""

    answers: list[bytes]
    closes: bool = False
    asked: bytes = b""
    connections: int = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while answers := self.answers:
                data = await reader.read(65536)
                if not data:
                    break
                self.asked += data
                writer.write(answers.pop(0))
                await writer.drain()
                if self.closes:
                    break
            else:
                if not self.closes:
                    await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def between(upstream: Upstream) -> AsyncIterator[tuple[str, int]]:
    """The address of a gateway in front of such a module."""
    server = await asyncio.start_server(upstream.talk, "127.0.0.1", 0)
    gateway = gateway_to(server.sockets[0].getsockname()[:2])
    bound, drain = listener(), Drain()
    handler = GatewayHandler(gateway, gateway.log.finished)
    async with TaskGroup() as tasks:
        async with HttpServer("gateway", handler, [bound], Bounds(), drain).running(tasks):
            yield bound.sock.getsockname()[:2]
        server.close()
    await gateway.close()


async def asked(address: tuple[str, int], *pieces: bytes) -> bytes:
    """What the gateway sends until it ends the connection, or until each piece has a whole answer."""
    reader, writer = await asyncio.open_connection(*address)
    data = b""
    try:
        async with asyncio.timeout(PATIENCE):
            for count, piece in enumerate(pieces, 1):
                writer.write(piece)
                while len(whole(data)) < count:
                    more = await reader.read(65536)
                    if not more:
                        return data
                    data += more
        return data
    finally:
        writer.close()


def whole(data: bytes) -> list[Answer]:
    try:
        return [answer for answer in read_answers(data, ended=False) if answer.whole]
    except AssertionError:  # a part of a head
        return []


def conversation(upstream: Upstream, *pieces: bytes) -> list[Answer]:
    """The answers that the gateway gives to these requests."""
    found: list[Answer] = []

    async def main() -> None:
        async with between(upstream) as address:
            found.extend(read_answers(await asked(address, *pieces), ended=True))

    run(main)
    return found


NO_HTTP = {
    "nothing": b"",
    "garbage": b"\x00\x01\x02\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status of 999": b"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n",
    "a status of 101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "interim answers alone": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3,
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    "a length with a sign": OK + b"Content-Length: +2\r\n\r\nok",
    "a length of letters": OK + b"Content-Length: two\r\n\r\nok",
    "a coding that is not known": OK + b"Transfer-Encoding: gzip\r\n\r\nok",
    "a folded field at first": OK + b" X-A: 1\r\n\r\n",
    "a space before a colon": OK + b"Content-Length : 2\r\n\r\nok",
    "a NUL in a value": OK + b"X-A: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "half a head": OK + b"Content-Le",
    "a head without an end": OK + b"X-A: " + b"a" * 200_000,
}


@pytest.mark.parametrize("answer", NO_HTTP.values(), ids=NO_HTTP.keys())
def test_an_answer_that_is_no_http_is_502_and_logged(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (got,) = conversation(Upstream([answer], closes=True), get("/echo"))
    assert got.status == 502
    assert got.values("content-type") == ["application/problem+json"]
    assert [record.getMessage() for record in caplog.records if record.name == "pywatt.access"] == ["GET /echo 502"]
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "pywatt.gateway"]
    assert warning.startswith("GET /echo: module.1: ")


BROKEN_OFF = {
    "a body that is too short": OK + b"Content-Length: 9\r\n\r\npart",
    "chunks without the last one": OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
    "a chunk size that is none": OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\nzz\r\n",
    "a chunk that is longer than it says": OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\npart and more\r\n",
    "trailers without an end": OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n0\r\nX-A: " + b"a" * 200_000,
    "a chunk extension without an end": OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n4;" + b"a" * 200_000,
}


@pytest.mark.parametrize("answer", BROKEN_OFF.values(), ids=BROKEN_OFF.keys())
def test_an_answer_that_breaks_off_is_cut_and_logged(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (got,) = conversation(Upstream([answer], closes=True), get("/echo"))
    assert (got.status, got.body, got.whole) == (200, b"part", False)
    access = [record for record in caplog.records if record.name == "pywatt.access"]
    assert [record.getMessage() for record in access] == ["GET /echo 200"]
    assert vars(access[0])["reason"] == "the module broke off"
    assert vars(access[0])["request_id"] == got.values("x-request-id")[0]
    assert any(record.getMessage().startswith("GET /echo: module.1: ") for record in caplog.records)
    assert not any(record.exc_info for record in caplog.records)


PASSED_ON: dict[str, tuple[bytes, Callable[[Answer], bool]]] = {
    "interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        + OK + b"Content-Length: 2\r\n\r\nok",
        lambda got: got.values("link") == [],
    ),
    "trailers": (
        OK + b"Transfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n2\r\nok\r\n0\r\nX-A: 1\r\nContent-Length: 9\r\n\r\n",
        lambda got: got.values("x-a") == got.values("trailer") == [],
    ),
    "chunk extensions": (OK + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0;c\r\n\r\n", lambda got: True),
    "a length beside a coding": (
        OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        lambda got: got.framing == "chunked",
    ),
    "fields of its connection": (
        OK + b"Connection: keep-alive, X-Own\r\nX-Own: 1\r\nKeep-Alive: timeout=9\r\nProxy-Connection: x\r\nUpgrade: x"
        b"\r\nProxy-Authenticate: x\r\nTE: x\r\nContent-Length: 2\r\n\r\nok",
        lambda got: {name for name, _ in got.fields} == {"date", "x-request-id", "content-length"},
    ),
    "a date and a request id of its own": (
        OK + b"Date: Mon, 01 Jan 2024 00:00:00 GMT\r\nX-Request-ID: own\r\nContent-Length: 2\r\n\r\nok",
        lambda got: len(got.values("date")) == 1 and got.values("x-request-id") != ["own"],
    ),
    "a body up to the end of its connection": (OK + b"\r\nok", lambda got: got.framing == "chunked"),
    "an answer of HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nok", lambda got: got.framing == "chunked"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "check"), PASSED_ON.values(), ids=PASSED_ON.keys())
def test_an_answer_is_passed_on_without_what_belongs_to_its_connection(
    answer: bytes, check: Callable[[Answer], bool]
) -> None:
    (got,) = conversation(Upstream([answer], closes=True), get("/echo"))
    assert (got.status, got.body, got.whole) == (200, b"ok", True)
    assert check(got), got


SMUGGLED = {
    "a second answer": OK + b"Content-Length: 2\r\n\r\nok" + OK + b"Content-Length: 4\r\n\r\nevil",
    "a body for HEAD": OK + b"Content-Length: 2\r\n\r\nok",
    "a body of 204": b"HTTP/1.1 204 No Content\r\n\r\n" + OK + b"Content-Length: 4\r\n\r\nevil",
    "a body of 304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok",
    "more than its length": OK + b"Content-Length: 2\r\n\r\nok and more",
    "more than its chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
}


@pytest.mark.parametrize("name", SMUGGLED.keys())
def test_what_follows_an_answer_is_never_the_answer_to_the_next_request(name: str) -> None:
    method = "HEAD" if "HEAD" in name else "GET"
    upstream = Upstream([SMUGGLED[name], OK + b"Content-Length: 4\r\n\r\nnext"])

    async def main() -> None:
        async with between(upstream) as address:
            reader, writer = await asyncio.open_connection(*address)
            async with asyncio.timeout(PATIENCE):
                writer.write(request(method, "/echo/1"))
                await reader.readuntil(b"\r\n\r\n")
                writer.write(request("GET", "/echo/2", "Connection: close"))
                data = await reader.read()
            assert data.endswith(b"next")
            assert b"evil" not in data
            writer.close()

    run(main)
    assert upstream.connections == 2


def test_a_connection_whose_answer_is_whole_is_used_again() -> None:
    upstream = Upstream([OK + b"Content-Length: 2\r\n\r\nok", OK + b"Content-Length: 2\r\n\r\nok"])
    first, second = conversation(upstream, get("/echo"), get("/echo"))
    assert (first.body, second.body, upstream.connections) == (b"ok", b"ok", 1)


def sent_upstream(*pieces: bytes) -> bytes:
    """The bytes of a request as the module gets them."""
    upstream = Upstream([OK + b"Content-Length: 0\r\nConnection: close\r\n\r\n"], closes=True)
    conversation(upstream, *pieces)
    return upstream.asked


def test_the_module_gets_what_belongs_to_the_request_only() -> None:
    head = sent_upstream(
        get(
            "/echo?q", "Connection: keep-alive, X-Own", "X-Own: 1", "Keep-Alive: 5", "TE: trailers", "Upgrade: h2c",
            "Proxy-Authorization: x", "X-Real-IP: 1", "X-Forwarded-For: 1", "X_A: 1", "Expect: 100-continue", "X-B: 2",
        )
    )  # fmt: skip
    first, *lines = head.decode().lower().split("\r\n")
    assert first == "get /echo?q http/1.1"
    names = {line.partition(":")[0] for line in lines if line}
    forwarded = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}
    assert names == {"host", "x-b", "x-request-id", *forwarded}
    assert "x-forwarded-for: 127.0.0.1" in lines


def test_an_absolute_target_reaches_the_module_as_a_path_with_its_host() -> None:
    head = sent_upstream(get("http://shop.example/echo?q")).lower()
    assert head.startswith(b"get /echo?q http/1.1\r\nhost: shop.example\r\n")
    assert b"\r\nx-forwarded-host: shop.example\r\n" in head


def test_trailers_of_a_request_do_not_reach_the_module() -> None:
    sent = sent_upstream(chunked("/echo", b"hi", end=b"0\r\nX-Forwarded-For: 1\r\nAuthorization: x\r\n\r\n"))
    assert sent.endswith(b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
    assert b"authorization" not in sent.lower()


def test_an_offer_to_upgrade_reaches_the_module_as_a_plain_request_with_its_body() -> None:
    sent = sent_upstream(post("/echo", b"hello", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
                              "HTTP2-Settings: AAMA")).lower()  # fmt: skip
    assert sent.endswith(b"\r\n\r\nhello")
    assert b"upgrade" not in sent
    assert b"http2-settings" not in sent


def test_a_module_that_does_not_shake_hands_is_502_for_a_websocket(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    got: list[bytes] = []

    async def main() -> None:
        async with between(Upstream([b"nonsense\r\n\r\n"], closes=True)) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(handshake("/ws/echo"))
            got.append(await reader.read())
            writer.close()

    run(main)
    assert got[0].startswith(b"HTTP/1.1 502 ")
    messages = [record.getMessage() for record in caplog.records]
    assert "WEBSOCKET /ws/echo 502" in messages
    assert any(re.match(r"WEBSOCKET /ws/echo: module\.1: no WebSocket", message) for message in messages)
