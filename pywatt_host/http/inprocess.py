"""One request to an ASGI application in this process, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pywatt_host.types import ASGIApp, Message


class TooLargeError(Exception):
    """The response is longer than the caller is ready to hold."""


async def request(
    app: ASGIApp,
    path: str,
    *,
    method: str = "GET",
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: bytes = b"",
    most: int = 1 << 20,
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers, body (of `most` octets, else TooLargeError). What the application raises is passed on."""
    sent = False
    over = asyncio.Event()
    status = 500
    received: list[tuple[bytes, bytes]] = []
    chunks: list[bytes] = []
    length = 0

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await over.wait()
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, received, length
        if message["type"] == "http.response.start":
            status, received = message["status"], list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            chunk = message.get("body", b"")
            length += len(chunk)
            if length > most:
                raise TooLargeError(f"the response is longer than {most} octets")
            chunks.append(chunk)
            if not message.get("more_body", False):
                over.set()

    await app(
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost"), *headers],
            "client": None,
            "server": ("localhost", None),
            "state": {},
        },
        receive,
        send,
    )
    return status, received, b"".join(chunks)
