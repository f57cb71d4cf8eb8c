"""One request between the event loop, where the client is, and the thread, where the application runs.

What a hand-over costs is the GIL changing threads and the loop being woken through a descriptor, so both are kept few:
a response that is ready at once crosses as a whole, and all that the threads have to tell while the loop is busy
crosses in one wake-up (`Outbox`). Each field is written by one side only and every change is told after it was made;
the two locks are no guards but bells: the side that waits rings off (`acquire`) until the other rings (`release`).
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

# How far the application may run ahead of the client, and the client's upload ahead of the application.
WINDOW_MESSAGES = 4
WINDOW_OCTETS = 64 * 1024
# With more than WINDOW_OCTETS of body unread there is no watching for a disconnect but by reading on; see `_read`.
POLL_SECONDS = 5.0


class ClientDisconnectedError(ConnectionAbortedError):
    """Raised into the application by a read or a write when the client is gone or its request was given up."""


class NeverRunError(Exception):
    """The exchange was refused while it waited for a thread."""


class Outbox:
    """The exchanges with something to tell the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._exchanges: deque[WsgiExchange] = deque()
        self._rung = False

    def add(self, exchange: WsgiExchange) -> None:
        """From any thread."""
        self._exchanges.append(exchange)
        if not self._rung:
            self._rung = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                log.debug("the event loop closed before a WSGI thread was done")

    def _deliver(self) -> None:
        self._rung = False  # before the look: what is added from now on rings again
        while self._exchanges:
            self._exchanges.popleft().heard()


class WsgiExchange:
    """Both sides of one request: first what the thread calls, then what the loop calls.

    `closed`: the loop says that nobody wants the response any more. `complete`: the thread says that all of the
    response is in. The exchange ends when the application has let go of the request, which may be later still.
    """

    __slots__ = (
        "_can_read", "_can_send", "_error", "_failure", "_finished", "_left", "_news", "_outbox", "_outgoing",
        "_put_messages", "_put_octets", "_read_octets", "_reader", "_received", "_received_octets", "_room",
        "_sent_messages", "_sent_octets", "_told", "_uploaded", "_waiter", "_wants_reader", "_work", "closed",
        "complete",
    )  # fmt: skip

    def __init__(self, outbox: Outbox, work: Callable[[WsgiExchange], None], *, uploaded: bool) -> None:
        """`work` is run in the thread; `uploaded` says that the whole request body is known to the application."""
        self.closed = self.complete = False
        self._work = work
        self._outbox = outbox
        self._told = self._finished = self._left = self._news = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

        self._outgoing: deque[Message] = deque()
        self._put_messages = self._put_octets = 0  # by the thread
        self._sent_messages = self._sent_octets = 0  # by the loop
        self._can_send = _bell()

        self._received: deque[bytes] = deque()
        self._received_octets = 0  # by the loop
        self._read_octets = 0  # by the thread
        self._uploaded = uploaded
        self._wants_reader = False
        self._reader: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._room: asyncio.Event | None = None
        self._can_read = _bell()

    # In the thread ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        if self.closed:
            return
        try:
            self._work(self)
        except BaseException as exc:  # goes to whoever awaits `serve`; SystemExit and its like must not end the loop
            self._error = exc

    def settle(self) -> None:
        self._finished = True
        self._tell()

    def put(self, head: Message | None, body: bytes, *, complete: bool) -> None:
        """Hand on the next piece of the response, waiting while the client is too far behind.

        Raises ClientDisconnectedError when there is no client left.
        """
        while not self.closed and (
            self._put_messages - self._sent_messages >= WINDOW_MESSAGES
            or self._put_octets - self._sent_octets >= WINDOW_OCTETS
        ):
            self._can_send.acquire()
        if self.closed:
            raise ClientDisconnectedError("the client is gone or its request was given up")
        self._put_messages += 1
        self._put_octets += len(body)
        if head is not None:
            self._outgoing.append(head)
        self._outgoing.append({"type": "http.response.body", "body": body, "more_body": True})
        self.complete = complete
        self._tell()

    def end(self) -> None:
        """No more pieces will come."""
        self.complete = True
        self._tell()

    def pull(self) -> bytes:
        """The next octets of the request body, waiting for them; `b""` at its end.

        Raises ClientDisconnectedError when the client went away before that.
        """
        while True:
            uploaded = self._uploaded  # before the look at the queue, which is filled before this is set
            if self._received:
                octets = self._received.popleft()
                self._read_octets += len(octets)
                if self._room is not None:
                    self._tell()
                return octets
            if uploaded:
                return b""
            if self.closed:
                raise ClientDisconnectedError("the client went away before the end of the request body")
            self.watch()
            self._can_read.acquire()

    def watch(self) -> None:
        """Have the loop take in the request body, and notice the client going away."""
        if not self._wants_reader:
            self._wants_reader = True
            self._tell()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._outbox.add(self)

    # In the loop ------------------------------------------------------------------------------------------------------

    async def serve(self, receive: Receive, send: Send) -> None:
        """Carry the exchange to its end: when the application is done, or failed (raises its exception).

        A cancellation, or an error of `send` or `receive`, ends it at once: the thread is told, and left to itself.
        """
        ended = False
        error: BaseException | None = None
        try:
            while True:
                self._news = False
                finished = self._finished  # read first: all that was told before it is then seen below
                while self._outgoing and not self.closed:
                    message = self._outgoing.popleft()
                    if message["type"] == "http.response.body":
                        if self.complete and not self._outgoing:
                            message["more_body"], ended = False, True
                        else:
                            self._start_reader(receive)  # it streams, so the client may go away meanwhile
                        await send(message)
                        self._sent_messages += 1
                        self._sent_octets += len(message["body"])
                        _ring(self._can_send)
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
                # SystemExit and its like would end the loop, and with it every other request.
                raise RuntimeError(f"the application raised {type(error).__name__}") from error
        finally:
            error = self._failure = None  # they lead back to this frame
            self._left = True
            self.close()
            if self._reader is not None:
                self._reader.cancel()
            self._report()

    def refuse(self) -> None:
        """End the exchange, which no thread has taken: `serve` raises NeverRunError."""
        self._failure = NeverRunError()
        self._wake()

    def close(self) -> None:
        """Tell the application that nobody wants its response: its next send or read ends it."""
        self.closed = True
        _ring(self._can_send)
        _ring(self._can_read)

    def heard(self) -> None:
        """The thread told something."""
        self._told = False
        if self._room is not None and self._unread < WINDOW_OCTETS:
            self._room.set()
        self._wake()
        if self._left:
            self._report()

    def _wake(self) -> None:
        self._news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _report(self) -> None:
        """Boundary: nobody waits for this application any more, so its fault is logged here or lost."""
        error, self._error = self._error, None
        if error is not None and not isinstance(error, ClientDisconnectedError):
            log.error("the application failed after its request had been given up", exc_info=error)

    def _start_reader(self, receive: Receive) -> None:
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(receive))

    async def _read(self, receive: Receive) -> None:
        """Bring in the request body as the application reads it, and then watch for the client going away.

        ASGI tells of a disconnect only behind the body. So while a streaming application leaves its body unread, one
        message more is taken every POLL_SECONDS: else an endless response to a vanished client would never end.
        """
        ended = False
        try:
            while (message := await receive())["type"] == "http.request":
                if ended:
                    return  # a server that has nothing to tell after the body
                ended = not message.get("more_body", False)
                octets = message.get("body", b"")
                if octets and not self._uploaded:
                    self._received.append(octets)
                    self._received_octets += len(octets)
                if ended:
                    self._uploaded = True
                _ring(self._can_read)
                if not ended:
                    await self._wait_for_room()
        except Exception as exc:  # goes to whoever awaits `serve`
            self._failure = exc
        self.close()
        self._wake()

    async def _wait_for_room(self) -> None:
        self._room = asyncio.Event()
        if self._unread >= WINDOW_OCTETS:  # looked at with the event in place, or the thread could miss it
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._room.wait()
        self._room = None

    @property
    def _unread(self) -> int:
        return self._received_octets - self._read_octets


def _bell() -> threading.Lock:
    bell = threading.Lock()
    bell.acquire()
    return bell


def _ring(bell: threading.Lock) -> None:
    """Only the loop rings, so a bell seen locked stays locked until it is released here."""
    if bell.locked():
        bell.release()
