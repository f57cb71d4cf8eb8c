"""The connection as the `--http` class of plain uvicorn."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

from pywatt_host.http.server.connection import HttpConnection
from pywatt_host.types import Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "hello"})
        await send({"type": "websocket.close"})
        return
    body, more = b"", True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": scope["method"].encode() + b" " + body})


async def response(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    return head, await reader.readexactly(length)


def test_it_serves_requests_and_websockets_and_stops() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            config = uvicorn.Config(app, http=HttpConnection, lifespan="off", log_config=None, loop="asyncio")
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server._serve([listener]))
            port = listener.getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(2):
                writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
                head, body = await response(reader)
                assert head.startswith(b"HTTP/1.1 200 OK\r\n")
                assert body == b"POST hi"
            handshake, peer = await asyncio.open_connection("127.0.0.1", port)
            peer.write(
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            assert (await handshake.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert await handshake.readexactly(7) == b"\x81\x05hello"
            peer.close()
            server.should_exit = True
            await asyncio.wait_for(serving, 10)
            assert await reader.read() == b""  # the idle connection is closed
            writer.close()

    asyncio.run(main())
