"""One WebSocket to an ASGI application in this process."""

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

_LAST_WORDS = 1.0  # seconds in which the application ends once the client has closed; it may go on beyond them


class WebSocketRefusedError(Exception):
    """The handshake was answered with a status: 403 where the application closed before it accepted."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        super().__init__(f"the WebSocket was refused with {status}" + (f": {body[:300]!r}" if body else ""))


class WebSocketClosedError(Exception):
    """The module has closed, with this code: 1006 where it ended without closing, 1011 where it raised."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"the WebSocket was closed with {code}" + (f": {reason}" if reason else ""))


class WebSocketSession:
    """The client's end, on the application's loop."""

    def __init__(self, app: ASGIApp, scope: Scope, inside: Context) -> None:
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._inbox.put_nowait({"type": "websocket.connect"})
        self._outbox: deque[Message] = deque()
        self._news = asyncio.Event()
        self._accepted = self._left = False
        self.task = asyncio.get_running_loop().create_task(self._call(app, scope), context=inside.copy())
        self.task.add_done_callback(self._over)

    async def _call(self, app: ASGIApp, scope: Scope) -> None:
        await app(scope, self._inbox.get, self._send)

    def _over(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # it has been logged by the edge; who waits is told
        self._news.set()

    async def _send(self, message: Message) -> None:
        if self._left:
            raise OSError("the client has closed the WebSocket")
        self._outbox.append(message)
        self._news.set()

    async def _next(self) -> Message | None:
        while not self._outbox:
            if self.task.done():
                return None
            self._news.clear()
            await self._news.wait()
        return self._outbox.popleft()

    def _raised(self) -> bool:
        return not self.task.cancelled() and self.task.exception() is not None

    async def accepted(self) -> tuple[str | None, list[tuple[str, str]]]:
        """The subprotocol chosen, and the headers. Raises WebSocketRefusedError."""
        message = await self._next()
        if message is None:
            raise WebSocketRefusedError(500, [], b"")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers") or ()]
        if message["type"] == "websocket.close":
            raise WebSocketRefusedError(403, [], b"")
        if message["type"] == "websocket.http.response.start":
            body, more = b"", True
            while more and (piece := await self._next()) is not None:
                body += piece.get("body", b"")
                more = piece.get("more_body", False)
            raise WebSocketRefusedError(message["status"], headers, body)
        self._accepted = True
        return message.get("subprotocol"), headers

    async def send(self, message: Message) -> None:
        """To the application. Raises WebSocketClosedError where it has closed already."""
        if self.task.done() and not self._outbox:
            raise WebSocketClosedError(1011 if self._raised() else 1006, "")
        self._inbox.put_nowait({"type": "websocket.receive", **message})

    async def receive(self) -> Message:
        """The next message. Raises WebSocketClosedError."""
        message = await self._next()
        if message is None:
            raise WebSocketClosedError(1011 if self._raised() else 1006, "")
        if message["type"] == "websocket.close":
            self._left = True
            code = message.get("code", 1000)
            self._inbox.put_nowait({"type": "websocket.disconnect", "code": code})
            raise WebSocketClosedError(code, message.get("reason") or "")
        return message

    def leave(self, code: int = 1006, reason: str = "") -> None:
        """The client goes away."""
        if not self._left:
            self._left = True
            self._inbox.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})

    async def close(self, code: int, reason: str) -> None:
        """Leave, and give the application a moment to end."""
        self.leave(code, reason)
        await asyncio.wait((self.task,), timeout=_LAST_WORDS)


class Run(Protocol):
    """Runs a coroutine on the module's loop, for so many seconds at most."""

    def __call__(self, coroutine: Coroutine[Any, Any, R], timeout: float) -> R: ...


class WebSocket:
    """A WebSocket, blocking; as a context manager it closes itself, with 1000. Every wait raises TimeoutError after
    `timeout` seconds, and WebSocketClosedError once the module has closed."""

    def __init__(self, session: WebSocketSession, run: Run, timeout: float) -> None:
        """Raises WebSocketRefusedError."""
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
        self._run(self._session.send({"text": text}), self._timeout)

    def send_bytes(self, octets: bytes) -> None:
        self._run(self._session.send({"bytes": octets}), self._timeout)

    def send_json(self, document: Any) -> None:
        """As text."""
        self.send_text(json.dumps(document))

    def receive_text(self, timeout: float | None = None) -> str:
        """The next message, which has to be a text."""
        return self._received("text", str, timeout)

    def receive_bytes(self, timeout: float | None = None) -> bytes:
        """The next message, which has to be octets."""
        return self._received("bytes", bytes, timeout)

    def receive_json(self, timeout: float | None = None) -> Any:
        """The next message, text or octets, which has to be JSON."""
        message = self._message(timeout)
        return json.loads(message["text"] if message.get("text") is not None else message["bytes"])

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, if it is open. The application has a second to end; beyond it, it goes on by itself."""
        self._run(self._session.close(code, reason), self._timeout)

    def _message(self, timeout: float | None) -> Message:
        return self._run(self._session.receive(), self._timeout if timeout is None else timeout)

    def _received(self, member: str, kind: Callable[[Any], R], timeout: float | None) -> R:
        message = self._message(timeout)
        if message.get(member) is None:
            raise AssertionError(f"the next message is no {member}, but {dict(message)}")
        return kind(message[member])
