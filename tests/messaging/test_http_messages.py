"""Messages by HTTP: who may post them, and how much of an answer is taken."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pywatt_host.exceptions import MessagingError
from pywatt_host.messaging.http_client import HttpPeer
from pywatt_host.messaging.http_server import HttpMessages
from pywatt_host.messaging.inbox import Inbox
from pywatt_host.protocol.payload import Payload
from tests.hosting import Call, run

TOKEN = "a-token-of-the-channel"
LIMIT = 64 * 1024
TCP, UNIX, UNTOLD = ("127.0.0.1", 8080), ("/run/users.sock", None), None
BEARER = (b"authorization", f"Bearer {TOKEN}".encode())
JSON = (b"content-type", b"application/json")
ORIGIN = (b"origin", b"http://127.0.0.1:8080")

Headers = list[tuple[bytes, bytes]]


# Who may post -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "server", "headers", "status"),
    [
        (TOKEN, TCP, [JSON, BEARER], 200),
        (TOKEN, UNIX, [JSON, BEARER], 200),
        (TOKEN, TCP, [(b"content-type", b"Application/JSON; charset=utf-8"), BEARER], 200),
        (TOKEN, TCP, [JSON], 401),
        (TOKEN, UNIX, [JSON], 401),
        (TOKEN, TCP, [JSON, (b"authorization", b"Bearer another")], 401),
        (TOKEN, TCP, [JSON, BEARER, BEARER], 401),
        (None, UNIX, [JSON], 200),
        (None, TCP, [JSON], 401),
        (None, ("::1", 8080, 0, 0), [JSON], 401),
        (None, UNTOLD, [JSON], 401),
        (None, TCP, [JSON, (b"authorization", b"Bearer ")], 401),
        ("", TCP, [JSON, (b"authorization", b"Bearer ")], 401),
        ("", UNIX, [JSON], 401),
        (TOKEN, TCP, [JSON, BEARER, ORIGIN], 403),
        (TOKEN, TCP, [JSON, BEARER, (b"origin", b"null")], 403),
        (None, UNIX, [JSON, ORIGIN], 403),
        (TOKEN, TCP, [BEARER], 415),
        (TOKEN, TCP, [(b"content-type", b"text/plain"), BEARER], 415),
        (TOKEN, TCP, [(b"content-type", b"text/plain; a=application/json"), BEARER], 415),
        (TOKEN, TCP, [(b"content-type", b"application/x-www-form-urlencoded"), BEARER], 415),
        (TOKEN, TCP, [JSON, JSON, BEARER], 415),
        (None, UNIX, [], 415),
    ],
)
def test_who_may_post_a_message(token: str | None, server: object, headers: Headers, status: int) -> None:
    async def main() -> None:
        inbox = Inbox("users", 4)
        handled: list[Any] = []
        inbox.handlers.on("note", handled.append)
        app = HttpMessages(inbox, lambda: token, LIMIT, lambda *event: None)
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "server": server}
        call = Call(app, scope, [json.dumps({"type": "note"}).encode()])
        answer = await call.answer()
        assert answer.status == status
        assert len(handled) == (status == 200)
        assert call._inbox.empty() is (status == 200)  # the body of a refused request is not read
        assert app.refused == (status != 200)

    run(main)


# Answers ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def peer_that_answers(head: str, body: Iterable[bytes]) -> AsyncIterator[tuple[HttpPeer, list[bytes]]]:
    """A peer whose module answers each request with these bytes, as long as they are taken; and the heads of its
    requests."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(f"HTTP/1.1 200 OK\r\nConnection: close\r\n{head}\r\n".encode())
            for piece in body:
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass  # it has taken enough
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/_pywatt/messages"
    peer = HttpPeer("billing", url, "users", lambda: TOKEN, LIMIT)
    try:
        yield peer, heads
    finally:
        await peer.aclose()
        server.close()


async def ask(peer: HttpPeer) -> Payload:
    return await peer.request("billing", "1", Payload.of({"content": {"type": "it"}, "metadata": {}}), 20.0)


def chunks(of: bytes, times: int) -> Iterable[bytes]:
    for _ in range(times):
        yield b"%x\r\n%s\r\n" % (len(of), of)
    yield b"0\r\n\r\n"


def bomb(kind: str, length: int) -> bytes:
    """Many zeros, compressed."""
    if kind == "deflate":
        return zlib.compress(b"0" * length)
    return gzip.compress(b"0" * length)


OK = b'{"content": "ok"}'


@pytest.mark.parametrize("length", [len(OK), LIMIT - 1, LIMIT])
def test_an_answer_within_the_limit_is_taken(length: int) -> None:
    async def main() -> None:
        body = OK.ljust(length)
        async with peer_that_answers(f"Content-Length: {length}\r\n", [body]) as (peer, heads):
            assert (await ask(peer)).to_bytes() == body
            assert b"accept-encoding: identity" in heads[0].lower()

    run(main)


@pytest.mark.parametrize(
    ("head", "body", "code"),
    [
        (f"Content-Length: {LIMIT + 1}\r\n", [b" " * (LIMIT + 1)], "too_large"),
        ("Transfer-Encoding: chunked\r\n", chunks(b" " * 16384, 4096), "too_large"),
        ("", [b" " * 16384] * 4096, "too_large"),
        ("Content-Encoding: gzip\r\n", [bomb("gzip", 64 * 1024**2)], "invalid_message"),
        ("Content-Encoding: GZip\r\n", [gzip.compress(OK)], "invalid_message"),
        ("Content-Encoding: deflate\r\n", [bomb("deflate", 64 * 1024**2)], "invalid_message"),
        ("Content-Encoding: br\r\n", [b"x"], "invalid_message"),
        ("Content-Encoding: identity, gzip\r\n", [bomb("gzip", 1024**2)], "invalid_message"),
    ],
    ids=["declared", "chunked", "until the end", "gzip", "short gzip", "deflate", "br", "two codings"],
)
def test_an_answer_beyond_the_limit_or_compressed_is_refused_before_it_is_in_memory(
    head: str, body: Iterable[bytes], code: str
) -> None:
    async def main() -> None:
        async with peer_that_answers("Content-Length: 2\r\n", [b"{}"]) as (peer, _):
            await ask(peer)  # what is loaded with the first request does not count
        async with peer_that_answers(head, body) as (peer, _):
            tracemalloc.start()
            try:
                with pytest.raises(MessagingError) as raised:
                    await ask(peer)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert (raised.value.code, raised.value.target) == (code, "billing")
        wanted = "channels.limits.frame" if code == "too_large" else "content coding"
        assert wanted in raised.value.message
        assert peak < 4 * 1024**2

    run(main)
