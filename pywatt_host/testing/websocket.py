"""One WebSocket connection to an ASGI application in the test's process."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, Protocol, TypeVar

from pywatt_host.types import ASGIApp, Message, Scope

R = TypeVar("R")

_CLOSE_TIMEOUT = 1.0  # seconds to wait for the application to end after the client has closed


class WebSocketRefusedError(Exception):
    """The module refused the handshake. `status` is the status of its response: 403 if the application closed the
    WebSocket before it accepted."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        super().__init__(
            f"the module refused the WebSocket with status {status}" + (f": {body[:300]!r}" if body else "")
        )


class WebSocketClosedError(Exception):
    """The module closed the WebSocket. `code` is 1006 if the application ended without closing, and 1011 if it
    raised."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"the module closed the WebSocket with code {code}" + (f": {reason}" if reason else ""))


class WebSocketSession:
    """The client's side of a WebSocket. Use it on the application's event loop."""

    def __init__(self, app: ASGIApp, scope: Scope, context: Context) -> None:
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._inbox.put_nowait({"type": "websocket.connect"})
        self._outbox: deque[Message] = deque()
        self._changed = asyncio.Event()
        self._disconnected = False
        self.task = asyncio.get_running_loop().create_task(self._call(app, scope), context=context.copy())
        self.task.add_done_callback(self._on_end)

    async def _call(self, app: ASGIApp, scope: Scope) -> None:
        await app(scope, self._inbox.get, self._send)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # the edge has logged it; waiting calls raise WebSocketClosedError
        self._changed.set()

    async def _send(self, message: Message) -> None:
        if self._disconnected:
            raise OSError("the client has closed the WebSocket")
        self._outbox.append(message)
        self._changed.set()

    async def _next(self) -> Message | None:
        while not self._outbox:
            if self.task.done():
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._outbox.popleft()

    def _raised(self) -> bool:
        return not self.task.cancelled() and self.task.exception() is not None

    async def accepted(self) -> tuple[str | None, list[tuple[str, str]]]:
        """Wait until the application accepts. Returns its subprotocol and headers. Raises WebSocketRefusedError."""
        message = await self._next()
        if message is None:
            raise WebSocketRefusedError(500, [], b"")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers") or ()]
        if message["type"] == "websocket.close":
            raise WebSocketRefusedError(403, [], b"")
        if message["type"] == "websocket.http.response.start":
            body, more = b"", True
            while more and (chunk := await self._next()) is not None:
                body += chunk.get("body", b"")
                more = chunk.get("more_body", False)
            raise WebSocketRefusedError(message["status"], headers, body)
        return message.get("subprotocol"), headers

    async def send(self, message: Message) -> None:
        """Send a message to the application. Raises WebSocketClosedError if it has closed already."""
        if self.task.done() and not self._outbox:
            raise WebSocketClosedError(1011 if self._raised() else 1006, "")
        self._inbox.put_nowait({"type": "websocket.receive", **message})

    async def receive(self) -> Message:
        """Wait for the next message. Raises WebSocketClosedError if the application closes instead."""
        message = await self._next()
        if message is None:
            raise WebSocketClosedError(1011 if self._raised() else 1006, "")
        if message["type"] == "websocket.close":
            self._disconnected = True
            code = message.get("code", 1000)
            self._inbox.put_nowait({"type": "websocket.disconnect", "code": code})
            raise WebSocketClosedError(code, message.get("reason") or "")
        return message

    def disconnect(self, code: int = 1006, reason: str = "") -> None:
        """Disconnect the client."""
        if not self._disconnected:
            self._disconnected = True
            self._inbox.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})

    async def close(self, code: int, reason: str) -> None:
        """Disconnect, and wait a moment for the application to end."""
        self.disconnect(code, reason)
        await asyncio.wait((self.task,), timeout=_CLOSE_TIMEOUT)


class Run(Protocol):
    """Runs a coroutine on the module's event loop for `timeout` seconds at most."""

    def __call__(self, coroutine: Coroutine[Any, Any, R], timeout: float) -> R: ...


class WebSocket:
    """An open WebSocket, from `client.websocket(path)`. As a context manager it closes itself with code 1000.

    Every method blocks. A wait raises TimeoutError after `timeout` seconds, and WebSocketClosedError once the module
    has closed. `subprotocol` and `headers` are those with which the module accepted.

        with client.websocket("/chat") as chat:
            chat.send_text("hello")
            assert chat.receive_text() == "hello yourself"
    """

    def __init__(self, session: WebSocketSession, run: Run, timeout: float) -> None:
        """Wait until the module accepts. Raises WebSocketRefusedError."""
        self._session = session
        self._run = run
        self._timeout = timeout
        self.subprotocol, self.headers = run(session.accepted(), timeout)

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send_text(self, text: str) -> None:
        """Send a text message."""
        self._run(self._session.send({"text": text}), self._timeout)

    def send_bytes(self, data: bytes) -> None:
        """Send a binary message."""
        self._run(self._session.send({"bytes": data}), self._timeout)

    def send_json(self, document: Any) -> None:
        """Send a document as JSON in a text message."""
        self.send_text(json.dumps(document))

    def receive_text(self, timeout: float | None = None) -> str:
        """Wait for the next message. Raises AssertionError if it is not a text message."""
        return self._received("text", str, timeout)

    def receive_bytes(self, timeout: float | None = None) -> bytes:
        """Wait for the next message. Raises AssertionError if it is not a binary message."""
        return self._received("bytes", bytes, timeout)

    def receive_json(self, timeout: float | None = None) -> Any:
        """Wait for the next message, text or binary, and parse it as JSON."""
        message = self._message(timeout)
        return json.loads(message["text"] if message.get("text") is not None else message["bytes"])

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the WebSocket if it is open. This waits one second for the application to end; after that the
        application goes on by itself."""
        self._run(self._session.close(code, reason), self._timeout)

    def _message(self, timeout: float | None) -> Message:
        return self._run(self._session.receive(), self._timeout if timeout is None else timeout)

    def _received(self, member: str, kind: Callable[[Any], R], timeout: float | None) -> R:
        message = self._message(timeout)
        if message.get(member) is None:
            raise AssertionError(f"the next message has no {member}: {dict(message)}")
        return kind(message[member])
