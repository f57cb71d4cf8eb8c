"""One HTTP request to an ASGI application in this process, with a response that is read chunk by chunk."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextvars import Context

import httpx

from pywatt_host.types import ASGIApp, Message, Scope

_MAX_UNREAD = 8  # messages of a response that wait for the client; `send` waits when there are more


class ClientExchange:
    """A request that runs by itself, as on a server, until the application returns. Create and use it on the
    application's event loop.

    `context` is the context in which the application runs.
    """

    def __init__(self, app: ASGIApp, scope: Scope, chunks: Sequence[bytes], context: Context) -> None:
        self._inbox: deque[Message] = deque(
            {"type": "http.request", "body": chunk, "more_body": number < len(chunks)}
            for number, chunk in enumerate(chunks, 1)
        )
        self._outbox: deque[Message] = deque()
        self._changed, self._has_room, self._disconnected = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._started = self._complete = self._read = False
        self._bodiless = scope["method"] == "HEAD"
        self.task = asyncio.get_running_loop().create_task(self._call(app, scope), context=context.copy())
        self.task.add_done_callback(self._on_end)

    async def _call(self, app: ASGIApp, scope: Scope) -> None:
        await app(scope, self._receive, self._send)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # the edge has logged it; `_next` raises
        self._changed.set()

    async def _receive(self) -> Message:
        if self._inbox:
            return self._inbox.popleft()
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._complete or (message["type"] == "http.response.start") == self._started:
            raise RuntimeError(f"Unexpected ASGI message {message['type']!r}")
        while len(self._outbox) >= _MAX_UNREAD and not self._disconnected.is_set():
            self._has_room.clear()
            await self._has_room.wait()
        if self._disconnected.is_set():
            await asyncio.sleep(0)  # let other tasks run while the application goes on sending
            return
        self._started = True
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = True
            self._disconnected.set()  # as on a server, where the request ends with its response
        self._outbox.append(message)
        self._changed.set()

    async def _next(self) -> Message:
        while not self._outbox:
            if self.task.done():
                cause = None if self.task.cancelled() else self.task.exception()
                raise httpx.RemoteProtocolError("the module ended the connection before its response") from cause
            self._changed.clear()
            await self._changed.wait()
        self._has_room.set()
        return self._outbox.popleft()

    async def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Wait for status and headers. Raises httpx.RemoteProtocolError if the application ends before them."""
        message = await self._next()
        return message["status"], [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]

    async def next_chunk(self) -> bytes | None:
        """Wait for the next chunk of the body. None at its end. Raises httpx.RemoteProtocolError if it breaks off."""
        while not self._read:
            message = await self._next()
            self._read = not message.get("more_body", False)
            body = b"" if self._bodiless else bytes(message.get("body", b""))
            if body:
                return body
        return None

    def disconnect(self) -> None:
        """Disconnect the client: the application receives `http.disconnect`, and what it sends is dropped."""
        self._disconnected.set()
        self._has_room.set()
