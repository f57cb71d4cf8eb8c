"""One HTTP request to an ASGI application in this process, its response piece by piece."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextvars import Context

import httpx

from pywatt_host.types import ASGIApp, Message, Scope

_AHEAD = 8  # messages of a response that are kept for a client that does not read; then `send` waits


class ClientExchange:
    """Goes on by itself, as on a server, until the application returns. To be made and used on the application's loop.

    `inside` is the context in which the application runs.
    """

    def __init__(self, app: ASGIApp, scope: Scope, pieces: Sequence[bytes], inside: Context) -> None:
        self._inbox: deque[Message] = deque(
            {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
            for number, piece in enumerate(pieces, 1)
        )
        self._outbox: deque[Message] = deque()
        self._news, self._room, self._left = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._started = self._complete = self._read = False
        self._bodiless = scope["method"] == "HEAD"
        self.task = asyncio.get_running_loop().create_task(self._call(app, scope), context=inside.copy())
        self.task.add_done_callback(self._over)

    async def _call(self, app: ASGIApp, scope: Scope) -> None:
        await app(scope, self._receive, self._send)

    def _over(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # it has been logged by the edge; who waits for the response is told
        self._news.set()

    async def _receive(self) -> Message:
        if self._inbox:
            return self._inbox.popleft()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._complete or (message["type"] == "http.response.start") == self._started:
            raise RuntimeError(f"Unexpected ASGI message {message['type']!r}")
        while len(self._outbox) >= _AHEAD and not self._left.is_set():
            self._room.clear()
            await self._room.wait()
        if self._left.is_set():
            await asyncio.sleep(0)  # an application that goes on regardless must not have the loop for itself
            return
        self._started = True
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = True
            self._left.set()  # as on a server: with its response, a request is over
        self._outbox.append(message)
        self._news.set()

    async def _next(self) -> Message:
        while not self._outbox:
            if self.task.done():
                cause = None if self.task.cancelled() else self.task.exception()
                raise httpx.RemoteProtocolError("the module ended the connection before its response") from cause
            self._news.clear()
            await self._news.wait()
        self._room.set()
        return self._outbox.popleft()

    async def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Status and headers. Raises httpx.RemoteProtocolError where there will be none."""
        message = await self._next()
        return message["status"], [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]

    async def piece(self) -> bytes | None:
        """The next of the body; None at its end. Raises httpx.RemoteProtocolError where it breaks off."""
        while not self._read:
            message = await self._next()
            self._read = not message.get("more_body", False)
            body = b"" if self._bodiless else bytes(message.get("body", b""))
            if body:
                return body
        return None

    def leave(self) -> None:
        """The client goes away: the application receives a disconnect, and what it sends is dropped."""
        self._left.set()
        self._room.set()
