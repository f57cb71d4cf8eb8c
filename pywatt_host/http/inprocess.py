"""One request to an ASGI application in this process, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import unquote

from pywatt_host.types import ASGIApp, Message, Scope


class TooLargeError(Exception):
    """The response is longer than the caller accepts."""


async def request(
    app: ASGIApp,
    path: str,
    *,
    method: str = "GET",
    query: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: bytes = b"",
    most: int = 1 << 20,
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Send a request to the application; returns status, headers and body.

    `path` is percent-encoded, as in a request line. Raises TooLargeError for a response of more than `most` bytes, and
    cancels the application's work on it. Exceptions of the application are raised as they are.
    """
    sent = False
    over = asyncio.Event()
    too_large: asyncio.Future[None] = asyncio.get_running_loop().create_future()
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
            if length <= most:
                chunks.append(chunk)
            elif not too_large.done():
                too_large.set_result(None)
            if message.get("more_body", False):
                await asyncio.sleep(0)  # nothing else makes an application without an end wait
            else:
                over.set()

    async def call() -> None:
        given = {name for name, _ in headers}
        own = [(b"host", b"localhost")] if b"host" not in given else []
        if body:
            own.append((b"content-length", str(len(body)).encode()))
        await app(_scope(method, path, query, [*own, *headers]), receive, send)

    running = asyncio.get_running_loop().create_task(call())
    try:
        await asyncio.wait((running, too_large), return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not running.done():
            running.cancel()
            await asyncio.wait((running,))
        if not running.cancelled():
            running.exception()  # retrieved, since nothing raises it where the caller has been cancelled
    if too_large.done():
        raise TooLargeError(f"the response is longer than {most} bytes")
    running.result()
    return status, received, b"".join(chunks)


def _scope(method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]]) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": ("localhost", None),
        "state": {},
    }
