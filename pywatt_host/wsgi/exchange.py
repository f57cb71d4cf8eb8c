"""One request, shared by the event loop, which serves the client, and the thread that runs the application.

A transfer between the two costs a change of the GIL's owner and a wake-up of the loop through a descriptor. Both are
kept few: a response that is ready at once is transferred as a whole, and everything that threads report while the loop
is busy is transferred in one wake-up (`Outbox`). Each field is written by one side only, and every change is announced
after it was made. The two locks do not guard data; they are signals: one side waits (`acquire`) until the other one
releases the lock.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from pywatt_host.types import Message, Receive, Send

log = logging.getLogger("pywatt.wsgi")

# How far the response may be ahead of the client, and the request body ahead of the application.
WINDOW_MESSAGES = 4
WINDOW_BYTES = 64 * 1024
# If more than WINDOW_BYTES of the body are unread, only receiving more shows a disconnect; see `_read`.
POLL_SECONDS = 5.0


class ClientDisconnectedError(ConnectionAbortedError):
    """Raised in the application by a read or a write if the client has disconnected or its request was abandoned."""


class NeverRunError(Exception):
    """Raised if the exchange was refused while it waited for a thread."""


class Outbox:
    """The exchanges that have something to report to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._exchanges: deque[WsgiExchange] = deque()
        self._scheduled = False

    def add(self, exchange: WsgiExchange) -> None:
        """Add an exchange, and wake the loop if necessary. Any thread may call this."""
        self._exchanges.append(exchange)
        if not self._scheduled:
            self._scheduled = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                log.debug("the event loop closed before a WSGI thread was done")

    def _deliver(self) -> None:
        self._scheduled = False  # before the queue is read: an exchange that is added from now on wakes the loop again
        while self._exchanges:
            self._exchanges.popleft().handle_news()


class WsgiExchange:
    """Both sides of one request: first the methods for the thread, then those for the loop.

    `closed` is set by the loop if the response is no longer needed. `complete` is set by the thread when the whole
    response has been put. The exchange ends when the application returns, which may be later.
    """

    __slots__ = (
        "_announced", "_can_read", "_can_send", "_error", "_failure", "_finished", "_left", "_news", "_outbox",
        "_outgoing", "_put_bytes", "_put_messages", "_read_bytes", "_reader", "_received", "_received_bytes", "_room",
        "_sent_bytes", "_sent_messages", "_uploaded", "_waiter", "_wants_reader", "_work", "closed", "complete",
    )  # fmt: skip

    def __init__(self, outbox: Outbox, work: Callable[[WsgiExchange], None], *, uploaded: bool) -> None:
        """`work` runs in the thread. `uploaded` says that the application already has the whole request body."""
        self.closed = self.complete = False
        self._work = work
        self._outbox = outbox
        self._announced = self._finished = self._left = self._news = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

        self._outgoing: deque[Message] = deque()
        self._put_messages = self._put_bytes = 0  # written by the thread
        self._sent_messages = self._sent_bytes = 0  # written by the loop
        self._can_send = _signal()

        self._received: deque[bytes] = deque()
        self._received_bytes = 0  # written by the loop
        self._read_bytes = 0  # written by the thread
        self._uploaded = uploaded
        self._wants_reader = False
        self._reader: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._room: asyncio.Event | None = None
        self._can_read = _signal()

    # In the thread ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        if self.closed:
            return
        try:
            self._work(self)
        except BaseException as exc:  # `serve` raises it; SystemExit and the like must not end the loop
            self._error = exc

    def settle(self) -> None:
        self._finished = True
        self._announce()

    def put(self, head: Message | None, body: bytes, *, complete: bool) -> None:
        """Pass the next piece of the response to the loop; wait while the client is too far behind.

        Raises ClientDisconnectedError if the client has disconnected.
        """
        while not self.closed and (
            self._put_messages - self._sent_messages >= WINDOW_MESSAGES
            or self._put_bytes - self._sent_bytes >= WINDOW_BYTES
        ):
            self._can_send.acquire()
        if self.closed:
            raise ClientDisconnectedError("the client has disconnected, or its request was abandoned")
        self._put_messages += 1
        self._put_bytes += len(body)
        if head is not None:
            self._outgoing.append(head)
        self._outgoing.append({"type": "http.response.body", "body": body, "more_body": True})
        self.complete = complete
        self._announce()

    def end(self) -> None:
        """Mark the response as complete."""
        self.complete = True
        self._announce()

    def pull(self) -> bytes:
        """Return the next bytes of the request body, and wait for them; `b""` at the end of the body.

        Raises ClientDisconnectedError if the client disconnects before the end.
        """
        while True:
            uploaded = self._uploaded  # read before the queue, because the queue is filled before this is set
            if self._received:
                data = self._received.popleft()
                self._read_bytes += len(data)
                if self._room is not None:
                    self._announce()
                return data
            if uploaded:
                return b""
            if self.closed:
                raise ClientDisconnectedError("the client disconnected before the end of the request body")
            self.watch()
            self._can_read.acquire()

    def watch(self) -> None:
        """Make the loop receive the request body and notice a disconnect of the client."""
        if not self._wants_reader:
            self._wants_reader = True
            self._announce()

    def _announce(self) -> None:
        """Tell the loop that something has changed."""
        if not self._announced:
            self._announced = True
            self._outbox.add(self)

    # In the loop ------------------------------------------------------------------------------------------------------

    async def serve(self, receive: Receive, send: Send) -> None:
        """Serve the request until the application returns, or raise the application's exception.

        A cancellation, or an error of `send` or `receive`, ends the exchange at once. The thread is then told, and ends
        by itself.
        """
        ended = False
        error: BaseException | None = None
        try:
            while True:
                self._news = False
                finished = self._finished  # read first, so that everything announced before it is seen below
                while self._outgoing and not self.closed:
                    message = self._outgoing.popleft()
                    if message["type"] == "http.response.body":
                        if self.complete and not self._outgoing:
                            message["more_body"], ended = False, True
                        else:
                            self._start_reader(receive)  # the response streams: the client may disconnect meanwhile
                        await send(message)
                        self._sent_messages += 1
                        self._sent_bytes += len(message["body"])
                        _notify(self._can_send)
                    else:
                        await send(message)
                if self.complete and not ended and not self._outgoing and not self.closed:
                    ended = True
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                if finished:
                    break
                if self._wants_reader:
                    self._start_reader(receive)
                if not self._news:
                    self._waiter = self._outbox.loop.create_future()
                    await self._waiter
                if self._failure is not None:
                    raise self._failure
            error, self._error = self._error, None
            if error is not None and not (self.closed and isinstance(error, ClientDisconnectedError)):
                if isinstance(error, Exception):
                    raise error
                # SystemExit and the like would end the loop, and with it every other request.
                raise RuntimeError(f"the application raised {type(error).__name__}") from error
        finally:
            error = self._failure = None  # their tracebacks refer to this frame
            self._left = True
            self.close()
            if self._reader is not None:
                self._reader.cancel()
            self._report()

    def refuse(self) -> None:
        """End an exchange that no thread has taken: `serve` raises NeverRunError."""
        self._failure = NeverRunError()
        self._wake()

    def close(self) -> None:
        """Tell the application that its response is no longer needed: its next write or read raises."""
        self.closed = True
        _notify(self._can_send)
        _notify(self._can_read)

    def handle_news(self) -> None:
        """Handle a change that the thread announced."""
        self._announced = False
        if self._room is not None and self._unread < WINDOW_BYTES:
            self._room.set()
        self._wake()
        if self._left:
            self._report()

    def _wake(self) -> None:
        self._news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _report(self) -> None:
        """Log an exception of the application that came after the request was abandoned: `serve` can no longer raise
        it."""
        error, self._error = self._error, None
        if error is not None and not isinstance(error, ClientDisconnectedError):
            log.error("the application failed after its request was abandoned", exc_info=error)

    def _start_reader(self, receive: Receive) -> None:
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(receive))

    async def _read(self, receive: Receive) -> None:
        """Receive the request body as the application reads it, then wait for a disconnect of the client.

        ASGI reports a disconnect only after the body. While a streaming application does not read its body, one more
        message is therefore received every POLL_SECONDS: otherwise an endless response to a client that has gone would
        never end.
        """
        ended = False
        try:
            while (message := await receive())["type"] == "http.request":
                if ended:
                    return  # this server reports nothing after the body
                ended = not message.get("more_body", False)
                data = message.get("body", b"")
                if data and not self._uploaded:
                    self._received.append(data)
                    self._received_bytes += len(data)
                if ended:
                    self._uploaded = True
                _notify(self._can_read)
                if not ended:
                    await self._wait_for_room()
        except Exception as exc:  # `serve` raises it
            self._failure = exc
        self.close()
        self._wake()

    async def _wait_for_room(self) -> None:
        self._room = asyncio.Event()
        if self._unread >= WINDOW_BYTES:  # checked after the event was set, or the thread could miss it
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._room.wait()
        self._room = None

    @property
    def _unread(self) -> int:
        return self._received_bytes - self._read_bytes


def _signal() -> threading.Lock:
    signal = threading.Lock()
    signal.acquire()
    return signal


def _notify(signal: threading.Lock) -> None:
    """Wake the thread that waits for the signal. Only the loop calls this, so a locked signal stays locked until
    here."""
    if signal.locked():
        signal.release()
