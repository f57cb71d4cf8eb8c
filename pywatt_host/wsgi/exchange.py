"""One request, shared by the event loop, which serves the client, and the thread that runs the application.

A transfer between the two costs a change of the GIL's owner and a wake-up of the loop through a descriptor. Both are
kept few: a response that is ready at once is transferred as a whole, and everything that threads report while the loop
is busy is transferred in one wake-up (`Outbox`). Each field is written by one side only, and every change is announced
after it was made.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context

from pywatt_host.types import Message, Receive, Scope, Send
from pywatt_host.wsgi.received import ReceivedBody
from pywatt_host.wsgi.upload import ClientDisconnectedError, Upload, notify, signal

log = logging.getLogger("pywatt.wsgi")

# How far the response may be ahead of the client.
WINDOW_MESSAGES = 4
WINDOW_BYTES = 64 * 1024


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
        exchanges = self._exchanges
        while exchanges:
            exchanges.popleft().handle_news()


class WsgiExchange:
    """Both sides of one request: first the methods for the thread, then those for the loop.

    `closed` is set by the loop if the response is no longer needed. `complete` is set by the thread when the whole
    response has been put. The exchange ends when the application returns, which may be later. `upload` is the body of
    the request where the application was called before it was received.

    Defaults are attributes of the class, so that making an exchange costs as little as possible.
    """

    closed = False
    complete = False
    upload: Upload | None = None
    _announced = False
    _finished = False  # the thread is done
    _left = False  # the loop is done
    _news = False
    _wants_reader = False
    _error: BaseException | None = None
    _failure: Exception | None = None
    _waiter: asyncio.Future[None] | None = None
    _reader: asyncio.Task[None] | None = None
    _put_messages = _put_bytes = 0  # written by the thread
    _sent_messages = _sent_bytes = 0  # written by the loop
    _can_send: threading.Lock | None = None  # a signal, made by a thread that has to wait

    def __init__(
        self, outbox: Outbox, work: Callable[[WsgiExchange], None], scope: Scope, body: ReceivedBody | None
    ) -> None:
        """`work` runs in the thread, with a copy of the present context in `context`. `body` is that of the request; it
        is closed when the exchange no longer needs it."""
        self._outbox = outbox
        self._work = work
        self.scope = scope
        self.body = body
        self.context = copy_context()
        self._outgoing: deque[Message] = deque()

    def expect_upload(self) -> None:
        """Receive the body of the request while the application reads it. Call this before the thread runs."""
        self.upload = Upload(self.watch, self._announce)

    # In the thread ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            if not self.closed:
                self._work(self)
        except BaseException as exc:  # `serve` raises it; SystemExit and the like must not end the loop
            self._error = exc
        if self.body is not None:
            self.drop_body()

    def drop_body(self) -> None:
        """Close the body of the request, which deletes its file. Called in the thread, or where no thread runs."""
        body, self.body = self.body, None
        if body is not None:
            body.file.close()

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
            if self._can_send is None:
                self._can_send = signal()  # and look again: the loop may have sent something before it saw the signal
            else:
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
        outgoing = self._outgoing
        try:
            while True:
                if not self._news:
                    self._waiter = self._outbox.loop.create_future()
                    await self._waiter
                if self._failure is not None:
                    raise self._failure
                self._news = False
                finished = self._finished  # read first, so that everything announced before it is seen below
                while outgoing and not self.closed:
                    message = outgoing.popleft()
                    if message["type"] == "http.response.body":
                        if self.complete and not outgoing:
                            message["more_body"], ended = False, True
                        else:
                            self._start_reader(receive)  # the response streams: the client may disconnect meanwhile
                        await send(message)
                        self._sent_messages += 1
                        self._sent_bytes += len(message["body"])
                        if self._can_send is not None:
                            notify(self._can_send)
                    else:
                        await send(message)
                if self.complete and not ended and not outgoing and not self.closed:
                    ended = True
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                if finished:
                    break
                if self._wants_reader:
                    self._start_reader(receive)
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
            if self._error is not None:
                self._report()

    def refuse(self) -> None:
        """End an exchange that no thread has taken: `serve` raises NeverRunError."""
        self._failure = NeverRunError()
        self._wake()

    def close(self) -> None:
        """Tell the application that its response is no longer needed: its next write or read raises."""
        self.closed = True
        if self._can_send is not None:
            notify(self._can_send)
        if self.upload is not None:
            self.upload.close()

    def handle_news(self) -> None:
        """Handle a change that the thread announced."""
        self._announced = False
        if self.upload is not None:
            self.upload.handle_news()
        self._wake()
        if self._left:
            self._report()

    def _wake(self) -> None:
        self._news = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

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
        """Receive the request body, if that is still to be done, then wait for a disconnect of the client."""
        try:
            if self.upload is None or await self.upload.receive_all(receive):
                ended = self.upload is not None
                while (await receive())["type"] == "http.request":
                    if ended:
                        return  # this server reports nothing after the body
                    ended = True
        except Exception as exc:  # `serve` raises it
            self._failure = exc
        self.close()
        self._wake()
