"""Compresses responses with gzip on their way to the client.

Loaded only where the manifest switches `server.compress` on.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pywatt_host.http.content_coding import Coded, ContentCoding
from pywatt_host.http.edge import Answer, HostPath
from pywatt_host.types import ASGIApp, Message, Receive, Scope, Send

_GZIP = 31  # zlib's window bits: the largest window, in the format of gzip (RFC 1952)
_INLINE = 32 * 1024  # bytes that are compressed on the event loop, at most: half a millisecond at level 6
_SLICE = 256 * 1024  # bytes of a long body that are compressed, and sent, at a time
_WHOLE = 1024 * 1024  # bytes of a body that is compressed as a whole, so that its length is known; at most
_THREADS = 2
# Extensions of ASGI with which a server sends a file by itself: it would send it as it is.
_BYPASSES = ("http.response.pathsend", "http.response.zerocopysend")


class Compression:
    """Wraps applications and the host's own paths. For `min_size` and `types` see `ContentCoding`; `level` is the
    effort, 1 to 9. `close` ends its threads, which it starts with the first long body."""

    def __init__(self, min_size: int, types: Iterable[str], level: int) -> None:
        self._coding = ContentCoding(min_size, types)
        self._level = level
        self._threads: ThreadPoolExecutor | None = None

    def app(self, app: ASGIApp) -> ASGIApp:
        """The application with its responses compressed."""

        async def compressed(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            extensions = scope.get("extensions")
            if extensions and not extensions.keys().isdisjoint(_BYPASSES):
                kept = {name: value for name, value in extensions.items() if name not in _BYPASSES}
                scope = {**scope, "extensions": kept}
            await app(scope, receive, _Response(self, scope, send).send)

        return compressed

    def path(self, path: HostPath) -> HostPath:
        """A path of the host with its answers compressed."""

        async def answer(scope: Scope) -> Answer | None:
            found = await path(scope)
            if found is None:
                return None
            status, headers, body = found
            decision = self.decide(scope, status, headers)
            if decision.coded is None or scope["method"] == "HEAD":
                return status, decision.headers, body
            coded = await self.whole(body)
            if len(coded) >= len(body):
                return status, decision.headers, body
            return status, [*decision.coded, (b"content-length", b"%d" % len(coded))], coded

        return answer

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    def decide(self, scope: Scope, status: int, headers: Any) -> Coded:
        """What becomes of a response with this head."""
        return self._coding.of(scope, status, headers if isinstance(headers, list) else list(headers))

    def stream(self) -> zlib._Compress:
        """A compressor for one body."""
        return zlib.compressobj(self._level, zlib.DEFLATED, _GZIP)

    async def whole(self, body: Any) -> bytes:
        """A whole body, compressed."""
        stream = self.stream()
        return await self.part(stream, body, zlib.Z_FINISH)

    async def part(self, stream: zlib._Compress, body: Any, flush: int) -> bytes:
        """A part of a body, compressed and flushed. A long one is compressed in a thread."""
        if len(body) <= _INLINE:
            return stream.compress(body) + stream.flush(flush)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, "pywatt compression")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: stream.compress(body) + stream.flush(flush))

    async def parts(self, stream: zlib._Compress, body: Any, *, more: bool) -> AsyncIterator[tuple[bytes, bool]]:
        """A part of a body in slices, each compressed, and whether more follow. Each can be read by the client as soon
        as it arrives."""
        view = memoryview(body)
        for start in range(0, max(len(view), 1), _SLICE):
            last = start + _SLICE >= len(view)
            going_on = more or not last
            data = view[start : start + _SLICE]
            if going_on and not len(data):
                yield b"", True
            else:
                yield await self.part(stream, data, zlib.Z_SYNC_FLUSH if going_on else zlib.Z_FINISH), going_on


class _Response:
    """One response. Its start is held until the body shows whether it is whole, if its length is known; a response of
    unknown length starts at once."""

    def __init__(self, compression: Compression, scope: Scope, send: Send) -> None:
        self._compression = compression
        self._scope = scope
        self._send = send
        self._held: Message | None = None  # its start
        self._decision: Coded | None = None  # of a response that is coded
        self._stream: zlib._Compress | None = None  # once a body is being compressed
        self._left: int | None = None  # bytes that the application has still to send, by its Content-Length

    def send(self, message: Message) -> Awaitable[None]:
        """Take a message of the application. Returns the coroutine of the server where there is nothing to do."""
        kind = message["type"]
        if kind == "http.response.start":
            return self._start(message)
        if kind == "http.response.body":
            if self._held is not None:
                return self._first(self._held, message)
            if self._stream is not None:
                return self._continue(message)
        return self._send(message)

    def _start(self, message: Message) -> Awaitable[None]:
        if self._held is not None:
            raise RuntimeError("http.response.start was sent twice")
        decision = self._compression.decide(self._scope, message["status"], message.get("headers", ()))
        if decision.coded is None:
            return self._send({**message, "headers": decision.headers})
        if self._scope["method"] == "HEAD":
            return self._send({**message, "headers": decision.coded})
        if decision.length is None:
            self._stream = self._compression.stream()
            return self._send({**message, "headers": decision.coded})
        self._held, self._decision, self._left = message, decision, decision.length
        return _nothing()

    async def _first(self, start: Message, message: Message) -> None:
        """Take the first part of the body of a response whose start is held."""
        decision, self._held = self._decision, None
        assert decision is not None
        assert decision.coded is not None
        body, more = message.get("body", b""), message.get("more_body", False)
        if not more and len(body) != decision.length:
            await self._send({**start, "headers": decision.headers})  # the server refuses what does not fit
            await self._send(message)
        elif more or len(body) > _WHOLE:
            self._stream = self._compression.stream()
            await self._send({**start, "headers": decision.coded})
            await self._continue(message)
        else:
            coded = await self._compression.whole(body)
            if len(coded) < len(body):
                length = (b"content-length", b"%d" % len(coded))
                await self._send({**start, "headers": [*decision.coded, length]})
                await self._send({**message, "body": coded})
            else:
                await self._send({**start, "headers": decision.headers})
                await self._send(message)

    async def _continue(self, message: Message) -> None:
        assert self._stream is not None
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body has another length than its Content-Length says")
        async for part, going_on in self._compression.parts(self._stream, body, more=more):
            await self._send({"type": "http.response.body", "body": part, "more_body": going_on})


async def _nothing() -> None:
    return
