"""An ASGI client for the WSGI bridge that lets a test hold back each message of either side."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pywatt_host.types import Scope, WSGIApp
from pywatt_host.wsgi import WsgiApp

PATIENCE = 10.0  # seconds until a test that hangs fails; no test waits that long when all is well


class Client:
    """One request: what the app is given to receive, and what it sent.

    `uploads` are the pieces of the body; without more of them `receive` waits for `disconnect`. With `slow`, every
    `send` waits until the test allows one more. With `asking`, it waits for 100 Continue before it sends the body.
    """

    def __init__(
        self, *uploads: bytes, slow: bool = False, more: bool = False, asking: bool = False, **scope: Any
    ) -> None:
        headers = [(n.encode(), v.encode("latin-1")) for n, v in scope.pop("headers", [])]
        if asking:
            headers += [(b"expect", b"100-continue"), (b"content-length", b"1000000")]
        if (uploads or more) and not any(n in (b"content-length", b"transfer-encoding") for n, _ in headers):
            headers.append((b"transfer-encoding", b"chunked"))
        self.scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "root_path": "",
            "query_string": b"",
            "server": ("127.0.0.1", 8080),
            "client": ("127.0.0.2", 50000),
            **scope,
            "headers": headers,
        }
        pieces = list(uploads) or [b""]
        self.uploads: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1 and not more
            self.uploads.put_nowait({"type": "http.request", "body": piece, "more_body": not last})
        self.received = 0
        self.sent: list[dict[str, Any]] = []
        self.news = asyncio.Condition()
        self.allowed = asyncio.Semaphore(0 if slow else 1_000_000)
        self.send_error: Exception | None = None

    def upload(self, piece: bytes, *, more: bool = True) -> None:
        self.uploads.put_nowait({"type": "http.request", "body": piece, "more_body": more})

    def disconnect(self) -> None:
        self.uploads.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> dict[str, Any]:
        message = await self.uploads.get()
        self.received += 1
        return message

    async def send(self, message: Any) -> None:
        await self.allowed.acquire()
        if self.send_error is not None:
            raise self.send_error
        async with self.news:
            self.sent.append(dict(message))
            self.news.notify_all()

    async def call(self, bridge: WsgiApp) -> None:
        await bridge(self.scope, self.receive, self.send)

    async def until_sent(self, body: bytes) -> None:
        async with self.news:
            await self.news.wait_for(lambda: body in self.body)

    @property
    def status(self) -> int:
        assert self.sent[0]["type"] == "http.response.start"
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(self.sent[0]["headers"])

    @property
    def header(self) -> dict[bytes, bytes]:
        return dict(self.headers)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def whole(self) -> bool:
        """Exactly one message ends the response, the last one."""
        return [m.get("more_body", False) for m in self.sent[1:]] == [True] * (len(self.sent) - 2) + [False]


def drive_bridge(app: WSGIApp, scenario: Callable[[WsgiApp], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run the scenario on the app behind the bridge; no thread of it may be left in the application at the end."""

    async def main() -> None:
        bridge = WsgiApp(app, **options)
        async with asyncio.timeout(PATIENCE * 2):
            try:
                await scenario(bridge)
            finally:
                left = await bridge.aclose(PATIENCE)
        assert left == 0

    asyncio.run(main())


@pytest.fixture
def drive() -> Callable[..., None]:
    return drive_bridge


@pytest.fixture
def client() -> type[Client]:
    return Client


@pytest.fixture
def answer() -> Callable[..., Client]:
    """The client after one whole request, the pieces of its body given."""

    def call(app: WSGIApp, *uploads: bytes, **scope: Any) -> Client:
        caller = Client(*uploads, **scope)
        drive_bridge(app, caller.call)
        return caller

    return call


@pytest.fixture
def environ_of(answer: Callable[..., Client]) -> Callable[..., dict[str, Any]]:
    """The environ that an application is called with."""

    def call(**scope: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            seen.update(environ)
            start_response("200 OK", [])
            return []

        answer(app, **scope)
        return seen

    return call


@pytest.fixture
def happened() -> Callable[[threading.Event], Coroutine[Any, Any, None]]:
    """Wait, without holding the loop, for what a thread does."""

    async def wait(event: threading.Event) -> None:
        assert await asyncio.to_thread(event.wait, PATIENCE)

    return wait
