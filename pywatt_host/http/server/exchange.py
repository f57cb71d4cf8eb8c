"""One request and its response on a connection of our own server.

The response is held until it can leave: its head and its body leave in one write where both are there, and whatever
goes wrong before that becomes a 500 in its place. The framing is decided here and nowhere else (RFC 9112 section 6).
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Iterable
from time import perf_counter
from typing import Any, Protocol

from pywatt_host.http.exchange import Exchange, Refusal
from pywatt_host.http.server.response import BODILESS, Kind, ResponseError
from pywatt_host.http.server.serving import Serving
from pywatt_host.http.server.wakeup import Wakeup
from pywatt_host.observability.context import current_request
from pywatt_host.types import ASGIApp, Headers, Message, Receive, Scope

_JOIN_LIMIT = 64 * 1024  # bytes: a body up to this length is joined with its head, a longer one is sent beside it
MAX_DISCARDED = 1024 * 1024  # bytes of a body that are read and dropped after the response
BODY_BUFFER = 64 * 1024  # bytes of a body that wait for the application; reading pauses above it
_NO_LENGTH = -1
_CLIENT_CLOSED = 499  # the status in the log where a client left before the response began

STREAM_ENDED = "the stream is ended"  # the argument of the cancellation of a stream that is ended by the host


class StreamEndedError(OSError):
    """The host is stopping, and has ended this stream. The application should return."""


class Connection(Protocol):
    """What an exchange needs of its connection."""

    @property
    def peer(self) -> str: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def transport(self) -> Any: ...
    @property
    def serving(self) -> Serving: ...
    @property
    def write_paused(self) -> bool: ...
    async def drained(self) -> None: ...
    def body_taken(self) -> None: ...
    def send_continue(self) -> None: ...
    def is_last(self, exchange: ServerExchange) -> bool: ...
    def response_completed(self, exchange: ServerExchange) -> None: ...
    def cut(self, exchange: ServerExchange) -> None: ...


class ServerExchange(Exchange):
    """A request, its body as it arrives, and its response as it leaves."""

    task: asyncio.Task[None] | None = None
    stopped = False  # `taken`, `lost` or `ending`: what the application sends may have nowhere to go

    # The request
    http10 = False
    forwarded = False  # has fields that only a trusted proxy may send
    body_complete = True
    continues = False  # the client waits for 100 Continue before it sends the body
    gone = False  # the client has ended its side, or the host ends the stream: `receive` says so
    lost = False  # the connection has ended: nothing that is sent arrives
    pending: Refusal | None = None  # the answer to a request that could not be read
    _chunks: list[bytes] | None = None
    _buffered = 0
    _body_left: int | None = None  # bytes that may still arrive
    _delivered = False  # the application has the whole body
    _told = False  # the application knows that the client has left
    _wakeup: Wakeup | None = None  # once the application has waited

    # The response
    keep_alive = True
    bodiless = False  # no body belongs to it, because of its status or the method HEAD
    complete = False  # the whole response has been handed to the transport
    left = False  # a part of the response has been handed to the transport
    endless = False  # a stream that goes on until one side ends it
    ending = False  # the host has ended the stream
    _head: list[Any] | None = None
    _declared = _NO_LENGTH
    _chunked = False
    _left_to_send = 0

    def __init__(self, connection: Connection, scope: Scope, method: str, path: str, request_id: bytes) -> None:
        self.begun = perf_counter()
        self.connection = connection
        self.scope = scope
        self.method = method
        self.path = path
        self.client = connection.peer
        self.request_id = request_id

    async def run(self, app: ASGIApp) -> None:
        """Call the application, and answer in its place where it fails to."""
        current_request.set(self)
        if self.entered is not None:
            self.entered(self)
        try:
            await app(self.scope, self.receive, self.send)
        except GeneratorExit:
            raise
        except BaseException as error:  # named boundary: the user's application, SystemExit and all
            await self._failed(error)
        else:
            if not self.complete:
                await self._returned()
        finally:
            serving = self.connection.serving
            if self.task is not None:
                serving.running.discard(self.task)
                self.task = None
            serving.handler.left(self)

    # The request's body ---------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take a piece of the body from the connection."""
        self.continues = False  # the client has not waited
        if self.taken or self.complete or self.gone:
            return
        if self._body_left is not None:
            self._body_left -= len(data)
            if self._body_left < 0:
                self._over()
                return
        if self._chunks is None:
            self._chunks = []
        self._chunks.append(data)
        self._buffered += len(data)
        self._wake()

    def body_ended(self) -> None:
        """The whole body has arrived."""
        self.body_complete = True
        self.continues = False
        if self.arriving:
            self.connection.serving.handler.arrived(self)
        self._wake()

    def half_closed(self) -> None:
        """The client has ended its side, and may still read the response."""
        self.gone = True
        self._wake()

    @property
    def full(self) -> bool:
        """Whether the application should take some of the body before more of it is read."""
        return self._buffered > BODY_BUFFER

    @property
    def awaits_body(self) -> bool:
        """Whether a part of the request's body has not arrived yet."""
        return not self.body_complete

    def disconnected(self) -> None:
        """The connection has ended."""
        self.gone = self.lost = self.stopped = True
        self._wake()

    async def receive(self) -> Message:
        """The ASGI `receive`."""
        while not self.taken:
            if self._chunks:
                body, self._chunks, self._buffered = b"".join(self._chunks), None, 0
                self._delivered = self.body_complete
                self.connection.body_taken()
                return {"type": "http.request", "body": body, "more_body": not self.body_complete}
            if self.body_complete and not self._delivered:
                self._delivered = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if self.gone or self.complete:
                break
            if self.continues and not self.left:
                self.continues = False
                self.connection.send_continue()
            if self._wakeup is None:
                self._wakeup = Wakeup()
            await self._wakeup.wait()
        self._told = self.gone
        return {"type": "http.disconnect"}

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.fire()

    def bounded(self, receive: Receive, limit: int) -> Receive:
        self._body_left = limit - self._buffered
        if self._body_left < 0:
            self._over()
        return receive

    def _over(self) -> None:
        self._chunks, self._buffered = None, 0
        if self.left:
            self.reason = self.over_body().reason
            self.taken = self.stopped = True
        else:
            self.refuse_now(self.over_body())
        self._wake()

    # The response ---------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """The ASGI `send`."""
        connection = self.connection
        if connection.write_paused:
            await connection.drained()
        if self.stopped:
            if self.lost or self.taken:
                return
            if message.get("more_body", False):
                raise StreamEndedError("the host is stopping and has ended the stream")
        kind = message["type"]
        if kind == "http.response.start":
            if self._head is not None or self.left:
                raise RuntimeError("http.response.start was sent twice")
            if self.unavailable and message["status"] == 500:
                await self.refuse(self.store_unavailable())
                return
            self._start(message["status"], message.get("headers", ()))
            if self.deadline is not None:
                self.deadline.reschedule(None)
            if (
                self._declared == _NO_LENGTH and not self.lost
            ):  # a stream perhaps, whose first piece may come much later
                connection.loop.call_soon(self._flush)
        elif kind == "http.response.body":
            head, body, more = self._head, message.get("body", b""), message.get("more_body", False)
            if head is not None and not more:
                self._whole(head, body)
            elif head is not None or self.left:
                self._stream(head, body, more)
            else:
                raise RuntimeError("http.response.body was sent before http.response.start")
        else:
            raise RuntimeError(f"a message of type {kind!r} was sent in a response")

    def _start(self, status: int, headers: Iterable[Any]) -> None:
        """Make the head of the response. Raises ResponseError where it must not be sent."""
        serving = self.connection.serving
        try:
            lines = [serving.status_lines[status], b"x-request-id: ", self.request_id, b"\r\n"]
        except (KeyError, TypeError):
            raise ResponseError(f"invalid HTTP status: {status!r}") from None
        known = serving.header_lines
        declared, own = _NO_LENGTH, 0
        for header in headers:
            if header.__class__ is not tuple:
                header = tuple(header)
            text, kind, number = known[header]
            if not kind:
                lines.append(text)
            elif kind == Kind.LENGTH:
                if declared not in (_NO_LENGTH, number):
                    raise ResponseError("two different Content-Length headers")
                if declared == _NO_LENGTH and status != 204:
                    lines.append(text)
                declared = number
            elif kind == Kind.ADDED:
                own |= number
                lines[0] = serving.status_lines[status, own]
                lines.append(text)
            elif kind == Kind.ENDLESS:
                self.endless = True
                lines.append(text)
            elif kind == Kind.CLOSES:
                self.keep_alive = False
        if status != 200 and status in BODILESS:
            self.bodiless = True
        self.status = status
        self._declared = declared
        self._head = lines

    def _flush(self) -> None:
        """Send a head that still waits for its body at the end of the event loop's turn."""
        if self._head is not None and not self.left and not self.lost:
            self._stream(self._head, b"", True)

    def _whole(self, head: list[Any], body: Any) -> None:
        """Send the head and the whole body."""
        length = len(body)
        if self.bodiless:
            body = b""
        elif self._declared != length:
            if self._declared != _NO_LENGTH:
                raise ResponseError(f"the body has {length} bytes, and its Content-Length says {self._declared}")
            head.append(b"content-length: %d\r\n" % length)
        connection = self.connection
        if not self.keep_alive or connection.is_last(self) or self._unread_is_long():
            self.keep_alive = False
            head.append(b"connection: close\r\n")
        elif self.http10:
            head.append(b"connection: keep-alive\r\n")
        head.append(b"\r\n")
        if length > _JOIN_LIMIT and body:
            connection.transport.writelines((b"".join(head), body))
        else:
            head.append(body)
            connection.transport.write(b"".join(head))
        self.body_bytes = length
        self.left = True
        self._completed()

    def _unread_is_long(self) -> bool:
        """Whether the body of the request is too long to be read and dropped."""
        return not self.body_complete and not 0 <= self.length <= MAX_DISCARDED

    def _stream(self, head: list[Any] | None, body: Any, more: bool) -> None:
        """Send a part of the response; the head where it is not sent yet."""
        if self.complete:
            raise RuntimeError("http.response.body was sent after the response was complete")
        length, pieces = len(body), []
        if head is not None:
            pieces.append(self._stream_head(head))
        if self.bodiless:
            pass
        elif self._chunked:
            if length:
                pieces += (b"%x\r\n" % length, body, b"\r\n")
            if not more:
                pieces.append(b"0\r\n\r\n")
        else:
            if self._declared != _NO_LENGTH:
                self._left_to_send -= length
                if self._left_to_send < 0:
                    raise ResponseError("the body is longer than its Content-Length says")
                if not more and self._left_to_send:
                    raise ResponseError("the body is shorter than its Content-Length says")
            pieces.append(body)
        if length > _JOIN_LIMIT:
            self.connection.transport.writelines(pieces)
        elif pieces:
            self.connection.transport.write(b"".join(pieces))
        self._head = None
        self.left = True
        self.body_bytes += length
        if not more:
            self._completed()

    def _stream_head(self, head: list[Any]) -> bytes:
        """Decide on the framing of a body that is sent in pieces; returns the head."""
        head = head.copy()
        self._left_to_send = self._declared
        if self._declared == _NO_LENGTH and not self.bodiless:
            if self.http10:
                self.keep_alive = False  # the end of the connection is that of the body
            else:
                self._chunked = True
                head.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive or self.connection.is_last(self):
            self.keep_alive = False
            head.append(b"connection: close\r\n")
        elif self.http10:
            head.append(b"connection: keep-alive\r\n")
        head.append(b"\r\n")
        return b"".join(head)

    def _completed(self) -> None:
        self.complete = self.finished = True
        self._head = None
        if self.observe is not None:
            self.seconds = perf_counter() - self.begun
            self.observe(self)
        if self._wakeup is not None:
            self._wakeup.fire()
        self.connection.response_completed(self)

    # The host's own answers -----------------------------------------------------------------------------------------

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        if self.outlet is not None:
            await self._through_outlet(status, headers, body)
            self.taken = self.stopped = True
        else:
            self.respond(status, headers, body)

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer at once, in place of the application. Nothing may have left before."""
        if self.lost or self.complete or self.left:
            self.taken = self.stopped = True
            return
        self.endless = False
        self.bodiless = self.method == "HEAD"
        self._start(status, headers)
        if self.deadline is not None:
            self.deadline.reschedule(None)
        assert self._head is not None
        self._whole(self._head, body)
        self.taken = self.stopped = True

    def refuse_now(self, refusal: Refusal) -> None:
        """Answer with a refusal at once."""
        headers, body = self.document(refusal)
        self.respond(refusal.status, headers, body)

    def break_off(self, refusal: Refusal) -> None:
        """The body of the request cannot be read to its end: refuse, where nothing has left yet."""
        if self.left:
            self.reason = refusal.reason
            self.taken = self.stopped = True
        else:
            self._head = None
            self.refuse_now(refusal)
        self._wake()

    # The end --------------------------------------------------------------------------------------------------------

    def tell_end(self) -> None:
        """End a stream that would not end by itself: the application sees a disconnect."""
        self.ending = self.gone = self.stopped = True
        self._wake()

    async def _failed(self, error: BaseException) -> None:
        """The application has raised."""
        if self.ending and isinstance(error, StreamEndedError | CancelledError):
            self._end_stream()
            return
        refusal = self.connection.serving.handler.failed(self, error)
        if self.complete:
            return
        if self.left or self.lost or self._told:
            self._cut("application raised" if self.left and not self.gone else "not completed")
        else:
            self._head = None
            await self.refuse(refusal)

    async def _returned(self) -> None:
        """The application has returned, and its response is not complete."""
        if self.ending:
            self._end_stream()
        elif self.gone or self.taken:
            self._cut("not completed")
        else:
            await self._failed(ResponseError("the application returned without a complete response"))

    def _end_stream(self) -> None:
        if not self.complete and not self.connection.transport.is_closing():
            self.keep_alive = False
            if self._chunked:
                self.connection.transport.write(b"0\r\n\r\n")
            self._completed()
        elif not self.finished:
            self._cut("")

    def _cut(self, reason: str) -> None:
        """The response will not be completed: the client sees the connection end."""
        self.reason = self.reason or reason
        if not self.left:
            self.status = self.status if self.taken else _CLIENT_CLOSED
        self.finish()
        self.complete = True
        self.connection.cut(self)
