"""The body of a request whose application was called first, received while the application reads it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from pywatt_host.types import Receive

WINDOW_BYTES = 64 * 1024  # how far the body may be ahead of the application
# If more than WINDOW_BYTES of the body are unread, only receiving more shows a disconnect; see `receive_all`.
POLL_SECONDS = 5.0


class ClientDisconnectedError(ConnectionAbortedError):
    """Raised in the application by a read or a write if the client has disconnected or its request was abandoned."""


class Upload:
    """Both sides of the body: first the method for the thread, then those for the loop. Each field is written by one
    side only."""

    def __init__(self, watch: Callable[[], None], announce: Callable[[], None]) -> None:
        """`watch` makes the loop call `receive_all`. `announce` makes it call `handle_news`."""
        self._watch = watch
        self._announce = announce
        self._pieces: deque[bytes] = deque()
        self._received_bytes = 0  # written by the loop
        self._read_bytes = 0  # written by the thread
        self._ended = self._closed = False
        self._room: asyncio.Event | None = None
        self._can_read = signal()

    def pull(self) -> bytes:
        """Return the next bytes of the request body, and wait for them; `b""` at the end of the body.

        Raises ClientDisconnectedError if the client disconnects before the end.
        """
        while True:
            ended = self._ended  # read before the queue, because the queue is filled before this is set
            if self._pieces:
                data = self._pieces.popleft()
                self._read_bytes += len(data)
                if self._room is not None:
                    self._announce()
                return data
            if ended:
                return b""
            if self._closed:
                raise ClientDisconnectedError("the client disconnected before the end of the request body")
            self._watch()
            self._can_read.acquire()

    async def receive_all(self, receive: Receive) -> bool:
        """Receive the body as the application reads it. Return False if the client disconnects before its end.

        ASGI reports a disconnect only after the body. While a streaming application does not read its body, one more
        message is therefore received every POLL_SECONDS: otherwise an endless response to a client that has gone would
        never end.
        """
        while (message := await receive())["type"] == "http.request":
            data = message.get("body", b"")
            if data:
                self._pieces.append(data)
                self._received_bytes += len(data)
            if not message.get("more_body", False):
                self._ended = True
            notify(self._can_read)
            if self._ended:
                return True
            await self._wait_for_room()
        return False

    def handle_news(self) -> None:
        """Handle a read of the application, which may have made room."""
        if self._room is not None and self._unread < WINDOW_BYTES:
            self._room.set()

    def close(self) -> None:
        """Make the application's next read raise, unless the body is complete."""
        self._closed = True
        notify(self._can_read)

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


def signal() -> threading.Lock:
    """A signal from the loop to a thread: a lock that guards nothing. `acquire` waits until the next `notify`."""
    made = threading.Lock()
    made.acquire()
    return made


def notify(made: threading.Lock) -> None:
    """Wake the thread that waits for the signal. Only the loop calls this, so a locked signal stays locked until
    here."""
    if made.locked():
        made.release()
